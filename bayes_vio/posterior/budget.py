"""The richest predictive that a latency budget allows, found by measuring.

Layers are left out at their MAP until a prediction is fast enough: those with the smallest share
of the epistemic variance, or all before some depth, since the backward pass then ends there;
down to the last layer. Of what holds the budget, the choice keeps the most variance.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.posterior.functional import restricted
from bayes_vio.posterior.laplace import Posterior

_LOG = logging.getLogger(__name__)
# The slowest tenth of repeated predictions may be slower than what counts.
_QUANTILE = 0.9
_WARM_UP = 3


@dataclass(frozen=True)
class Measurement:
    """Some layers' predictive: its duration (the 0.9 quantile), and what share of the epistemic
    variance of all layers it keeps, averaged over data and outputs."""

    layers: tuple[str, ...]
    duration_s: float
    kept_variance_share: float


@dataclass(frozen=True)
class BudgetChoice:
    """The posterior that was chosen, everything that was measured, and whether it holds."""

    posterior: Posterior
    chosen: Measurement
    measured: tuple[Measurement, ...]
    budget_s: float

    @property
    def holds(self) -> bool:
        """Whether the choice is within the budget; if not, it is the last layer."""
        return self.chosen.duration_s <= self.budget_s

    def describe(self) -> str:
        """Return one line for a log or a report."""
        n_all = max(len(m.layers) for m in self.measured)
        verdict = "within" if self.holds else "still over"
        return (
            f"{len(self.chosen.layers)} of {n_all} layers in the posterior: "
            f"{1e3 * self.chosen.duration_s:.1f} ms, {verdict} the budget of "
            f"{1e3 * self.budget_s:.1f} ms, {100 * self.chosen.kept_variance_share:.0f} % of the "
            "epistemic variance kept"
        )


def within_budget(
    posterior: Posterior,
    x: Any,
    budget_s: float,
    n_repeats: int = 20,
    ready: Callable[[Posterior], Callable[[Any], Any]] | None = None,
    shares: Mapping[str, float] | None = None,
) -> BudgetChoice:
    """Return the richest predictive that takes at most ``budget_s`` at x, on this machine.

    ``ready`` returns what is timed of a posterior, a function of x: by default its ``predict``.
    ``shares``: every layer's of the epistemic variance, by default that at x. Raises ValueError
    for a budget that is not positive, and under "ella", whose directions run through all layers.
    """
    if not budget_s > 0:
        raise ValueError(f"the latency budget must be positive, it is {budget_s} s")
    shares = shares or variance_shares(posterior, x)
    search = _Search(posterior, shares, x, ready or (lambda p: p.predict), n_repeats)
    found = search.measure(tuple(posterior.layers))
    if found.duration_s > budget_s:
        by_share = sorted(shares, key=lambda name: -shares[name])
        by_depth = list(posterior.layers)[::-1]
        for order in (by_share, by_depth):
            search.largest_prefix(order, budget_s)
    holding = [m for m in search.measured.values() if m.duration_s <= budget_s]
    last = (list(posterior.layers)[-1],)
    chosen = max(holding, key=lambda m: m.kept_variance_share, default=None)
    chosen = chosen or search.measure(last)
    measured = tuple(search.measured.values())
    choice = BudgetChoice(with_layers(posterior, chosen.layers), chosen, measured, budget_s)
    _LOG.log(logging.INFO if choice.holds else logging.WARNING, choice.describe())
    return choice


def variance_shares(posterior: Posterior, x: Any) -> dict[str, float]:
    """Return every layer's share of the epistemic variance, averaged over data and outputs."""
    parts = posterior.layer_contributions(x)
    total = torch.stack(list(parts.values())).sum(0)
    return {name: float(_share(part, total)) for name, part in parts.items()}


def with_layers(posterior: Posterior, layers: Sequence[str]) -> Posterior:
    """Return the posterior over some of its layers, the others at the MAP.

    Nothing is refitted: between dependent layers ("full", "subnetwork") this is the posterior
    given that the others have their MAP.
    """
    kept = [name for name in posterior.layers if name in set(layers)]
    if not kept or len(kept) < len(set(layers)):
        raise ValueError(f"layers {sorted(layers)} are not all covered: {list(posterior.layers)}")
    if len(kept) == len(posterior.layers):
        return posterior
    dropped = [c for c in posterior.report.covered if c.name not in kept]
    uncovered = tuple(
        Uncovered(c.name, "left out of the predictive", c.parameters, c.d_out * c.d_in)
        for c in dropped
    )
    return replace(
        posterior,
        recorder=restricted(posterior.recorder, kept),
        curvature=posterior.curvature.only(kept),
        prior_precision={name: posterior.prior_precision[name] for name in kept},
        report=replace(
            posterior.report,
            covered=tuple(c for c in posterior.report.covered if c.name in kept),
            uncovered=posterior.report.uncovered + uncovered,
        ),
    )


class _Search:
    """Measurements of subsets of layers, each made once."""

    def __init__(
        self,
        posterior: Posterior,
        shares: Mapping[str, float],
        x: Any,
        ready: Callable[[Posterior], Callable[[Any], Any]],
        n_repeats: int,
    ):
        self._posterior, self._shares, self._x = posterior, shares, x
        self._ready, self._n_repeats = ready, n_repeats
        self.measured: dict[frozenset[str], Measurement] = {}

    def measure(self, layers: tuple[str, ...]) -> Measurement:
        """Return the duration of predictions with some layers."""
        key = frozenset(layers)
        if key not in self.measured:
            part = with_layers(self._posterior, layers)
            kept = sum(self._shares[name] for name in layers)
            names = tuple(part.layers)
            predict = partial(self._ready(part), self._x)
            duration_s = duration_of(predict, part.device, self._n_repeats)
            self.measured[key] = Measurement(names, duration_s, kept)
        return self.measured[key]

    def largest_prefix(self, order: list[str], budget_s: float) -> None:
        """Bisect how many of the first layers of an order the budget holds."""
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.measure(tuple(order[:middle])).duration_s <= budget_s
            low, high = (middle, high) if fits else (low, middle)
        if low == 0:
            self.measure((order[0],))


def duration_of(predict: Callable[[], Any], device: torch.device, n_repeats: int = 20) -> float:
    """Return how long a prediction takes (s): the 0.9 quantile of repeated ones, warmed up."""
    durations = []
    for _ in range(n_repeats + _WARM_UP):
        start = time.perf_counter()
        predict()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
    timed = sorted(durations[_WARM_UP:])
    return timed[min(len(timed) - 1, int(_QUANTILE * len(timed)))]


def _share(part: Tensor, total: Tensor) -> Tensor:
    # Where the total is zero (a certain output) no layer has a share.
    return torch.where(total > 0, part / total, 0.0).mean()
