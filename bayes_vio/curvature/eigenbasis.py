"""The Kronecker eigenbasis of a layer and the eigenvalues corrected in it (EFB, EKFAC).

Source: George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored
eigenbasis"; Lee et al. (2020), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.curvature.kfac import KroneckerFactors
from bayes_vio.curvature.layers import Layer


@dataclass(frozen=True)
class Eigenbasis:
    """A = Q_a diag(input_eigenvalues) Q_a^T, and G likewise with Q_g."""

    Q_g: Tensor
    Q_a: Tensor
    output_eigenvalues: Tensor
    input_eigenvalues: Tensor


def eigenbasis(factors: KroneckerFactors, resolution: float) -> Eigenbasis:
    """Diagonalise both factors; ``resolution`` is the machine epsilon of the network's dtype.

    Eigenvalues below what that resolves are zero.
    """
    input_eigenvalues, Q_a = _diagonalise(factors.A, factors.A_expand, resolution)
    output_eigenvalues, Q_g = _diagonalise(factors.G, factors.G_expand, resolution)
    return Eigenbasis(Q_g, Q_a, output_eigenvalues, input_eigenvalues)


def _diagonalise(factor: Tensor, tie: Tensor, resolution: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of a factor, where it is zero those of ``tie``.

    Gradients need not vanish in the null space of a REDUCE factor, whose eigenvectors there are
    rounding's choice: without the tie the corrected eigenvalues would depend on the batch size.
    """
    eigenvalues, Q = torch.linalg.eigh(factor)
    null = eigenvalues <= len(factor) * resolution * eigenvalues[-1]
    N = Q[:, null]
    Q = torch.cat([N @ torch.linalg.eigh(N.mT @ tie @ N)[1], Q[:, ~null]], 1)
    return torch.where(null, 0.0, eigenvalues), Q


class CorrectedEigenvalueSums:
    """Sums over data of (Q_g^T dW_r Q_a)^2 [d_out, d_in] of one layer (E3)."""

    def __init__(self, layer: Layer, basis: Eigenbasis):
        dtype = layer.module.weight.dtype
        self._layer = layer
        self._Q_g, self._Q_a = basis.Q_g.to(dtype), basis.Q_a.to(dtype)
        self._sum = layer.zeros(*layer.shape)

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:  # noqa: ARG002
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out]."""
        self._sum += squared_jacobian_sum(self._layer, features @ self._Q_a, gradients @ self._Q_g)

    def mean(self, n_data: int) -> Tensor:
        """Return the corrected eigenvalues Lam [d_out, d_in], a mean over data."""
        return self._sum / n_data


def squared_jacobian_sum(layer: Layer, features: Tensor, gradients: Tensor) -> Tensor:
    """Return the sum over data and columns of dW_r^2 [d_out, d_in], positions summed first.

    Without shared positions dW is the outer product g a^T, and its square never has to be formed.
    """
    if layer.is_kronecker and features.shape[1] == 1:
        return gradients[:, :, 0].square().sum(1).mT @ features[:, 0].square()
    return layer.jacobian(features, gradients).square().sum((0, 1))
