"""Measure the noise under circumstances that a car has and training has not.

The noise is calibrated on intervals as they are: both sensors, and the gyro with its bias. But the
estimator takes the bias out once the car has stood, and then rotations err less; where one sensor
is alone, errors are of another size; and of a car that stands it is known what it may yet move by.
So recordings are walked through as the estimator does, bias and standstill included, and for each
circumstance the noise is scaled anew (E-C4), by the same rule as for all: by recordings unseen, or
by both together where those ask for more noise. What few recordings show, moves little. Where a
sensor is alone, the epistemic part is, too (E-C5): the posterior's data always had both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.conventions import ANGULAR, ANGULAR_RATE, LINEAR
from bayes_vio.data.dataset import MotionDataset, PreparedRecording
from bayes_vio.data.samples import MotionInput
from bayes_vio.estimator.standstill import FlowSum, GyroBias, StandstillSettings, stands
from bayes_vio.models.noise import Circumstances
from bayes_vio.posterior import Posterior
from bayes_vio.training.augmentation import without_camera, without_imu
from bayes_vio.training.calibration import (
    Batches,
    Residuals,
    residuals_of,
    widest_epistemic_scale,
    widest_noise_scale,
)

Array = NDArray[np.float64]
Scale = tuple[float, ...]
_ONES: Scale = (1.0,) * 6

_FRAMES = 900  # of each recording, in a row: a bias is known from the first standstill on
_BATCH = 64
# Errors last, so that one frame in so many tells something new; and as many independent ones as
# the prior deviation of standing counts for.
_FRAMES_PER_INDEPENDENT_ERROR, _PRIOR_ERRORS = 20, 10


@dataclass(frozen=True)
class Walk:
    """Intervals of a recording as the estimator meets them, in order of time.

    rows [n] of its dataset of stride 1, dt_s [n], bias [n, 3] that is taken out of the gyro
    (rad/s, base axes), is_known [n], whether there is one, and standing [n].
    """

    dataset: MotionDataset
    rows: NDArray[np.int64]
    dt_s: Array
    bias: Array
    is_known: NDArray[np.bool_]
    standing: NDArray[np.bool_]

    def inputs(self, at: NDArray[np.int64]) -> tuple[MotionInput, Tensor]:
        """Return inputs, their gyro without its bias, and targets [m, 6] of some intervals."""
        x, target = self.dataset.batch(self.rows[at])
        imu = x.imu.clone()
        imu[..., ANGULAR_RATE] -= torch.from_numpy(self.bias[at]).to(imu)[:, None]
        return replace(x, imu=imu), target


def walked(recording: PreparedRecording) -> Walk | None:
    """Return a recording's first intervals with a whole IMU window; None where it has none."""
    samples = recording.samples.where(recording.samples.stride == 1)
    rows = np.flatnonzero(samples.imu_valid.min(1) > 0)[:_FRAMES]
    if not len(rows):
        return None
    settings = StandstillSettings()
    slow = _was_slow(samples.target[rows], samples.dt_s[rows], settings)
    flows, gyro = FlowSum(settings.flow_s), GyroBias(settings)
    bias, known, standing = [], [], []
    for part in np.array_split(rows, -(-len(rows) // _BATCH)):
        for row, flow in zip(part, recording.frames.flow(samples.pair[part]), strict=True):
            imu, dt_s = samples.imu[row], float(samples.dt_s[row])
            seen = flows.add(flow, dt_s), imu, samples.imu_valid[row], settings
            gyro.observe(stands(*seen), imu, dt_s)
            bias.append(gyro.rate)
            known.append(gyro.std is not None)
            standing.append(stands(*seen, settings.unmoved_flow_px))
    return Walk(
        MotionDataset([recording], (1,)),
        rows,
        samples.dt_s[rows].astype(np.float64),
        np.array(bias),
        np.array(known),
        np.array(standing) & slow,
    )


def _was_slow(target: NDArray[np.float32], dt_s: Array, settings: StandstillSettings) -> Any:
    """Return whether the car was slow enough [n] before each interval to stand in it."""
    speed_m_s = np.linalg.norm(target[:, LINEAR], axis=1) / dt_s
    return np.concatenate([[0.0], speed_m_s[:-1]]) < settings.stopping_speed_m_s


def measure_circumstances(
    posterior: Posterior,
    train: Sequence[PreparedRecording],
    validation: Sequence[PreparedRecording],
    samples: int = 1000,
) -> Circumstances:
    """Return by what the covariance differs where a sensor is alone or the gyro's bias is known.

    samples: of training and of validation each, that a circumstance is judged by at most.
    """
    seen, unseen = (
        [walk for walk in map(walked, part) if walk is not None] for part in (train, validation)
    )

    def errors(of: _Circumstance) -> _Errors | None:
        parts = [list(_batches(walks, of, samples)) for walks in (unseen, seen)]
        return _Errors(*(residuals_of(posterior, part) for part in parts)) if all(parts) else None

    imu_alone = errors(_Circumstance(bias_known=False, camera_sees=False))
    imu_alone_bias_known = errors(_Circumstance(bias_known=True, camera_sees=False))
    camera_alone = errors(_Circumstance(bias_known=None, imu_tells=False))
    imu_alone_epistemic = _epistemic_scale(imu_alone, imu_alone_bias_known)
    camera_alone_epistemic = _epistemic_scale(camera_alone)
    return Circumstances(
        imu_alone_scale=_noise_scale(imu_alone, imu_alone_epistemic),
        bias_known_scale=_noise_scale(errors(_Circumstance(bias_known=True))),
        imu_alone_bias_known_scale=_noise_scale(imu_alone_bias_known, imu_alone_epistemic),
        camera_alone_scale=_noise_scale(camera_alone, camera_alone_epistemic),
        imu_alone_epistemic_scale=imu_alone_epistemic,
        camera_alone_epistemic_scale=camera_alone_epistemic,
        standing_std=standing_std([*unseen, *seen]),
    )


@dataclass(frozen=True)
class _Errors:
    """Errors under a circumstance, of drives unseen and of drives seen."""

    unseen: Residuals
    seen: Residuals


def _epistemic_scale(*errors: _Errors | None) -> Scale:
    """Return the factors of the epistemic deviations: where some errors show them too wide."""
    told = [widest_epistemic_scale(part.unseen, part.seen) for part in errors if part is not None]
    return tuple(torch.stack(told).amin(0).tolist()) if told else _ONES


def _noise_scale(errors: _Errors | None, epistemic: Scale = _ONES) -> Scale:
    """Return the factors of the noise's deviations beside those of the epistemic ones."""
    if errors is None:
        return _ONES
    factor = torch.tensor(epistemic, dtype=errors.unseen.error.dtype)
    parts = (part.with_epistemic_scale(factor) for part in (errors.unseen, errors.seen))
    return tuple(widest_noise_scale(*parts).tolist())


@dataclass(frozen=True)
class _Circumstance:
    """Which sensors tell, and whether the gyro's bias is known; None: as it may be."""

    bias_known: bool | None
    camera_sees: bool = True
    imu_tells: bool = True

    def holds(self, walk: Walk) -> NDArray[np.bool_]:
        """Return which intervals [n] of a walk can show it: those of driving."""
        driving = ~walk.standing
        return driving if self.bias_known is None else driving & (walk.is_known == self.bias_known)

    def inputs(self, x: MotionInput) -> MotionInput:
        """Return inputs of the sensors that tell."""
        every = torch.ones(len(x), dtype=torch.bool)
        seen = x if self.camera_sees else without_camera(x, every)
        return seen if self.imu_tells else without_imu(seen, every)


def _batches(walks: Sequence[Walk], of: _Circumstance, samples: int) -> Batches:
    """Yield intervals of driving, spread evenly over the walks."""
    every = [(walk, at) for walk in walks for at in np.flatnonzero(of.holds(walk))]
    kept = np.unique(np.linspace(0, len(every) - 1, min(len(every), samples)).astype(np.int64))
    for walk in walks:
        rows = np.array([every[k][1] for k in kept if every[k][0] is walk], np.int64)
        for part in np.array_split(rows, -(-len(rows) // _BATCH) or 1):
            if len(part):
                x, target = walk.inputs(part)
                yield of.inputs(x), target


def standing_std(walks: Sequence[Walk]) -> tuple[float, ...]:
    """Return the standard deviations [6] (m/s, rad/s) of the twist of a car that stands.

    Rotation is the gyro's, once its bias is known: its error is what is left of that. Beside what
    is measured counts what is known of cars, ``StandstillSettings``, as if it had been seen some
    times.
    """
    s = StandstillSettings()
    prior_var = np.repeat([s.unseen_speed_std_m_s, s.unseen_rate_std_rad_s], 3) ** 2
    errors = np.concatenate([np.zeros((0, 6)), *map(_standing_errors, walks)])
    independent = np.isfinite(errors).sum(0) / _FRAMES_PER_INDEPENDENT_ERROR
    total = np.nansum(errors**2, axis=0) / _FRAMES_PER_INDEPENDENT_ERROR
    var = (total + _PRIOR_ERRORS * prior_var) / (independent + _PRIOR_ERRORS)
    return tuple(np.sqrt(var).tolist())


def _standing_errors(walk: Walk) -> Array:
    """Return the twists' errors [m, 6] of the intervals in which a car is taken to stand.

    Of rotation NaN where the gyro's bias is not known.
    """
    at = np.flatnonzero(walk.standing)
    if not len(at):
        return np.zeros((0, 6))
    parts = [walk.inputs(part) for part in np.array_split(at, -(-len(at) // _BATCH))]
    target = torch.cat([target for _, target in parts]).double().numpy()
    gyro = torch.cat([x.imu[..., ANGULAR_RATE].mean(1) for x, _ in parts]).double().numpy()
    twist = target / walk.dt_s[at, None]
    twist[:, ANGULAR] -= gyro
    twist[~walk.is_known[at], ANGULAR] = np.nan
    return twist
