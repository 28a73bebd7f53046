"""Tell wrong units from right ones, where physics or a second sensor leaves no doubt."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, GRAVITY_M_S2, NS_PER_S, ROT_Z, SPECIFIC_FORCE
from bayes_vio.data.messages import BagError
from bayes_vio.data.samples import ImuStream, ReferenceStream
from bayes_vio.data.windows import SampledSignal
from bayes_vio.geometry import se3

DEGREES_PER_RADIAN = float(np.rad2deg(1.0))

# Fewer samples, or a shorter time, tell nothing.
_MIN_SAMPLES = 20
_MIN_DURATION_S = 5.0
# A factor is named where what is measured lies within this ratio of it; the factors looked for
# are ten times further apart.
_FACTOR_TOLERANCE = 1.8
# The median specific force of anything that drives is near gravity.
_FORCE_UNITS = {"g": 1 / GRAVITY_M_S2, "milli-g (or cm/s^2)": 1000 / GRAVITY_M_S2}
_FORCE_RANGE_M_S2 = (0.5 * GRAVITY_M_S2, 2.0 * GRAVITY_M_S2)
# No vehicle turns so fast for half a second in a twentieth of its time, nor drives so fast.
_MAX_RATE_RAD_S = 4.0
_MAX_SPEED_M_S = 150.0
_RATE_WINDOW_S = 0.5

_YAW_WINDOW_S = 1.0
_YAW_STEP_S = 0.25
_MAX_INTERVAL_S = 0.5
_MAX_HOLES_S = 0.05
_MIN_YAW_WINDOWS = 16
_MIN_YAW_STD_RAD = 0.01
_MIN_CORRELATION = 0.8


def check_units(where: str, imu: ImuStream | None, reference: ReferenceStream | None) -> None:
    """Refuse a recording whose IMU or reference is in other units than m/s^2, rad/s, m.

    ``where`` names the recording in the BagError, which names the factor too. Recordings that are
    too short to tell pass.
    """
    if reference is not None and _is_long(reference.stamp_ns):
        _check_speed(where, reference)
    if imu is None or not _is_long(imu.stamp_ns):
        return
    _check_specific_force(where, imu)
    if reference is not None and len(reference.stamp_ns) > 1:
        stamp_ns, T = reference.stamp_ns, torch.from_numpy(reference.T_world_base)
        yaw = se3.log(se3.inverse(T[:-1]) @ T[1:]).numpy()[:, ROT_Z]
        check_yaw_rate(where, imu, stamp_ns[:-1], stamp_ns[1:], yaw, "the reference")
    _check_rates(where, imu)


def _is_long(stamp_ns: NDArray[np.int64]) -> bool:
    enough = len(stamp_ns) >= _MIN_SAMPLES
    return enough and (stamp_ns[-1] - stamp_ns[0]) / NS_PER_S >= _MIN_DURATION_S


def _near(ratio: float, factor: float) -> bool:
    return 1 / _FACTOR_TOLERANCE < ratio / factor < _FACTOR_TOLERANCE


def _check_specific_force(where: str, imu: ImuStream) -> None:
    samples = imu.samples[:, SPECIFIC_FORCE]
    force = float(np.median(np.linalg.norm(samples, axis=1)))
    # Gravity lasts, in whatever unit; what is left without it points now here, now there.
    lasting = float(np.linalg.norm(np.median(samples, axis=0))) > 0.5 * force
    for unit, factor in _FORCE_UNITS.items():
        if lasting and _near(force / GRAVITY_M_S2, factor):
            raise BagError(
                f"{where}: the IMU's specific force is {force:.3g} in the median, gravity in "
                f"{unit}: multiply it by {1 / factor:.5g} to give m/s^2"
            )
    low, high = _FORCE_RANGE_M_S2
    if force == 0:
        raise BagError(
            f"{where}: the IMU's specific force is exactly 0, so the accelerometer measures "
            'nothing: mend its driver, or leave the IMU out with --imu-topic ""'
        )
    if force < low:
        raise BagError(
            f"{where}: the IMU's specific force is {force:.3g} m/s^2 in the median, so gravity "
            "was taken out of it: record the accelerometer's own values"
        )
    if force > high:
        raise BagError(
            f"{where}: the IMU's specific force is {force:.3g} in the median, "
            f"{force / GRAVITY_M_S2:.3g} times gravity in m/s^2: check its unit"
        )


def _check_rates(where: str, imu: ImuStream) -> None:
    signal = SampledSignal(imu.stamp_ns, imu.samples[:, ANGULAR_RATE])
    last_s = float(signal.seconds(imu.stamp_ns[-1:])[0])
    edges = np.arange(0, last_s, _RATE_WINDOW_S)
    start, end = edges[:-1], edges[1:]
    start, end = (t[signal.covers(start, end)] for t in (start, end))
    if not len(start):
        return
    rate = np.abs(signal.integral(end) - signal.integral(start)).max(axis=1) / _RATE_WINDOW_S
    fast = float(np.quantile(rate, 0.95))
    if fast > _MAX_RATE_RAD_S:
        raise BagError(
            f"{where}: the gyro turns at {fast:.3g} rad/s over half seconds, which no vehicle "
            f"does; if its unit is deg/s, divide it by {DEGREES_PER_RADIAN:.1f} to give rad/s"
        )


def _check_speed(where: str, reference: ReferenceStream) -> None:
    stamp_s = (reference.stamp_ns - reference.stamp_ns[0]) / NS_PER_S
    later = np.searchsorted(stamp_s, stamp_s + _RATE_WINDOW_S)
    earlier = np.flatnonzero(later < len(stamp_s))
    if not len(earlier):
        return
    later = later[earlier]
    position = reference.T_world_base[:, :3, 3]
    distance_m = np.linalg.norm(position[later] - position[earlier], axis=1)
    speed = float(np.quantile(distance_m / (stamp_s[later] - stamp_s[earlier]), 0.9))
    if speed > _MAX_SPEED_M_S:
        raise BagError(
            f"{where}: the reference moves at {speed:.3g} m/s, which no vehicle does; if its "
            "unit is mm, multiply its positions by 0.001 to give m"
        )


def check_yaw_rate(
    where: str,
    imu: ImuStream,
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    yaw: NDArray[np.float64],
    source: str,
) -> None:
    """Compare the gyro with yaw increments [m] (rad) over consecutive intervals of a source.

    Raises BagError where the gyro follows them 57.3 times too large, or with the wrong sign, or
    says one and the same while they turn.
    Intervals may leave gaps; a time offset of a few tenths of a second does no harm.
    """
    windows = _common_turns(imu, start_ns, end_ns, yaw)
    if windows is None:
        return
    turned, gyro = windows
    if not np.ptp(imu.samples[:, ANGULAR_RATE], axis=0).any():
        raise BagError(
            f"{where}: the gyro says the same in all {len(imu.samples)} samples while {source} "
            'turns: mend its driver, or leave the IMU out with --imu-topic ""'
        )
    power = float(turned @ turned)
    factor = float(turned @ gyro) / power
    correlation = factor * np.sqrt(power / max(float(gyro @ gyro), 1e-30))
    if abs(correlation) < _MIN_CORRELATION:
        return
    if _near(abs(factor), DEGREES_PER_RADIAN):
        raise BagError(
            f"{where}: the gyro's yaw rate is {factor:.3g} times that of {source}, so its unit is "
            f"deg/s: divide it by {DEGREES_PER_RADIAN:.1f} to give rad/s"
        )
    if factor < 0:
        raise BagError(
            f"{where}: the gyro's yaw rate is {factor:.3g} times that of {source}, so it turns "
            "the other way: check T_base_imu and the frames of both"
        )


def _common_turns(
    imu: ImuStream,
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    yaw: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return how far source and gyro turned, less their means, in windows that both cover."""
    if len(yaw) < 2:
        return None
    gyro = SampledSignal(imu.stamp_ns, imu.samples[:, ANGULAR_RATE][:, 2:])
    edges_s = gyro.seconds(np.append(start_ns, end_ns[-1]))
    length_s = (end_ns - start_ns) / NS_PER_S
    unknown = ~np.isfinite(yaw) | (length_s > _MAX_INTERVAL_S)
    total = np.concatenate([[0.0], np.cumsum(np.where(unknown, 0.0, yaw))])
    # What no interval tells of the time so far: gaps between them, and those that are unknown.
    untold_s = np.diff(edges_s) - np.where(unknown, 0.0, length_s)
    untold_s = np.concatenate([[0.0], np.cumsum(untold_s)])
    begin = np.arange(edges_s[0], edges_s[-1] - _YAW_WINDOW_S, _YAW_STEP_S)
    end = begin + _YAW_WINDOW_S
    holes_s = np.interp(end, edges_s, untold_s) - np.interp(begin, edges_s, untold_s)
    usable = gyro.covers(begin, end) & (np.abs(holes_s) < _MAX_HOLES_S)
    if np.count_nonzero(usable) < _MIN_YAW_WINDOWS:
        return None
    begin, end = begin[usable], end[usable]
    turned = np.interp(end, edges_s, total) - np.interp(begin, edges_s, total)
    measured = (gyro.integral(end) - gyro.integral(begin))[:, 0]
    if float(turned.std()) < _MIN_YAW_STD_RAD:
        return None
    return turned - turned.mean(), measured - measured.mean()
