"""Relate clocks: reference poses at any stamp, and the camera-IMU time offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S, ROT_Z
from bayes_vio.data.samples import ImuStream, ReferenceStream, TimeOffset
from bayes_vio.data.windows import SampledSignal
from bayes_vio.geometry import se3

# Poses further apart than this are not interpolated: a car turns too much in between.
MAX_POSE_GAP_S = 0.5

_MIN_INTERVALS = 30
_MIN_CORRELATION = 0.6
_MAX_STD_S = 0.02
_COARSE_STEP_S = 0.010
_FINE_STEP_S = 0.002
_OUTLIER_SIGMAS = 4.0
_CORRELATED_INTERVALS = 20


class TimeOffsetError(ValueError):
    """The time offset cannot be told from a recording."""


def pose_at(
    reference: ReferenceStream, stamp_ns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Interpolate the reference on SE(3), constant twist between neighbours.

    stamp_ns [n]; returns T_world_base [n, 4, 4] and ok [n], False (and the identity) outside the
    reference and inside gaps longer than 0.5 s.
    """
    known = reference.stamp_ns
    if len(known) < 2:
        return np.tile(np.eye(4), (len(stamp_ns), 1, 1)), np.isin(stamp_ns, known)
    left = np.clip(np.searchsorted(known, stamp_ns, side="right") - 1, 0, len(known) - 2)
    gap_ns = known[left + 1] - known[left]
    share = (stamp_ns - known[left]) / gap_ns
    exact = (share == 0) | (share == 1)
    ok = exact | ((share > 0) & (share < 1) & (gap_ns <= MAX_POSE_GAP_S * NS_PER_S))
    T_left = torch.from_numpy(reference.T_world_base[left])
    T_right = torch.from_numpy(reference.T_world_base[left + 1])
    twist = se3.log(se3.inverse(T_left) @ T_right)
    T = (T_left @ se3.exp(torch.from_numpy(share)[:, None] * twist)).numpy()
    T[~ok] = np.eye(4)
    return T, np.asarray(ok)


