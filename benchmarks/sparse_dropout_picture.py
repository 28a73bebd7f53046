"""One figure of sparse variational dropout: a row per network, and one for random labels."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

CASES = ("lenet_300_100", "lenet_5_caffe", "random_labels")


def picture(results: dict[str, Any]) -> Figure:
    """Return error and compression over epochs, and what is left of the first layers."""
    mpl.rcParams["font.size"] = 8
    cases = [name for name in CASES if name in results]
    figure = Figure(figsize=(10, 2.6 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, name in zip(axes, cases, strict=True):
        if name == "random_labels":
            _draw_random(row, results[name])
        else:
            _draw_pruning(row, name, results[name])
    return figure


def _draw_pruning(row: Any, name: str, result: dict[str, Any]) -> None:
    curve, epochs = result["curve"], [r["epoch"] for r in result["curve"]]
    row[0].plot(epochs, [r["validation_error_percent"] for r in curve])
    row[0].set(title=f"{name}: validation error", xlabel="epoch", ylabel="%", ylim=(0, 5))
    row[1].semilogy(epochs, [r["compression"] for r in curve])
    row[1].set(title="weights / weights left", xlabel="epoch")
    left = np.array(result["first_layer"])
    if left.ndim == 3:
        left = _tiled(np.abs(left))
    row[2].imshow(left, cmap="magma")
    row[2].set(title="what is left of the first layer", xticks=[], yticks=[])


def _tiled(filters: np.ndarray, columns: int = 5) -> np.ndarray:
    """Return filters [n, rows, columns] beside and below each other, with gaps between them."""
    n_missing = -len(filters) % columns
    gaps = ((0, n_missing), (1, 1), (1, 1))
    padded = np.pad(filters, gaps, constant_values=np.nan)
    n, height, width = padded.shape
    tiles = padded.reshape(n // columns, columns, height, width).transpose(0, 2, 1, 3)
    return tiles.reshape(n // columns * height, columns * width)


def _draw_random(row: Any, result: dict[str, Any]) -> None:
    for method in ("sparse_dropout", "binary_dropout"):
        curve = result[method]["curve"]
        epochs = [r["epoch"] for r in curve]
        accuracy = [r["train_accuracy_percent"] for r in curve]
        row[0].plot(epochs, accuracy, label=method.replace("_", " "))
    row[0].set(title="random labels: training accuracy", xlabel="epoch", ylabel="%")
    row[0].legend()
    curve = result["sparse_dropout"]["curve"]
    for i, name in enumerate(("first", "second", "third")):
        share = [r["sparsity_percent"][i] for r in curve]
        row[1].plot([r["epoch"] for r in curve], share, label=f"{name} layer")
    row[1].set(title="pruned weights", xlabel="epoch", ylabel="%")
    row[1].legend()
    row[2].set_axis_off()
