"""Figures of the report that sum up: scales, reliability, sparsification, latency, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from bayes_vio.conventions import AXES
from bayes_vio.evaluation.canvas import SERIES, WIDTH_IN, Ink, drawing, label
from bayes_vio.evaluation.run import Run
from bayes_vio.evaluation.verdict import SIGMA_TOLERANCE

Array = NDArray[np.float64]


def sigma_factors(by_horizon: Mapping[int, dict], name: str) -> str:
    """Draw by what factor sigmas would have to grow to be true, per axis and horizon."""
    rows = ("all axes", *AXES)
    inks, shown = (Ink.ESTIMATE, Ink.SERIES_2, Ink.SERIES_3), [1.0]
    with drawing(WIDTH_IN, 3.5, name) as drawn:
        axes = drawn.figure.subplots()
        axes.axvspan(1 / SIGMA_TOLERANCE, SIGMA_TOLERANCE, color=Ink.GOOD.value, alpha=0.13, lw=0)
        axes.axvline(1, color=Ink.TEXT.value, lw=0.9)
        for place, (horizon, measured) in enumerate(by_horizon.items()):
            scales = [measured["joint"], *measured["axes"]]
            factor = np.array([s["sigma_factor"] for s in scales])
            interval = np.array([s["sigma_factor_interval"] for s in scales]).T
            y = np.arange(len(rows)) + 0.22 * (place - (len(by_horizon) - 1) / 2)
            ink = inks[place % len(inks)].value
            axes.hlines(y, *interval, color=ink, lw=1.6, alpha=0.6)
            text = f"{horizon} frame" + ("s" if horizon > 1 else "")
            shown += factor.tolist()
            axes.plot(factor, y, "os^"[place % 3], color=ink, ms=5.5, ls="none", label=text)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        _factor_scale(axes, np.array(shown))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title="over")
        label(axes, "too wide   ←   RMS of error ÷ predicted \u03c3   →   too narrow")
    return drawn.svg


def _factor_scale(axes: Axes, factors: Array) -> None:
    """Show every factor and at least 0.6 to 1.7; an interval may run out of the picture."""
    low, high = min(0.6, 0.7 * factors.min()), max(1.7, 1.4 * factors.max())
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    marks = (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 3, 5, 10, 30, 100)
    axes.set_xticks([m for m in marks if low <= m <= high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def reliability(measured: dict, name: str) -> str:
    """Draw observed against expected coverage, of each axis and of the joint region."""
    curves = measured["reliability"]
    expected = 100 * np.array(curves["expected"])
    with drawing(4.3, 3.9, name) as drawn:
        axes = drawn.figure.subplots()
        axes.plot([0, 100], [0, 100], color=Ink.MUTED.value, lw=0.9, ls=(0, (4, 3)))
        for ink, (axis, observed) in zip(SERIES, curves["axes"].items(), strict=True):
            axes.plot(expected, 100 * np.array(observed), color=ink.value, lw=1.1, label=axis)
        joint = 100 * np.array(curves["joint"])
        axes.plot(expected, joint, "o-", color=Ink.TEXT.value, lw=1.8, ms=3.5, label="joint")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.legend(loc="upper left", handlelength=1.3)
        label(axes, "expected coverage (%)", "observed coverage (%)")
    return drawn.svg


def sparsification(measured: dict, name: str) -> str:
    """Draw the error left when the most uncertain frames are dropped, beside an oracle's."""
    with drawing(4.3, 3.9, name) as drawn:
        panels = drawn.figure.subplots(2, 1, sharex=True)
        parts = (("translation", 100.0, "RMS (cm)"), ("rotation", np.rad2deg(1.0), "RMS (deg)"))
        for axes, (part, factor, unit) in zip(panels, parts, strict=True):
            curve = measured["sparsification"][part]
            dropped = 100 * np.array(curve["dropped"])
            kept = factor * np.array(curve["rmse"])
            oracle = factor * np.array(curve["rmse_oracle"])
            axes.axhline(kept[0], color=Ink.MUTED.value, lw=0.9, ls=(0, (4, 3)), label="unsorted")
            axes.plot(dropped, kept, color=Ink.ESTIMATE.value, lw=1.8, label="by predicted \u03c3")
            axes.plot(dropped, oracle, color=Ink.SERIES_2.value, lw=1.1, label="by true error")
            axes.set_ylim(bottom=0)
            label(axes, "", unit, part)
        panels[0].legend(loc="lower left", fontsize=8)
        label(panels[1], "most uncertain frames dropped (%)", panels[1].get_ylabel())
    return drawn.svg


def latency(run: Run, name: str) -> str:
    """Draw the histogram of the wall time spent on an estimate."""
    milliseconds = 1e3 * run.compute_s
    p50, p99 = np.percentile(milliseconds, [50, 99])
    shown = milliseconds[milliseconds <= 1.6 * p99]
    with drawing(WIDTH_IN, 2.3, name) as drawn:
        axes = drawn.figure.subplots()
        axes.hist(shown, bins=60, color=Ink.ESTIMATE.value, alpha=0.75)
        for value, text in ((p50, "median"), (p99, "99 %")):
            axes.axvline(value, color=Ink.TEXT.value, lw=1)
            axes.annotate(
                f"{text} {value:.1f} ms",
                (value, 0.93),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
            )
        axes.set_xlim(left=0)
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])
        label(axes, "wall time per estimate (ms)", "estimates")
    return drawn.svg


def drift_by_length(drifts: Sequence[dict], names: Sequence[str], name: str) -> str:
    """Draw t_rel and r_rel over the segment length, one line per recording."""
    with drawing(WIDTH_IN, 2.7, name) as drawn:
        panels = drawn.figure.subplots(1, 2)
        parts = (("t_rel_percent", "t_rel (%)"), ("r_rel_deg_per_100m", "r_rel (deg / 100 m)"))
        for axes, (key, unit) in zip(panels, parts, strict=True):
            for place, (drift, text) in enumerate(zip(drifts, names, strict=True)):
                x = [row["length_m"] for row in drift["lengths"]]
                y = [row[key] for row in drift["lengths"]]
                ink = SERIES[place % len(SERIES)].value
                axes.plot(x, y, "o-", color=ink, ms=4, label=text)
            axes.set_ylim(bottom=0)
            label(axes, "segment length (m)", unit)
        if len(names) > 1:
            panels[1].legend(loc="best")
    return drawn.svg
