"""All covered weights jointly, with a dense information matrix: the truth for small networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.posterior.linearisation import Linearisation


@dataclass(frozen=True)
class FullPrecision:
    """P [p, p] over the layers' weights, vec row-major, in the order of ``shapes``; float64."""

    matrix: Tensor
    shapes: Mapping[str, tuple[int, int]]

    @cached_property
    def cholesky(self) -> Tensor:
        """Return the lower factor of P."""
        return torch.linalg.cholesky(self.matrix)

    def layer_covariances(self, at: Linearisation) -> dict[str, Tensor]:
        """Return J_l (P^-1 J^T)_l [batch, outputs, outputs] of every layer l.

        They sum to J P^-1 J^T; a term includes the layer's correlation with the others, so that
        it is not symmetric on its own.
        """
        blocks = [at.layers[name].jacobian().double().flatten(2) for name in self.shapes]
        J = torch.cat(blocks, 2)
        n_batch, n_outputs, p = J.shape
        solved = torch.cholesky_solve(J.reshape(-1, p).mT, self.cholesky).mT
        parts = solved.reshape(n_batch, n_outputs, p).split([b.shape[2] for b in blocks], 2)
        return {
            name: block @ part.mT
            for name, block, part in zip(self.shapes, blocks, parts, strict=True)
        }

    def sample(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map standard normal noise [d_out, d_in] per layer to a draw from N(0, P^-1)."""
        x = torch.cat([noise[name].flatten() for name in self.shapes])
        draw = torch.linalg.solve_triangular(self.cholesky.mT, x[:, None], upper=True)[:, 0]
        parts = draw.split([d_out * d_in for d_out, d_in in self.shapes.values()])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def logdet(self) -> Tensor:
        """Return log det P."""
        return 2 * self.cholesky.diagonal().log().sum()

    def dense(self, layer: str) -> Tensor:
        """Return the layer's own block of P; the blocks between layers are in ``matrix``."""
        start = 0
        for name, (d_out, d_in) in self.shapes.items():
            if name == layer:
                return self.matrix[start : start + d_out * d_in, start : start + d_out * d_in]
            start += d_out * d_in
        raise KeyError(layer)


@dataclass(frozen=True)
class FullCurvature:
    """The joint curvature [p, p], a mean over data, and the layers' shapes in its order."""

    matrix: Tensor
    shapes: Mapping[str, tuple[int, int]]

    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> FullPrecision:
        """Return P = n_data * curvature + prior precision."""
        diagonal = [
            torch.as_tensor(prior[name], dtype=torch.float64, device=self.matrix.device).expand(
                d_out * d_in
            )
            for name, (d_out, d_in) in self.shapes.items()
        ]
        return FullPrecision(
            n_data * self.matrix.double() + torch.diag(torch.cat(diagonal)), self.shapes
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> FullCurvature:
        """Apply a function to the stored tensor."""
        return FullCurvature(function(self.matrix), self.shapes)

    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor by name."""
        return {"matrix": self.matrix}
