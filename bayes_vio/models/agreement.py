"""Do camera and gyro tell the same rotation? What is wrong with one of them, if they do not.

The camera alone and the gyro each tell the rotation of an interval. Their difference y [3] is
explained by what may be wrong with either, theta = (gyro bias b, scale s of the camera's
rotations, time offset t):

    y = H theta + e,    H = [dt 1, dt w, Dw],    e ~ N(0, cov of the camera's part + V),    (E-R2)

with w the gyro's mean rate, Dw by how much the rate changes over the interval, and V what
vibration adds, which the gyro feels and the camera does not show. Recursive least
squares that forget within ``memory_s`` keep theta and its covariance P. What drives without an
error show of theta_i beyond P is usual, with variance s_i^2, and counts in the calibrated noise.
What exceeds both, theta_i^2 - k^2 (s_i^2 + P_ii) where positive, is taken for the variance of an
error that every increment has. k is measured, too: so that of a drive that was left out one frame
in twenty is beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bayes_vio.conventions import ANGULAR, ANGULAR_RATE
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.reliability import DISAGREEMENTS

Array = NDArray[np.float64]
# A network's mean [batch, 6] in Log coordinates and noise_cholesky [batch, 6, 6].
Network = Callable[[MotionInput], tuple[Tensor, Tensor]]

# A priori: gyro bias (rad/s), scale, time offset (s). Beyond what any sensor in order has.
_PRIOR_STD = np.array([0.03, 0.03, 0.03, 0.5, 0.1])
_END_BINS = 4  # of either end of the window, whose difference is the change of the rate
# What cannot be an error of the increments: the scale of the camera's rotations.
_SCALE = 3


@dataclass(frozen=True)
class GyroWindow:
    """What the gyro tells of an interval: rotation [3] (rad), change of the rate [3] (rad/s)."""

    dt_s: float
    rotation: Array
    rate_change: Array

    @staticmethod
    def of(imu: NDArray[np.floating], dt_s: float) -> GyroWindow:
        """Return that of IMU bins [n, 6], all of them valid."""
        rate = np.asarray(imu[:, ANGULAR_RATE], np.float64)
        ends = rate[-_END_BINS:].mean(0) - rate[:_END_BINS].mean(0)
        return GyroWindow(dt_s, dt_s * rate.mean(0), ends * len(rate) / (len(rate) - _END_BINS))

    def with_bias(self, bias_rad_s: float) -> GyroWindow:
        """Return what a gyro with a bias on every axis would have told."""
        return replace(self, rotation=self.rotation + self.dt_s * bias_rad_s)

    @property
    def design(self) -> Array:
        """Return H [3, 5] of E-R2."""
        scale, offset = self.rotation[:, None], self.rate_change[:, None]
        return np.concatenate([self.dt_s * np.eye(3), scale, offset], axis=1)


class SensorAgreement:
    """Follow theta [5] of E-R2 over intervals that have both sensors."""

    def __init__(self, memory_s: float, vibration_std: ArrayLike = 0.0) -> None:
        self._memory_s, self._vibration_cov = memory_s, np.square(vibration_std) * np.eye(3)
        self.reset()

    def reset(self) -> None:
        """Forget all intervals."""
        self._information: Array = np.zeros((DISAGREEMENTS, DISAGREEMENTS))
        self._told: Array = np.zeros(DISAGREEMENTS)

    def add(
        self, rotation: Array, rotation_cov: Array, gyro: GyroWindow, elapsed_s: float
    ) -> None:
        """Take the camera's rotation [3] with its covariance [3, 3], elapsed_s after the last."""
        H, kept = gyro.design, np.exp(-elapsed_s / self._memory_s)
        both = np.column_stack([H, rotation - gyro.rotation])
        whitened = np.linalg.solve(rotation_cov + self._vibration_cov, both)
        self._information = kept * self._information + H.T @ whitened[:, :-1]
        self._told = kept * self._told + H.T @ whitened[:, -1]

    @property
    def estimate(self) -> Estimate:
        """Return theta and its variances; zero and the prior's before the first interval."""
        cov = np.linalg.inv(self._information + np.diag(_PRIOR_STD**-2))
        return Estimate(cov @ self._told, np.asarray(cov.diagonal(), np.float64))


@dataclass(frozen=True)
class Estimate:
    """theta [5] of E-R2 and the variances [5] of what it is not known by."""

    theta: Array
    var: Array

    def deviations(self, usual_std: Array) -> float:
        """Return by how many deviations the most unusual error lies from none.

        A camera whose rotations are scaled wrongly says nothing of the gyro, by which increments
        turn: that entry does not count.
        """
        return float(np.sqrt(np.delete(self.theta**2 / (usual_std**2 + self.var), _SCALE).max()))

    def unusual_var(self, usual_std: Array, bound: float, response: Array) -> Array:
        """Return variances [5] of the errors that theta shows beyond ``bound`` deviations.

        response [5]: which share of an error shows. The scale's is zero, see ``deviations``.
        """
        beyond = self.theta**2 - bound**2 * (usual_std**2 + self.var)
        var = np.maximum(beyond, 0.0) / response**2
        var[_SCALE] = 0.0
        return var


def rotation_cov_of(var: Array, gyro: GyroWindow) -> Array:
    """Return the covariance [3, 3] (rad^2) of an interval's rotation, var [5] being theta's."""
    H = gyro.design
    return (H * var) @ H.T


def camera_rotation(network: Network, x: MotionInput) -> tuple[Array, Array]:
    """Return rotations [batch, 3] (rad) that the camera alone tells, and their noise [., 3, 3]."""
    blind = replace(x, imu=torch.zeros_like(x.imu), imu_valid=torch.zeros_like(x.imu_valid))
    with torch.no_grad():
        mean, cholesky = network(blind)
    L = cholesky.double()[:, ANGULAR]
    return mean.double()[:, ANGULAR].cpu().numpy(), (L @ L.mT).cpu().numpy()
