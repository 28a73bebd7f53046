"""Measure what the street of a recording is like to a motion model (E-R3)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, LINEAR
from bayes_vio.data.dataset import MotionDataset, PreparedRecording
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.reliability import picture_statistics
from bayes_vio.models.street import (
    STREET_STATISTICS,
    GyroRoughness,
    StreetMeans,
    means_along,
)

Array = NDArray[np.float64]

_INTERVALS = 600  # of each recording, in a row
_MEMORY_S = 5.0  # the estimator's
_BATCH = 64
_STANDING_M_S = 0.3  # slower: the estimator asks no model


def means_of(model: MotionModel, recording: PreparedRecording) -> StreetMeans:
    """Return s_T and T along a recording's first intervals with both sensors that move."""
    samples = recording.samples.where(recording.samples.stride == 1)
    speed_m_s = np.linalg.norm(samples.target[:, LINEAR], axis=1) / samples.dt_s
    asked = (samples.imu_valid.min(1) > 0) & (speed_m_s > _STANDING_M_S)
    rows = np.flatnonzero(asked)[:_INTERVALS]
    if not len(rows):
        return np.zeros((0, STREET_STATISTICS)), np.zeros(0)
    frames = recording.frames.pairs[samples.pair[rows]]
    pictures, rough = _told(model, recording, rows, frames)
    known = np.isfinite(rough).all(1)
    statistics = np.concatenate([pictures, rough], axis=1)[known]
    return means_along(statistics, samples.dt_s[rows][known], _MEMORY_S)


def _told(
    model: MotionModel,
    recording: PreparedRecording,
    rows: NDArray[np.int64],
    frames: NDArray[np.integer],
) -> tuple[Array, Array]:
    """Return the pictures' statistics [n, 4] and the gyro's roughness [n, 2] of samples.

    rows [n]: of stride 1, in order; frames [n, 2]: the earlier and the later image of each. The
    roughness is NaN where no three intervals follow each other.
    """
    dataset, device = MotionDataset([recording], (1,)), model.noise_scale.device
    pictures, rough, roughness, last = [], [], GyroRoughness(), -1
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _BATCH)):
        x = dataset.batch(rows[part])[0]
        pictures.append(picture_statistics(x.gray.numpy(), recording.frames.view_valid))
        with torch.no_grad():
            mean, cholesky = (t.double().cpu() for t in model(x.map(lambda t: t.to(device))))
        rotation = x.dt[:, None] * x.imu[..., ANGULAR_RATE].mean(1)
        noise_var = cholesky.square().sum(-1)
        for k, (earlier, later) in enumerate(frames[part].tolist()):
            if earlier != last:
                roughness.reset()
            found = roughness.add(*(t[k].double().numpy() for t in (mean, rotation, noise_var)))
            rough.append(np.full(2, np.nan) if found is None else found)
            last = later
    return np.concatenate(pictures), np.array(rough)
