"""Estimate the curvature of every layer from one or two readings of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bayes_vio.curvature.diagonal import DiagonalSums
from bayes_vio.curvature.eigenbasis import (
    CorrectedEigenvalueSums,
    Eigenbasis,
    copy_bases,
    eigenbasis,
    room_for,
)
from bayes_vio.curvature.full import JointSums
from bayes_vio.curvature.kfac import FactorSums, KroneckerFactors, Sharing
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.passes import Pass, Tally, chunks


@dataclass(frozen=True)
class DiagonalisedCurvature:
    """A layer's Kronecker eigenbasis and the exact diagonal [d_out, d_in], a mean over data."""

    sharing: Sharing
    basis: Eigenbasis
    diagonal: Tensor


@dataclass(frozen=True)
class CorrectedCurvature:
    """A layer's Kronecker eigenbasis, the eigenvalues [r_g, r_a] corrected in it, and the exact
    diagonal [d_out, d_in]; means over data."""

    sharing: Sharing
    basis: Eigenbasis
    eigenvalues: Tensor
    diagonal: Tensor


def estimate_diagonals(data: Pass) -> tuple[dict[str, Tensor], Tally]:
    """Return every layer's exact diagonal; reads the data once."""
    sums = {name: DiagonalSums(layer) for name, layer in data.recorder.layers.items()}
    tally = accumulate(data, {name: [s] for name, s in sums.items()})
    return {name: s.mean(tally.n_data) for name, s in sums.items()}, tally


def estimate_factors(
    data: Pass,
) -> tuple[dict[str, KroneckerFactors], dict[str, Tensor], Tally]:
    """Return Kronecker factors, and the exact diagonals of norm layers; reads the data once."""
    sums, norms, tally = _read_factors(data)
    return {name: sums.pop(name).factors(tally.n_data) for name in list(sums)}, norms, tally


def estimate_diagonalised(
    data: Pass,
) -> tuple[dict[str, DiagonalisedCurvature], dict[str, Tensor], Tally]:
    """Return eigenbases and diagonals, and those of norm layers; reads the data once.

    Layer by layer: the sums of one are gone before the next one's factors are made.
    """
    sums, norms, tally = _read_factors(data)
    found: dict[str, DiagonalisedCurvature] = {}
    with data.workers.together():
        for i, name in enumerate(list(sums)):
            own = sums.pop(name)
            factors, diagonal = own.factors(tally.n_data), own.diagonal(tally.n_data)
            del own
            resolution, is_own = data.recorder.layers[name].resolution, data.workers.owns(i)
            basis = eigenbasis(factors, resolution) if is_own else room_for(factors)
            found[name] = DiagonalisedCurvature(factors.sharing, basis, diagonal)
    copy_bases((each.basis for each in found.values()), data.workers)
    return found, norms, tally


def estimate_corrected(
    data: Pass,
) -> tuple[dict[str, CorrectedCurvature], dict[str, Tensor], Tally]:
    """Return corrected eigenvalues with their bases, and norm layers' diagonals.

    Reads the data twice; raises ValueError where the second reading gave other data.
    """
    found, norms, first = estimate_diagonalised(data)
    layers = data.recorder.layers
    sums = {n: CorrectedEigenvalueSums(layers[n], each.basis) for n, each in found.items()}
    second = accumulate(data, {name: [s] for name, s in sums.items()})
    _check_same_data(first, second)
    corrected = {
        name: CorrectedCurvature(
            each.sharing, each.basis, sums[name].mean(second.n_data), each.diagonal
        )
        for name, each in found.items()
    }
    return corrected, norms, second


def estimate_joint(data: Pass) -> tuple[Tensor, Tally]:
    """Return the dense curvature [p, p] of all layers stacked; reads the data once."""
    layers = data.recorder.layers
    joint, tally = JointSums(list(layers.values())), Tally()
    with data.workers.together():
        for _, recording, gradients in data.columns(tally):
            joint.add(
                [
                    layer.jacobian(
                        layer.features(recording.inputs[name]), layer.gradients(gradients[name])
                    )
                    for name, layer in layers.items()
                ]
            )
    tally = data.total(tally, joint.totals())
    return joint.mean(tally.n_data), tally


class LayerSums(Protocol):
    """Anything that adds up over the data of one layer."""

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:
        """Add features [batch, positions, d_in], gradients [batch, columns, positions, d_out]."""

    def totals(self) -> list[Tensor]:
        """Return every tensor that is a sum over data."""
        ...


def accumulate(data: Pass, sums: Mapping[str, Sequence[LayerSums]]) -> Tally:
    """Feed one reading of the data to the sums of every layer, by layer name."""
    tally = Tally()
    with data.workers.together():
        for first_columns, recording, gradients in data.columns(tally):
            for name, layer_sums in sums.items():
                layer = data.recorder.layers[name]
                for features, part in chunks(layer, recording.inputs[name], gradients[name]):
                    for layer_sum in layer_sums:
                        layer_sum.add(features, part, first_columns)
    every = [layer_sum for layer_sums in sums.values() for layer_sum in layer_sums]
    return data.total(tally, (total for one in every for total in one.totals()))


def _read_factors(data: Pass) -> tuple[dict[str, FactorSums], dict[str, Tensor], Tally]:
    """Return the sums of Kronecker layers, and the exact diagonals of the others."""
    kronecker, norms = _kinds(data)
    factors = {name: FactorSums(layer) for name, layer in kronecker.items()}
    diagonals = {name: DiagonalSums(layer) for name, layer in norms.items()}
    tally = accumulate(data, {name: [s] for name, s in (factors | diagonals).items()})
    return factors, {name: s.mean(tally.n_data) for name, s in diagonals.items()}, tally


def _kinds(data: Pass) -> tuple[dict[str, Layer], dict[str, Layer]]:
    layers = data.recorder.layers
    kronecker = {name: layer for name, layer in layers.items() if layer.is_kronecker}
    return kronecker, {name: layer for name, layer in layers.items() if not layer.is_kronecker}


def _check_same_data(first: Tally, second: Tally) -> None:
    if first.n_data != second.n_data:
        raise ValueError(
            f"the loader gave {first.n_data} data, then {second.n_data}: it must be re-iterable"
        )
    pairs = zip(first.checksum, second.checksum, strict=True)
    scale = math.sqrt(first.checksum[1] * first.n_data) + first.checksum[1]
    if any(abs(a - b) > 1e-9 * scale for a, b in pairs):
        raise ValueError("the loader gave other data when read again: switch augmentation off")
