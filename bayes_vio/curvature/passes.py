"""Read the data and hand out, batch by batch, what layers saw and what came back to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import batch_size, map_tensors, tensors
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.recorder import Recorder, Recording, ordinary, recording_gradients
from bayes_vio.models.likelihood import Fisher, Likelihood, cotangents

# Numbers that one layer's temporary arrays may hold at once: on a CPU 8 MB in float32, since larger
# ones leave its cache and are mapped anew at every allocation (three times as slow).
_CHUNK_NUMBERS = {"cpu": 2**21}
_CHUNK_NUMBERS_ELSEWHERE = 2**24
# Columns of the Fisher whose output gradients are held at once.
COLUMNS_AT_ONCE = 10


@dataclass
class Tally:
    """What a pass has read: data count, log-likelihood at the MAP, and sums that identify data."""

    n_data: int = 0
    log_likelihood: float = 0.0
    checksum: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, x: Any, target: Tensor) -> None:
        """Count a batch; the checksum does not depend on the order or the batch size."""
        self.n_data += batch_size(x)
        for tensor in (*tensors(x), target):
            values = tensor.double()
            self.checksum[0] += float(values.sum())
            self.checksum[1] += float(values.square().sum())


@dataclass(frozen=True)
class Pass:
    """How the data is read: once per call of ``columns``, the same way every time."""

    recorder: Recorder
    loader: Iterable
    likelihood: Likelihood
    fisher: Fisher
    seed: int
    device: torch.device

    def columns(self, tally: Tally) -> Iterator[tuple[bool, Recording, dict[str, Tensor]]]:
        """Yield (whether these are a batch's first columns, recording, {layer: gradients}).

        Output gradients are [columns, batch, ...]; the Fisher's columns come a few at a time.
        """
        generator = torch.Generator().manual_seed(self.seed)
        for x, target in self.loader:
            x = ordinary(map_tensors(x, lambda t: t.to(self.device)))
            target = target.to(self.device)
            tally.add(x, target)
            with recording_gradients():
                recording = self.recorder.forward(x)
            mean = recording.mean.detach()
            noise = self.likelihood.noise_cholesky(mean, recording.noise_cholesky)
            tally.log_likelihood += float(
                self.likelihood.log_likelihood(mean, noise, target).sum()
            )
            roots = cotangents(self.fisher, self.likelihood, mean, noise, target, generator)
            for r, group in enumerate(roots.split(COLUMNS_AT_ONCE)):
                yield r == 0, recording, recording.output_gradients(group, batched=False)


def chunks(layer: Layer, x: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (features, gradients) of a layer over parts of the batch that fit in memory.

    x is the layer's input [batch, ...] and g its output gradients [columns, batch, ...].
    """
    d_out, d_in = layer.shape
    n_positions = max(1, g[0, 0].numel() // d_out)
    numbers = max(d_out * d_in, n_positions * max(d_in, d_out)) * len(g)
    at_once = _CHUNK_NUMBERS.get(x.device.type, _CHUNK_NUMBERS_ELSEWHERE)
    step = max(1, at_once // numbers)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        yield layer.features(x[part]), layer.gradients(g[:, part])
