"""Distributions over the weights of a network, as what they draw.

Every draw is one network: its weights are the same for all data that it is shown. Parameters are
drawn in the order of their names, so that a generator's draws outlive a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class WeightDistribution(ABC):
    """A distribution over some parameters; ``weights`` below are the network's own, by name.

    ``n_draws``: how many draws a prediction takes unless it is told otherwise; ``is_finite``:
    whether the draws are all there is, rather than a sample.
    """

    kind: ClassVar[str]
    n_draws: int = 100
    is_finite: bool = False

    @abstractmethod
    def draws(
        self, n: int, weights: Weights, generator: torch.Generator | None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield n draws of the parameters it is over, on the weights' device."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything that has to be stored, by parameter name."""

    @abstractmethod
    def check(self, weights: Weights) -> None:
        """Raise ValueError where it cannot be a distribution over these weights."""

    def map(self, function: Callable[[Tensor], Tensor]) -> WeightDistribution:
        """Apply a function to every stored tensor."""
        changed = {name: function(tensor) for name, tensor in self.tensors().items()}
        return type(self)(changed)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class GaussianWeights(WeightDistribution):
    """Independent Gaussians around the network's weights; ``std`` has the parameters' shapes."""

    std: Weights
    kind = "gaussian"

    def draws(
        self, n: int, weights: Weights, generator: torch.Generator | None
    ) -> Iterator[dict[str, Tensor]]:
        for _ in range(n):
            yield {
                name: weights[name] + std * _noise(torch.randn, std, generator)
                for name, std in sorted(self.std.items())
            }

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.std)

    def check(self, weights: Weights) -> None:
        for name, std in self.std.items():
            if name not in weights or std.shape != weights[name].shape:
                raise ValueError(f"{name} has a std of another shape than the parameter")
            if not bool((torch.isfinite(std) & (std >= 0)).all()):
                raise ValueError(f"{name} has a std that is negative or not finite")


@dataclass(frozen=True)
class BernoulliWeights(WeightDistribution):
    """Weights whose input channels are dropped together; ``rates``: by parameter, [channels].

    A channel that stays is divided by the chance to stay, so that the network's own weights are
    the means. Source: Gal and Ghahramani (2016), section 3.
    """

    rates: Weights
    kind = "bernoulli"

    def draws(
        self, n: int, weights: Weights, generator: torch.Generator | None
    ) -> Iterator[dict[str, Tensor]]:
        for _ in range(n):
            yield {
                name: weights[name] * self._mask(weights[name], rate, generator)
                for name, rate in sorted(self.rates.items())
            }

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.rates)

    def check(self, weights: Weights) -> None:
        for name, rate in self.rates.items():
            if name not in weights or rate.dim() != 1 or len(rate) % weights[name].shape[1]:
                raise ValueError(f"{name} has dropout rates that are not one per input channel")
            if not bool(((rate >= 0) & (rate < 1)).all()):
                raise ValueError(f"{name} has a dropout rate outside [0, 1)")

    @staticmethod
    def _mask(weight: Tensor, rate: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return factors [d_out, channels per group, 1, ...] for a weight."""
        stays = _noise(torch.rand, rate, generator) >= rate
        by_group = (stays / (1 - rate)).unflatten(0, (-1, weight.shape[1]))
        by_row = by_group.repeat_interleave(weight.shape[0] // len(by_group), 0)
        return by_row.reshape(by_row.shape + (1,) * (weight.dim() - 2)).to(weight.dtype)


@dataclass(frozen=True)
class Members(WeightDistribution):
    """The members of an ensemble, parameters and buffers stacked [members, ...], equally likely.

    Draw i is member i modulo their number, so that as many draws as members are the ensemble.
    """

    stacked: Weights
    kind = "members"
    is_finite = True

    @property
    def n_draws(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return the number of members."""
        return len(next(iter(self.stacked.values())))

    def draws(
        self,
        n: int,
        weights: Weights,  # noqa: ARG002
        generator: torch.Generator | None,  # noqa: ARG002
    ) -> Iterator[dict[str, Tensor]]:
        for i in range(n):
            yield {name: values[i % self.n_draws] for name, values in self.stacked.items()}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.stacked)

    def check(self, weights: Weights) -> None:
        if set(self.stacked) != set(weights):
            raise ValueError("the members' parameters are not the network's")
        for name, values in self.stacked.items():
            if values.shape != (self.n_draws, *weights[name].shape):
                raise ValueError(f"{name} has members of another shape than the network")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"{name} has members that are not finite")


DISTRIBUTIONS: dict[str, type[WeightDistribution]] = {
    d.kind: d for d in (GaussianWeights, BernoulliWeights, Members)
}


def _noise(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return noise on the generator's device, brought to the tensor's."""
    device = generator.device if generator else like.device
    noise = draw(like.shape, generator=generator, dtype=like.dtype, device=device)
    return noise.to(like.device)
