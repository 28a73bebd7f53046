"""Measure what is usual for a motion model's inputs, on the recordings of its fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bayes_vio.conventions import ANGULAR_RATE, LINEAR, NS_PER_S
from bayes_vio.data.blind_view import StillCells, unseen_share
from bayes_vio.data.dataset import MotionDataset, PreparedRecording
from bayes_vio.data.frames import to_unit
from bayes_vio.data.lens_specks import LensSpecks
from bayes_vio.models.agreement import (
    Estimate,
    GyroWindow,
    SensorAgreement,
    camera_rotation,
)
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.reliability import (
    DISAGREEMENTS,
    PICTURE_STATISTICS,
    Reliability,
    fit_picture,
    picture_statistics,
)
from bayes_vio.models.street import fit_street, quantile_of_drives
from bayes_vio.training.augmentation import AugmentationSettings
from bayes_vio.training.street import means_of

Array = NDArray[np.float64]
# By pair of images: the rotation [3] and its noise [3, 3] that the camera alone tells.
Seen = Mapping[int, tuple[Array, Array]]

_PICTURES, _GAINS_SEED = 200, 0  # of each recording, evenly spread
_FRAMES = 600  # of each recording, in a row
_BATCH = 64
_USUAL_STILL = 0.95  # of the time drives have fewer still cells than what counts as usual
# Of camera and gyro: the estimator's memory, and how often it asks; comparisons of each recording.
_MEMORY_S, _ASKED_EVERY_S, _COMPARISONS = 10.0, 0.5, 240
_FALSE_ALARMS = 0.05  # of the frames of a drive that was left out
# What no recording is better than: rad/s, scale, s. Few frames may show less by chance, and four
# Gaussian errors lie within 2.5 deviations in 95 % of all cases.
_LEAST_STD, _LEAST_BOUND = np.array([5e-4, 5e-4, 5e-4, 0.05, 2e-3]), 2.5
_LEAST_CHANGE_STD = 0.03  # as of drives of a single kind
_CHI_SQUARE_MEDIAN = 0.4549  # of one degree of freedom
# Errors that are put in, to see which share of each shows.
_PUT_IN_BIAS_RAD_S, _PUT_IN_OFFSET_S = 0.005, 0.02
_LEAST_RESPONSE = 0.4


def measure_reliability(
    model: MotionModel,
    train: Sequence[PreparedRecording],
    validation: Sequence[PreparedRecording],
    gray_gain_std: float = AugmentationSettings.gray_gain_std,
) -> Reliability | None:
    """Return what is usual for the inputs, None where no validation recording has an IMU.

    gray_gain_std: of the pictures' brightness (logarithms) that training was shown.
    """
    if not any(map(_Sequence.of, validation)):
        return None
    sequences = [s for s in map(_Sequence.of, (*train, *validation)) if s is not None]
    shown = np.concatenate([_pictures(r, gray_gain_std) for r in train])
    mean, precision = fit_picture(shown, np.concatenate([_pictures(r) for r in validation]))
    # Training drives are new streets, too, as far as nothing was fitted to what is measured.
    street = fit_street([means_of(model, r) for r in (*train, *validation)])
    seen = [sequence.camera(model) for sequence in sequences]
    vibration_std = _vibration_std(sequences, seen)
    std, response, bound = _disagreement(sequences, seen, vibration_std)
    return Reliability(
        picture_mean=tuple(mean.tolist()),
        picture_precision=tuple(map(tuple, precision.tolist())),
        still_share=quantile_of_drives([_still(r) for r in (*train, *validation)], _USUAL_STILL),
        unseen_share=max(unseen_share(r.frames.view_valid) for r in train),
        disagreement_std=tuple(std.tolist()),
        disagreement_response=tuple(response.tolist()),
        disagreement_bound=bound,
        vibration_std=tuple(vibration_std.tolist()),
        rotation_lever_m=tuple(map(tuple, _rotation_lever_m(model, sequences).tolist())),
        least_change=usual_least_change([_least_changes(r) for r in (*train, *validation)]),
        street_mean=None if street is None else tuple(street[0].tolist()),
        street_precision=None if street is None else tuple(map(tuple, street[1].tolist())),
    )


def _pictures(recording: PreparedRecording, gain_std: float = 0.0) -> Array:
    """Return picture statistics [n, 4] of images spread over a recording, darker or brighter by
    random gains as those of training."""
    n = len(recording.frame_stamp_ns)
    rows = np.unique(np.linspace(0, n - 1, min(n, _PICTURES)).astype(np.int64))
    valid, rng = recording.frames.view_valid, np.random.default_rng(_GAINS_SEED)
    parts = []
    for part in np.array_split(rows, -(-len(rows) // _BATCH)):
        gain = np.exp(gain_std * rng.normal(size=(len(part), 1, 1)))
        gray = np.minimum(gain * to_unit(recording.frames.gray(part)), 1.0)
        parts.append(picture_statistics(gray, valid))
    return np.concatenate([*parts, np.zeros((0, PICTURE_STATISTICS))])


def _still(recording: PreparedRecording) -> Array:
    """Return the shares [n] of still cells along the first images of a recording."""
    cells = StillCells(recording.frames.view_valid)
    shares = []
    for earlier, later in pairwise(_first_levels(recording)):
        cells.add(earlier, later)
        shares.append(cells.share)
    return np.array(shares)


def _least_changes(recording: PreparedRecording) -> Array:
    """Return the least changes [n] of the view's spots along the first images of a recording."""
    specks = LensSpecks(recording.frames.view_valid)
    dt_s, told = np.diff(recording.frame_stamp_ns) / NS_PER_S, []
    for (earlier, later), elapsed_s in zip(pairwise(_first_levels(recording)), dt_s, strict=False):
        specks.add(earlier, later, float(elapsed_s))
        told.append(specks.least_change)
    return np.array([least for least in told if least is not None])


