"""Find the heading of an odometry in the frame of position fixes, from the track of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.filters.ekf import update
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.ekf_state import ATTITUDE, POSITION, EkfState
from bayes_vio.filters.measurements import PositionFix

Array = NDArray[np.float64]
# Of the position before the fixes have told it, m; far beyond their errors.
_UNKNOWN_M = 1e3
_FEWEST = 3


class FixAlignment:
    """Collect fixes beside the odometry's positions until they tell the yaw between both frames.

    distance_m: how far the fixes must spread. yaw_std_max_rad: how well they must tell it. The
    yaw is the least-squares rotation of the centred horizontal tracks,

        yaw = atan2(sum u x v, sum u . v),    var = sigma^2 / sum |u|^2,                       (F7)

    u of the odometry, v of the fixes, sigma^2 the fixes' mean horizontal variance. Both frames
    have z up; the odometry's drift over the distance is neglected.
    """

    def __init__(self, distance_m: float = 10.0, yaw_std_max_rad: float = 0.15) -> None:
        if not (distance_m > 0 and yaw_std_max_rad > 0):
            raise ValueError("an alignment needs a distance and a yaw deviation above 0")
        self._distance_m, self._yaw_std_max_rad = distance_m, yaw_std_max_rad
        self.done = False
        self.clear()

    def clear(self) -> None:
        """Forget the fixes; a frame that was found is lost, too."""
        self._fixes: list[PositionFix] = []
        self._odometry: list[Array] = []
        self.done = False

    def add(
        self, fix: PositionFix, there: EkfState, newest: EkfState, settings: EkfSettings
    ) -> EkfState | None:
        """Take a fix and the odometry at its stamp; return the newest state in the fixes' frame.

        None while the yaw is not known well enough.
        """
        antenna = np.append(np.array(settings.antenna_position_m), 1.0)
        self._fixes.append(fix)
        self._odometry.append((there.T_world_base @ antenna)[:3])
        u, v = (
            _centred(np.stack(self._odometry)),
            _centred(np.stack([f.position for f in self._fixes])),
        )
        if len(u) < _FEWEST or _spread(v) < self._distance_m:
            return None
        variance = float(np.mean([np.trace(f.cov[:2, :2]) / 2 for f in self._fixes]))
        yaw_std = np.sqrt(variance / np.sum(u[:, :2] ** 2))
        if yaw_std > self._yaw_std_max_rad:
            return None
        self.done = True
        return self._moved(newest, _yaw_between(u, v), yaw_std, settings)

    def _moved(
        self, state: EkfState, yaw: float, yaw_std: float, settings: EkfSettings
    ) -> EkfState:
        """Return the state turned by the yaw and put where all fixes together say it is."""
        R = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
        T = np.eye(4)
        T[:3, :3] = R
        T[:3, 3] = self._fix_mean - R @ np.mean(self._odometry, axis=0)
        T_world_base = T @ state.T_world_base
        up = T_world_base[2, :3]  # the vertical in base_link, about which the yaw errs
        attitude_cov = state.cov[ATTITUDE, ATTITUDE] + yaw_std**2 * np.outer(up, up)
        turned = replace(state, T_world_base=T_world_base)
        turned = turned.forgotten(ATTITUDE, attitude_cov)
        turned = turned.forgotten(POSITION, _UNKNOWN_M**2 * np.eye(3))
        return update(turned, self._mean_fix(turned, settings).innovation(turned, settings))

    @property
    def _fix_mean(self) -> Array:
        return np.mean([f.position for f in self._fixes], axis=0)

    def _mean_fix(self, state: EkfState, settings: EkfSettings) -> PositionFix:
        """Return one fix at the present place: all of them, moved along the aligned track.

        At the track's end the line through n fixes has up to 4 / n of one fix's variance.
        """
        cov = np.mean([f.cov for f in self._fixes], axis=0)
        antenna = np.append(np.array(settings.antenna_position_m), 1.0)
        position = (state.T_world_base @ antenna)[:3]
        return PositionFix(state.stamp_ns, position, max(1.0, 4 / len(self._fixes)) * cov)


def _centred(positions: Array) -> Array:
    return positions - positions.mean(axis=0)


def _spread(centred: Array) -> float:
    """Return the largest horizontal distance between the first and any other position (m)."""
    return float(np.linalg.norm((centred - centred[0])[:, :2], axis=1).max())


def _yaw_between(u: Array, v: Array) -> float:
    cross = np.sum(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    return float(np.arctan2(cross, np.sum(u[:, :2] * v[:, :2])))
