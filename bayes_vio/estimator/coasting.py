"""What a car may have done while nothing was seen: constant velocity, and by how much it errs.

The car keeps the twist v last measured, with covariance V, for at most ``coasting_s``, and stands
still afterwards. A time T after that measurement the displacement since then has, in Log
coordinates, the covariance

    Q(T) = T^2 (V + diag(min(a T / 2, b))^2),                                               (E-G1)

a the standard deviation of a constant acceleration (so a T^2 / 2 of displacement), b the largest
error that the mean velocity over the gap can have. A gap that is reported in several pieces gets
Q(end) - Q(start) for each: compounded as independent they add up to Q of the whole gap, however it
was cut, and each is at least what it would be on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.estimator.tracking import EstimatorSettings
from bayes_vio.geometry import se3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Coasting:
    """A twist [6] of base_link (m/s, rad/s) with its covariance [6, 6], to go on with."""

    twist: Array
    twist_cov: Array
    settings: EstimatorSettings

    @staticmethod
    def unknown(settings: EstimatorSettings) -> Coasting:
        """Return the state of not knowing the velocity at all: zero, give or take the bounds."""
        return Coasting(np.zeros(6), np.diag(_error_bound(settings) ** 2), settings)

    def increment(self, start_s: float, end_s: float) -> tuple[Array, Array]:
        """Return T_earlier_later [4, 4] and its right covariance [6, 6] from start to end.

        Both are seconds since the twist was measured, end_s > start_s >= 0.
        """
        horizon_s = self.settings.coasting_s
        moving_s = min(end_s, horizon_s) - min(start_s, horizon_s)
        xi = torch.from_numpy(self.twist * moving_s)
        cov = self.displacement_cov(end_s) - self.displacement_cov(start_s)
        return se3.exp(xi).numpy(), se3.log_cov_to_right_cov(xi, torch.from_numpy(cov)).numpy()

    def displacement_cov(self, elapsed_s: float) -> Array:
        """Return Q [6, 6] (m, rad) of E-G1, ``elapsed_s`` after the twist was measured."""
        error = np.minimum(
            0.5 * elapsed_s * _acceleration_std(self.settings), _error_bound(self.settings)
        )
        return elapsed_s**2 * (self.twist_cov + np.diag(error**2))


def _acceleration_std(settings: EstimatorSettings) -> Array:
    linear, angular = settings.acceleration_std_m_s2, settings.angular_acceleration_std_rad_s2
    return np.repeat([linear, angular], 3)


def _error_bound(settings: EstimatorSettings) -> Array:
    linear, angular = settings.speed_error_bound_m_s, settings.angular_rate_error_bound_rad_s
    return np.repeat([linear, angular], 3)
