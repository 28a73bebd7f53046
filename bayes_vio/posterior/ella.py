"""Laplace in the leading directions of the tangent kernel, by Nystrom's method (E18).

Source: Deng, Zhou, Zhu (2022), "Accelerated linearized Laplace approximation for Bayesian deep
learning", sections 3 and 4. Everything beyond those directions is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import jvp

from bayes_vio.curvature.inputs import batch_size
from bayes_vio.curvature.recorder import Recorder, ordinary
from bayes_vio.posterior.functional import (
    activation_numbers,
    at_map,
    bare_model,
    evaluate,
    plain_operations,
    stacked,
)
from bayes_vio.posterior.network import NetworkCurvature, NetworkPrecision, WhitenedPart

# Numbers that the activations of all tangents may hold at once.
TANGENT_NUMBERS = 2**26


@dataclass(frozen=True)
class TangentFeatures:
    """mean [batch, outputs], the model's own noise_cholesky or None, and features J V
    [batch, outputs, K] of the directions V."""

    mean: Tensor
    noise_cholesky: Tensor | None
    features: Tensor


@dataclass(frozen=True)
class EllaPrecision(NetworkPrecision):
    """P [K, K] over the coordinates along the directions; float64."""

    matrix: Tensor

    @cached_property
    def cholesky(self) -> Tensor:
        """Return the lower factor of P."""
        return torch.linalg.cholesky(self.matrix)

    def covariance(self, at: TangentFeatures) -> Tensor:
        """Return J V P^-1 V^T J^T [batch, outputs, outputs]."""
        white = self._white(at)
        return white @ white.mT

    def whitened(self, at: TangentFeatures) -> Iterator[WhitenedPart]:
        """Yield J V L^-T [batch, outputs, 1, K] at once, P = L L^T."""
        white = self._white(at)
        yield WhitenedPart("", (1, white.shape[2]), slice(0, 1), white[:, :, None])

    def _white(self, at: TangentFeatures) -> Tensor:
        features = at.features.double()
        flat = features.flatten(0, 1).mT
        white = torch.linalg.solve_triangular(self.cholesky, flat, upper=False).mT
        return white.unflatten(0, features.shape[:2])

    def layer_covariances(self, at: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Raise ValueError: a direction runs through all layers at once."""
        raise ValueError("structure 'ella' has no parts by layer: its features mix all layers")

    def sample(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Raise ValueError: this is a posterior over functions."""
        raise ValueError(
            "structure 'ella' has no samples of weights: it is a posterior over functions"
        )

    def logdet(self) -> Tensor:
        """Return log det P."""
        return 2 * self.cholesky.diagonal().log().sum()

    def dense(self, layer: str) -> Tensor:  # noqa: ARG002
        """Raise ValueError: P belongs to no layer; it is ``matrix``."""
        raise ValueError("structure 'ella' has no information matrix of a layer")


@dataclass(frozen=True)
class EllaCurvature(NetworkCurvature):
    """The curvature [K, K] along orthonormal directions, {layer: [K, d_out, d_in]}."""

    matrix: Tensor
    directions: Mapping[str, Tensor]

    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> EllaPrecision:
        """Return P = n_data * curvature + prior precision, which is one for all layers."""
        eye = torch.eye(len(self.matrix), dtype=torch.float64, device=self.matrix.device)
        return EllaPrecision(n_data * self.matrix.double() + _only(prior) * eye)

    def check_prior(self, prior: Mapping[str, float]) -> None:
        """Raise ValueError where layers differ: a direction runs through all of them."""
        _only(prior)

    def map(self, function: Callable[[Tensor], Tensor]) -> EllaCurvature:
        """Apply a function to every stored tensor."""
        directions = {name: function(part) for name, part in self.directions.items()}
        return EllaCurvature(function(self.matrix), directions)

    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor by name."""
        directions = {f"{name}/directions": part for name, part in self.directions.items()}
        return {"matrix": self.matrix} | directions

    def only(self, layers: Sequence[str]) -> EllaCurvature:  # noqa: ARG002
        """Raise ValueError: directions run through all layers."""
        raise ValueError("structure 'ella' cannot leave layers out: fit it anew with layers=")

    def linearise(self, recorder: Recorder, x: Any, batched: bool) -> TangentFeatures:  # noqa: ARG002
        """Return the mean at x and the features, by forward-mode differentiation."""
        return tangent_features(recorder, self._tangents(recorder), x)

    def prior_penalty(self, prior: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> Tensor:
        """Return the prior's penalty on the coordinates of the MAP along the directions."""
        parts = [d.double().flatten(1) @ matrices[k].double().flatten() for k, d in self._items()]
        w, precision = torch.stack(parts).sum(0), _only(prior)
        return precision * w.square().sum() - w.numel() * precision.log()

    def _items(self) -> list[tuple[str, Tensor]]:
        return list(self.directions.items())

    def _tangents(self, recorder: Recorder) -> dict[str, Tensor]:
        if recorder not in self._made:
            self._made[recorder] = parameter_tangents(recorder, self.directions)
        return self._made[recorder]

    @cached_property
    def _made(self) -> WeakKeyDictionary[Recorder, dict[str, Tensor]]:
        return WeakKeyDictionary()


def parameter_tangents(recorder: Recorder, directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return directions {layer: [K, d_out, d_in]} as {parameter: [K, *its shape]}."""
    zeros = {name: torch.zeros_like(p) for name, p in at_map(recorder).items()}
    return stacked(recorder, directions, zeros)


def tangent_features(
    recorder: Recorder, tangents: Mapping[str, Tensor], x: Any
) -> TangentFeatures:
    """Return J V at x: one Jacobian-vector product per direction, several at once."""
    model, parameters, x = bare_model(recorder), at_map(recorder), ordinary(x)
    chosen = {name: parameters[name] for name in tangents}

    def network(weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
        mean, noise_cholesky = evaluate(model, parameters | weights, x)
        return (mean,) if noise_cholesky is None else (mean, noise_cholesky)

    def push(tangent: dict[str, Tensor]) -> Tensor:
        return jvp(network, (chosen,), (tangent,))[1][0]

    numbers = activation_numbers(recorder, x) * batch_size(x)
    at_once = max(1, TANGENT_NUMBERS // numbers)
    with plain_operations():
        mean, *noise = network(chosen)
        features = torch.vmap(push, chunk_size=at_once)(dict(tangents))
    return TangentFeatures(mean, noise[0] if noise else None, features.permute(1, 2, 0))


def _only(prior: Mapping[str, float | Tensor]) -> Any:
    values = list(prior.values())
    if len({float(v.detach()) if isinstance(v, Tensor) else v for v in values}) > 1:
        raise ValueError("structure 'ella' takes one prior precision for all layers")
    return values[0]
