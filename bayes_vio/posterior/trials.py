"""What a search over hyper-parameters tried, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trial:
    """One set of hyper-parameters and its cost, lower being better; inf where none exists.

    ``prior_precision`` is by layer, ``n_data`` what multiplies the curvature, ``objective`` what
    the cost is and its unit.
    """

    prior_precision: dict[str, float]
    n_data: float
    cost: float
    objective: str


OnTrial = Callable[[Trial], None]


def plot_trials(trials: Sequence[Trial], title: str = "") -> Figure:
    """Return a figure of a search: cost over prior precision, and the best cost so far.

    With a prior precision per layer their geometric mean is the abscissa, their range a bar.
    Raises ValueError where nothing was tried.
    """
    from matplotlib.figure import Figure

    if not trials:
        raise ValueError("no trials to plot: pass on_trial=trials.append to the search")
    costs = np.array([t.cost for t in trials])
    # A search spans many magnitudes of cost, most of them near the best.
    excess = costs - costs.min()
    exponents = [np.log10(list(t.prior_precision.values())) for t in trials]
    middle = np.array([e.mean() for e in exponents])
    ends = np.array([[e.min(), e.max()] for e in exponents])
    # The mean of equal numbers may be off by rounding: a bar is never negative.
    spread = np.abs(ends - middle[:, None])
    best = int(np.argmin(costs))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = np.arange(1, len(trials) + 1)
    left.errorbar(middle, excess, xerr=spread.T, fmt="none", ecolor="0.8", zorder=0)
    dots = left.scatter(middle, excess, c=numbers, cmap="viridis", s=18)
    left.scatter(middle[best], excess[best], marker="o", s=90, facecolor="none", edgecolor="C3")
    figure.colorbar(dots, ax=left, label="trial")
    left.set_xlabel("log10 prior precision")
    left.set_yscale("symlog", linthresh=max(1e-3, 1e-3 * abs(costs[best])))
    left.set_ylabel(f"{trials[0].objective} above the best")
    right.plot(numbers, np.minimum.accumulate(costs), drawstyle="steps-post")
    right.set_xlabel("trial")
    right.set_ylabel(f"best {trials[0].objective}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    return figure
