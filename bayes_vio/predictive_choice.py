"""Choose how much of an artifact's posterior a prediction uses, and measure what it takes here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from bayes_vio.artifact import MotionArtifact
from bayes_vio.artifact_checks import resting_input
from bayes_vio.choices import Predictive, Structure
from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import Posterior
from bayes_vio.posterior.budget import duration_of, variance_shares, with_layers, within_budget

# Predictions timed where there is no budget to hold; with one it is within_budget's number.
_REPEATS = 5


@dataclass(frozen=True)
class PredictiveChoice:
    """An artifact with the predictive that was chosen, and what was measured on this machine.

    ``duration_s``: of one prediction, the 0.9 quantile. ``budget_s``: None where there is none.
    ``kept_variance_share``: of the epistemic variance of all ``n_all`` layers; the rest is not
    published, so the covariance is that much too small.
    """

    artifact: MotionArtifact
    predictive: Predictive
    n_all: int
    duration_s: float
    budget_s: float | None
    kept_variance_share: float

    @property
    def n_layers(self) -> int:
        """How many layers the predictive uses."""
        return len(self.artifact.posterior.layers)

    @property
    def holds(self) -> bool:
        """Whether a prediction stays within the budget, if there is one."""
        return self.budget_s is None or self.duration_s <= self.budget_s

    def describe(self) -> str:
        """Return a clause for the log."""
        structure = self.artifact.posterior.report.structure
        return (
            f"predictive '{structure}' over {self.n_layers} of {self.n_all} layers "
            f"({self.predictive.value}), {100 * self.kept_variance_share:.0f} % of the epistemic "
            f"variance, {1e3 * self.duration_s:.1f} ms, {self._verdict()}"
        )

    def _verdict(self) -> str:
        if self.budget_s is None:
            return "no latency budget"
        word = "within" if self.holds else "OVER"
        return f"{word} the latency budget of {1e3 * self.budget_s:.1f} ms"


def choose_predictive(
    artifact: MotionArtifact,
    predictive: Predictive = Predictive.AUTO,
    budget_s: float | None = None,
) -> PredictiveChoice:
    """Return the artifact with the predictive asked for, timed at rest on its device.

    AUTO is the whole posterior, or with a budget the richest part that holds it; a fixed
    predictive is only held against the budget. What a layer's share is was measured on
    validation; an artifact that does not say is asked at rest. Raises ValueError for a budget
    that is not positive, and where layers of a structure that mixes them would be left out.
    """
    if budget_s is not None and not budget_s > 0:
        raise ValueError(f"the latency budget must be positive, it is {budget_s} s")
    posterior = artifact.posterior
    _check_parts(posterior.report.structure, predictive, budget_s)
    still = resting_input().map(lambda tensor: tensor.to(posterior.device))
    if predictive is Predictive.AUTO and budget_s is not None:
        shares = _stored_shares(artifact)
        found = within_budget(posterior, still, budget_s, shares=shares)
        chosen, duration_s = found.posterior, found.chosen.duration_s
        kept = found.chosen.kept_variance_share
    else:
        is_last = predictive is Predictive.LAST_LAYER
        layers = list(posterior.layers)[-1:] if is_last else list(posterior.layers)
        chosen = with_layers(posterior, layers)
        duration_s = duration_of(partial(chosen.predict, still), posterior.device, _REPEATS)
        kept = _kept_share(artifact, chosen, still)
    return PredictiveChoice(
        artifact=artifact if chosen is posterior else replace(artifact, posterior=chosen),
        predictive=predictive,
        n_all=len(posterior.layers),
        duration_s=duration_s,
        budget_s=budget_s,
        kept_variance_share=kept,
    )


def _check_parts(structure: str, predictive: Predictive, budget_s: float | None) -> None:
    """Raise ValueError where layers would have to be left out of what mixes all of them."""
    is_whole = predictive is Predictive.WHOLE or (predictive is Predictive.AUTO and not budget_s)
    if not is_whole and Structure(structure).mixes_layers:
        raise ValueError(
            f"the posterior's structure '{structure}' mixes all layers, none of which can be left "
            f"out: set predictive to whole, or fit another structure"
        )


def _kept_share(artifact: MotionArtifact, chosen: Posterior, x: MotionInput) -> float:
    """Return the share of the epistemic variance that the chosen layers have."""
    if chosen is artifact.posterior:
        return 1.0
    shares = _stored_shares(artifact) or variance_shares(artifact.posterior, x)
    return sum(shares[name] for name in chosen.layers)


def _stored_shares(artifact: MotionArtifact) -> dict[str, float] | None:
    """Return every layer's share, averaged over the axes, as the fit measured it on validation."""
    stored = artifact.metadata.get("variance_share", {})
    if set(stored) != set(artifact.posterior.layers):
        return None
    return {name: fmean(by_axis) for name, by_axis in stored.items()}
