"""Choose how much of an artifact's posterior a prediction uses, and measure what it takes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from bayes_vio.artifact import MotionArtifact
from bayes_vio.artifact_checks import resting_input
from bayes_vio.choices import Predictive, Structure
from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import Posterior
from bayes_vio.posterior.budget import duration_of, variance_shares, with_layers, within_budget
from bayes_vio.posterior.captured import CapturedPredictive
from bayes_vio.posterior.sketch import FeatureSketch

# The map by which streams tell what errors of different increments have in common.
SKETCH = FeatureSketch()
_REPEATS = 20


@dataclass(frozen=True)
class PredictiveChoice:
    """An artifact with the predictive that was chosen, and what was measured on this machine.

    The artifact is ready for streams: predictions with ``SKETCH`` are recorded, or ``unrecorded``
    says why they cannot be. ``duration_s``: of one prediction, the 0.9 quantile. ``budget_s``:
    None where there is none. ``kept_variance_share``: of the epistemic variance of all ``n_all``
    layers; the rest is not published, so the covariance is that much too small.
    """

    artifact: MotionArtifact
    predictive: Predictive
    n_all: int
    duration_s: float
    budget_s: float | None
    kept_variance_share: float
    unrecorded: str = ""

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
        recorded = f"not recorded ({self.unrecorded}), " if self.unrecorded else ""
        return (
            f"predictive '{structure}' over {self.n_layers} of {self.n_all} layers "
            f"({self.predictive.value}), {100 * self.kept_variance_share:.0f} % of the epistemic "
            f"variance, {recorded}{1e3 * self.duration_s:.1f} ms, {self._verdict()}"
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
        found = within_budget(posterior, still, budget_s, ready=_ready, shares=shares)
        chosen, kept = found.posterior, found.chosen.kept_variance_share
    else:
        is_last = predictive is Predictive.LAST_LAYER
        layers = list(posterior.layers)[-1:] if is_last else list(posterior.layers)
        chosen = with_layers(posterior, layers)
        kept = _kept_share(artifact, chosen, still)
    ready, unrecorded = _for_streams(replace(artifact, posterior=chosen, captured=None))
    predict = partial(ready.predict_features, still, SKETCH)
    return PredictiveChoice(
        artifact=ready,
        predictive=predictive,
        n_all=len(posterior.layers),
        duration_s=duration_of(predict, posterior.device, _REPEATS),
        budget_s=budget_s,
        kept_variance_share=kept,
        unrecorded=unrecorded,
    )


def _ready(posterior: Posterior) -> Callable[[MotionInput], Any]:
    """Return what is timed of a part of a posterior: what a stream would run of it."""
    return CapturedPredictive(posterior, resting_input(), SKETCH)


def _for_streams(artifact: MotionArtifact) -> tuple[MotionArtifact, str]:
    """Return the artifact with its predictions recorded, or as it is and why they cannot be."""
    try:
        return artifact.streaming(SKETCH), ""
    except ValueError as error:
        return artifact, str(error)


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
