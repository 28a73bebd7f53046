"""Figures of the report over space and time: path, errors, NEES, as SVG (see `canvas`)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from bayes_vio.evaluation import trajectory
from bayes_vio.evaluation.canvas import WIDTH_IN, Ink, drawing, label
from bayes_vio.evaluation.run import Run
from bayes_vio.filters import consistency

Array = NDArray[np.float64]

_ELLIPSES = 24
_DRAWN_BINS = 450
_ROLLING = 50
_STATE_INK = {"tracking": Ink.GOOD, "degraded": Ink.WARN, "lost": Ink.BAD, "waiting": Ink.MUTED}
_AXIS_TITLES = (
    "x, forward",
    "y, left",
    "z, up",
    "rotation about x (roll)",
    "rotation about y (pitch)",
    "rotation about z (yaw)",
)


def top_view(run: Run, name: str) -> str:
    """Draw the path from above beside the reference, with the odometry's 3-sigma ellipses."""
    estimated, true = run.path()
    aligned = trajectory.align_first(estimated, true)
    xy, reference_xy = aligned[:, :2, 3], true[:, :2, 3]
    with drawing(WIDTH_IN, _map_height(np.concatenate([xy, reference_xy])), name) as drawn:
        axes = drawn.figure.subplots()
        for centre, cov in _along(aligned[1:], run.odom_cov):
            axes.add_patch(_ellipse(centre, cov))
        axes.plot(
            *reference_xy.T, color=Ink.REFERENCE.value, lw=3.2, alpha=0.55, label="reference"
        )
        axes.plot(*xy.T, color=Ink.ESTIMATE.value, lw=1.4, label="odometry")
        axes.plot(*xy[0], "o", color=Ink.TEXT.value, ms=6)
        axes.plot(*xy[-1], "s", color=Ink.ESTIMATE.value, ms=6)
        axes.plot(*reference_xy[-1], "s", color=Ink.REFERENCE.value, ms=6)
        for text, at in (("start", xy[0]), ("end", xy[-1])):
            axes.annotate(text, at, xytext=(7, 5), textcoords="offset points")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(loc="best")
        label(axes, "x of the reference frame (m)", "y (m)")
    return drawn.svg


def _map_height(xy: Array) -> float:
    extent = np.ptp(xy, axis=0)
    return float(np.clip(WIDTH_IN * extent[1] / max(extent[0], 1.0), 3.2, 7.0))


def _along(T: Array, cov: Array) -> list[tuple[Array, Array]]:
    """Return centres [2] and position covariances [2, 2], evenly spaced along the path."""
    distance = trajectory.path_length(T)
    wanted = np.linspace(0, distance[-1], _ELLIPSES + 1)[1:]
    rows = np.unique(np.minimum(np.searchsorted(distance, wanted), len(T) - 1))
    R = T[rows, :3, :3]
    position_cov = R @ cov[rows, :3, :3] @ R.transpose(0, 2, 1)
    return list(zip(T[rows, :2, 3], position_cov[:, :2, :2], strict=True))


def _ellipse(centre: Array, cov: Array) -> Ellipse:
    variance, direction = np.linalg.eigh(cov)
    width, height = 2 * 3 * np.sqrt(variance[::-1])
    angle = np.rad2deg(np.arctan2(direction[1, 1], direction[0, 1]))
    return Ellipse(
        (centre[0], centre[1]),
        width,
        height,
        angle=angle,
        facecolor=to_rgba(Ink.BAND.value, 0.1),
        edgecolor=to_rgba(Ink.ESTIMATE.value, 0.55),
        lw=0.8,
    )


