"""Measure what is usual for a motion model's inputs, on the recordings of its fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.blind_view import StillCells, unseen_share
from bayes_vio.data.dataset import MotionDataset, PreparedRecording
from bayes_vio.data.frames import to_unit
from bayes_vio.models.agreement import GyroWindow, SensorAgreement, camera_rotation
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.reliability import (
    DISAGREEMENTS,
    PICTURE_STATISTICS,
    Reliability,
    fit_picture,
    picture_statistics,
)

Array = NDArray[np.float64]

_PICTURES = 200  # of each recording, evenly spread
_FRAMES = 600  # of each validation recording, in a row
_BATCH = 64
_MEMORY_S = 10.0
_USUAL_STILL = 0.8  # share of validation with fewer still cells than counts as usual
# What no recording is better than: rad/s, scale, s. Few frames may show less by chance.
_LEAST_STD = np.array([5e-4, 5e-4, 5e-4, 0.05, 2e-3])
# Errors that are put in, to see which share of each shows.
_PUT_IN_BIAS_RAD_S, _PUT_IN_OFFSET_S = 0.005, 0.02
_LEAST_RESPONSE = 0.4


def measure_reliability(
    model: MotionModel,
    train: Sequence[PreparedRecording],
    validation: Sequence[PreparedRecording],
) -> Reliability | None:
    """Return what is usual for the inputs, None where no validation recording has an IMU."""
    sequences = [s for s in map(_Sequence.of, validation) if s is not None]
    if not sequences:
        return None
    pictures = [np.concatenate([_pictures(r) for r in part]) for part in (train, validation)]
    mean, precision = fit_picture(*pictures)
    std, response = _disagreement(model, sequences)
    return Reliability(
        picture_mean=tuple(mean.tolist()),
        picture_precision=tuple(map(tuple, precision.tolist())),
        still_share=float(
            np.quantile(np.concatenate([_still(r) for r in validation]), _USUAL_STILL)
        ),
        unseen_share=max(unseen_share(r.frames.view_valid) for r in train),
        disagreement_std=tuple(std.tolist()),
        disagreement_response=tuple(response.tolist()),
    )


def _pictures(recording: PreparedRecording) -> Array:
    """Return picture statistics [n, 4] of images spread over a recording."""
    n = len(recording.frame_stamp_ns)
    rows = np.unique(np.linspace(0, n - 1, min(n, _PICTURES)).astype(np.int64))
    valid = recording.frames.view_valid
    parts = [
        picture_statistics(to_unit(recording.frames.gray(part)), valid)
        for part in np.array_split(rows, -(-len(rows) // _BATCH))
    ]
    return np.concatenate([*parts, np.zeros((0, PICTURE_STATISTICS))])


def _still(recording: PreparedRecording) -> Array:
    """Return the shares [n] of still cells along the first images of a recording."""
    cells = StillCells(recording.frames.view_valid)
    levels = recording.frames.gray(np.arange(min(len(recording.frame_stamp_ns), _FRAMES)))
    shares = []
    for earlier, later in pairwise(levels):
        cells.add(earlier, later)
        shares.append(cells.share)
    return np.array(shares)


@dataclass(frozen=True)
class _Sequence:
    """A recording's first intervals, image by image, that have both sensors.

    rows [n] of its dataset of stride 1, and the pairs [n] of its frame table.
    """

    recording: PreparedRecording
    rows: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @staticmethod
    def of(recording: PreparedRecording) -> _Sequence | None:
        samples = recording.samples.where(recording.samples.stride == 1)
        rows = np.flatnonzero(samples.imu_valid.min(1) > 0)[:_FRAMES]
        return _Sequence(recording, rows, samples.pair[rows]) if len(rows) else None

    def windows(self, added_offset_s: float = 0.0) -> dict[int, GyroWindow]:
        """Return the gyro's windows by pair, cut as if the time offset were wrong by so much."""
        recording = self.recording
        if added_offset_s:
            recording = recording.with_time_offset(recording.time_offset_s + added_offset_s)
        samples = recording.samples.where(np.isin(recording.samples.pair, self.pairs))
        samples = samples.where(samples.imu_valid.min(1) > 0)
        return {
            int(pair): GyroWindow.of(imu, float(dt_s))
            for pair, imu, dt_s in zip(samples.pair, samples.imu, samples.dt_s, strict=True)
        }

    def camera(self, model: MotionModel) -> dict[int, tuple[Array, Array]]:
        """Return by pair the rotation [3] and its noise [3, 3] that the camera alone tells."""
        dataset, device = MotionDataset([self.recording], (1,)), model.noise_scale.device
        told: list[tuple[Array, Array]] = []
        for rows in np.array_split(self.rows, -(-len(self.rows) // _BATCH)):
            x = dataset.batch(rows)[0].map(lambda t: t.to(device))
            told += zip(*camera_rotation(model, x), strict=True)
        return dict(zip(self.pairs.tolist(), told, strict=True))


def _disagreement(model: MotionModel, sequences: Sequence[_Sequence]) -> tuple[Array, Array]:
    """Return the usual deviation [5] of what sensors seem to disagree by, and responses [5]."""
    usual, biased, late = [], [], []
    for sequence in sequences:
        seen, windows = sequence.camera(model), sequence.windows()
        turned = {k: w.with_bias(_PUT_IN_BIAS_RAD_S) for k, w in windows.items()}
        usual.append(_followed(seen, windows))
        biased.append(_followed(seen, turned))
        late.append(_followed(seen, sequence.windows(_PUT_IN_OFFSET_S)))
    theta = np.concatenate([np.stack(list(t.values())) for t in usual])
    std = np.maximum(np.sqrt(np.mean(theta**2, axis=0)), _LEAST_STD)
    response = np.ones(DISAGREEMENTS)
    response[:3] = -_mean_change(usual, biased)[:3] / _PUT_IN_BIAS_RAD_S
    response[4] = abs(_mean_change(usual, late)[4]) / _PUT_IN_OFFSET_S
    return std, np.clip(response, _LEAST_RESPONSE, 1.0)


def _followed(
    seen: Mapping[int, tuple[Array, Array]], windows: Mapping[int, GyroWindow]
) -> dict[int, Array]:
    """Return theta [5] after each pair that both tell of."""
    agreement, found = SensorAgreement(_MEMORY_S), {}
    for pair, (rotation, cov) in seen.items():
        if pair in windows:
            agreement.add(rotation, cov, windows[pair])
            found[pair] = agreement.theta
    return found


def _mean_change(
    before: Sequence[Mapping[int, Array]], after: Sequence[Mapping[int, Array]]
) -> Array:
    """Return by how much theta [5] has changed over the latter halves of sequences."""
    changes = []
    for a, b in zip(before, after, strict=True):
        common = sorted(a.keys() & b.keys())
        changes += [b[pair] - a[pair] for pair in common[len(common) // 2 :]]
    return np.mean(changes, axis=0)
