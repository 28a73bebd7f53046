"""One figure of the bad days: a row per fault, a column per strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_STATES = {"tracking": "#4c9f70", "degraded": "#e0a030", "lost": "#b03a3a"}
_FLOOR = 0.3  # where bars begin


def draw(path: Path, labelled: dict[str, dict]) -> None:
    """Write a PNG: per cell and data set error, sigma, coverage and the share of each state.

    labelled: the figures of each set of recordings, as ``bad_days`` writes them.
    """
    names = [row["fault"] for row in next(iter(labelled.values()))["faults"]]
    figure = Figure(figsize=(15, 2.1 * len(names) + 1), layout="constrained")
    axes = figure.subplots(len(names), 3, squeeze=False)
    figure.suptitle(
        "Bad days: RMS error (gray) and median sigma (blue) over the error at the weakest "
        "strength (log), states and share of errors in the 95 % region (below)"
    )
    for row, name in enumerate(names):
        for column in range(3):
            _cell(axes[row, column], labelled, name, column)
    figure.savefig(path, dpi=90)


def _cell(axes: Axes, labelled: dict[str, dict], name: str, column: int) -> None:
    """Draw one cell: a group of bars for each data set, its states as a strip below."""
    place = 0.0
    for label, figures in labelled.items():
        found = [row for row in figures["faults"] if row["fault"] == name]
        if not found:
            continue
        cell, weakest = found[0]["cells"][column], found[0]["cells"][0]
        for part in ("translation", "rotation"):
            unit = weakest[part]["rmse"]
            values = [cell[part]["rmse"] / unit, cell[part]["sigma_median"] / unit]
            heights = [value - _FLOOR for value in values]
            axes.bar(
                [place, place + 0.4], heights, 0.38, bottom=_FLOOR, color=["#666666", "#7aa6d6"]
            )
            axes.text(place + 0.2, max(values), part[:5], ha="center", va="bottom", fontsize=7)
            place += 1.0
        _strip(axes, place - 2.2, cell)
        missed = "" if not cell["missed"] else " !"
        share = cell["coverage_95_told"]
        told = "all lost" if share is None else f"{100 * share:.0f} %"
        axes.text(place - 1.3, 0.145, f"{label}: {told}{missed}", ha="center", fontsize=8)
        place += 0.6
        axes.set_title(f"{name}: {cell['strength']:g} ({found[0]['unit']})", fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(0.12, 60)
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xticks([])


def _strip(axes: Axes, left: float, cell: dict) -> None:
    """Draw the share of each state as a strip."""
    edges = left + 1.8 * np.cumsum([0, *cell["states"].values()])
    for begin, end, colour in zip(edges[:-1], edges[1:], _STATES.values(), strict=True):
        axes.fill_between([begin, end], 0.19, 0.26, color=colour, linewidth=0)
