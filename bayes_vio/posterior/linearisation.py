"""The network linearised in its covered weights at one batch of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.recorder import Recorder, ordinary, recording_gradients

# Numbers of a Jacobian in work at once: 1 MB in float32 on a CPU, which stays in its cache.
_BLOCK_NUMBERS = {"cpu": 2**18}


@dataclass(frozen=True)
class LayerTerms:
    """A layer's Jacobian by its factors: what W multiplies and what comes back, in network dtype.

    features [batch, positions, d_in], gradients [batch, outputs, positions, d_out].
    """

    layer: Layer
    features: Tensor
    gradients: Tensor

    @property
    def is_rank_one(self) -> bool:
        """Whether J_c = g_c a^T: a layer whose weights are used at one position."""
        return self.layer.is_kronecker and self.features.shape[1] == 1

    def rank_one(self) -> tuple[Tensor, Tensor]:
        """Return g [batch, outputs, d_out] and a [batch, d_in] in float64."""
        return self.gradients[:, :, 0].double(), self.features[:, 0].double()

    def jacobian(self) -> Tensor:
        """Return J [batch, outputs, d_out, d_in], uncast."""
        return self.layer.jacobian(self.features, self.gradients)

    def jacobian_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """Yield J a few rows of d_out at a time, so that it stays in the processor's cache.

        Rows never yielded are zero: those of tokens that do not occur.
        """
        numbers = _BLOCK_NUMBERS.get(self.features.device.type, 2**24)
        for rows, J in self.layer.jacobian_blocks(self.features, self.gradients, numbers):
            yield rows, J.to(dtype)

    def rotated(self, Q_g: Tensor, Q_a: Tensor) -> LayerTerms:
        """Return the terms whose Jacobian is Q_g^T J Q_a, in the dtype of Q_g and Q_a."""
        features, gradients = self.features.to(Q_a.dtype) @ Q_a, self.gradients.to(Q_g.dtype) @ Q_g
        return LayerTerms(self.layer, features, gradients)


@dataclass(frozen=True)
class Linearisation:
    """mean [batch, outputs], the model's own noise_cholesky or None, and every layer's terms."""

    mean: Tensor
    noise_cholesky: Tensor | None
    layers: Mapping[str, LayerTerms]


def linearise(recorder: Recorder, x: Any, batched: bool) -> Linearisation:
    """Run the model once and pull every output back to the outputs of the covered layers.

    No weight gradient is computed. Works inside a caller's no_grad and inference_mode.
    """
    with recording_gradients():
        recording = recorder.forward(ordinary(x))
    mean, noise_cholesky = recording.mean.detach(), recording.noise_cholesky
    n_batch, n_outputs = mean.shape
    eye = torch.eye(n_outputs, dtype=mean.dtype, device=mean.device)
    cotangents = eye[:, None].expand(n_outputs, n_batch, n_outputs)
    gradients = recording.output_gradients(cotangents, batched)
    with torch.inference_mode(False), torch.no_grad():
        layers = {
            name: LayerTerms(
                layer, layer.features(recording.inputs[name]), layer.gradients(gradients[name])
            )
            for name, layer in recorder.layers.items()
        }
    if noise_cholesky is not None:
        noise_cholesky = noise_cholesky.detach()
    return Linearisation(mean, noise_cholesky, layers)
