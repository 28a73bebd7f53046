"""Noise that gradients pass through: on the weights, or on what layers make of them.

While a hook is on, a layer's own forward pass gives the mean of its output, and the hook adds the
noise: no module of the network is replaced, and its parameters keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from bayes_vio.curvature.recorder import module_input
from bayes_vio.variational.layers import Weighted, weighted

# Added to a variance below its root: at zero, where no input is active, the root has no gradient.
_LEAST_VARIANCE = 1e-16


class Reparametrisation(Enum):
    """Where the noise is drawn.

    WEIGHTS: one network per batch. LOCAL: every output by itself, from its exact mean and
    variance, which makes gradients far less noisy (Kingma et al. 2015, section 2.3); where
    positions share weights, as in a convolution, their noise is drawn as if they did not. MIXED:
    LOCAL for linear layers, WEIGHTS for convolutions, whose variances cost as much as their means.
    """

    LOCAL = "local"
    WEIGHTS = "weights"
    MIXED = "mixed"

    def is_local(self, layer: Weighted) -> bool:
        """Tell whether a layer's noise is drawn on its output."""
        return self is self.LOCAL or (self is self.MIXED and isinstance(layer, nn.Linear))


def output_variance(layer: Weighted, x: Tensor, variance: Mapping[str, Tensor]) -> Tensor:
    """Return the variance of a layer's output where its weights have these variances.

    variance: "weight", and "bias" where it is uncertain, of the parameters' shapes.
    Source: Kingma et al. (2015), eq. 6.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(x.square(), variance["weight"], variance.get("bias"))
    return layer._conv_forward(x.square(), variance["weight"], variance.get("bias"))


@contextmanager
def local_noise(model: nn.Module, log_variances: Mapping[str, Tensor]) -> Iterator[None]:
    """Add Gaussian noise to the outputs of layers, by the global random number generator.

    log_variances: by parameter name, as of ``model.named_parameters()``. The network's own
    weights are the means.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in log_variances.items():
        layer, _, local = name.rpartition(".")
        layers.setdefault(layer, {})[local] = value
    with ExitStack() as stack:
        for name, values in layers.items():
            stack.callback(_add_noise(weighted(model, name), values).remove)
        yield


def _add_noise(layer: Weighted, log_variances: Mapping[str, Tensor]) -> RemovableHandle:
    def noisy(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        variances = {name: value.exp() for name, value in log_variances.items()}
        variance = output_variance(layer, module_input(args, kwargs), variances)
        return output + (variance + _LEAST_VARIANCE).sqrt() * torch.randn_like(output)

    return layer.register_forward_hook(noisy, with_kwargs=True)


def drawn(means: Mapping[str, Tensor], log_variances: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights mean + std * noise, differentiable, for ``torch.func.functional_call``."""
    return {
        name: means[name] + (0.5 * value).exp() * torch.randn_like(value)
        for name, value in log_variances.items()
    }
