"""Kronecker factors of a layer's curvature, G (x) A, for weights shared over positions.

Sources: Martens and Grosse (2015); Eschenhagen et al. (2023), sections 3.2 and 3.3, for the two
settings of weight sharing. All factors are means over data; G sums over the Fisher's columns.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from bayes_vio.curvature.diagonal import DiagonalSums
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.outer import Factor, OuterSum


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

    ``A_expand`` and ``G_expand`` are the factors under EXPAND, the same ones but under REDUCE:
    every gradient lies in their range, while REDUCE can average a direction away (attention's
    keys: their gradients sum to zero).
    """

    A: Factor
    G: Factor
    sharing: Sharing
    A_expand: Factor
    G_expand: Factor


class FactorSums:
    """Sums over data of both settings' factors and of the exact diagonal of one layer's block."""

    def __init__(self, layer: Layer):
        d_out, d_in = layer.shape
        self._A = {s: OuterSum(layer, d_in) for s in (Sharing.EXPAND, Sharing.REDUCE)}
        self._G = {s: OuterSum(layer, d_out) for s in (Sharing.EXPAND, Sharing.REDUCE)}
        self._diagonal, self._n_shared = DiagonalSums(layer), layer.zeros()

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out].

        The inputs count once per datum: with its first columns.
        """
        if first_columns:
            self._add_inputs(features)
        self._G[Sharing.EXPAND].add(gradients.transpose(0, 1))
        self._G[Sharing.REDUCE].add(gradients.sum(2))
        self._diagonal.add(features, gradients, first_columns)

    def _add_inputs(self, features: Tensor) -> None:
        n_positions = features.shape[1]
        self._n_shared += len(features) if n_positions > 1 else 0
        self._A[Sharing.EXPAND].add(features, 1 / n_positions)
        self._A[Sharing.REDUCE].add(features.mean(1))

    def totals(self) -> list[Tensor]:
        """Return every tensor that is a sum over data."""
        return [
            *(total.total() for total in (*self._A.values(), *self._G.values())),
            *self._diagonal.totals(),
            self._n_shared,
        ]

    def factors(self, n_data: int) -> KroneckerFactors:
        """Return the means; with shared positions, of the setting whose trace is the truer one.

        tr(G (x) A) = tr(G) tr(A) is compared with E[sum_r |dW_r|^2] by their ratio: where REDUCE
        averages all gradients away, a block of zeros is not the truer one (E2).
        """
        sharing = self._truer_sharing(n_data) if self._n_shared > 0 else Sharing.NONE
        A, G = (sums[Sharing.EXPAND].mean(n_data) for sums in (self._A, self._G))
        if sharing is not Sharing.REDUCE:
            return KroneckerFactors(A, G, sharing, A, G)
        A_reduce, G_reduce = (sums[sharing].mean(n_data) for sums in (self._A, self._G))
        return KroneckerFactors(A_reduce, G_reduce, sharing, A, G)

    def diagonal(self, n_data: int) -> Tensor:
        """Return F_diag [d_out, d_in], a mean over data (E4)."""
        return self._diagonal.mean(n_data)

    def _truer_sharing(self, n_data: int) -> Sharing:
        truth = float(self.diagonal(n_data).sum())

        def error(sharing: Sharing) -> float:
            product = self._A[sharing].trace() * self._G[sharing].trace() / n_data**2
            return max(product, truth) / max(min(product, truth), sys.float_info.min)

        return min((Sharing.EXPAND, Sharing.REDUCE), key=error)
