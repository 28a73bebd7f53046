"""The sparse information form of one layer (INF): a Kronecker low rank plus a diagonal.

P = n_data * U Lam_L U^T + D with U = U_g (x) U_a, D = n_data * diagonal + prior_precision (E8). It
is never formed, nor is any matrix [d_out * d_in, L]: every operation contracts over the factors
of U and ends in matrices [L, L], L = r_g * r_a.

Source: Lee, Humt, Feng, Triebel (2020), "Estimating model uncertainty of neural networks in sparse
information form", sections 3.2 and 3.3. The sampler is the exact one (E12).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.posterior.block import CurvatureBlock, PrecisionBlock, kronecker_product
from bayes_vio.posterior.linearisation import LayerTerms


@dataclass(frozen=True)
class InformationPrecision(PrecisionBlock):
    """P = U diag(s^2) U^T + diag(D): D [d_out, d_in] > 0, U_g [d_out, r_g], U_a [d_in, r_a].

    ``scale`` s [r_g * r_a] is sqrt(n_data * Lam_L), flattened row-major. All in float64.
    """

    D: Tensor
    U_g: Tensor
    U_a: Tensor
    scale: Tensor

    @cached_property
    def D_inverse(self) -> Tensor:
        """Return 1 / D [d_out, d_in]."""
        return self.D.reciprocal()

    @cached_property
    def _U_a_rows(self) -> Tensor:
        return self.U_a.mT.contiguous()

    @cached_property
    def gram(self) -> Tensor:
        """Return diag(s) U^T D^-1 U diag(s) [L, L] without forming U (E10)."""
        pairs_g = _column_products(self.U_g)  # [d_out, r_g * r_g]
        pairs_a = _column_products(self.U_a)  # [d_in, r_a * r_a]
        r_g, r_a = self.U_g.shape[1], self.U_a.shape[1]
        contracted = (pairs_g.mT @ self.D_inverse @ pairs_a).reshape(r_g, r_g, r_a, r_a)
        inner = contracted.permute(0, 2, 1, 3).reshape(r_g * r_a, r_g * r_a)
        return self.scale[:, None] * inner * self.scale

    @cached_property
    def cholesky(self) -> Tensor:
        """Return the lower factor of M = 1 + gram [L, L]."""
        eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        return torch.linalg.cholesky(eye + self.gram)

    @cached_property
    def projector(self) -> Tensor:
        """Return M^-1/2 diag(s), transposed [L, L]: what multiplies J D^-1 U."""
        scale = torch.diag(self.scale)
        return torch.linalg.solve_triangular(self.cholesky, scale, upper=False).mT.contiguous()

    def covariance(self, terms: LayerTerms) -> Tensor:
        """Return J D^-1 J^T - |M^-1/2 diag(s) U^T D^-1 J^T|^2 [batch, outputs, outputs] (E11)."""
        weighed, inner = [], []
        for rows, J in terms.jacobian_blocks():
            weighted = J * self.D_inverse[rows]
            weighed.append(weighted.flatten(2) @ J.flatten(2).mT)
            # A short fat product from the left: twice as fast as one with r_a columns.
            product = self._U_a_rows @ weighted.flatten(0, 2).mT
            inner.append(product.unflatten(1, J.shape[:3]))  # [r_a, batch, outputs, rows]
        projected = torch.cat(inner, 3) @ self.U_g  # [r_a, batch, outputs, r_g]
        return torch.stack(weighed).sum(0) - self._explained(projected.permute(1, 2, 3, 0))

    def rank_one_covariance(self, g: Tensor, a: Tensor) -> Tensor:
        """Return the same for J_c = g_c a^T, which is never formed (E9)."""
        weights = a.square() @ self.D_inverse.mT  # [batch, d_out]
        inner = self.D_inverse @ (a[..., None] * self.U_a)  # [batch, d_out, r_a]
        projected = (g[..., None] * self.U_g).mT @ inner[:, None]  # [batch, outputs, r_g, r_a]
        return (g * weights[:, None]) @ g.mT - self._explained(projected)

    def _explained(self, projected: Tensor) -> Tensor:
        reduced = projected.flatten(2) @ self.projector
        return reduced @ reduced.mT

    @cached_property
    def _sampling(self) -> tuple[Tensor, Tensor]:
        """Return Q and c of gram = Q diag(e) Q^T with (1 + e c)^2 = 1 / (1 + e) (E12)."""
        e, Q = torch.linalg.eigh(self.gram)
        root = (1 + e.clamp(min=0.0)).sqrt()
        return Q, -1 / (root * (1 + root))

    def sample(self, noise: Tensor) -> Tensor:
        """Return D^-1/2 (x + V Q diag(c) Q^T V^T x), V = D^-1/2 U diag(s) [d_out, d_in] (E12)."""
        Q, c = self._sampling
        root = self.D.rsqrt()
        projected = self.scale * (self.U_g.mT @ (root * noise) @ self.U_a).flatten()
        back = (self.scale * (Q @ (c * (Q.mT @ projected)))).reshape(
            self.U_g.shape[1], self.U_a.shape[1]
        )
        return root * (noise + root * (self.U_g @ back @ self.U_a.mT))

    def logdet(self) -> Tensor:
        """Return log det P = sum log D + log det M (E13)."""
        return self.D.log().sum() + 2 * self.cholesky.diagonal().log().sum()

    def dense(self) -> Tensor:
        """Return P [d_out * d_in, d_out * d_in]; the one place where U is formed."""
        U = kronecker_product(self.U_g, self.U_a) * self.scale
        return U @ U.mT + torch.diag(self.D.flatten())


@dataclass(frozen=True)
class InformationCurvature(CurvatureBlock):
    """What INF stores: diagonal [d_out, d_in] >= 0 (what the low rank leaves of F_diag), U_g
    [d_out, r_g] and U_a [d_in, r_a] (columns of the eigenbasis), eigenvalues Lam_L [r_g, r_a]."""

    diagonal: Tensor
    U_g: Tensor
    U_a: Tensor
    eigenvalues: Tensor

    def precision(self, n_data: float, prior_precision: float | Tensor) -> InformationPrecision:
        """Return P = n_data * (U Lam_L U^T + diagonal) + prior_precision."""
        scale = (n_data * self.eigenvalues.double()).sqrt().flatten()
        D = n_data * self.diagonal.double() + prior_precision
        return InformationPrecision(D, self.U_g.double(), self.U_a.double(), scale)


def _column_products(U: Tensor) -> Tensor:
    """Return all products of two columns [d, r * r] of U [d, r]."""
    return (U[:, :, None] * U[:, None, :]).flatten(1)
