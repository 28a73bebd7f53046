"""An estimator whose errors are drawn from what it says of them: E-A1, without any sensor.

Its covariances are true by construction, so that a planner that trusts them can be judged by
itself. In the dark it is degraded and errs more, and alike for longer; in an outage it is lost,
and goes on as it was driving (E-G1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S, ROT_Z, X, Y
from bayes_vio.estimator.coasting import Coasting
from bayes_vio.estimator.tracking import EstimatorSettings, MotionEstimate, TrackingState
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.covariance import symmetric_sqrt
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.planning.car import Motion
from bayes_vio.planning.course import Condition

Array = NDArray[np.float64]
_PLANE = [X, Y, ROT_Z]
# Out of the plane hardly anything happens: m/s and rad/s.
_OUT_OF_PLANE_STD = np.array([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4])
_NOISE_CORRELATION = NoiseCorrelation(
    (1.7, 1.9, 1.2, 100.0, 7.6, 100.0), (0.33, 0.39, 0.33, 0.75, 0.29, 0.51)
)
_STATES = {
    Condition.CLEAR: TrackingState.TRACKING,
    Condition.DARK: TrackingState.DEGRADED,
    Condition.OUTAGE: TrackingState.LOST,
}


class Estimating(Protocol):
    """What a closed loop asks of an estimator."""

    def observe(self, motion: Motion, condition: Condition) -> MotionEstimate | None:
        """Return the estimate at the end of a period, None where there is none."""
        ...

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Continue the odometry from a pose [4, 4] with a right covariance [6, 6]."""
        ...


@dataclass(frozen=True)
class ErrorStatistics:
    """Standard deviations of a twist's error (vx, vy in m/s, yaw rate in rad/s), and how it lasts.

    The defaults lie between what the packaged artifact says on simulated and on semi-synthetic
    drives. All grow with the speed up to full_speed_m_s, from standing_share of it at rest; scale
    multiplies all: one car's camera is better than another's.
    """

    noise_std: tuple[float, float, float] = (0.35, 0.03, 0.002)
    epistemic_std: tuple[float, float, float] = (0.15, 0.01, 0.0005)
    dark_noise_std: tuple[float, float, float] = (1.3, 0.06, 0.004)
    noise_correlation: NoiseCorrelation = _NOISE_CORRELATION
    dark_correlation_s: float = 5.0
    epistemic_correlation_s: float = 4.0
    scale: float = 1.0
    standing_share: float = 0.02
    full_speed_m_s: float = 2.0

    def noise_twist_cov(self, condition: Condition, speed_m_s: float = np.inf) -> Array:
        """Return the noise's covariance [6, 6] of the twist."""
        dark = condition is not Condition.CLEAR
        return self._cov(self.dark_noise_std if dark else self.noise_std, speed_m_s)

    def epistemic_twist_cov(self, speed_m_s: float = np.inf) -> Array:
        """Return the epistemic covariance [6, 6] of the twist."""
        return self._cov(self.epistemic_std, speed_m_s)

    def correlation(self, condition: Condition) -> NoiseCorrelation:
        """Return how the noise lasts; without a camera, linear errors are alike for long."""
        usual = self.noise_correlation
        if condition is Condition.CLEAR:
            return usual
        time_s = (self.dark_correlation_s,) * 3 + usual.time_s[3:]
        return NoiseCorrelation(time_s, (1.0,) * 3 + usual.share[3:])

    def _cov(self, planar_std: tuple[float, float, float], speed_m_s: float) -> Array:
        std = _OUT_OF_PLANE_STD.copy()
        std[_PLANE] = planar_std
        moving = min(speed_m_s / self.full_speed_m_s, 1.0)
        share = self.standing_share + (1 - self.standing_share) * moving
        return np.diag((self.scale * share * std) ** 2)


