"""Relate clocks: reference poses at any stamp, and the camera-IMU time offset."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, NS_PER_S
from bayes_vio.data.clock_alignment import Gyro, OffsetSearch, Turns
from bayes_vio.data.reference_jumps import spans_jump
from bayes_vio.data.samples import ImuStream, ReferenceStream, TimeOffset
from bayes_vio.geometry import se3

# Poses further apart than this are not interpolated: a car turns too much in between.
MAX_POSE_GAP_S = 0.5

_MIN_INTERVALS = 30
_MIN_CORRELATION = 0.3
_MAX_STD_S = 0.02
_LARGEST_RATE_RAD_S = 5.0
_EDGE_S = 0.010
_REWEIGHTINGS = 3
_REFINE_S = 0.03


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
    """Return Log(T_start_end) [m, 6] of base_link (m, rad) over intervals, and ok [m].

    ok is False where an end is unknown (`pose_at`), and where the reference jumps in between.
    """
    T_start, ok_start = pose_at(reference, start_ns)
    T_end, ok_end = pose_at(reference, end_ns)
    T_start, T_end = torch.from_numpy(T_start), torch.from_numpy(T_end)
    ok = ok_start & ok_end & ~spans_jump(reference, start_ns, end_ns)
    return se3.log(se3.inverse(T_start) @ T_end).numpy(), ok


def estimate_time_offset(
    turned: NDArray[np.float64],
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    imu: ImuStream,
    source: str,
    search_s: float = 0.25,
    joint_s: float = 0.5,
) -> TimeOffset:
    """Find the offset at which the gyro explains rotations best.

    turned [m, 3] (rad, base axes; NaN where unknown) over [start_ns, end_ns] in image stamps; the
    offset is that of bayes_vio.conventions. Scale, misalignment and bias are free, since flow
    shrinks turns and mountings are not exact; intervals that fit badly lose weight.
    Rotations are summed over ``joint_s``: faster motion is what sensors filter each in their own
    way. Raises TimeOffsetError where the recording turns too little.
    """
    gyro = Gyro(imu)
    turns = Turns(np.asarray(turned, np.float64), gyro.seconds(start_ns), gyro.seconds(end_ns))
    usable = gyro.covers(turns.start_s - search_s, turns.end_s + search_s)
    possible = np.abs(turns.rotation).max(1) < _LARGEST_RATE_RAD_S * turns.duration_s
    turns = turns.where(usable & possible)  # False for NaN
    if len(turns) < _MIN_INTERVALS:
        raise TimeOffsetError(
            f"the time offset needs {_MIN_INTERVALS} intervals covered by IMU and {source}, but "
            f"there are {len(turns)}: give it by --time-offset"
        )
    single, joint = _searches(turns, gyro, search_s, joint_s)
    offset_s = joint.best(0.0, search_s)
    correlation, std_s = single.correlation(offset_s), joint.std(offset_s)
    at_edge = abs(offset_s) > search_s - _EDGE_S
    # What the best of many offsets reaches by chance alone falls with the number of intervals.
    least = max(_MIN_CORRELATION, 4 / np.sqrt(len(turns)))
    if correlation < least or std_s > _MAX_STD_S or at_edge:
        raise TimeOffsetError(
            f"the recording turns too little to tell the time offset from {source} (correlation "
            f"{correlation:.2f}, offset {offset_s:+.3f} s +- {std_s:.3f} s): give it by "
            "--time-offset"
        )
    return TimeOffset(offset_s, std_s, correlation, source)


def _searches(
    turns: Turns, gyro: Gyro, search_s: float, joint_s: float
) -> tuple[OffsetSearch, OffsetSearch]:
    """Return the searches over single intervals, robustly weighted, and over half a second."""
    single = OffsetSearch(turns, gyro)
    offset_s = single.best(0.0, search_s)
    for _ in range(_REWEIGHTINGS):
        weights = single.robust_weights(offset_s)
        single = OffsetSearch(turns, gyro, weights)
        offset_s = single.best(offset_s, _REFINE_S)
    count = max(1, round(joint_s / float(np.median(turns.duration_s))))
    joined, parts = turns.over(min(count, len(turns) // 4))
    if len(joined) < _MIN_INTERVALS // 2:
        return single, single
    return single, OffsetSearch(joined, gyro, weights[parts].min(1))


def offset_from_reference(
    reference: ReferenceStream, imu: ImuStream, image_stamp_ns: NDArray[np.int64]
) -> TimeOffset:
    """Estimate the offset from the reference's turns between images [n]; see above for errors."""
    start_ns, end_ns = image_stamp_ns[:-1], image_stamp_ns[1:]
    xi, ok = increments_between(reference, start_ns, end_ns)
    turned = np.where(ok[:, None], xi[:, ANGULAR], np.nan)
    return estimate_time_offset(turned, start_ns, end_ns, imu, "reference")