def increments_between(
    reference: ReferenceStream, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return Log(T_start_end) [m, 6] of base_link (m, rad) over intervals, and ok [m]."""
    T_start, ok_start = pose_at(reference, start_ns)
    T_end, ok_end = pose_at(reference, end_ns)
    T_start, T_end = torch.from_numpy(T_start), torch.from_numpy(T_end)
    return se3.log(se3.inverse(T_start) @ T_end).numpy(), ok_start & ok_end


@dataclass(frozen=True)
class _Fit:
    """One regression of yaw increments on gyro integrals at an offset."""

    correlation: float
    residuals: NDArray[np.float64]
    std_s: float


class _OffsetProblem:
    """Yaw increments [m] explained by scale * gyro integral + bias * duration."""

    def __init__(
        self,
        yaw: NDArray[np.float64],
        start_s: NDArray[np.float64],
        end_s: NDArray[np.float64],
        gyro: SampledSignal,
    ) -> None:
        self._start, self._end, self._gyro = start_s, end_s, gyro
        self._duration = end_s - start_s
        self._yaw = self._without_bias(yaw)

    def _without_bias(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self._duration
        return values - d * (d @ values) / (d @ d)

    def fit(self, offset_s: float) -> _Fit:
        """Regress at one offset.

        The standard error allows for residuals that are correlated in time, as those of a
        recording are (Newey and West, 1987).
        """
        start, end = self._start + offset_s, self._end + offset_s
        x = self._without_bias((self._gyro.integral(end) - self._gyro.integral(start))[:, 0])
        power = max(float(x @ x), 1e-30)
        scale = float(x @ self._yaw) / power
        residuals = self._yaw - scale * x
        slope = scale * (self._gyro.value(end) - self._gyro.value(start))[:, 0]
        slope = self._without_bias(slope)
        slope = slope - x * float(x @ slope) / power
        norm = np.sqrt(power * max(float(self._yaw @ self._yaw), 1e-30))
        correlation = float(x @ self._yaw / norm)
        return _Fit(correlation, residuals, _standard_error(slope, residuals))

    def best(self, search_s: float) -> float:
        """Return the offset of highest correlation: coarse grid, fine grid, parabola."""
        offset = self._peak(np.arange(-search_s, search_s + 1e-9, _COARSE_STEP_S))
        fine = offset + _FINE_STEP_S * np.arange(-6, 7)
        misfit = np.array([1 - self.fit(o).correlation for o in fine])
        k = int(np.clip(np.argmin(misfit), 1, len(fine) - 2))
        left, centre, right = misfit[k - 1 : k + 2]
        curvature = left - 2 * centre + right
        shift = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
        return float(fine[k] + np.clip(shift, -1, 1) * _FINE_STEP_S)

    def _peak(self, offsets: NDArray[np.float64]) -> float:
        return float(offsets[np.argmax([self.fit(o).correlation for o in offsets])])


def _standard_error(slope: NDArray[np.float64], residuals: NDArray[np.float64]) -> float:
    """Return the standard error of a parameter with derivative ``slope`` [m] of the prediction."""
    information = max(float(slope @ slope), 1e-30)
    score = slope * residuals * np.sqrt(len(slope) / max(len(slope) - 3, 1))
    independent = float(residuals @ residuals) / max(len(slope) - 3, 1) * information
    variance = float(score @ score)
    lags = min(_CORRELATED_INTERVALS, len(slope) // 4)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(score[lag:] @ score[:-lag])
    return float(np.sqrt(max(variance, independent)) / information)


def estimate_time_offset(
    increments_yaw: NDArray[np.float64],
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    imu: ImuStream,
    source: str,
    search_s: float = 0.25,
) -> TimeOffset:
    """Find the offset at which the gyro explains yaw increments best.

    increments_yaw [m] (rad) over [start_ns, end_ns] in image stamps; the offset is that of
    bayes_vio.conventions. Scale and bias of the increments are free; increments beyond 4 robust
    sigmas are left out once. Raises TimeOffsetError where the recording turns too little.
    """
    gyro = SampledSignal(imu.stamp_ns, imu.samples[:, ANGULAR_RATE][:, 2:])
    start, end = gyro.seconds(start_ns), gyro.seconds(end_ns)
    usable = gyro.covers(start - search_s, end + search_s) & np.isfinite(increments_yaw)
    if np.count_nonzero(usable) < _MIN_INTERVALS:
        raise TimeOffsetError(
            f"the time offset needs {_MIN_INTERVALS} intervals covered by IMU and {source}, but "
            f"there are {np.count_nonzero(usable)}: give time_offset_s"
        )
    yaw, start, end = increments_yaw[usable], start[usable], end[usable]
    problem = _OffsetProblem(yaw, start, end, gyro)
    residuals = problem.fit(problem.best(search_s)).residuals
    sigma = 1.4826 * np.median(np.abs(residuals))
    kept = np.abs(residuals) <= _OUTLIER_SIGMAS * sigma + 1e-12
    problem = _OffsetProblem(yaw[kept], start[kept], end[kept], gyro)
    offset_s = problem.best(search_s)
    fit = problem.fit(offset_s)
    at_edge = abs(offset_s) > search_s - _COARSE_STEP_S
    if fit.correlation < _MIN_CORRELATION or fit.std_s > _MAX_STD_S or at_edge:
        raise TimeOffsetError(
            f"the recording turns too little to tell the time offset from {source} (correlation "
            f"{fit.correlation:.2f}, offset {offset_s:+.3f} s +- {fit.std_s:.3f} s): "
            "give time_offset_s"
        )
    return TimeOffset(offset_s, float(fit.std_s), fit.correlation, source)


def offset_from_reference(
    reference: ReferenceStream, imu: ImuStream, image_stamp_ns: NDArray[np.int64]
) -> TimeOffset:
    """Estimate the offset from the reference's yaw between images [n]; see above for errors."""
    start_ns, end_ns = image_stamp_ns[:-1], image_stamp_ns[1:]
    xi, ok = increments_between(reference, start_ns, end_ns)
    yaw = np.where(ok, xi[:, ROT_Z], np.nan)
    return estimate_time_offset(yaw, start_ns, end_ns, imu, "reference")
