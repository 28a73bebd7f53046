"""One page of pictures: how true each method's covariance is, and the paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from odometry_setting import Result

from bayes_vio.evaluation import trajectory

_HORIZONS = ("1", "10", "100")


def draw(path: Path, results: dict[str, Result], told: dict[str, dict], title: str) -> None:
    """Write a PNG: NEES and NLL by horizon, coverage over distance, a path with its estimates."""
    figure = Figure(figsize=(14, 10), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(f"Odometry and its covariance ({title})")
    _bars(axes[0, 0], told, "nees_over_6", "NEES / 6 (1 is true)")
    axes[0, 0].set_yscale("log")
    axes[0, 0].axhline(1, color="black", linewidth=1)
    _bars(axes[0, 1], told, "nll", "negative log-likelihood (nats)")
    _coverage(axes[1, 0], told)
    _paths(axes[1, 1], results)
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, told: dict[str, dict], key: str, label: str) -> None:
    """Draw a measure of every method at every horizon."""
    place = np.arange(len(told))
    for n, horizon in enumerate(_HORIZONS):
        values = [t["horizons"].get(horizon, {}).get(key, np.nan) for t in told.values()]
        axes.bar(place + 0.27 * (n - 1), values, 0.25, label=f"{horizon} frames")
    axes.set_xticks(place, list(told), rotation=35, ha="right")
    axes.set_ylabel(label)
    axes.legend()


def _coverage(axes: Axes, told: dict[str, dict]) -> None:
    """Draw the share of accumulated errors in the 95 % region, by distance and treatment."""
    for name, t in told.items():
        for treatment, stretches in t.get("over_distance", {}).items():
            style = "--" if treatment == "white" else "-"
            share = [100 * s["region_95"] for s in stretches.values()]
            axes.plot(list(stretches), share, style, marker="o", label=f"{name}, {treatment}")
    axes.axhline(95, color="black", linewidth=1)
    axes.set_ylabel("accumulated errors in the 95 % region (%)")
    axes.legend(fontsize=8)


def _paths(axes: Axes, results: dict[str, Result]) -> None:
    """Draw the longest recording's reference and what each method made of it."""
    first = next(iter(results.values())).runs
    longest = max(range(len(first)), key=lambda i: len(first[i]))
    _, true = first[longest].path()
    axes.plot(true[:, 0, 3], true[:, 1, 3], color="black", linewidth=2, label="reference")
    drawn: list[np.ndarray] = []
    for name, result in results.items():
        estimated, reference = result.runs[longest].path()
        aligned = trajectory.align_first(estimated, reference)
        if any(a.shape == aligned.shape and np.allclose(a, aligned, atol=1e-3) for a in drawn):
            continue  # the same mean with another covariance
        drawn.append(aligned)
        axes.plot(aligned[:, 0, 3], aligned[:, 1, 3], linewidth=1, label=name)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"{first[longest].name}: x (m)")
    axes.set_ylabel("y (m)")
    axes.legend(fontsize=8)