class SampledEstimator:
    """Estimate motions with errors drawn from statistics; see ``Estimating``."""

    def __init__(self, statistics: ErrorStatistics, rng: np.random.Generator) -> None:
        self._statistics, self._rng = statistics, rng
        self._settings = EstimatorSettings()
        self._odometry = Odometry(
            statistics.epistemic_correlation_s,
            self._settings.floor_std**2 * np.eye(6),
            self._settings.std_bound,
            statistics.noise_correlation,
        )
        self._lasting, self._epistemic = rng.standard_normal((2, 6))
        self._coasting = Coasting.unknown(self._settings)
        self._coasted_s = 0.0

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Continue the odometry from a pose [4, 4] with a right covariance [6, 6]."""
        self._odometry.set_pose(T_odom_base, cov)

    def observe(self, motion: Motion, condition: Condition) -> MotionEstimate:
        """Return the estimate at the end of a period, in the state that the condition leaves."""
        dt_s = motion.end_s - motion.start_s
        lost = condition is Condition.OUTAGE
        made = self._coast(dt_s) if lost else self._measure(motion, condition, dt_s)
        T_earlier_later, epistemic_cov, noise_cov = made
        correlation = None if lost else self._statistics.correlation(condition)
        self._odometry.add(
            T_earlier_later, noise_cov, epistemic_cov, dt_s, noise_correlation=correlation
        )
        return MotionEstimate(
            earlier_stamp_ns=round(motion.start_s * NS_PER_S),
            stamp_ns=round(motion.end_s * NS_PER_S),
            dt_s=dt_s,
            T_earlier_later=T_earlier_later,
            epistemic_cov=epistemic_cov,
            noise_cov=noise_cov,
            state=_STATES[condition],
            cause="" if condition is Condition.CLEAR else condition.value,
            T_odom_base=self._odometry.T_odom_base,
            odom_cov=self._odometry.cov,
        )

    def _measure(
        self, motion: Motion, condition: Condition, dt_s: float
    ) -> tuple[Array, Array, Array]:
        """Return T_earlier_later [4, 4] and both parts of its right covariance [6, 6]."""
        s, speed_m_s = self._statistics, float(motion.speeds.mean())
        noise_cov = dt_s**2 * s.noise_twist_cov(condition, speed_m_s)
        epistemic_cov = dt_s**2 * s.epistemic_twist_cov(speed_m_s)
        correlation = s.correlation(condition)
        self._lasting = self._went_on(self._lasting, np.array(correlation.time_s), dt_s)
        self._epistemic = self._went_on(self._epistemic, s.epistemic_correlation_s, dt_s)
        white_cov, lasting_cov = correlation.split(noise_cov)
        error = symmetric_sqrt(white_cov) @ self._rng.standard_normal(6)
        error = error + symmetric_sqrt(lasting_cov) @ self._lasting
        error = error + symmetric_sqrt(epistemic_cov) @ self._epistemic
        true = increment_of(motion)
        T_earlier_later = true @ se3.exp(torch.from_numpy(-error)).numpy()
        twist = se3.log(torch.from_numpy(T_earlier_later)).numpy() / dt_s
        twist_cov = (epistemic_cov + noise_cov) / dt_s**2
        self._coasting, self._coasted_s = Coasting(twist, twist_cov, self._settings), 0.0
        return T_earlier_later, epistemic_cov, noise_cov

    def _went_on(self, z: Array, time_s: Array | float, dt_s: float) -> Array:
        """Return a process [6] of unit variance a step later (E-A1)."""
        R = np.exp(-dt_s / np.asarray(time_s))
        return R * z + np.sqrt(1 - R**2) * self._rng.standard_normal(6)

    def _coast(self, dt_s: float) -> tuple[Array, Array, Array]:
        end_s = self._coasted_s + dt_s
        T_earlier_later, cov = self._coasting.increment(self._coasted_s, end_s)
        self._coasted_s = end_s
        floor = self._settings.floor_std**2 * np.eye(6)
        return T_earlier_later, floor, cov + floor


def increment_of(motion: Motion) -> Array:
    """Return the true T_earlier_later [4, 4] of a motion in the plane."""
    first, last = planar_matrix(motion.poses[0]), planar_matrix(motion.poses[-1])
    return np.linalg.inv(first) @ last


def planar_matrix(pose: Array) -> Array:
    """Return T [4, 4] of a pose [3] (x, y in m, yaw in rad) in the plane."""
    T = np.eye(4)
    c, s = np.cos(pose[2]), np.sin(pose[2])
    T[:2, :2] = [[c, -s], [s, c]]
    T[:2, 3] = pose[:2]
    return T
