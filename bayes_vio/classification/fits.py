"""What methods leave behind once fitted: predictions of classes from a network."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from bayes_vio.classification.batches import Batches
from bayes_vio.classification.training import logits_of
from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior import ClassPrediction, LinkSettings, Posterior
from bayes_vio.posterior import storage as posterior_storage
from bayes_vio.posterior.functional import bare_model
from bayes_vio.posterior.predictive import entropy
from bayes_vio.variational import VariationalPosterior

# Bounds of the logarithm of a temperature.
_LOG_TEMPERATURES = (-5.0, 5.0)


class Fit(ABC):
    """A fitted method; ``wide`` is for inputs whose predictions overflow the network's dtype."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes of all that is stored: weights, and what the method adds."""

    @cached_property
    def wide(self) -> Fit:
        """Return the same in float64."""
        return self._widened()

    @abstractmethod
    def network(self) -> nn.Module:
        """Return the network at its mean."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Fit:
        """Return the same on another device."""

    @abstractmethod
    def predict(self, x: Any, link: LinkSettings) -> ClassPrediction:
        """Return class probabilities at x, which is on the network's device."""

    @abstractmethod
    def _widened(self) -> Fit: ...


@dataclass(frozen=True)
class PointFit(Fit):
    """One network, its logits divided by a temperature; it knows no epistemic uncertainty."""

    model: nn.Module
    temperature: float | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes of the weights."""
        return weight_bytes(self.model)

    def network(self) -> nn.Module:
        """Return the one network."""
        return self.model

    def _widened(self) -> PointFit:
        return replace(self, model=copy.deepcopy(self.model).double())

    def to(self, device: torch.device | str) -> PointFit:
        """Return the same on another device."""
        return replace(self, model=copy.deepcopy(self.model).to(device))

    @torch.no_grad()
    def predict(self, x: Any, link: LinkSettings) -> ClassPrediction:  # noqa: ARG002
        """Return softmax(logits / temperature); a link has nothing to do."""
        logits = self.model(x).double() / (1.0 if self.temperature is None else self.temperature)
        n, n_classes = logits.shape
        probs = logits.softmax(-1)
        none = logits.new_zeros(n)
        cov = logits.new_zeros(n, n_classes, n_classes)
        return ClassPrediction(probs, entropy(probs), none, logits, cov)


@dataclass(frozen=True)
class LaplaceFit(Fit):
    """A Laplace posterior; its network is linearised in the weights."""

    posterior: Posterior

    def network(self) -> nn.Module:
        """Return the network at the MAP."""
        return self.posterior.model

    @property
    def nbytes(self) -> int:
        """Return the bytes of the weights and of the stored curvature."""
        return weight_bytes(self.network()) + self.posterior.nbytes

    def __reduce__(self) -> tuple:
        """Pickle the posterior as its file's content: hooks on a network cannot be pickled."""
        content = posterior_storage.to_bytes(self.posterior)
        return _unpickled, (content, bare_model(self.posterior.recorder))

    def _widened(self) -> LaplaceFit:
        recorder = self.posterior.recorder.to(self.posterior.device)
        recorder.model.double()
        curvature = self.posterior.curvature.map(lambda t: t.double())
        return LaplaceFit(replace(self.posterior, recorder=recorder, curvature=curvature))

    def to(self, device: torch.device | str) -> LaplaceFit:
        """Return the same on another device."""
        return LaplaceFit(self.posterior.to(device))

    def predict(self, x: Any, link: LinkSettings) -> ClassPrediction:
        """Return class probabilities of the Gaussian over logits."""
        prediction = self.posterior.predict(x, link)
        assert isinstance(prediction, ClassPrediction)
        return prediction


def _unpickled(content: bytes, model: nn.Module) -> LaplaceFit:
    return LaplaceFit(posterior_storage.from_bytes(content, model, "the pickle"))


@dataclass(frozen=True)
class SampledFit(Fit):
    """A distribution of networks, of which some are drawn: the same ones for every input."""

    posterior: VariationalPosterior

    @property
    def nbytes(self) -> int:
        """Return the bytes of the distribution's parameters; zeros of pruned weights take none."""
        return self.posterior.nbytes

    def network(self) -> nn.Module:
        """Return the network of mean weights; of an ensemble the first member."""
        return self.posterior.model

    def to(self, device: torch.device | str) -> SampledFit:
        """Return the same on another device."""
        return SampledFit(self.posterior.to(device))

    def predict(self, x: Any, link: LinkSettings) -> ClassPrediction:
        """Return class probabilities averaged over networks: all members, or n_samples drawn."""
        n = None if self.posterior.weights.is_finite else link.n_samples
        prediction = self.posterior.predict(x, n, link.seed)
        assert isinstance(prediction, ClassPrediction)
        return prediction

    def _widened(self) -> SampledFit:
        model = copy.deepcopy(self.posterior.model).double()
        weights = self.posterior.weights.map(lambda t: t.double() if t.is_floating_point() else t)
        return SampledFit(replace(self.posterior, model=model, weights=weights))


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def temperature_scaled(model: nn.Module, validation: Batches) -> PointFit:
    """Return the network with the temperature of lowest validation NLL.

    Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    """
    logits, target = logits_of(model, validation)

    def nll(log_temperature: float) -> float:
        scaled = logits * torch.tensor(-log_temperature, dtype=torch.float64).exp()
        return float(nn.functional.cross_entropy(scaled, target))

    found: Any = minimize_scalar(nll, bounds=_LOG_TEMPERATURES, method="bounded")
    return PointFit(model, float(torch.tensor(found.x, dtype=torch.float64).exp()))


def predict_in_full(fit: Fit, x: Any, link: LinkSettings) -> ClassPrediction:
    """Return a finite prediction, made anew in float64 where the network's dtype overflows.

    Raises ValueError where float64 does not suffice either.
    """
    prediction = _attempt(fit, x, link)
    if prediction is None:
        x = map_tensors(x, lambda t: t.double() if t.is_floating_point() else t)
        prediction = _attempt(fit.wide, x, link)
    if prediction is None:
        raise ValueError("the network's output is not finite, not even in float64: scale x")
    return prediction


def _attempt(fit: Fit, x: Any, link: LinkSettings) -> ClassPrediction | None:
    """Return the prediction, None where it is not finite."""
    try:
        prediction = fit.predict(x, link)
    # What an eigendecomposition says of infinite covariances.
    except torch.linalg.LinAlgError:  # pyright: ignore
        return None
    parts: list[Tensor] = [prediction.probs, prediction.logits_mean, prediction.logits_cov]
    parts += [prediction.mutual_information]
    return prediction if all(bool(torch.isfinite(p).all()) for p in parts) else None
