"""Find where a reference does not tell the motion: where it jumps, and where it froze before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import ReferenceStream

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

# A pose that is corrected (a loop that SLAM closes, a GPS fix regained) steps by more than any
# car's acceleration and turn explain, and by more than the noise of the poses around it.
_WINDOW = 5
_LEAST_JUMP_M = 1.0
_LARGEST_ACCELERATION_M_S2 = 20.0
_LEAST_JUMP_RAD = 0.1
_LARGEST_RATE_RAD_S = 4.0
_NOISE_STDS = 10.0
_MAD_TO_STD = 1.4826


def jumps(reference: ReferenceStream) -> NDArray[np.bool_]:
    """Return between which neighbouring poses [n - 1] a reference tells no motion.

    Where it jumps, and, before a jump, where it repeated one pose to the last digit. All is well
    in a reference of fewer than six poses.
    """
    if len(reference.stamp_ns) <= _WINDOW:
        return np.zeros(max(len(reference.stamp_ns) - 1, 0), dtype=bool)
    T, dt_s = reference.T_world_base, np.diff(reference.stamp_ns) / NS_PER_S
    way_m = np.einsum("kji,kj->ki", T[:-1, :3, :3], np.diff(T[:, :3, 3], axis=0))  # in body axes
    excess_m = np.linalg.norm(
        way_m - _median_around(way_m / dt_s[:, None]) * dt_s[:, None], axis=1
    )
    noise_m = _MAD_TO_STD * float(np.median(excess_m))
    # From the middle of the window to its end the velocity may have changed by so much.
    change_m = _LARGEST_ACCELERATION_M_S2 * dt_s * np.maximum(_WINDOW / 2 * np.median(dt_s), dt_s)
    found = excess_m > _LEAST_JUMP_M + change_m + _NOISE_STDS * noise_m
    found |= _turned(T) > _LEAST_JUMP_RAD + _LARGEST_RATE_RAD_S * dt_s
    frozen = (T[1:] == T[:-1]).all(axis=(1, 2))
    for end in np.flatnonzero(found[1:] & frozen[:-1]) + 1:
        moving = np.flatnonzero(~frozen[:end])
        found[moving[-1] + 1 if len(moving) else 0 : end] = True
    return found


def _median_around(values: Array) -> Array:
    """Return the median of five rows around each [m, 3], at the ends of the five there are."""
    windows = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis=0)
    half = _WINDOW // 2
    return np.pad(np.median(windows, axis=-1), ((half, half), (0, 0)), mode="edge")


def _turned(T: Array) -> Array:
    """Return the angles [m] (rad) between neighbouring poses."""
    # |R - I|_F = sqrt(8) sin(angle / 2): true for small angles, too.
    R = T[:, :3, :3]
    distance = np.linalg.norm(R[1:] - R[:-1], axis=(1, 2))
    return 2 * np.arcsin(np.clip(distance / np.sqrt(8), 0, 1))


def spans_jump(reference: ReferenceStream, start_ns: Stamps, end_ns: Stamps) -> NDArray[np.bool_]:
    """Return whether intervals [m] touch a stretch in which the reference tells no motion."""
    at = np.flatnonzero(jumps(reference))
    from_ns, to_ns = reference.stamp_ns[at], reference.stamp_ns[at + 1]
    begun = np.searchsorted(from_ns, end_ns, side="left")
    over = np.searchsorted(to_ns, start_ns, side="right")
    return np.asarray(begun > over)
