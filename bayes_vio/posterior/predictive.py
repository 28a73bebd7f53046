"""Predictions with their uncertainty, epistemic and noise told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor

from bayes_vio.models.likelihood import gaussian_log_density


@dataclass(frozen=True)
class GaussianPrediction:
    """mean [batch, outputs]; covariances [batch, outputs, outputs] in float64.

    ``epistemic_cov`` comes from the posterior over weights, ``noise_cov`` from the likelihood.
    """

    mean: Tensor
    epistemic_cov: Tensor
    noise_cov: Tensor

    @property
    def cov(self) -> Tensor:
        """Return the covariance of an observation: epistemic plus noise."""
        return self.epistemic_cov + self.noise_cov

    def rescaled_log_density(
        self,
        target: Tensor,
        link: LinkSettings | None = None,  # noqa: ARG002
    ) -> Callable[[float], Tensor]:
        """Return log N(target; mean, factor * epistemic_cov + noise_cov) [batch] of a factor."""
        return lambda factor: replace(self, epistemic_cov=factor * self.epistemic_cov).log_density(
            target
        )

    def log_density(self, target: Tensor) -> Tensor:
        """Return log N(target; mean, cov) [batch]."""
        error = target.double() - self.mean.double()
        return gaussian_log_density(error, torch.linalg.cholesky(self.cov))


@dataclass(frozen=True)
class ClassPrediction:
    """probs [batch, classes], their entropy and the mutual information of label and weights
    [batch] (nats), and the Gaussian of the logits they come from, in float64."""

    probs: Tensor
    entropy: Tensor
    mutual_information: Tensor
    logits_mean: Tensor
    logits_cov: Tensor

    def rescaled_log_density(
        self, target: Tensor, link: LinkSettings | None = None
    ) -> Callable[[float], Tensor]:
        """Return log probs[target] [batch] of a factor of ``logits_cov``; draws are made once."""
        mean, settings = self.logits_mean, link or LinkSettings()
        if settings.link is Link.PROBIT:
            return lambda factor: _of(probit(mean, factor * self.logits_cov), target).log()
        noise = _noise(mean, self.logits_cov, settings)

        def log_density(factor: float) -> Tensor:
            logits = torch.add(mean, noise, alpha=factor**0.5)
            likelihood = _of(logits, target) - logits.logsumexp(-1)
            return likelihood.logsumexp(0) - math.log(settings.n_samples)

        return log_density

    def log_density(self, target: Tensor) -> Tensor:
        """Return log probs[target] [batch]."""
        return _of(self.probs, target).log()


Prediction = GaussianPrediction | ClassPrediction


def join(parts: Sequence[Prediction]) -> Prediction:
    """Concatenate predictions of one kind along the batch axis."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


class Link(Enum):
    """How a Gaussian over logits becomes class probabilities."""

    MONTE_CARLO = "monte_carlo"
    PROBIT = "probit"


@dataclass(frozen=True)
class LinkSettings:
    """The link, and the number and seed of its Monte Carlo draws.

    The mutual information needs draws under either link; PROBIT takes the probabilities from
    MacKay's closed form, softmax(mean / sqrt(1 + pi / 8 variance)).
    """

    link: Link = Link.MONTE_CARLO
    n_samples: int = 512
    seed: int = 0


def class_prediction(mean: Tensor, cov: Tensor, settings: LinkSettings) -> ClassPrediction:
    """Return class probabilities of logits N(mean [batch, classes], cov)."""
    mean = mean.double()
    draws = (mean + _noise(mean, cov, settings)).log_softmax(-1)  # [samples, batch, classes]
    likelihoods = draws.exp()
    average = likelihoods.mean(0)
    conditional = -likelihoods.mul_(draws).sum(-1).mean(0)
    probs = average if settings.link is Link.MONTE_CARLO else probit(mean, cov)
    information = (entropy(average) - conditional).clamp(min=0.0)
    return ClassPrediction(probs, entropy(probs), information, mean, cov)


def probit(mean: Tensor, cov: Tensor) -> Tensor:
    """Return softmax(mean / sqrt(1 + pi / 8 variance)); MacKay (1992), as for two classes."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    return (mean / (1 + math.pi / 8 * variance).sqrt()).softmax(-1)


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy [batch] of probs [batch, classes], in nats."""
    return torch.special.entr(probs).sum(-1)


def _of(values: Tensor, target: Tensor) -> Tensor:
    """Return values [..., batch, classes] of every datum's class target [batch]."""
    return values[..., torch.arange(len(target), device=values.device), target]


def _noise(mean: Tensor, cov: Tensor, settings: LinkSettings) -> Tensor:
    """Return what is added to logits [samples, batch, classes]: the same draws for every datum."""
    eigenvalues, vectors = torch.linalg.eigh(cov)
    # The covariance may be singular: rounding below zero is zero.
    root = vectors * eigenvalues.clamp(min=0.0).sqrt()[:, None]
    noise = _standard_normal(settings.n_samples, mean.shape[1], settings.seed, mean.dtype)
    return (root @ noise.to(mean.device))[..., 0]


@lru_cache(maxsize=16)
def _standard_normal(n_samples: int, n_classes: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Return draws [samples, 1, classes, 1], the same for equal arguments; not to be changed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        return torch.randn((n_samples, 1, n_classes, 1), generator=generator, dtype=dtype)
