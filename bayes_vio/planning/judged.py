"""Judge a drive in closed loop: collision, lane, time, and what Autoware's monitors would say.

Autoware's localization_error_monitor takes three standard deviations and warns (errs) above 0.25 m
(0.3 m) across the car; its lane_departure_checker widens the footprint by one, as believed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.planning.belief import Belief
from bayes_vio.planning.closed_loop import Drive, Ending
from bayes_vio.planning.course import Course
from bayes_vio.planning.vehicle import Vehicle

Array = NDArray[np.float64]
MONITOR_SIGMAS = 3.0
MONITOR_WARNS_M, MONITOR_ERRS_M = 0.25, 0.3
_STANDING_M_S = 0.05


@dataclass(frozen=True)
class Judgement:
    """What became of a drive.

    time_s: until its ending. stood_s: of it, standing. overhang_m: how far a corner of the true
    footprint was beyond the lane at worst, negative inside. monitor_warned, monitor_erred: shares
    of the time. checker_alarmed: share of the time in which the believed footprint, widened by
    one sigma, crossed the lane's border. error_over_sigma: root of the mean squared Mahalanobis
    distance of the belief from the truth over the number of axes.
    """

    ending: Ending
    time_s: float
    stood_s: float
    overhang_m: float
    monitor_warned: float
    monitor_erred: float
    checker_alarmed: float
    error_over_sigma: float

    @property
    def left_lane(self) -> bool:
        """Return whether the car left its lane."""
        return self.overhang_m > 0


def judged(drive: Drive, course: Course, vehicle: Vehicle) -> Judgement:
    """Return what became of a drive on its course."""
    beliefs = [(s.belief, s.pose) for s in drive.steps if s.belief is not None]
    lateral_std = np.array([lateral_std_m(belief) for belief, _ in beliefs] or [0.0])
    alarms = [
        overhang_m(belief.pose[None], course, vehicle)[0] + std > 0
        for (belief, _), std in zip(beliefs, lateral_std, strict=False)
    ]
    stood = [step.speed_m_s < _STANDING_M_S for step in drive.steps]
    squared = [_mahalanobis_squared(belief, pose) for belief, pose in beliefs]
    return Judgement(
        ending=drive.ending,
        time_s=drive.time_s,
        stood_s=drive.time_s * float(np.mean(stood or [0.0])),
        overhang_m=float(overhang_m(drive.poses, course, vehicle).max()) if drive.steps else 0.0,
        monitor_warned=float((MONITOR_SIGMAS * lateral_std > MONITOR_WARNS_M).mean()),
        monitor_erred=float((MONITOR_SIGMAS * lateral_std > MONITOR_ERRS_M).mean()),
        checker_alarmed=float(np.mean(alarms or [0.0])),
        error_over_sigma=float(np.sqrt(np.mean(squared or [0.0]) / 3)),
    )


def overhang_m(poses: Array, course: Course, vehicle: Vehicle) -> Array:
    """Return how far the footprint at poses [n, 3] is beyond the lane [n] (m), negative inside."""
    route = course.route
    c, s = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    R = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    corners = poses[:, None, :2] + vehicle.corners.numpy() @ R.swapaxes(-1, -2)
    way = corners[:, :, None] - route.points
    nearest = np.square(way).sum(-1).argmin(-1)
    left = np.stack([-np.sin(route.yaw), np.cos(route.yaw)], -1)[nearest]
    offset = (left * np.take_along_axis(way, nearest[..., None, None], 2)[:, :, 0]).sum(-1)
    return np.abs(offset).max(-1) - course.lane_half_width_m


def lateral_std_m(belief: Belief) -> float:
    """Return the standard deviation of the position across the car (m)."""
    across = np.array([-np.sin(belief.pose[2]), np.cos(belief.pose[2])])
    return float(np.sqrt(across @ belief.cov[:2, :2] @ across))


def _mahalanobis_squared(belief: Belief, pose: Array) -> float:
    """Return the squared distance of the belief from the true pose [3] in its covariance."""
    error = belief.pose - pose
    error[2] = np.arctan2(np.sin(error[2]), np.cos(error[2]))
    return float(error @ np.linalg.solve(belief.cov, error))
