"""Figures of the fit report: training, prior, and what each recording says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from bayes_vio.evaluation.canvas import SERIES, WIDTH_IN, Ink, drawing, label

_HALF_IN = (4.3, 3.1)


def training(curves: dict, name: str) -> str:
    """Draw training loss and validation NLL per epoch, and the epoch that was kept."""
    nll, loss = curves["validation_nll"], curves["train_loss"]
    epochs = np.arange(1, len(nll) + 1)
    best = curves["best_epoch"]
    with drawing(*_HALF_IN, name) as drawn:
        panels = drawn.figure.subplots(2, 1, sharex=True)
        for axes, values, ink, text in zip(
            panels,
            (loss, nll),
            (Ink.SERIES_2, Ink.ESTIMATE),
            ("training loss", f"validation NLL (kept: epoch {best})"),
            strict=True,
        ):
            axes.plot(epochs[: len(values)], values, "o-", color=ink.value, ms=3.5)
            axes.axvline(best, color=Ink.GOOD.value, lw=1.2, ls=(0, (4, 3)))
            _room_for_the_curve(axes, values)
            label(axes, "", "nats", text)
        panels[1].xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        label(panels[1], "epoch", panels[1].get_ylabel())
    return drawn.svg


def _room_for_the_curve(axes: Axes, values: Sequence[float]) -> None:
    """Let a first epoch that is far off run out of the picture."""
    low, high = float(np.min(values)), float(np.percentile(values, 90))
    room = max(high - low, 1e-3)
    axes.set_ylim(low - 0.15 * room, high + 0.45 * room)


def prior_search(points: Sequence[dict], chosen: float, name: str) -> str:
    """Draw validation NLL over the prior precisions tried, and the one chosen."""
    precision = [point["prior_precision"] for point in points]
    nll = [point["nll"] for point in points]
    with drawing(*_HALF_IN, name) as drawn:
        axes = drawn.figure.subplots()
        axes.plot(precision, nll, "o-", color=Ink.ESTIMATE.value, ms=4)
        axes.axvline(chosen, color=Ink.GOOD.value, lw=1.2, ls=(0, (4, 3)))
        axes.plot([chosen], [nll[precision.index(chosen)]], "o", color=Ink.GOOD.value, ms=8)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        label(axes, "prior precision", "validation NLL (nats)")
    return drawn.svg


def offsets(parts: Sequence[dict], common: dict, name: str) -> str:
    """Draw each recording's time offset with two sigmas, and the one that is used."""
    told = [part for part in parts if part["time_offset"]]
    with drawing(WIDTH_IN, 1.2 + 0.24 * max(len(told), 2), name) as drawn:
        axes = drawn.figure.subplots()
        centre, std = 1e3 * common["offset_s"], 1e3 * (common["std_s"] or 0.0)
        axes.axvspan(centre - 2 * std, centre + 2 * std, color=Ink.BAND.value, alpha=0.35, lw=0)
        axes.axvline(centre, color=Ink.TEXT.value, lw=1, label="used")
        for row, part in enumerate(told):
            own = part["time_offset"]
            value, sigma = 1e3 * own["offset_s"], 1e3 * own["std_s"]
            axes.hlines(
                row, value - 2 * sigma, value + 2 * sigma, color=Ink.ESTIMATE.value, lw=1.8
            )
            axes.plot([value], [row], "o", color=Ink.ESTIMATE.value, ms=5)
        _rows(axes, [part["name"] for part in told])
        label(axes, "IMU stamp minus image stamp (ms)")
    return drawn.svg


def rotations(parts: Sequence[dict], together: dict, name: str) -> str:
    """Draw the camera's residual rotation per recording with two sigmas, and all together."""
    told = [part for part in parts if part["camera_rotation"]]
    rows = [(part["name"], part["camera_rotation"]) for part in told] + [("together", together)]
    with drawing(WIDTH_IN, 1.3 + 0.24 * max(len(rows), 2), name) as drawn:
        panels = drawn.figure.subplots(1, 3, sharey=True)
        for axes, axis in zip(panels, ("roll", "pitch", "yaw"), strict=True):
            axes.axvspan(-1, 1, color=Ink.GOOD.value, alpha=0.13, lw=0)
            axes.axvline(0, color=Ink.TEXT.value, lw=0.9)
            for row, (_, rotation) in enumerate(rows):
                _rotation_mark(axes, row, rotation[axis], row == len(rows) - 1)
            reach = [2.0] + [
                abs(r[axis]["deg"]) + r[axis]["std_deg"] for _, r in rows if r[axis]["observable"]
            ]
            axes.set_xlim(-1.1 * max(reach), 1.1 * max(reach))
            label(axes, "deg", "", axis)
        _rows(panels[0], [text for text, _ in rows])
    return drawn.svg


def _rotation_mark(axes: Axes, row: int, angle: dict, whole: bool) -> None:
    ink = (Ink.TEXT if whole else Ink.ESTIMATE) if angle["observable"] else Ink.MUTED
    value, sigma = angle["deg"], angle["std_deg"]
    width, alpha = (2.4, 1.0) if whole else (1.6, 0.85)
    axes.hlines(row, value - 2 * sigma, value + 2 * sigma, color=ink.value, lw=width, alpha=alpha)
    axes.plot([value], [row], "o", color=ink.value, ms=6 if whole else 4.5)


def speeds(parts: Sequence[tuple[str, dict]], name: str) -> str:
    """Draw speeds and yaw rates per recording: the whole range, 98 % of it, and the median."""
    with drawing(WIDTH_IN, 1.2 + 0.24 * max(len(parts), 2), name) as drawn:
        panels = drawn.figure.subplots(1, 2, sharey=True)
        quantities = (("speed_m_s", "speed (m/s)"), ("yaw_rate_deg_s", "yaw rate (deg/s)"))
        for axes, (key, text) in zip(panels, quantities, strict=True):
            for row, (use, part) in enumerate(parts):
                ink = (SERIES[0] if use == "train" else SERIES[1]).value
                values = part["driven"][key]
                axes.hlines(row, values["min"], values["max"], color=ink, lw=1.1, alpha=0.7)
                axes.hlines(row, values["p1"], values["p99"], color=ink, lw=4.5, alpha=0.7)
                axes.plot([values["median"]], [row], "|", color=Ink.TEXT.value, ms=9, mew=1.6)
            label(axes, text)
        _rows(panels[0], [part["name"] for _, part in parts])
    return drawn.svg


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
