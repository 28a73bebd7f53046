"""Curvature by BackPACK, for the networks that it covers: an independent way to the same numbers.

Source: Dangel, Kunstner, Hennig (2020), "BackPACK: packing more into backprop". Its results are
per batch and for a loss of its own; here they become means over data for our likelihoods.
BackPACK leaves layers that it does not know out silently; here that is a ValueError.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import KFAC, KFLR, DiagGGNExact
from torch import Tensor, nn

from bayes_vio.models.likelihood import Gaussian, Likelihood


@dataclass(frozen=True)
class BackpackFactors:
    """G [d_out, d_out] and A [d_in, d_in] of a weight without its bias, means over data."""

    G: Tensor
    A: Tensor


def backpack_diagonal(
    model: nn.Module, loader: Iterable, likelihood: Likelihood, use_converter: bool = False
) -> dict[str, Tensor]:
    """Return the exact diagonal of every parameter by name, a mean over data.

    ``use_converter`` lets BackPACK trace residual connections. Raises ValueError where it does not
    cover a layer, or where the likelihood's noise depends on the input.
    """
    sums: dict[str, Tensor] = {}
    n_data = 0
    for network, n_batch in _batches(model, loader, likelihood, DiagGGNExact(), use_converter):
        n_data += n_batch
        for name, diagonal in _results(network, "diag_ggn_exact").items():
            sums[name] = sums.get(name, 0.0) + diagonal
    return {name: total / n_data for name, total in sums.items()}


def backpack_factors(
    model: nn.Module, loader: Iterable, likelihood: Likelihood, sampled: bool = False
) -> dict[str, BackpackFactors]:
    """Return KFLR's Kronecker factors of every weight by name, or KFAC's where ``sampled``.

    KFLR goes through all columns of the loss Hessian's root, KFAC through labels drawn from the
    model with torch's global generator. Raises ValueError like ``backpack_diagonal``.
    """
    extension, field = (KFAC(), "kfac") if sampled else (KFLR(), "kflr")
    G: dict[str, Tensor] = {}
    A: dict[str, Tensor] = {}
    n_data = 0
    for network, n_batch in _batches(model, loader, likelihood, extension, False):
        n_data += n_batch
        for name, factors in _results(network, field).items():
            if len(factors) == 2:  # biases have G alone
                # The loss is a sum over the batch: G sums over it, A is its mean.
                G[name] = G.get(name, 0.0) + factors[0]
                A[name] = A.get(name, 0.0) + factors[1] * n_batch
    return {name: BackpackFactors(G[name] / n_data, A[name] / n_data) for name in G}


def _batches(
    model: nn.Module,
    loader: Iterable,
    likelihood: Likelihood,
    extension: Any,
    use_converter: bool,
) -> Iterator[tuple[nn.Module, int]]:
    """Yield an extended copy of the model, after a backward pass for each batch, and its size."""
    network = copy.deepcopy(model).eval().requires_grad_(True)
    extended = extend(network, use_converter=use_converter)
    whiten, loss = _loss(likelihood)
    for x, _ in loader:
        network.zero_grad()
        # The module hooks of the first layer want an input that gradients reach.
        x = x.detach().requires_grad_()
        try:
            with backpack(extension):
                output = whiten(extended(x))
                target = output.detach().argmax(-1) if whiten is _identity else output.detach()
                loss(output, target).backward()
        except (NotImplementedError, AssertionError) as error:
            raise ValueError(
                f"BackPACK does not cover this network (residual ones need use_converter): {error}"
            ) from error
        yield network, len(x)


def _identity(x: Tensor) -> Tensor:
    return x


def _loss(likelihood: Likelihood) -> tuple[Any, nn.Module]:
    """Return what to apply to the output, and a summed loss that then has our Hessian.

    |y / sqrt(2)|^2 of the whitened output has the Hessian noise_cov^-1. Neither Hessian depends
    on the target.
    """
    if not isinstance(likelihood, Gaussian):
        return _identity, extend(nn.CrossEntropyLoss(reduction="sum"))
    if likelihood.noise_cov is None:
        raise ValueError("BackPACK needs a noise covariance that does not depend on the input")
    cholesky = torch.linalg.cholesky(likelihood.noise_cov)
    eye = torch.eye(len(cholesky), dtype=cholesky.dtype, device=cholesky.device)
    weight = torch.linalg.solve_triangular(cholesky, eye, upper=False) / math.sqrt(2)
    whiten = nn.Linear(*weight.shape, bias=False, device=weight.device)
    whiten.weight = nn.Parameter(weight, requires_grad=False)
    return extend(whiten), extend(nn.MSELoss(reduction="sum"))


def _results(network: nn.Module, field: str) -> dict[str, Any]:
    missing = [name for name, p in network.named_parameters() if not hasattr(p, field)]
    if missing:
        raise ValueError(f"BackPACK gives no {field} for {missing}: it does not know these layers")
    return {name: getattr(p, field) for name, p in network.named_parameters()}
