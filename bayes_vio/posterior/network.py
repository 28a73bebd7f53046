"""What every structure offers over all covered layers together.

A ``NetworkCurvature`` is what is stored, a mean over data; ``precision`` turns it into the
information matrix ``P = n_data * curvature + prior_precision`` (E6) of the weights it covers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.recorder import Recorder
from bayes_vio.posterior.block import Rows
from bayes_vio.posterior.linearisation import Linearisation, linearise


@dataclass(frozen=True)
class WhitenedPart:
    """Rows of one group of columns of Phi = J P^-1/2: values [batch, outputs, rows, columns].

    ``group`` names it (a layer, where layers are independent), ``shape`` is that of all its rows.
    """

    group: str
    shape: tuple[int, int]
    rows: Rows
    values: Tensor


class NetworkPrecision(ABC):
    """The information matrix P of the covered weights of all layers."""

    @abstractmethod
    def whitened(self, at: Any) -> Iterator[WhitenedPart]:
        """Yield Phi = J P^-1/2 part by part: Phi Phi^T = J P^-1 J^T.

        P^-1/2 is any square root, the same in every call, so that Phi of several inputs may be
        added. Rows never yielded are zero.
        """

    def covariance(self, at: Any) -> Tensor:
        """Return J P^-1 J^T [batch, outputs, outputs] where the network was linearised."""
        return torch.stack(list(self.layer_covariances(at).values())).sum(0)

    @abstractmethod
    def layer_covariances(self, at: Linearisation) -> dict[str, Tensor]:
        """Return every layer's part [batch, outputs, outputs]; the parts sum to J P^-1 J^T."""

    @abstractmethod
    def sample(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map standard normal noise [..., d_out, d_in] per layer to changes drawn from N(0, P^-1).

        Works in the noise's dtype. Weights that the structure leaves at the MAP change by zero.
        The noise is used up: a draw may take its memory.
        """

    @abstractmethod
    def logdet(self) -> Tensor:
        """Return log det P."""

    @abstractmethod
    def dense(self, layer: str) -> Tensor:
        """Return a layer's own block of P."""


class NetworkCurvature(ABC):
    """The stored curvature of the covered weights of all layers, a mean over data."""

    # Whether J of all layers is held at once, rather than of one layer after the other.
    is_joint: bool = False

    @abstractmethod
    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> NetworkPrecision:
        """Return P = n_data * curvature + prior precision, the latter by layer."""

    def check_prior(self, prior: Mapping[str, float]) -> None:  # noqa: B027
        """Raise ValueError for prior precisions that the structure cannot take."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> NetworkCurvature:
        """Apply a function to every stored tensor."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor by name."""

    @abstractmethod
    def only(self, layers: Sequence[str]) -> NetworkCurvature:
        """Return the curvature of some layers, the others' weights at the MAP."""

    def linearise(self, recorder: Recorder, x: Any, batched: bool) -> Any:
        """Return what ``precision`` needs to know of the network at x."""
        return linearise(recorder, x, batched)

    def covered(self, layer: str, matrix: Tensor) -> Tensor:  # noqa: ARG002
        """Return those weights of a layer's W [d_out, d_in] that have a posterior, flat."""
        return matrix.flatten()

    def prior_penalty(self, prior: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> Tensor:
        """Return w^T P_0 w - log det P_0 of the covered weights w, P_0 the prior's (E16)."""
        terms = []
        for name, precision in prior.items():
            w = self.covered(name, matrices[name].double())
            terms.append(precision * w.square().sum() - w.numel() * precision.log())
        return torch.stack(terms).sum()
