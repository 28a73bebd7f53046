"""Layers that are independent of each other: one precision block per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.posterior.block import CurvatureBlock, PrecisionBlock
from bayes_vio.posterior.linearisation import LayerTerms, Linearisation
from bayes_vio.posterior.network import NetworkCurvature, NetworkPrecision, WhitenedPart


@dataclass(frozen=True)
class BlockwisePrecision(NetworkPrecision):
    """The information matrix of all layers, block-diagonal."""

    blocks: Mapping[str, PrecisionBlock]

    def layer_covariances(self, at: Linearisation) -> dict[str, Tensor]:
        """Return J_l P_l^-1 J_l^T [batch, outputs, outputs] of every layer l."""
        return {name: self._covariance(name, terms) for name, terms in at.layers.items()}

    def _covariance(self, name: str, terms: LayerTerms) -> Tensor:
        block = self.blocks[name]
        if terms.is_rank_one:
            return block.rank_one_covariance(*terms.rank_one())
        return block.covariance(terms)

    def whitened(self, at: Linearisation) -> Iterator[WhitenedPart]:
        """Yield Phi = J P^-1/2, the rows of one layer after the other."""
        for name, terms in at.layers.items():
            block = self.blocks[name]
            for rows, values in block.whitened(terms):
                yield WhitenedPart(name, block.shape, rows, values)

    def sample(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map standard normal noise [..., d_out, d_in] per layer to draws from N(0, P^-1)."""
        return {name: block.sample(noise[name]) for name, block in self.blocks.items()}

    def logdet(self) -> Tensor:
        """Return log det P."""
        return torch.stack([block.logdet() for block in self.blocks.values()]).sum()

    def dense(self, layer: str) -> Tensor:
        """Return a layer's P [d_out * d_in, d_out * d_in]."""
        return self.blocks[layer].dense()


@dataclass(frozen=True)
class BlockwiseCurvature(NetworkCurvature):
    """The stored curvature of all layers, by layer name."""

    blocks: Mapping[str, CurvatureBlock]

    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> BlockwisePrecision:
        """Return P = n_data * curvature + prior precision, layer by layer."""
        return BlockwisePrecision(
            {name: block.precision(n_data, prior[name]) for name, block in self.blocks.items()}
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> BlockwiseCurvature:
        """Apply a function to every stored tensor."""
        return BlockwiseCurvature({k: block.map(function) for k, block in self.blocks.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor, named ``layer/field``."""
        return {
            f"{name}/{field}": tensor
            for name, block in self.blocks.items()
            for field, tensor in block.tensors().items()
        }

    def only(self, layers: Sequence[str]) -> BlockwiseCurvature:
        """Return the blocks of some layers."""
        return BlockwiseCurvature({name: self.blocks[name] for name in layers})
