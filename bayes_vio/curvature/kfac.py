"""Kronecker factors of a layer's curvature, G (x) A, for weights shared over positions.

Sources: Martens and Grosse (2015); Eschenhagen et al. (2023), sections 3.2 and 3.3, for the two
settings of weight sharing. All factors are means over data; G sums over the Fisher's columns.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from bayes_vio.curvature.diagonal import DiagonalSums
from bayes_vio.curvature.layer import Layer


class Sharing(Enum):
    """How positions that share a weight enter its factors.

    NONE: one position. EXPAND: each position is a datum, exact when the loss is a sum over
    positions. REDUCE: inputs are averaged and output gradients summed first, exact when the
    positions are averaged before anything nonlinear.
    """

    NONE = "none"
    EXPAND = "expand"
    REDUCE = "reduce"


@dataclass(frozen=True)
class KroneckerFactors:
    """A [d_in, d_in] and G [d_out, d_out], uncentred means over data (E1).

    ``A_expand`` and ``G_expand`` are the factors under EXPAND, the same tensors but under REDUCE:
    every gradient lies in their range, while REDUCE can average a direction away (attention's
    keys: their gradients sum to zero). ``input_rank`` and ``output_rank`` bound the ranks of
    ``A_expand`` and ``G_expand``: they are sums of so many outer products.
    """

    A: Tensor
    G: Tensor
    sharing: Sharing
    A_expand: Tensor
    G_expand: Tensor
    input_rank: int
    output_rank: int


class FactorSums:
    """Sums over data of both settings' factors and of the exact diagonal of one layer's block.

    Of the factors only what is above the diagonal is complete.
    """

    def __init__(self, layer: Layer):
        d_out, d_in = layer.shape
        self._A = {s: layer.zeros(d_in, d_in) for s in (Sharing.EXPAND, Sharing.REDUCE)}
        self._G = {s: layer.zeros(d_out, d_out) for s in (Sharing.EXPAND, Sharing.REDUCE)}
        self._diagonal, self._n_shared = DiagonalSums(layer), layer.zeros()
        self._n_products = {"A": layer.zeros(), "G": layer.zeros()}

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out].

        The inputs count once per datum: with its first columns.
        """
        if first_columns:
            self._add_inputs(features)
        self._n_products["G"] += gradients[..., 0].numel()
        _add_outer(self._G[Sharing.EXPAND], gradients.transpose(0, 1))
        _add_outer(self._G[Sharing.REDUCE], gradients.sum(2))
        self._diagonal.add(features, gradients, first_columns)

    def _add_inputs(self, features: Tensor) -> None:
        n_positions = features.shape[1]
        self._n_products["A"] += len(features) * n_positions
        self._n_shared += len(features) if n_positions > 1 else 0
        _add_outer(self._A[Sharing.EXPAND], features, 1 / n_positions)
        _add_outer(self._A[Sharing.REDUCE], features.mean(1))

    def totals(self) -> list[Tensor]:
        """Return every tensor that is a sum over data."""
        return [
            *self._A.values(),
            *self._G.values(),
            *self._diagonal.totals(),
            self._n_shared,
            *self._n_products.values(),
        ]

    def factors(self, n_data: int) -> KroneckerFactors:
        """Return the means; with shared positions, of the setting whose trace is the truer one.

        tr(G (x) A) = tr(G) tr(A) is compared with E[sum_r |dW_r|^2] by their ratio: where REDUCE
        averages all gradients away, a block of zeros is not the truer one (E2).
        """
        sharing = self._truer_sharing(n_data) if self._n_shared > 0 else Sharing.NONE
        A, G = (_mean(sums[Sharing.EXPAND], n_data) for sums in (self._A, self._G))
        ranks = [
            min(int(n), len(f)) for n, f in zip(self._n_products.values(), (A, G), strict=True)
        ]
        if sharing is not Sharing.REDUCE:
            return KroneckerFactors(A, G, sharing, A, G, *ranks)
        A_reduce, G_reduce = (_mean(sums[sharing], n_data) for sums in (self._A, self._G))
        return KroneckerFactors(A_reduce, G_reduce, sharing, A, G, *ranks)

    def diagonal(self, n_data: int) -> Tensor:
        """Return F_diag [d_out, d_in], a mean over data (E4)."""
        return self._diagonal.mean(n_data)

    def _truer_sharing(self, n_data: int) -> Sharing:
        truth = float(self.diagonal(n_data).sum())

        def error(sharing: Sharing) -> float:
            product = float(self._A[sharing].trace() * self._G[sharing].trace()) / n_data**2
            return max(product, truth) / max(min(product, truth), sys.float_info.min)

        return min((Sharing.EXPAND, Sharing.REDUCE), key=error)


def _mean(total: Tensor, n_data: int) -> Tensor:
    upper = total.triu()
    return (upper + upper.triu(1).mT) / n_data


def _add_outer(total: Tensor, x: Tensor, weight: float = 1.0) -> None:
    """Add the sum of weight * x x^T over all axes of x [..., d] but the last to total [d, d].

    Blocks of rows, each from the diagonal on: up to three eighths of the products are left out.
    """
    product, d = _products(x), len(total)
    n_blocks = min(4, max(1, d // 32))
    bounds = [i * d // n_blocks for i in range(n_blocks + 1)]
    for start, stop in itertools.pairwise(bounds):
        total[start:stop, start:] += weight * product(slice(start, stop), slice(start, d))


def _products(x: Tensor) -> Callable[[slice, slice], Tensor]:
    """Return the function that gives x[..., rows]^T x[..., columns], summed over all else."""
    if x.stride(-1) == 1 or x.dim() < 3 or x.device.type != "cpu":
        flat = x.flatten(0, -2)
        return lambda rows, columns: flat[:, rows].mT @ flat[:, columns]
    # A convolution's, positions last: a copy with these first would cost as much as a product.
    wide = x.mT.flatten(0, -3)
    start = x.new_zeros(1, 1)
    return lambda rows, columns: torch.addbmm(start, wide[:, rows], wide[:, columns].mT)
