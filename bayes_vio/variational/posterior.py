"""A fitted distribution over a network's weights, and what it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import tensors
from bayes_vio.curvature.recorder import ordinary
from bayes_vio.models.likelihood import Categorical, Gaussian, Likelihood
from bayes_vio.posterior.predictive import (
    ClassPrediction,
    GaussianPrediction,
    Prediction,
    entropy,
)
from bayes_vio.variational.data import check_inputs
from bayes_vio.variational.layers import stored_state
from bayes_vio.variational.report import VariationalReport
from bayes_vio.variational.sampling import SampledOutputs, sampled_outputs
from bayes_vio.variational.weights import GaussianWeights, WeightDistribution


@dataclass(frozen=True)
class VariationalPosterior:
    """A distribution over the weights of a frozen copy of a model; made by the ``fit_*`` calls.

    ``model`` has the mean weights (of an ensemble: the first member's) and is in eval mode.
    """

    model: nn.Module
    weights: WeightDistribution
    likelihood: Likelihood
    report: VariationalReport

    @property
    def device(self) -> torch.device:
        """Return where the model and the distribution are."""
        return next(self.model.parameters()).device

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield n draws of all parameters and buffers, for ``torch.func.functional_call``."""
        own = stored_state(self.model)
        for draw in self.weights.draws(n, own, generator):
            yield own | draw

    def predictive_samples(
        self, x: Any, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the means (logits of classes) [n, batch, outputs] of n drawn networks.

        A draw is the same network for the whole batch. Raises ValueError for inputs that are
        empty, not finite or on another device.
        """
        return self._outputs(x, n, generator).mean

    def predict(self, x: Any, n_samples: int | None = None, seed: int = 0) -> Prediction:
        """Return the predictive distribution at x, from n_samples drawn networks.

        None: all members of an ensemble, 100 draws otherwise. The same seed gives the same draws.
        For a Gaussian likelihood ``epistemic_cov`` is the covariance of the networks' means: of
        rank n_samples - 1 at most, and zero where there is one network alone.
        """
        n = self.weights.n_draws if n_samples is None else n_samples
        generator = torch.Generator().manual_seed(seed)
        outputs = self._outputs(x, n, generator)
        if isinstance(self.likelihood, Categorical):
            return _classes(outputs.mean, self.weights.is_finite)
        return _gaussian(outputs, self.likelihood, self.weights.is_finite)

    def at_mean(self) -> VariationalPosterior:
        """Return the network of mean weights alone, certain of them: small and fast.

        Raises ValueError for an ensemble, whose members have no mean network.
        """
        if self.weights.is_finite:
            raise ValueError("an ensemble has no network of mean weights: keep its members")
        return replace(self, weights=GaussianWeights({}))

    def to(self, device: torch.device | str) -> VariationalPosterior:
        """Return the posterior on another device, with its own copy of the model."""
        from bayes_vio.variational.preparation import fixed_copy

        return replace(
            self,
            model=fixed_copy(self.model, device),
            weights=self.weights.map(lambda t: t.to(device)),
            likelihood=self.likelihood.to(device),
        )

    @property
    def nbytes(self) -> int:
        """Return the bytes that the stored tensors take; zeros of pruned weights take none."""
        from bayes_vio.variational.storage import stored_tensors

        return sum(t.numel() * t.element_size() for t in stored_tensors(self)[0].values())

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, atomically; see ``storage``."""
        from bayes_vio.variational.storage import save

        save(self, Path(path))

    @staticmethod
    def load(path: Path | str, model: nn.Module) -> VariationalPosterior:
        """Read a posterior of a model with this architecture, onto its device; see ``storage``."""
        from bayes_vio.variational.storage import load

        return load(Path(path), model)

    def _outputs(self, x: Any, n: int, generator: torch.Generator | None) -> SampledOutputs:
        if n < 1:
            raise ValueError(f"the number of samples must be at least 1, it is {n}")
        check_inputs(x, "the input")
        for t in tensors(x):
            if t.device != self.device:
                raise ValueError(f"an input lies on {t.device}, the posterior on {self.device}")
        draws = self.weights.draws(n, stored_state(self.model), generator)
        return sampled_outputs(self.model, draws, ordinary(x), self.report.numbers_per_datum)


def _covariance(samples: Tensor, is_finite: bool) -> tuple[Tensor, Tensor]:
    """Return mean [batch, outputs] and covariance of samples [n, batch, outputs] in float64."""
    mean = samples.mean(0)
    error = samples - mean
    # Members are the whole distribution; draws are a sample of it, whose mean was estimated.
    divisor = len(samples) if is_finite else max(1, len(samples) - 1)
    return mean, torch.einsum("nbi,nbj->bij", error, error) / divisor


def _classes(logits: Tensor, is_finite: bool) -> ClassPrediction:
    mean, cov = _covariance(logits.double(), is_finite)
    log_probs = logits.double().log_softmax(-1)
    probs = log_probs.exp().mean(0)
    conditional = entropy(log_probs.exp()).mean(0)
    # Rounding below zero is zero: the entropy of an average is at least the average entropy.
    information = (entropy(probs) - conditional).clamp(min=0.0)
    return ClassPrediction(probs, entropy(probs), information, mean, cov)


def _gaussian(
    outputs: SampledOutputs, likelihood: Gaussian, is_finite: bool
) -> GaussianPrediction:
    mean, epistemic_cov = _covariance(outputs.mean.double(), is_finite)
    if likelihood.noise_cov is not None or outputs.noise_cov is None:
        cholesky = likelihood.noise_cholesky(mean, None)
        noise_cov = cholesky @ cholesky.mT
    else:
        noise_cov = outputs.noise_cov
    return GaussianPrediction(mean.to(outputs.mean.dtype), epistemic_cov, noise_cov)
