"""Pairs of consecutive images with their IMU windows, and the same pairs spoiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.recording import PreparedRecording
from bayes_vio.regime.classes import IMAGE_CLASSES, ImageRegime
from bayes_vio.regime.degradations import Degradation, draw_degradation, noisy
from bayes_vio.regime.features import image_features

# A spoiled image's share of predecessors that are spoiled alike; the others are as they were.
_LASTING = 0.6
# A nominal image's share of predecessors that are spoiled: an image behind a bad one.
_RECOVERING = 0.15
# Shares of images that get more noise (gray levels on the grid), another exposure, or no IMU.
_NOISE_STD, _EXPOSURE = (0.0, 1.0), (0.85, 1.15)
_WITHOUT_IMU = 0.1
# Faster than this a car's images differ by more than noise, even if they were stored lossily.
_MOVING_M_S = 1.0
_REPEATED_NOISE_STD = 0.25
_SPOILED = (ImageRegime.BLURRED, ImageRegime.DARK, ImageRegime.OCCLUDED)


@dataclass(frozen=True)
class FramePairs:
    """n pairs of images: gray levels [n, 40, 128] of both, imu [n, 20, 6], imu_valid [n, 20] of
    the interval, and the car's speed [n] (m/s)."""

    earlier: NDArray[np.uint8]
    later: NDArray[np.uint8]
    imu: NDArray[np.float32]
    imu_valid: NDArray[np.float32]
    speed_m_s: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.later)


def read_pairs(recordings: Sequence[PreparedRecording], count: int) -> FramePairs:
    """Return at most ``count`` pairs of consecutive images, spread evenly over the recordings."""
    rows = [np.flatnonzero(r.samples.stride == 1) for r in recordings]
    share = min(1.0, count / max(1, sum(map(len, rows))))
    parts = []
    for recording, own in zip(recordings, rows, strict=True):
        chosen = own[np.linspace(0, len(own) - 1, int(share * len(own))).astype(np.int64)]
        parts.append(_read(recording, chosen))
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(FramePairs)
    }
    return FramePairs(**columns)


def _read(recording: PreparedRecording, rows: NDArray[np.int64]) -> FramePairs:
    samples, frames = recording.samples, recording.frames
    earlier, later = frames.pairs[samples.pair[rows]].T
    distance_m = np.linalg.norm(samples.target[rows, :3], axis=1)
    return FramePairs(
        earlier=frames.gray(earlier),
        later=frames.gray(later),
        imu=samples.imu[rows],
        imu_valid=samples.imu_valid[rows],
        speed_m_s=distance_m / samples.dt_s[rows].astype(np.float32),
    )


def labelled_features(
    pairs: FramePairs, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [5 n, features] of every pair in each regime, and their class indices."""
    parts, labels = [], []
    for index, regime in enumerate(IMAGE_CLASSES):
        spoiled = [spoil_pair(pairs, i, regime, rng) for i in range(len(pairs))]
        earlier, later = (np.stack(column) for column in zip(*spoiled, strict=True))
        absent = rng.random(len(pairs)) < _WITHOUT_IMU
        imu, valid = pairs.imu.copy(), pairs.imu_valid.copy()
        imu[absent], valid[absent] = 0.0, 0.0
        parts.append(image_features(earlier, later, imu, valid))
        labels.append(np.full(len(pairs), index, np.int64))
    return np.concatenate(parts), np.concatenate(labels)


def spoil_pair(
    pairs: FramePairs, row: int, regime: ImageRegime, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the levels [40, 128] of one pair, the later image in the regime asked for."""
    gain, std = rng.uniform(*_EXPOSURE), rng.uniform(*_NOISE_STD) * (rng.random() < 0.5)
    earlier, later = (
        noisy(_exposed(image[row], gain), std, rng) for image in (pairs.earlier, pairs.later)
    )
    if regime is ImageRegime.FROZEN:
        lossy = pairs.speed_m_s[row] > _MOVING_M_S and rng.random() < 0.25
        return earlier, noisy(earlier, _REPEATED_NOISE_STD, rng) if lossy else earlier
    if regime is ImageRegime.NOMINAL:
        if rng.random() < _RECOVERING:
            earlier = _any_degradation(rng)(earlier)
        return earlier, later
    degradation = draw_degradation(regime, rng)
    if rng.random() < _LASTING:
        earlier = degradation(earlier)
    # Some cameras' noise comes after what spoils their light: on top of it.
    return noisy(earlier, std, rng), noisy(degradation(later), std, rng)


def _any_degradation(rng: np.random.Generator) -> Degradation:
    return draw_degradation(_SPOILED[int(rng.integers(len(_SPOILED)))], rng)


def _exposed(levels: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    return np.clip(np.rint(gain * levels), 0, 255).astype(np.uint8)
