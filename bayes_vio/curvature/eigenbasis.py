"""The Kronecker eigenbasis of a layer and the eigenvalues corrected in it (EFB, EKFAC).

Source: George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored
eigenbasis"; Lee et al. (2020), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.curvature.kfac import KroneckerFactors
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.outer import Factor
from bayes_vio.distributed import Workers


@dataclass(frozen=True)
class Eigenbasis:
    """A = Q_a diag(input_eigenvalues) Q_a^T, and G likewise with Q_g.

    Q_g [d_out, r_g] and Q_a [d_in, r_a] are square, but where the data were few: then their
    columns span all that the data hold, and the curvature is zero outside.
    """

    Q_g: Tensor
    Q_a: Tensor
    output_eigenvalues: Tensor
    input_eigenvalues: Tensor

    def completed(self) -> Eigenbasis:
        """Return the same with square Q_g and Q_a, the added eigenvalues zero."""
        output_eigenvalues, Q_g = _completed(self.output_eigenvalues, self.Q_g)
        input_eigenvalues, Q_a = _completed(self.input_eigenvalues, self.Q_a)
        return Eigenbasis(Q_g, Q_a, output_eigenvalues, input_eigenvalues)


def _completed(eigenvalues: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    d, r = Q.shape
    if r == d:
        return eigenvalues, Q
    others = torch.linalg.qr(Q, mode="complete")[0][:, r:]
    return torch.cat([eigenvalues.new_zeros(d - r), eigenvalues]), torch.cat([others, Q], 1)


def eigenbasis(factors: KroneckerFactors, resolution: float) -> Eigenbasis:
    """Diagonalise both factors; ``resolution`` is the machine epsilon of the network's dtype.

    Eigenvalues below what that resolves are zero.
    """
    input_eigenvalues, Q_a = _diagonalise(factors.A, factors.A_expand, resolution)
    output_eigenvalues, Q_g = _diagonalise(factors.G, factors.G_expand, resolution)
    return Eigenbasis(Q_g, Q_a, output_eigenvalues, input_eigenvalues)


def room_for(factors: KroneckerFactors) -> Eigenbasis:
    """Return an eigenbasis of the factors' sizes, to be filled in."""
    Q_a, Q_g = factors.A_expand.room(), factors.G_expand.room()
    return Eigenbasis(Q_g, Q_a, torch.empty_like(Q_g[0]), torch.empty_like(Q_a[0]))


def copy_bases(bases: Iterable[Eigenbasis], workers: Workers) -> None:
    """Give all workers every basis of the one that found it, in turns.

    Where eigenvalues coincide another machine may choose other vectors, and sums in two bases are
    none.
    """
    for i, basis in enumerate(bases):
        found = (basis.Q_g, basis.Q_a, basis.output_eigenvalues, basis.input_eigenvalues)
        workers.copy(found, i % workers.size)


def _diagonalise(factor: Factor, tie: Factor, resolution: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of a factor, where it is zero those of ``tie``.

    Gradients need not vanish in the null space of a REDUCE factor, whose eigenvectors there are
    rounding's choice: without the tie the corrected eigenvalues would depend on the batch size.
    Where the factor is its own tie they vanish there, and one diagonalisation is enough. The
    range of ``tie`` holds every gradient: where it has few rows, all is done within their span.
    """
    if not factor.is_finite:
        raise ValueError("a Kronecker factor is not finite: look for infinity in the inputs")
    relative = factor.size * resolution
    if tie.rows is None:
        return _tied(factor, tie, relative)
    V = torch.linalg.qr(tie.rows.mT)[0]
    inner = factor.within(V)
    eigenvalues, Q = _tied(inner, inner if tie is factor else tie.within(V), relative)
    return eigenvalues, V @ Q


def _tied(factor: Factor, tie: Factor, relative: float) -> tuple[Tensor, Tensor]:
    """Return as many eigenvalues, zero below that share of the largest, as the factor's size."""
    eigenvalues, Q = factor.eigh()
    largest = eigenvalues[-1]
    if tie is not factor:
        largest = torch.maximum(largest, torch.linalg.eigvalsh(tie.matrix())[-1])
    null = eigenvalues <= relative * largest
    if tie is factor or not bool(null.any()):
        return torch.where(null, 0.0, eigenvalues), Q.contiguous()
    Q = torch.cat([_turned_to(Q[:, null], tie), Q[:, ~null]], 1)
    return torch.where(null, 0.0, eigenvalues), Q


def _turned_to(N: Tensor, tie: Factor) -> Tensor:
    """Return columns that span the same and diagonalise ``tie`` within."""
    return N @ torch.linalg.eigh(tie.within(N).matrix())[1]


class CorrectedEigenvalueSums:
    """Sums over data of (Q_g^T dW_r Q_a)^2 [r_g, r_a] of one layer (E3)."""

    def __init__(self, layer: Layer, basis: Eigenbasis):
        dtype = layer.module.weight.dtype
        self._layer = layer
        self._Q_g, self._Q_a = basis.Q_g.to(dtype), basis.Q_a.to(dtype)
        self._sum = layer.zeros(basis.Q_g.shape[1], basis.Q_a.shape[1])

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
        """Return the corrected eigenvalues Lam [r_g, r_a], a mean over data."""
        return self._sum / n_data


def _turned(gradients: Tensor, Q: Tensor) -> Tensor:
    """Return gradients [..., d] @ Q; those that lie with positions last stay so."""
    if gradients.stride(-1) == 1:
        return gradients @ Q
    return (Q.mT @ gradients.mT.transpose(0, 1)).transpose(0, 1).mT
