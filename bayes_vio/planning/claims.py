"""What a planner is told of the estimator's errors: the truth, always the same, or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.filters.accumulate import Odometry

Array = NDArray[np.float64]
# So little that it is nothing, and yet a covariance.
_NOTHING_STD = 1e-4


class Claim(Protocol):
    """Passes estimates on, their covariances as it claims them."""

    def restated(self, estimate: MotionEstimate) -> MotionEstimate:
        """Return the estimate as a planner is told it."""
        ...

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Take note that the odometry continues from a pose [4, 4] with a covariance [6, 6]."""
        ...


class AsEstimated:
    """The estimator's own covariances and state."""

    def restated(self, estimate: MotionEstimate) -> MotionEstimate:
        """Return the estimate."""
        return estimate

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Do nothing: the estimator knows."""


class Constant:
    """The same covariances of the twist [6, 6] at every time, accumulated alike; no state.

    correlation_s, lasting: of the epistemic part and of the noise, as for ``Odometry``.
    """

    def __init__(self, epistemic_twist_cov: Array, noise_twist_cov: Array, odometry: Odometry):
        self._epistemic, self._noise = epistemic_twist_cov, noise_twist_cov
        self._odometry = odometry

    def restated(self, estimate: MotionEstimate) -> MotionEstimate:
        """Return the estimate with the constant covariances."""
        dt_s = estimate.dt_s
        epistemic_cov, noise_cov = dt_s**2 * self._epistemic, dt_s**2 * self._noise
        self._odometry.add(estimate.T_earlier_later, noise_cov, epistemic_cov, dt_s)
        return replace(
            estimate,
            epistemic_cov=epistemic_cov,
            noise_cov=noise_cov,
            state=TrackingState.TRACKING,
            odom_cov=self._odometry.cov,
        )

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Begin again with the covariance of a pose."""
        self._odometry.set_pose(T_odom_base, cov)


class Nothing:
    """Hardly any covariance, as for a planner that reads none; no state."""

    def restated(self, estimate: MotionEstimate) -> MotionEstimate:
        """Return the estimate as if it were exact."""
        nothing = _NOTHING_STD**2 * np.eye(6)
        return replace(
            estimate,
            epistemic_cov=nothing * estimate.dt_s**2,
            noise_cov=nothing * estimate.dt_s**2,
            state=TrackingState.TRACKING,
            odom_cov=nothing,
        )

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Do nothing: every pose counts as exact."""
