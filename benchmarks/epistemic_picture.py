"""One figure of epistemic uncertainty: against training data, and off the training's domain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from bayes_vio.conventions import AXES, AXIS_UNITS


def draw(path: Path, figures: dict) -> None:
    """Write a PNG of what ``epistemic`` has measured so far."""
    rows, domains = figures.get("against_data", []), figures.get("domains", {})
    panels = bool(rows) + len(domains)
    figure = Figure(figsize=(7 * panels, 5.5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if rows:
        _against_data(axes[0], rows, figures.get("one_network", []))
    for place, (label, found) in zip(axes[bool(rows) :], domains.items(), strict=True):
        _against_domain(place, label, found)
    figure.savefig(path, dpi=100)


def _against_data(axes: Axes, rows: list[dict], of_one: list[dict]) -> None:
    for i, (name, unit) in enumerate(zip(AXES, AXIS_UNITS, strict=True)):
        for found, line in ((rows, "-"), (of_one, ":")):
            values = [row["epistemic_std_median"][i] for row in found]
            label = f"{name} ({unit})" if found is rows else None
            drives = [row["drives"] for row in found]
            axes.loglog(drives, values, line, color=f"C{i}", marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("training drives (dotted: one network, trained on all of them)")
    axes.set_ylabel("median epistemic sigma on held-out drives")
    axes.legend(fontsize=8)


def _against_domain(axes: Axes, label: str, found: dict) -> None:
    names = list(found["judged"])
    place = np.arange(len(names))
    for n, way in enumerate(("posterior_alone", "judged")):
        growth = [found[way][name]["epistemic_growth"] for name in names]
        bars = axes.bar(place + 0.4 * (n - 0.5), growth, 0.38, label=way.replace("_", " "))
        shares = [f"{found[way][name]['auroc']['ratio to noise']:.2f}" for name in names]
        axes.bar_label(bars, shares, fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(place, names, rotation=25, ha="right")
    axes.set_ylabel("epistemic over noise, times the known recordings'")
    axes.set_title(f"{label} (numbers: AUROC against known recordings)")
    axes.legend()
