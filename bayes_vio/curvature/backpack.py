"""Curvature by BackPACK, for the networks that it covers: an independent way to the same numbers.

Source: Dangel, Kunstner, Hennig (2020), "BackPACK: packing more into backprop". Its results are
per batch and for a loss of its own; here they become means over data for our likelihoods.
BackPACK leaves layers that it does not know out silently; here that is a ValueError.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import KFAC, KFLR, KFRA, DiagGGNExact
from torch import Tensor, nn

from bayes_vio.curvature.inputs import tensors
from bayes_vio.models.likelihood import Gaussian, Likelihood

# Input numbers that KFRA may take as one batch: 512 MB in float32.
MAX_KFRA_NUMBERS = 2**27


@dataclass(frozen=True)
class BackpackFactors:
    """G [d_out, d_out] and A [d_in, d_in] of a weight without its bias, means over data.

    At a convolution A is a mean over positions and G belongs to gradients summed over them, so
    that G alone is the bias' block (E19).
    """

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
    """Return KFLR's Kronecker factors of every weight by name, or KFAC's where ``sampled`` (E19).

    KFLR goes through all columns of the loss Hessian's root, KFAC through labels drawn from the
    model with torch's global generator. Raises ValueError like ``backpack_diagonal``.
    """
    extension, field = (KFAC(), "kfac") if sampled else (KFLR(), "kflr")
    return _factors(model, loader, likelihood, extension, field)


def backpack_kfra_factors(
    model: nn.Module, loader: Iterable, likelihood: Likelihood
) -> dict[str, BackpackFactors]:
    """Return KFRA's Kronecker factors of every weight by name (E19).

    Source: Botev, Ritter, Barber (2017). The output Hessian comes back as an average over the
    batch at every layer, so all data go through the network as one batch. Raises ValueError like
    ``backpack_diagonal``, for more data than that allows, and where the network is not a chain.
    """
    batches = list(loader)
    n_numbers = sum(t.numel() for x, _ in batches for t in tensors(x))
    if n_numbers > MAX_KFRA_NUMBERS:
        raise ValueError(
            f"KFRA takes all data as one batch: {n_numbers} input numbers are more than "
            f"{MAX_KFRA_NUMBERS}; use fewer data, or KFLR"
        )
    whole = [tuple(_joined(column) for column in zip(*batches, strict=True))]
    return _factors(model, whole, likelihood, KFRA(), "kfra")


def _joined(column: tuple) -> Any:
    # Inputs of several tensors are refused where they are read.
    return torch.cat(column) if isinstance(column[0], Tensor) else column[0]


def _factors(
    model: nn.Module, loader: Iterable, likelihood: Likelihood, extension: Any, field: str
) -> dict[str, BackpackFactors]:
    G: dict[str, Tensor] = {}
    A: dict[str, Tensor] = {}
    first = next(iter(loader))[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        what = first.dtype if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"BackPACK takes one tensor of floating point as input, not {what}")
    n_data, n_positions = 0, _positions(model, first[:1])
    for network, n_batch in _batches(model, loader, likelihood, extension, False):
        n_data += n_batch
        for name, factors in _results(network, field).items():
            if len(factors) == 2:  # biases have G alone
                # The loss is a sum over the batch: G sums over it, A is its mean.
                G[name] = G.get(name, 0.0) + factors[0].detach()
                A[name] = A.get(name, 0.0) + factors[1].detach() * n_batch / n_positions[name]
    return {name: BackpackFactors(G[name] / n_data, A[name] / n_data) for name in G}


def _positions(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Return over how many positions BackPACK sums the inputs of every weight."""
    network, found = copy.deepcopy(model).eval(), {}

    def watch(name: str):
        def hook(_module: nn.Module, _args: tuple, output: Tensor) -> None:
            found[f"{name}.weight" if name else "weight"] = output[0, 0].numel()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.register_forward_hook(watch(name))
    with torch.no_grad():
        network(x)
    return found


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors have a dtype: BackPACK's loss Hessians take the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
            with _default_dtype(x.dtype), backpack(extension):
                output = whiten(extended(x))
                target = output.detach().argmax(-1) if whiten is _identity else output.detach()
                loss(output, target).backward()
        except (NotImplementedError, AssertionError, RuntimeError) as error:
            # Of torch's own errors the hooks cause one: at operations in place.
            if type(error) is RuntimeError and "BackwardHookFunction" not in str(error):
                raise
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
