"""Figures of classifiers: reliability, entropies in and out of distribution, sparsification, and
where the uncertainty is. Every function returns a matplotlib ``Figure``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bayes_vio.classification.detection import Sparsification, entropy_curves
from bayes_vio.classification.metrics import Reliability, array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Hues after Okabe and Ito (2008), safe for colour-blind eyes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b6558f", "#c98a00", "#3f9bd1", "#5c6773")


def plot_reliability(diagrams: Mapping[str, Reliability]) -> Figure:
    """Return reliability diagrams side by side: accuracy over confidence, and the counts."""
    figure, axes = _row(len(diagrams), 3.2, 3.4)
    for ax, (name, diagram) in zip(axes, diagrams.items(), strict=True):
        filled = diagram.count > 0
        width = np.diff(diagram.edges)
        middle = diagram.edges[:-1] + width / 2
        share = diagram.count / diagram.count.sum()
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        ax.bar(middle, share, width, color="0.85")
        ax.plot(diagram.confidence[filled], diagram.accuracy[filled], "o-", color=COLOURS[0])
        ax.set_title(f"{name}: ECE {diagram.expected_error:.4f}", fontsize=9)
        ax.set_xlabel("confidence")
    axes[0].set_ylabel("accuracy (bars: share of the data)")
    return figure


def plot_entropies(
    entropies: Mapping[str, Mapping[str, Any]], n_classes: int, n_bins: int = 40
) -> Figure:
    """Return histograms (top) and inverse cumulative distributions (bottom) of entropies.

    entropies: {method: {set: entropy [n], nats}}; one column per method.
    """
    figure, axes = _grid(2, len(entropies), 3.2, 5.2)
    for column, (method, sets) in zip(axes.T, entropies.items(), strict=True):
        for colour, (name, values) in zip(COLOURS, sets.items(), strict=False):
            curves = entropy_curves(values, math.log(n_classes), n_bins)
            column[0].stairs(curves.density, curves.edges, color=colour, label=name)
            column[1].plot(curves.threshold, curves.share_above, color=colour, label=name)
        column[0].set_yscale("log")
        column[0].set_title(method, fontsize=9)
        column[1].set_xlabel("entropy (nats)")
        column[1].set_ylim(0, 1)
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("share of the data above")
    axes[1, 0].legend(fontsize=7)
    return figure


def plot_sparsification(curves: Mapping[str, Sparsification]) -> Figure:
    """Return the mean error of what is kept over the share removed, and the oracle's."""
    figure, (ax,) = _row(1, 4.5, 3.4)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        label = f"{name}: area {curve.area:.3f}"
        ax.plot(curve.removed, curve.kept_error, color=colour, label=label)
        ax.plot(curve.removed, curve.oracle_error, color=colour, linestyle=":", linewidth=1)
    ax.set_xlabel("share of the most uncertain data removed")
    ax.set_ylabel("mean error of the rest (dotted: oracle)")
    ax.legend(fontsize=7)
    return figure


def plot_layer_shares(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return the mean share of every layer in the variance of the logits, set by set.

    shares: {set: {layer: share}}, as ``weight_variance.mean_shares`` gives them.
    """
    layers = list(next(iter(shares.values())))
    figure, (ax,) = _row(1, 1.6 + 0.9 * len(layers), 3.2)
    width = 0.8 / len(shares)
    for i, (name, by_layer) in enumerate(shares.items()):
        place = np.arange(len(layers)) + (i - (len(shares) - 1) / 2) * width
        values = [by_layer[layer] for layer in layers]
        ax.bar(place, values, width, label=name, color=COLOURS[i % len(COLOURS)])
    ax.set_xticks(np.arange(len(layers)), [f"layer {name}" for name in layers])
    ax.set_ylabel("share in the variance of the logits")
    ax.legend(fontsize=7)
    return figure


def plot_weight_stds(variances: Mapping[str, Tensor]) -> Figure:
    """Return one picture per layer of its weights' marginal std [d_out, d_in], bias last."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _row(len(variances), 3.0, 3.0)
    for ax, (name, values) in zip(axes, variances.items(), strict=True):
        std = array(values.sqrt())
        image = ax.imshow(std, aspect="auto", cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=ax, shrink=0.8)
        ax.grid(False)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(f"layer {name}: std {std.min():.2g} to {std.max():.2g}", fontsize=8)
        ax.set_xlabel("input (bias last)")
    axes[0].set_ylabel("output")
    return figure


def _row(n: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure, axes = _grid(1, n, width, height)
    return figure, list(axes[0])


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    if not columns:
        raise ValueError("there is nothing to plot")
    figure = Figure(figsize=(width * columns + 0.6, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if rows > 1 else False)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure, axes
