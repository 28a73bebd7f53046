"""What every structure of a layer's block offers: a stored curvature and its information matrix.

A ``CurvatureBlock`` holds a mean over data, in the network's dtype; ``precision`` turns it into
``P = n_data * curvature + prior_precision`` (E6), whose algebra runs in float64, except for
products with Jacobians: those run in the network's dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor

from bayes_vio.posterior.linearisation import LayerTerms

# Which rows of W a part of a Jacobian belongs to.
Rows = slice | Tensor


class PrecisionBlock(ABC):
    """The information matrix P of one layer's weights W [d_out, d_in], vec row-major."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in)."""

    @abstractmethod
    def whitened(self, terms: LayerTerms) -> Iterator[tuple[Rows, Tensor]]:
        """Yield rows of Phi = J P^-1/2, [batch, outputs, rows, d_in], so that they stay in cache.

        P^-1/2 is any square root, the same in every call. Rows never yielded are zero.
        """

    def covariance(self, terms: LayerTerms) -> Tensor:
        """Return J P^-1 J^T [batch, outputs, outputs]: a square, so never below zero."""
        parts = [Phi.flatten(2) @ Phi.flatten(2).mT for _, Phi in self.whitened(terms)]
        return torch.stack(parts).sum(0).double()

    @abstractmethod
    def rank_one_covariance(self, g: Tensor, a: Tensor) -> Tensor:
        """Return the same for J_c = g_c a^T; g [batch, outputs, d_out], a [batch, d_in]."""

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise [..., d_out, d_in] to draws from N(0, P^-1), in its dtype.

        The noise is used up: a draw may take its memory.
        """

    @abstractmethod
    def logdet(self) -> Tensor:
        """Return log det P, differentiable in the prior precision."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return P [d_out * d_in, d_out * d_in]: for tests and small layers."""


class CurvatureBlock(ABC):
    """A layer's curvature as it is stored; subclasses are frozen dataclasses of tensors."""

    @abstractmethod
    def precision(self, n_data: float, prior_precision: float | Tensor) -> PrecisionBlock:
        """Return P = n_data * curvature + prior_precision."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore

    def map(self, function: Callable[[Tensor], Tensor]) -> CurvatureBlock:
        """Apply a function to every tensor, as in ``block.map(lambda t: t.to(device))``."""
        return replace(self, **{k: function(t) for k, t in self.tensors().items()})  # pyright: ignore


def working_dtype(stored: Tensor) -> torch.dtype:
    """Return the dtype of products with Jacobians: the network's, at least float32."""
    return torch.promote_types(stored.dtype, torch.float32)


def kronecker_product(U_g: Tensor, U_a: Tensor) -> Tensor:
    """Return U_g (x) U_a [d_out * d_in, r_g * r_a], for vec row-major; strides do not matter."""
    grid = torch.einsum("op,iq->oipq", U_g, U_a)
    return grid.reshape(len(U_g) * len(U_a), U_g.shape[1] * U_a.shape[1])
