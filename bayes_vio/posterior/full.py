"""All covered weights jointly, with a dense information matrix: the truth for small networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.posterior.linearisation import LayerTerms, Linearisation
from bayes_vio.posterior.network import NetworkCurvature, NetworkPrecision, WhitenedPart


@dataclass(frozen=True)
class FullPrecision(NetworkPrecision):
    """P [p, p] over the layers' weights, vec row-major, in the order of ``shapes``; float64."""

    matrix: Tensor
    shapes: Mapping[str, tuple[int, int]]

    @cached_property
    def cholesky(self) -> Tensor:
        """Return the lower factor of P."""
        return torch.linalg.cholesky(self.matrix)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Return how many rows of P every layer has."""
        return {name: d_out * d_in for name, (d_out, d_in) in self.shapes.items()}

    def whitened(self, at: Linearisation) -> Iterator[WhitenedPart]:
        """Yield Phi = J L^-T [batch, outputs, 1, p] at once, P = L L^T."""
        J = torch.cat([self._jacobian(n, at.layers[n]).double() for n in self.shapes], 2)
        solved = torch.linalg.solve_triangular(self.cholesky, J.flatten(0, 1).mT, upper=False)
        values = solved.mT.reshape(*J.shape[:2], 1, J.shape[2])
        yield WhitenedPart("", (1, J.shape[2]), slice(0, 1), values)

    def layer_covariances(self, at: Linearisation) -> dict[str, Tensor]:
        """Return J_l (P^-1 J^T)_l [batch, outputs, outputs] of every layer l.

        They sum to J P^-1 J^T; a term includes the layer's correlation with the others, so that
        it is not symmetric on its own.
        """
        blocks = [self._jacobian(name, at.layers[name]).double() for name in self.shapes]
        J = torch.cat(blocks, 2)
        n_batch, n_outputs, p = J.shape
        solved = torch.cholesky_solve(J.reshape(-1, p).mT, self.cholesky).mT
        parts = solved.reshape(n_batch, n_outputs, p).split(list(self.sizes.values()), 2)
        return {
            name: block @ part.mT
            for name, block, part in zip(self.shapes, blocks, parts, strict=True)
        }

    def sample(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map standard normal noise [..., d_out, d_in] per layer to draws from N(0, P^-1)."""
        x = torch.cat([self._gathered(name, noise[name]) for name in self.shapes], -1)
        flat = x.reshape(-1, x.shape[-1]).to(self.cholesky.dtype)
        draws = torch.linalg.solve_triangular(self.cholesky.mT, flat.mT, upper=True).mT
        parts = draws.reshape(x.shape).to(x.dtype).split(list(self.sizes.values()), -1)
        return {
            name: self._placed(name, part) for name, part in zip(self.shapes, parts, strict=True)
        }

    def logdet(self) -> Tensor:
        """Return log det P."""
        return 2 * self.cholesky.diagonal().log().sum()

    def dense(self, layer: str) -> Tensor:
        """Return the layer's own block of P; the blocks between layers are in ``matrix``."""
        rows = rows_of(self.sizes)[layer]
        return self.matrix[rows, rows]

    def _jacobian(self, name: str, terms: LayerTerms) -> Tensor:  # noqa: ARG002
        return terms.jacobian().flatten(2)

    def _gathered(self, name: str, weights: Tensor) -> Tensor:  # noqa: ARG002
        """Return the covered ones of a layer's weights [..., d_out, d_in]: [..., rows of P]."""
        return weights.flatten(-2)

    def _placed(self, name: str, part: Tensor) -> Tensor:
        """Return the reverse: [..., d_out, d_in], zero where weights are not covered."""
        return part.unflatten(-1, self.shapes[name])


@dataclass(frozen=True)
class FullCurvature(NetworkCurvature):
    """The joint curvature [p, p], a mean over data, and the layers' shapes in its order."""

    matrix: Tensor
    shapes: Mapping[str, tuple[int, int]]
    is_joint = True

    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> FullPrecision:
        """Return P = n_data * curvature + prior precision."""
        sizes = {name: d_out * d_in for name, (d_out, d_in) in self.shapes.items()}
        return FullPrecision(joint_precision(self.matrix, sizes, n_data, prior), self.shapes)

    def map(self, function: Callable[[Tensor], Tensor]) -> FullCurvature:
        """Apply a function to the stored tensor."""
        return FullCurvature(function(self.matrix), self.shapes)

    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor by name."""
        return {"matrix": self.matrix}

    def only(self, layers: Sequence[str]) -> FullCurvature:
        """Return the rows and columns of some layers: the others are given their MAP."""
        sizes = {name: d_out * d_in for name, (d_out, d_in) in self.shapes.items()}
        rows = torch.cat([torch.arange(p.start, p.stop) for p in _chosen(sizes, layers)])
        kept = {name: self.shapes[name] for name in self.shapes if name in layers}
        return FullCurvature(self.matrix[rows][:, rows], kept)


def rows_of(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Return which rows of a joint matrix belong to which layer."""
    rows, start = {}, 0
    for name, size in sizes.items():
        rows[name] = slice(start, start + size)
        start += size
    return rows


def joint_precision(
    matrix: Tensor, sizes: Mapping[str, int], n_data: float, prior: Mapping[str, float | Tensor]
) -> Tensor:
    """Return n_data * matrix + prior precision [p, p] in float64, p the sum of the sizes."""
    diagonal = [
        torch.as_tensor(prior[name], dtype=torch.float64, device=matrix.device).expand(size)
        for name, size in sizes.items()
    ]
    return n_data * matrix.double() + torch.diag(torch.cat(diagonal))


def _chosen(sizes: Mapping[str, int], layers: Sequence[str]) -> list[slice]:
    return [rows for name, rows in rows_of(sizes).items() if name in layers]
