"""What a stored posterior must be before anything is computed from it: shapes, signs, sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayes_vio.posterior.report import CoveredLayer, PosteriorReport

# The algebra of INF holds matrices [L, L] in float64, that of "full" [p, p]: 2 GiB here.
_LARGEST_MATRIX_ROWS = 2**14


def check_stored(
    report: PosteriorReport,
    stored: Mapping[str, Tensor],
    prior_precision: Mapping[str, float],
    shapes: Mapping[str, tuple[int, int]],
) -> None:
    """Raise ValueError where a posterior's numbers cannot be one's of a net with these layers.

    stored: tensors by ``layer/field``; shapes: (d_out, d_in) of the layers, of the model itself.
    """
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} is not finite")
    _check_counts(report)
    if set(prior_precision) != set(shapes):
        raise ValueError("prior_precision is not of the covered layers")
    for name, value in prior_precision.items():
        _check_positive(f"prior_precision of {name!r}", value)
    for layer in report.covered:
        if (layer.d_out, layer.d_in) != shapes[layer.name]:
            raise ValueError(f"{layer.name} has another shape in the model")
        if layer.block in _EXPECTED:
            _check_layer(layer, stored)
        _check_selection(layer, stored.get(f"{layer.name}/index"))
    if "matrix" in stored:  # that of a structure which joins layers
        _check_rows("matrix", len(stored["matrix"]))
        _check_shape("matrix", stored["matrix"], 2 * (len(stored["matrix"]),))


def check_noise_cov(noise_cov: Tensor | None, n_outputs: int) -> None:
    """Raise ValueError where a noise covariance is given that is none."""
    if noise_cov is None:
        return
    _check_shape("noise_cov", noise_cov, (n_outputs, n_outputs))
    _, failed = torch.linalg.cholesky_ex(noise_cov.double())
    if int(failed) or not torch.allclose(noise_cov, noise_cov.mT):
        raise ValueError("noise_cov is not symmetric positive definite")


def _check_counts(report: PosteriorReport) -> None:
    _check_positive("n_data", report.n_data)
    if not 0 < report.n_outputs <= _LARGEST_MATRIX_ROWS:
        raise ValueError(f"n_outputs is {report.n_outputs}")
    if len({layer.name for layer in report.covered}) != len(report.covered) or not report.covered:
        raise ValueError("its covered layers are none, or not distinct")


def _check_layer(layer: CoveredLayer, stored: Mapping[str, Tensor]) -> None:
    prefix = f"{layer.name}/"
    own = {k.removeprefix(prefix): t for k, t in stored.items() if k.startswith(prefix)}
    expected, spectra = _EXPECTED[layer.block](layer, own)
    if set(own) != set(expected):
        raise ValueError(f"{layer.name} has fields {sorted(own)}, not {sorted(expected)}")
    for field, shape in expected.items():
        _check_shape(prefix + field, own[field], shape)
    for field in spectra:
        if bool((own[field] < 0).any()):
            raise ValueError(f"{prefix}{field} has negative values")


def _check_selection(layer: CoveredLayer, index: Tensor | None) -> None:
    """Check the flat indices of a subnetwork's weights, where there are any."""
    if index is None or not index.numel():
        return
    if index.is_floating_point() or index.min() < 0 or index.max() >= layer.d_out * layer.d_in:
        raise ValueError(f"{layer.name}/index holds what is no index of the layer's weights")


def _information(layer: CoveredLayer, own: Mapping[str, Tensor]) -> Any:
    rank_g, rank_a = own["U_g"].shape[-1], own["U_a"].shape[-1]
    _check_rows(f"the low rank of {layer.name}", rank_g * rank_a)
    shapes = {
        "diagonal": (layer.d_out, layer.d_in),
        "U_g": (layer.d_out, rank_g),
        "U_a": (layer.d_in, rank_a),
        "eigenvalues": (rank_g, rank_a),
    }
    return shapes, ("diagonal", "eigenvalues")


def _kfac(layer: CoveredLayer, _: Mapping[str, Tensor]) -> Any:
    eigenvalues = {"output_eigenvalues": (layer.d_out,), "input_eigenvalues": (layer.d_in,)}
    return _rotation(layer) | eigenvalues, tuple(eigenvalues)


def _efb(layer: CoveredLayer, _: Mapping[str, Tensor]) -> Any:
    return _rotation(layer) | {"eigenvalues": (layer.d_out, layer.d_in)}, ("eigenvalues",)


def _diagonal(layer: CoveredLayer, _: Mapping[str, Tensor]) -> Any:
    return {"diagonal": (layer.d_out, layer.d_in)}, ("diagonal",)


def _rotation(layer: CoveredLayer) -> dict[str, tuple[int, ...]]:
    return {"Q_g": (layer.d_out, layer.d_out), "Q_a": (layer.d_in, layer.d_in)}


def _all_weights(_: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(d_out * d_in for d_out, d_in in shapes.values())


def _selected_weights(stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return how many weights are selected; the indices must be a layer's own, in order."""
    total = 0
    for name, (d_out, d_in) in shapes.items():
        index = stored[f"{name}/index"]
        _check_shape(f"{name}/index", index, (index.numel(),))
        inside = index.numel() and int(index[0]) >= 0 and int(index[-1]) < d_out * d_in
        if index.dtype != torch.int64 or not inside or bool((index.diff() <= 0).any()):
            raise ValueError(f"{name}/index does not select weights of the layer")
        total += index.numel()
    return total


def _directions(stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return how many directions there are."""
    n = len(stored["matrix"])
    for name, shape in shapes.items():
        _check_shape(f"{name}/directions", stored[f"{name}/directions"], (n, *shape))
    return n


# By structure: the rows of its one matrix.
_JOINT = {"full": _all_weights, "subnetwork": _selected_weights, "ella": _directions}

# By block: the expected shapes by field, and the fields that hold no negative number.
_EXPECTED = {
    "inf": _information,
    "diagonal": _diagonal,
    "efb": _efb,
    "kfac": _kfac,
    "kflr": _kfac,
    "kfra": _kfac,
}


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")


def _check_rows(name: str, rows: int) -> None:
    if rows > _LARGEST_MATRIX_ROWS:
        raise ValueError(f"{name} has {rows} rows, more than the {_LARGEST_MATRIX_ROWS} supported")


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, it is {value!r}")
