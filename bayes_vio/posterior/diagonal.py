"""Independent weights: P = n_data * diag(F_diag) + prior_precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.posterior.block import CurvatureBlock, PrecisionBlock, Rows, working_dtype
from bayes_vio.posterior.linearisation import LayerTerms


@dataclass(frozen=True)
class DiagonalPrecision(PrecisionBlock):
    """P = diag(vec(diagonal)); diagonal [d_out, d_in] > 0, float64.

    ``dtype`` is that of products with Jacobians, whose results are float64.
    """

    diagonal: Tensor
    dtype: torch.dtype = torch.float64

    @cached_property
    def inverse(self) -> Tensor:
        """Return the diagonal of P^-1 [d_out, d_in]."""
        return self.diagonal.reciprocal()

    @cached_property
    def _std(self) -> Tensor:
        return self.diagonal.rsqrt()

    @cached_property
    def _working_std(self) -> Tensor:
        return self._std.to(self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in)."""
        d_out, d_in = self.diagonal.shape
        return d_out, d_in

    def whitened(self, terms: LayerTerms) -> Iterator[tuple[Rows, Tensor]]:
        """Yield rows of J P^-1/2 [batch, outputs, rows, d_in]."""
        for rows, J in terms.jacobian_blocks(self.dtype):
            yield rows, J * self._working_std[rows]

    def rank_one_covariance(self, g: Tensor, a: Tensor) -> Tensor:
        """Return sum_oi g_c[o] g_c'[o] a[i]^2 / P[o, i] [batch, outputs, outputs] (E9)."""
        weights = a.square() @ self.inverse.mT  # [batch, d_out]
        return (g * weights[:, None]) @ g.mT

    def sample(self, noise: Tensor) -> Tensor:
        """Return draws from N(0, P^-1) [..., d_out, d_in], in the noise's dtype."""
        return noise.mul_(self._std.to(noise.dtype))

    def logdet(self) -> Tensor:
        """Return log det P."""
        return self.diagonal.log().sum()

    def dense(self) -> Tensor:
        """Return P [d_out * d_in, d_out * d_in]."""
        return torch.diag(self.diagonal.flatten())


@dataclass(frozen=True)
class DiagonalCurvature(CurvatureBlock):
    """The exact diagonal F_diag [d_out, d_in], a mean over data."""

    diagonal: Tensor

    def precision(self, n_data: float, prior_precision: float | Tensor) -> DiagonalPrecision:
        """Return P = n_data * diag(F_diag) + prior_precision."""
        diagonal = n_data * self.diagonal.double() + prior_precision
        return DiagonalPrecision(diagonal, working_dtype(self.diagonal))
