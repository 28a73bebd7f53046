"""Posteriors diagonal in a Kronecker eigenbasis: KFAC, and EFB with corrected eigenvalues.

P = (Q_g (x) Q_a) diag(vec(n_data * eigenvalues + prior_precision)) (Q_g (x) Q_a)^T, exactly: the
prior is isotropic, so nothing is approximated by adding it (E7).

Sources: Ritter et al. (2018), section 3, for KFAC; George et al. (2018) for the correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.posterior.block import (
    CurvatureBlock,
    PrecisionBlock,
    Rows,
    kronecker_product,
    working_dtype,
)
from bayes_vio.posterior.diagonal import DiagonalPrecision
from bayes_vio.posterior.linearisation import LayerTerms


@dataclass(frozen=True)
class RotatedPrecision(PrecisionBlock):
    """P with eigenvectors Q_g (x) Q_a and the eigenvalues of ``rotated`` [d_out, d_in]."""

    Q_g: Tensor
    Q_a: Tensor
    rotated: DiagonalPrecision

    @cached_property
    def _rotation(self) -> tuple[Tensor, Tensor]:
        return self.Q_g.to(self.rotated.dtype), self.Q_a.to(self.rotated.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in)."""
        return self.rotated.shape

    def whitened(self, terms: LayerTerms) -> Iterator[tuple[Rows, Tensor]]:
        """Yield rows of J P^-1/2 in the eigenbasis: rotate the factors of J, not J."""
        yield from self.rotated.whitened(terms.rotated(*self._rotation))

    def rank_one_covariance(self, g: Tensor, a: Tensor) -> Tensor:
        """Return the same for J_c = g_c a^T: the outer product is rotated by its factors."""
        return self.rotated.rank_one_covariance(g @ self.Q_g, a @ self.Q_a)

    def sample(self, noise: Tensor) -> Tensor:
        """Return draws from N(0, P^-1) [..., d_out, d_in], in the noise's dtype."""
        Q_g, Q_a = self.Q_g.to(noise.dtype), self.Q_a.to(noise.dtype)
        return Q_g @ self.rotated.sample(noise) @ Q_a.mT

    def logdet(self) -> Tensor:
        """Return log det P."""
        return self.rotated.logdet()

    def dense(self) -> Tensor:
        """Return P [d_out * d_in, d_out * d_in]."""
        Q = kronecker_product(self.Q_g, self.Q_a)
        return Q @ self.rotated.dense() @ Q.mT


@dataclass(frozen=True)
class KfacCurvature(CurvatureBlock):
    """G (x) A by its eigenvectors and the eigenvalues [d_out], [d_in] of the two factors."""

    Q_g: Tensor
    Q_a: Tensor
    output_eigenvalues: Tensor
    input_eigenvalues: Tensor

    def precision(self, n_data: float, prior_precision: float | Tensor) -> RotatedPrecision:
        """Return P = n_data * G (x) A + prior_precision."""
        grid = torch.outer(self.output_eigenvalues.double(), self.input_eigenvalues.double())
        rotated = DiagonalPrecision(n_data * grid + prior_precision, working_dtype(self.Q_g))
        return RotatedPrecision(self.Q_g.double(), self.Q_a.double(), rotated)


def kfac_curvature(G: Tensor, A: Tensor) -> KfacCurvature:
    """Diagonalise two Kronecker factors; rounding below zero is zero."""
    output_eigenvalues, Q_g = torch.linalg.eigh(G)
    input_eigenvalues, Q_a = torch.linalg.eigh(A)
    # In rows, as they are after loading: another layout sums in another order.
    return KfacCurvature(
        Q_g.contiguous(),
        Q_a.contiguous(),
        output_eigenvalues.clamp(min=0.0),
        input_eigenvalues.clamp(min=0.0),
    )


@dataclass(frozen=True)
class EfbCurvature(CurvatureBlock):
    """The Kronecker eigenvectors and the corrected eigenvalues [d_out, d_in]."""

    Q_g: Tensor
    Q_a: Tensor
    eigenvalues: Tensor

    def precision(self, n_data: float, prior_precision: float | Tensor) -> RotatedPrecision:
        """Return P = n_data * Q diag(eigenvalues) Q^T + prior_precision, Q = Q_g (x) Q_a."""
        diagonal = n_data * self.eigenvalues.double() + prior_precision
        rotated = DiagonalPrecision(diagonal, working_dtype(self.eigenvalues))
        return RotatedPrecision(self.Q_g.double(), self.Q_a.double(), rotated)
