"""Draws of weights, and the outputs of many drawn networks in one vectorised call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import batch_size
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.recorder import ordinary
from bayes_vio.posterior.functional import (
    activation_numbers,
    at_map,
    bare_model,
    evaluate,
    plain_operations,
    stacked,
)

if TYPE_CHECKING:
    from bayes_vio.posterior.laplace import Posterior

# Numbers that the weights and activations of the networks in one call may hold: on a CPU 64 MB in
# float32, since calls cost less the more networks share them, and larger arrays gain nothing.
_NUMBERS_AT_ONCE = {"cpu": 2**24}
_NUMBERS_ELSEWHERE = 2**27


def draw_weights(
    posterior: Posterior, n: int, generator: torch.Generator | None
) -> Iterator[dict[str, Tensor]]:
    """Yield n draws of all parameters by name; what is not covered stays at the MAP."""
    start = at_map(posterior.recorder)
    for _ in range(n):
        noise = standard_normal(posterior.layers, (), generator)
        draw = dict(start)
        for name, change in posterior.precision.sample(noise).items():
            layer = posterior.layers[name]
            matrix = layer.matrix()
            layer.write((matrix.double() + change).to(matrix.dtype), draw)
        yield draw


def sampled_outputs(
    posterior: Posterior, x: Any, n: int, generator: torch.Generator | None
) -> Tensor:
    """Return the means [n, batch, outputs] of n networks drawn from the posterior.

    The draws are made and evaluated side by side, in chunks that fit in memory, in the network's
    dtype.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, it is {n}")
    x = ordinary(x)
    n_chunks = -(-n // networks_at_once(posterior, x))
    sizes = [n // n_chunks + (i < n % n_chunks) for i in range(n_chunks)]
    with plain_operations():
        return torch.cat([_outputs(posterior, x, size, generator) for size in sizes])


def _outputs(posterior: Posterior, x: Any, n: int, generator: torch.Generator | None) -> Tensor:
    recorder, model = posterior.recorder, bare_model(posterior.recorder)
    drawn = drawn_matrices(posterior, n, generator)
    start = at_map(recorder)
    weights = stacked(recorder, drawn, start)

    def network(chosen: dict[str, Tensor]) -> Tensor:
        return evaluate(model, start | chosen, x)[0]

    return torch.vmap(network)(weights)


def drawn_matrices(
    posterior: Posterior, n: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Return n draws of every layer's W [n, d_out, d_in], in the network's dtype."""
    dtype = next(iter(posterior.layers.values())).matrix().dtype
    noise = standard_normal(posterior.layers, (n,), generator, dtype)
    changes = posterior.precision.sample(noise)
    return {name: change.add_(posterior.layers[name].matrix()) for name, change in changes.items()}


def networks_at_once(posterior: Posterior, x: Any) -> int:
    """Return how many networks one vectorised call runs on an input."""
    numbers = activation_numbers(posterior.recorder, x) * batch_size(x)
    numbers += sum(p.numel() for p in posterior.model.parameters())
    return max(1, _NUMBERS_AT_ONCE.get(posterior.device.type, _NUMBERS_ELSEWHERE) // numbers)


def standard_normal(
    layers: Mapping[str, Layer],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Return standard normal noise [*shape, d_out, d_in] per layer."""
    noise = {}
    for name, layer in layers.items():
        matrix = layer.matrix()
        device = generator.device if generator else matrix.device
        size = (*shape, *matrix.shape)
        drawn = torch.randn(size, generator=generator, dtype=dtype, device=device)
        noise[name] = drawn.to(matrix.device)
    return noise