def errors_over_time(
    run: Run, error: Array, cov: Array, epistemic_cov: Array | None, length_unit: str, name: str
) -> str:
    """Draw six small multiples: the error [n, 6] inside its +-2 sigma band, over time.

    cov, epistemic_cov [n, 6, 6]; lengths are drawn in cm or m, angles in degrees.
    """
    length = {"cm": 100.0, "m": 1.0}[length_unit]
    with drawing(WIDTH_IN, 6.4, name) as drawn:
        panels = drawn.figure.subplots(3, 2, sharex=True)
        for axis in range(6):
            axes = panels[axis % 3, axis // 3]
            factor, unit = (length, length_unit) if axis < 3 else (np.rad2deg(1.0), "deg")
            sigma = factor * np.sqrt(cov[:, axis, axis])
            inner = None
            if epistemic_cov is not None:
                inner = factor * np.sqrt(epistemic_cov[:, axis, axis])
            _error_panel(axes, run, factor * error[:, axis], sigma, inner)
            label(axes, "time (s)" if axis % 3 == 2 else "", unit, _AXIS_TITLES[axis])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        drawn.figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return drawn.svg


def _error_panel(axes: Axes, run: Run, error: Array, sigma: Array, inner: Array | None) -> None:
    time = run.time_s
    _shade_states(axes, run)
    axes.plot(*_envelope(time, error), color=Ink.ESTIMATE.value, lw=0.7, alpha=0.75, label="error")
    t, s = _bin_means(time, sigma)
    axes.fill_between(t, -2 * s, 2 * s, color=Ink.BAND.value, alpha=0.22, lw=0)
    axes.plot(t, 2 * s, color=Ink.TEXT.value, lw=1.1, label="±2\u03c3 predicted")
    axes.plot(t, -2 * s, color=Ink.TEXT.value, lw=1.1)
    if inner is not None:
        t, s = _bin_means(time, inner)
        style = {"color": Ink.EPISTEMIC.value, "lw": 1.1, "ls": (0, (4, 2))}
        axes.plot(t, 2 * s, label="±2\u03c3 epistemic part", **style)
        axes.plot(t, -2 * s, **style)
    limit = max(1.12 * np.abs(error).max(), 2.3 * np.percentile(sigma, 95))
    axes.set_ylim(-limit, limit)
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _envelope(time: Array, values: Array) -> tuple[Array, Array]:
    """Return fewer points with the same outline: the least and the largest value of each bin."""
    if len(values) <= 2 * _DRAWN_BINS:
        return time, values
    edges = np.linspace(0, len(values), _DRAWN_BINS + 1).astype(int)
    kept = []
    for low, high in pairwise(edges):
        part = values[low:high]
        kept += sorted({low + int(part.argmin()), low + int(part.argmax())})
    return time[kept], values[kept]


def _bin_means(time: Array, values: Array) -> tuple[Array, Array]:
    if len(values) <= 2 * _DRAWN_BINS:
        return time, values
    edges = np.linspace(0, len(values), _DRAWN_BINS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(values)))
    return np.add.reduceat(time, edges) / counts, np.add.reduceat(values, edges) / counts


def _state_spans(run: Run) -> list[tuple[str, float, float]]:
    """Return (state, begin, end) of every stretch of one state, in seconds of the run."""
    starts = [0, *(np.flatnonzero(run.state[1:] != run.state[:-1]) + 1), len(run)]
    begin = run.time_s - run.dt_s
    return [
        (str(run.state[a]), float(begin[a]), float(run.time_s[b - 1])) for a, b in pairwise(starts)
    ]


def _shade_states(axes: Axes, run: Run) -> None:
    for state, begin, end in _state_spans(run):
        if state != "tracking":
            axes.axvspan(begin, end, color=_STATE_INK[state].value, alpha=0.14, lw=0)


def nees_over_time(run: Run, squared: Array, name: str) -> str:
    """Draw joint NEES [n] over time on its 95 % band, its rolling mean, and the states below."""
    low, high = consistency.chi_square_band(6)
    with drawing(WIDTH_IN, 3.7, name) as drawn:
        axes, strip = drawn.figure.subplots(2, 1, sharex=True, height_ratios=[9, 1])
        axes.axhspan(low, high, color=Ink.BAND.value, alpha=0.3, lw=0, label="95 % of frames")
        axes.plot(
            *_envelope(run.time_s, squared), color=Ink.MUTED.value, lw=0.6, alpha=0.7, label="NEES"
        )
        axes.axhline(6, color=Ink.TEXT.value, lw=0.9, ls=(0, (4, 3)), label="expected mean, 6")
        if len(squared) > 2 * _ROLLING:
            mean = np.convolve(squared, np.full(_ROLLING, 1 / _ROLLING), "valid")
            time = run.time_s[_ROLLING // 2 :][: len(mean)]
            text = f"mean of {_ROLLING} frames"
            axes.plot(*_bin_means(time, mean), color=Ink.ESTIMATE.value, lw=1.8, label=text)
        axes.set_yscale("log")
        axes.margins(x=0.01)
        axes.set_ylim(max(0.2, squared.min() / 1.5), max(40.0, 1.5 * squared.max()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        drawn.figure.legend(loc="outside upper right", ncols=4)
        label(axes, "", "NEES (6 axes)")
        _state_strip(strip, run)
        label(strip, "time (s)", "state")
    return drawn.svg


def _state_strip(axes: Axes, run: Run) -> None:
    for state, begin, end in _state_spans(run):
        axes.axvspan(begin, end, color=_STATE_INK[state].value, lw=0)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
