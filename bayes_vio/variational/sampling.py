"""The outputs of many drawn networks, side by side where that is faster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.recorder import split_output
from bayes_vio.posterior.functional import plain_operations

# Numbers that the weights and activations of what runs in one call may hold.
_NUMBERS_AT_ONCE = {"cpu": 2**24}
_NUMBERS_ELSEWHERE = 2**27
# Networks run side by side save calls, and cost copies of their weights: on a CPU they gain where
# a module handles no more numbers than this (a motion model at batch 1 2.4 times, LeNet nothing).
_NUMBERS_PER_CALL = 2**14


@dataclass(frozen=True)
class SampledOutputs:
    """``mean`` [draws, batch, outputs] of every network, and the average over draws of their own
    noise covariance [batch, outputs, outputs] in float64, None where they have none."""

    mean: Tensor
    noise_cov: Tensor | None


def sampled_outputs(
    model: nn.Module, draws: Iterator[Mapping[str, Tensor]], x: Any, numbers_per_datum: int
) -> SampledOutputs:
    """Return what networks with drawn parameters make of x.

    draws: parameters and buffers by name; those left out are the model's. Raises ValueError where
    an output is not finite.
    """
    n_batch = batch_size(x)
    limit = _NUMBERS_AT_ONCE.get(_device_type(model), _NUMBERS_ELSEWHERE)
    rows = max(1, min(n_batch, limit // numbers_per_datum))
    at_once = _networks_at_once(model, rows * numbers_per_datum, limit)
    parts = [map_tensors(x, lambda t, i=i: t[i : i + rows]) for i in range(0, n_batch, rows)]
    means, noise_cov, n = [], None, 0
    with plain_operations():
        while group := list(itertools.islice(draws, at_once)):
            found = [_outputs(model, group, part) for part in parts]
            means.append(torch.cat([mean for mean, _ in found], 1))
            n += len(group)
            own = [noise for _, noise in found if noise is not None]
            if own:
                total = torch.cat(own)
                noise_cov = total if noise_cov is None else noise_cov + total
    mean = torch.cat(means)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("an output of the network is not finite: its input is too extreme")
    return SampledOutputs(mean, None if noise_cov is None else noise_cov / n)


def _outputs(
    model: nn.Module, group: list[Mapping[str, Tensor]], x: Any
) -> tuple[Tensor, Tensor | None]:
    """Return the means [draws, batch, outputs] and the sum of the noise covariances."""

    def network(chosen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mean, noise_cholesky = split_output(
            functional_call(model, dict(chosen), (x,), tie_weights=False)
        )
        return mean, mean.new_zeros(0) if noise_cholesky is None else noise_cholesky

    if len(group) == 1 or not group[0]:
        one = [network(chosen) for chosen in group]
        mean, cholesky = (torch.stack(values) for values in zip(*one, strict=True))
    else:
        stacked = {name: torch.stack([draw[name] for draw in group]) for name in group[0]}
        mean, cholesky = torch.vmap(network)(stacked)
    if cholesky.dim() < 4:
        return mean, None
    cholesky = cholesky.double()
    return mean, (cholesky @ cholesky.mT).sum(0)


def _networks_at_once(model: nn.Module, n_activations: int, limit: int) -> int:
    """Return how many networks run side by side: one where that is faster, or all there is."""
    modules = [m for m in model.modules() if not list(m.children())]
    if any(isinstance(m, nn.RNNBase) for m in modules):
        return 1
    numbers = n_activations + sum(p.numel() for p in model.parameters())
    if _device_type(model) == "cpu" and numbers > _NUMBERS_PER_CALL * len(modules):
        return 1
    return max(1, limit // numbers)


def _device_type(model: nn.Module) -> str:
    return next(model.parameters()).device.type
