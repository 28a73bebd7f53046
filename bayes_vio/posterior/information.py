"""The sparse information form of one layer (INF): a Kronecker low rank plus a diagonal.

P = n_data * U Lam_L U^T + D with U = U_g (x) U_a, D = n_data * diagonal + prior_precision (E8). It
is never formed, nor is any matrix [d_out * d_in, L]: every operation contracts over the factors
of U and ends in matrices [L, L], L = r_g * r_a.

Source: Lee, Humt, Feng, Triebel (2020), "Estimating model uncertainty of neural networks in sparse
information form", sections 3.2 and 3.3. The sampler is the exact one (E12).
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
from bayes_vio.posterior.linearisation import LayerTerms


@dataclass(frozen=True)
class InformationPrecision(PrecisionBlock):
    """P = U diag(s^2) U^T + diag(D): D [d_out, d_in] > 0, U_g [d_out, r_g], U_a [d_in, r_a].

    ``scale`` s [r_g * r_a] is sqrt(n_data * Lam_L), flattened row-major. All in float64;
    ``dtype`` is that of products with Jacobians, whose results are float64.
    """

    D: Tensor
    U_g: Tensor
    U_a: Tensor
    scale: Tensor
    dtype: torch.dtype = torch.float64

    @cached_property
    def D_inverse(self) -> Tensor:
        """Return 1 / D [d_out, d_in]."""
        return self.D.reciprocal()

    @property
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in)."""
        d_out, d_in = self.D.shape
        return d_out, d_in

    @cached_property
    def _working(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return D^-1, D^-1/2, U_g and U_a^T, each contiguous and in ``dtype``."""
        factors = (self.D_inverse, self.D.rsqrt(), self.U_g, self.U_a.mT)
        return tuple(t.to(self.dtype).contiguous() for t in factors)  # pyright: ignore

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

    def whitened(self, terms: LayerTerms) -> Iterator[tuple[Rows, Tensor]]:
        """Yield rows of (J + J D^-1 U K U^T) D^-1/2 [batch, outputs, rows, d_in] (E11).

        Its square is J P^-1 J^T, also in float32 where nearly all of J D^-1 J^T is explained.
        """
        D_inverse, std, _, U_a_rows = self._working
        blocks, inner = [], []
        for rows, J in terms.jacobian_blocks(self.dtype):
            blocks.append((rows, J))
            # While J is in the cache, and from the left, where a short fat product takes half as
            # long as one with r_a columns.
            product = U_a_rows @ (J * D_inverse[rows]).flatten(0, 2).mT
            inner.append(product.unflatten(1, J.shape[:3]))  # [r_a, batch, outputs, rows]
        back = self._back(torch.cat(inner, 3))
        for rows, J in blocks:
            R = J.flatten(0, 2).addmm_(back[:, :, rows].flatten(0, 2), U_a_rows).view_as(J)
            yield rows, R.mul_(std[rows])

    def _back(self, projected: Tensor) -> Tensor:
        """Return U_g K U_g^T J D^-1 U_a [batch, outputs, d_out, r_a] from [r_a, ..., d_out]."""
        U_g = self._working[2]
        inner = (projected @ U_g).permute(1, 2, 3, 0)  # [batch, outputs, r_g, r_a]
        weighed = inner.flatten(2).double() @ self._kernel
        return U_g @ weighed.to(self.dtype).unflatten(2, inner.shape[2:])

    @cached_property
    def _kernel(self) -> Tensor:
        """Return K = diag(s) Q diag(c) Q^T diag(s) [L, L] of E12."""
        Q, c = self._sampling
        return self.scale[:, None] * (Q * c @ Q.mT) * self.scale

    def rank_one_covariance(self, g: Tensor, a: Tensor) -> Tensor:
        """Return the same for J_c = g_c a^T, which is never formed, in float64 (E9)."""
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

    @cached_property
    def _roots(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        """Return D^-1/2 and D^-1 in float64 and in ``dtype``."""
        roots = self.D.rsqrt(), self.D_inverse
        narrow = roots[0].to(self.dtype), roots[1].to(self.dtype)
        return {self.D.dtype: roots, self.dtype: narrow}

    def sample(self, noise: Tensor) -> Tensor:
        """Return D^-1/2 (x + V Q diag(c) Q^T V^T x), V = D^-1/2 U diag(s) (E12).

        [..., d_out, d_in], in the noise's dtype, but for products [L, L], which are in float64.
        """
        std, var = self._roots[noise.dtype]
        U_g, U_a = self.U_g.to(noise.dtype), self.U_a.to(noise.dtype)
        # In the noise's own memory: fresh pages cost a tenth of a draw.
        draw = noise.mul_(std)
        # From the left: four times as fast as a product with r_a columns.
        inner = U_a.mT @ draw.flatten(0, -2).mT  # [r_a, ... * d_out]
        projected = (inner.unflatten(1, draw.shape[:-1]) @ U_g).movedim(0, -1)  # [..., r_g, r_a]
        weighed = (projected.flatten(-2).double() @ self._kernel).to(noise.dtype)
        back = U_g @ weighed.unflatten(-1, projected.shape[-2:]) @ U_a.mT
        return draw.addcmul_(var, back)

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
        U_g, U_a = self.U_g.double(), self.U_a.double()
        return InformationPrecision(D, U_g, U_a, scale, working_dtype(self.diagonal))


def _column_products(U: Tensor) -> Tensor:
    """Return all products of two columns [d, r * r] of U [d, r]."""
    return (U[:, :, None] * U[:, None, :]).flatten(1)