def _first_levels(recording: PreparedRecording) -> NDArray[np.uint8]:
    return recording.frames.gray(np.arange(min(len(recording.frame_stamp_ns), _FRAMES)))


def usual_least_change(drives: Sequence[Array]) -> tuple[float, ...] | None:
    """Return mean and standard deviation of least changes [n] of drives, None without any.

    Of every drive as many quantiles, however long it is.
    """
    levels = np.linspace(0, 1, _COMPARISONS)
    told = [np.quantile(drive, levels) for drive in drives if len(drive)]
    if not told:
        return None
    return float(np.mean(told)), max(float(np.std(told)), _LEAST_CHANGE_STD)


@dataclass(frozen=True)
class _Sequence:
    """A recording's first intervals with both sensors, of which the estimator would ask.

    rows [n] of its dataset of stride 1, and the pairs [n] of its frame table.
    """

    recording: PreparedRecording
    rows: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @staticmethod
    def of(recording: PreparedRecording) -> _Sequence | None:
        samples = recording.samples.where(recording.samples.stride == 1)
        rows = np.flatnonzero(samples.imu_valid.min(1) > 0)
        # The first interval of every half second.
        _, first = np.unique(np.cumsum(samples.dt_s[rows]) // _ASKED_EVERY_S, return_index=True)
        rows = rows[first[:_COMPARISONS]]
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

    def moved_by_bias(self, model: MotionModel) -> Array:
        """Return translations [n, 3, 3] (m per rad) that a gyro's bias about each axis adds."""
        dataset, device = MotionDataset([self.recording], (1,)), model.noise_scale.device
        moved: list[Array] = []
        for rows in np.array_split(self.rows, -(-len(self.rows) // _BATCH)):
            x = dataset.batch(rows)[0].map(lambda t: t.to(device))
            biases = _PUT_IN_BIAS_RAD_S * torch.eye(6, device=device)[ANGULAR_RATE]
            with torch.no_grad():
                told = torch.stack([model(replace(x, imu=x.imu + b))[0] for b in biases], -1)
                change = (told - model(x)[0][..., None])[:, LINEAR]
            turned = _PUT_IN_BIAS_RAD_S * x.dt[:, None, None]
            moved.append((change / turned).double().cpu().numpy())
        return np.concatenate(moved)

    def camera(self, model: MotionModel) -> Seen:
        """Return by pair the rotation [3] and its noise [3, 3] that the camera alone tells."""
        dataset, device = MotionDataset([self.recording], (1,)), model.noise_scale.device
        told: list[tuple[Array, Array]] = []
        for rows in np.array_split(self.rows, -(-len(self.rows) // _BATCH)):
            x = dataset.batch(rows)[0].map(lambda t: t.to(device))
            told += zip(*camera_rotation(model, x), strict=True)
        return dict(zip(self.pairs.tolist(), told, strict=True))


def _vibration_std(sequences: Sequence[_Sequence], seen: Sequence[Seen]) -> Array:
    """Return what rotations [3] (rad) differ by beyond theta and the camera's own noise."""
    left, camera_var = [], []
    for sequence, told in zip(sequences, seen, strict=True):
        windows = sequence.windows()
        for pair, known in _followed(told, windows, 0.0).items():
            (rotation, cov), gyro = told[pair], windows[pair]
            left.append(rotation - gyro.rotation - gyro.design @ known.theta)
            camera_var.append(cov.diagonal())
    beyond = _typical(np.array(left)) ** 2 - np.median(camera_var, axis=0)
    return np.sqrt(np.maximum(beyond, 0.0))


def _disagreement(
    sequences: Sequence[_Sequence], seen: Sequence[Seen], vibration_std: Array
) -> tuple[Array, Array, float]:
    """Return what sensors usually seem to disagree by [5], the responses [5], and the bound."""
    usual, biased, late = [], [], []
    for sequence, told in zip(sequences, seen, strict=True):
        windows = sequence.windows()
        turned = {k: w.with_bias(_PUT_IN_BIAS_RAD_S) for k, w in windows.items()}
        usual.append(_followed(told, windows, vibration_std))
        biased.append(_followed(told, turned, vibration_std))
        late.append(_followed(told, sequence.windows(_PUT_IN_OFFSET_S), vibration_std))
    response = np.ones(DISAGREEMENTS)
    response[:3] = -_mean_change(usual, biased)[:3] / _PUT_IN_BIAS_RAD_S
    response[4] = abs(_mean_change(usual, late)[4]) / _PUT_IN_OFFSET_S
    std, bound = usual_disagreement([list(told.values()) for told in usual])
    return std, np.clip(response, _LEAST_RESPONSE, 1.0), bound


def _rotation_lever_m(model: MotionModel, sequences: Sequence[_Sequence]) -> Array:
    """Return how far [3, 3] (m per rad) an error of the gyro moves the translation.

    Along each axis (rows), by an error about each (columns) that is put in; of a typical interval,
    since where the view shows little the noise is larger than anything a bias could move.
    """
    moved = np.concatenate([sequence.moved_by_bias(model) for sequence in sequences])
    return np.median(np.abs(moved), axis=0)


def usual_disagreement(drives: Sequence[Sequence[Estimate]]) -> tuple[Array, float]:
    """Return the deviations [5] of drives without an error, and how many of them are usual.

    Deviations are those of a typical drive, without what its own uncertainty explains: E-R2 adds
    that to them. For the bound each drive is held against those of the
    others, so that a further one of their kind is beyond it in a twentieth of its frames.
    """
    squared = [_unexplained(drive) for drive in drives]

    def deviations_of(chosen: list[Array]) -> Array:
        return np.maximum(np.sqrt(np.median(chosen, axis=0)), _LEAST_STD)

    beyond = [
        _deviations(drive, deviations_of(squared[:k] + squared[k + 1 :] or squared))
        for k, drive in enumerate(drives)
    ]
    return deviations_of(squared), max(quantile_of_drives(beyond, 1 - _FALSE_ALARMS), _LEAST_BOUND)


def _unexplained(drive: Sequence[Estimate]) -> Array:
    """Return the variances [5] of what a drive's sensors disagree by beyond their uncertainty."""
    told = _typical(np.array([e.theta for e in drive])) ** 2
    return np.maximum(told - np.median([e.var for e in drive], axis=0), 0.0)


def _typical(values: Array) -> Array:
    """Return the standard deviations [...] about zero of values [n, ...], tails left out."""
    return np.sqrt(np.median(values**2, axis=0) / _CHI_SQUARE_MEDIAN)


def _deviations(drive: Sequence[Estimate], std: Array) -> Array:
    return np.array([estimate.deviations(std) for estimate in drive])


def _followed(
    seen: Seen, windows: Mapping[int, GyroWindow], vibration_std: ArrayLike
) -> dict[int, Estimate]:
    """Return what is known of the errors after each pair that both tell of."""
    agreement, found = SensorAgreement(_MEMORY_S, vibration_std), {}
    for pair, (rotation, cov) in seen.items():
        if pair in windows:
            agreement.add(rotation, cov, windows[pair], _ASKED_EVERY_S)
            found[pair] = agreement.estimate
    return found


def _mean_change(
    before: Sequence[Mapping[int, Estimate]], after: Sequence[Mapping[int, Estimate]]
) -> Array:
    """Return by how much theta [5] has changed over the latter halves of sequences."""
    changes = []
    for a, b in zip(before, after, strict=True):
        common = sorted(a.keys() & b.keys())
        changes += [b[pair].theta - a[pair].theta for pair in common[len(common) // 2 :]]
    return np.mean(changes, axis=0)
