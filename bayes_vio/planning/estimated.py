"""From a motion estimate to the belief that a plan starts from, without messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ROT_Z, X, Y
from bayes_vio.estimator.tracking import MotionEstimate
from bayes_vio.filters.published import fixed_axes_cov, mean_twist, mean_twist_cov
from bayes_vio.planning.belief import Belief
from bayes_vio.planning.vehicle import Vehicle

Array = NDArray[np.float64]
_PLANE = np.array([X, Y, ROT_Z])
# Above this speed the yaw rate tells the steering better than the last command does.
_STEERING_SPEED_M_S = 1.0


def belief_of(estimate: MotionEstimate, lost_s: float = 0.0) -> Belief:
    """Return the belief of an estimate in the plane, about the axes of its odometry's frame.

    lost_s: for how long the estimator has been lost. Raises ValueError (CovarianceError) for an
    estimate that is not sound.
    """
    T = estimate.T_odom_base
    covs = np.stack([estimate.epistemic_cov, estimate.noise_cov])
    twist_covs = _planar(mean_twist_cov(estimate.T_earlier_later, covs, estimate.dt_s))
    return Belief(
        pose=np.array([T[0, 3], T[1, 3], np.arctan2(T[1, 0], T[0, 0])]),
        cov=_planar(fixed_axes_cov(T, estimate.odom_cov)),
        twist=mean_twist(estimate.T_earlier_later, estimate.dt_s)[_PLANE],
        epistemic_twist_cov=twist_covs[0],
        noise_twist_cov=twist_covs[1],
        state=estimate.state,
        lost_s=lost_s,
    )


def _planar(cov: Array) -> Array:
    """Return the rows and columns of x, y, yaw of covariances [..., 6, 6]."""
    return cov[..., _PLANE[:, None], _PLANE]


def steered(belief: Belief, commanded_rad: float, vehicle: Vehicle) -> Belief:
    """Return the belief with the steering that its twist tells, or, slowly, the commanded one."""
    steering_rad = commanded_rad
    if belief.speed_m_s > _STEERING_SPEED_M_S:
        bend = vehicle.wheelbase_m * belief.twist[2] / belief.speed_m_s
        limit = vehicle.steering_max_rad
        steering_rad = float(np.clip(np.arctan(bend), -limit, limit))
    return replace(belief, steering_rad=steering_rad)
