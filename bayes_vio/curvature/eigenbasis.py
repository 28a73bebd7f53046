"""The Kronecker eigenbasis of a layer and the eigenvalues corrected in it (EFB, EKFAC).

Source: George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored
eigenbasis"; Lee et al. (2020), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.curvature.kfac import KroneckerFactors
from bayes_vio.curvature.layer import Layer
from bayes_vio.distributed import Workers


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


def eigenbases(
    factors: Mapping[str, KroneckerFactors], layers: Mapping[str, Layer], workers: Workers
) -> dict[str, Eigenbasis]:
    """Diagonalise the factors of all layers, each by one of the workers.

    What it found is copied to the others: where eigenvalues coincide another machine may choose
    other vectors, and sums in two bases are none.
    """
    with workers.together():
        bases = {
            name: eigenbasis(f, layers[name].resolution) if workers.owns(i) else _room(f)
            for i, (name, f) in enumerate(factors.items())
        }
    for i, basis in enumerate(bases.values()):
        found = (basis.Q_g, basis.Q_a, basis.output_eigenvalues, basis.input_eigenvalues)
        workers.copy(found, i % workers.size)
    return bases


def _room(factors: KroneckerFactors) -> Eigenbasis:
    """Return an eigenbasis to be filled in."""
    A, G = factors.A, factors.G
    return Eigenbasis(
        torch.empty_like(G), torch.empty_like(A), torch.empty_like(G[0]), torch.empty_like(A[0])
    )


def _diagonalise(factor: Tensor, tie: Tensor, resolution: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of a factor, where it is zero those of ``tie``.

    Gradients need not vanish in the null space of a REDUCE factor, whose eigenvectors there are
    rounding's choice: without the tie the corrected eigenvalues would depend on the batch size.
    Where the factor is its own tie they vanish there, and one diagonalisation is enough.
    """
    if not bool(torch.isfinite(factor).all()):
        raise ValueError("a Kronecker factor is not finite: look for infinity in the inputs")
    eigenvalues, Q = torch.linalg.eigh(factor)
    largest = eigenvalues[-1]
    if tie is not factor:
        largest = torch.maximum(largest, torch.linalg.eigvalsh(tie)[-1])
    null = eigenvalues <= len(factor) * resolution * largest
    if tie is factor or not bool(null.any()):
        return torch.where(null, 0.0, eigenvalues), Q.contiguous()
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
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out].

        Where positions outnumber what comes back to them, it is cheaper to turn dW itself.
        """
        n_columns, n_positions, d_out = gradients.shape[1:]
        if n_positions > n_columns * d_out:
            for J in self._layer.jacobian_parts(features, gradients):
                turned = self._Q_g.mT @ (J @ self._Q_a).flatten(0, 1)
                self._sum += turned.square_().sum(0)
            return
        self._layer.add_squares(self._sum, features @ self._Q_a, _turned(gradients, self._Q_g))

    def totals(self) -> list[Tensor]:
        """Return the sum over data."""
        return [self._sum]

    def mean(self, n_data: int) -> Tensor:
        """Return the corrected eigenvalues Lam [d_out, d_in], a mean over data."""
        return self._sum / n_data


def _turned(gradients: Tensor, Q: Tensor) -> Tensor:
    """Return gradients [..., d] @ Q; those that lie with positions last stay so."""
    if gradients.stride(-1) == 1:
        return gradients @ Q
    return (Q.mT @ gradients.mT.transpose(0, 1)).transpose(0, 1).mT
