"""A continuous motion of base_link: pose, velocity, angular rate, specific force at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline, make_interp_spline, make_lsq_spline
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import GRAVITY_M_S2

_DEGREE = 5
_RATE_STEP_S = 1e-3
_GRAVITY_WORLD = np.array([0.0, 0.0, -GRAVITY_M_S2])


@dataclass(frozen=True)
class Trajectory:
    """Splines over time in seconds: position [3] (m, world) and (yaw, pitch, roll) (rad).

    Rotation is R_world_base = Rz(yaw) Ry(pitch) Rx(roll): a car stays far from pitch = 90 deg, and
    with these coordinates the angular rate is the exact derivative of the rotation.
    Methods take times [n] in [start_s, end_s] and raise ValueError outside.
    """

    position: BSpline
    attitude: BSpline
    start_s: float
    end_s: float

    def pose(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return T_world_base [n, 4, 4]."""
        t = self._times(time_s)
        T_world_base = np.tile(np.eye(4), (len(t), 1, 1))
        T_world_base[:, :3, :3] = self._rotation(t)
        T_world_base[:, :3, 3] = self.position(t)
        return T_world_base

    def velocity_world(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the velocity of base_link's origin [n, 3] (m/s, world axes)."""
        return self.position(self._times(time_s), 1)

    def velocity(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the velocity of base_link's origin [n, 3] (m/s, base axes)."""
        t = self._times(time_s)
        return _rotate_back(self._rotation(t), self.position(t, 1))

    def angular_rate(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the angular rate [n, 3] (rad/s, base axes)."""
        t = self._times(time_s)
        _, pitch, roll = self.attitude(t).T
        yaw_rate, pitch_rate, roll_rate = self.attitude(t, 1).T
        x = roll_rate - yaw_rate * np.sin(pitch)
        y = pitch_rate * np.cos(roll) + yaw_rate * np.sin(roll) * np.cos(pitch)
        z = -pitch_rate * np.sin(roll) + yaw_rate * np.cos(roll) * np.cos(pitch)
        return np.stack([x, y, z], -1)

    def angular_acceleration(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the derivative of the angular rate [n, 3] (rad/s^2, base axes)."""
        t = self._times(time_s)
        later = np.minimum(t + _RATE_STEP_S, self.end_s)
        earlier = np.maximum(t - _RATE_STEP_S, self.start_s)
        change = self.angular_rate(later) - self.angular_rate(earlier)
        return change / (later - earlier)[:, None]

    def specific_force(
        self, time_s: ArrayLike, lever_arm: ArrayLike = (0.0, 0.0, 0.0)
    ) -> NDArray[np.float64]:
        """Return what an accelerometer at ``lever_arm`` [3] (m, base) measures [n, 3] (m/s^2).

        Axes are those of base_link; gravity is included, so z reads +9.8 at rest.
        """
        t = self._times(time_s)
        force = _rotate_back(self._rotation(t), self.position(t, 2) - _GRAVITY_WORLD)
        arm = np.asarray(lever_arm, dtype=np.float64)
        if not arm.any():
            return force
        rate = self.angular_rate(t)
        centripetal = np.cross(rate, np.cross(rate, arm))
        return force + np.cross(self.angular_acceleration(t), arm) + centripetal

    def _rotation(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        return Rotation.from_euler("ZYX", self.attitude(t)).as_matrix()

    def _times(self, time_s: ArrayLike) -> NDArray[np.float64]:
        t = np.atleast_1d(np.asarray(time_s, dtype=np.float64))
        if t.size and (t.min() < self.start_s - 1e-9 or t.max() > self.end_s + 1e-9):
            raise ValueError(
                f"times {t.min():.3f} to {t.max():.3f} s leave the trajectory's "
                f"{self.start_s:.3f} to {self.end_s:.3f} s: ask for times inside"
            )
        return np.clip(t, self.start_s, self.end_s)


def interpolate(
    time_s: NDArray[np.float64], position: NDArray[np.float64], attitude: NDArray[np.float64]
) -> Trajectory:
    """Return the trajectory through positions [n, 3] (m) and unwrapped angles [n, 3] (rad)."""
    return Trajectory(
        position=make_interp_spline(time_s, position, k=_DEGREE),
        attitude=make_interp_spline(time_s, attitude, k=_DEGREE),
        start_s=float(time_s[0]),
        end_s=float(time_s[-1]),
    )


def smooth(
    time_s: NDArray[np.float64], T_world_base: NDArray[np.float64], knot_interval_s: float
) -> Trajectory:
    """Return the least-squares spline through poses T_world_base [n, 4, 4] at time_s [n].

    Fewer knots than poses average out the poses' noise, which second derivatives would magnify.
    Raises ValueError where poses are too few, unordered, or leave a gap longer than the knots.
    """
    _check_poses(time_s, T_world_base, knot_interval_s)
    start_s, end_s = float(time_s[0]), float(time_s[-1])
    n_spans = max(1, round((end_s - start_s) / knot_interval_s))
    ends = np.full(_DEGREE, start_s), np.full(_DEGREE, end_s)
    knots = np.concatenate([ends[0], np.linspace(start_s, end_s, n_spans + 1), ends[1]])
    angles = Rotation.from_matrix(T_world_base[:, :3, :3]).as_euler("ZYX")
    attitude = np.unwrap(angles, axis=0)
    return Trajectory(
        position=make_lsq_spline(time_s, T_world_base[:, :3, 3], knots, k=_DEGREE),
        attitude=make_lsq_spline(time_s, attitude, knots, k=_DEGREE),
        start_s=start_s,
        end_s=end_s,
    )


def _check_poses(
    time_s: NDArray[np.float64], T_world_base: NDArray[np.float64], knot_interval_s: float
) -> None:
    if T_world_base.shape != (len(time_s), 4, 4):
        raise ValueError(
            f"{len(time_s)} stamps need poses of shape ({len(time_s)}, 4, 4), "
            f"not {T_world_base.shape}: give one pose per stamp"
        )
    if len(time_s) < 2 * (_DEGREE + 1):
        raise ValueError(f"{len(time_s)} poses are too few for a drive: give at least 12")
    gaps = np.diff(time_s)
    if gaps.min() <= 0:
        raise ValueError(f"stamp {int(gaps.argmin()) + 1} does not increase: sort the poses")
    if gaps.max() > knot_interval_s:
        raise ValueError(
            f"poses leave a gap of {gaps.max():.2f} s, longer than the knots' "
            f"{knot_interval_s:.2f} s: cut the recording there or raise knot_interval_s"
        )


def _rotate_back(
    R_world_base: NDArray[np.float64], v_world: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.einsum("nji,nj->ni", R_world_base, v_world)
