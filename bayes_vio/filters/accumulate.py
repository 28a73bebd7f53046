"""Accumulate increments to odometry with a covariance that knows which errors are coherent.

The noise of successive increments is independent, the error of the weights is not: many frames
share one set of weights. With right perturbations, increment k has the error

    T_true = T_k exp(n_k + C_k z_k),    n_k ~ N(0, noise_cov),    C_k = epistemic_cov^(1/2),

C_k the symmetric root, and z_k a stationary first-order Gauss-Markov process:

    z_k = rho z_(k-1) + sqrt(1 - rho^2) w_k,    rho = exp(-dt / tau),    z, w ~ N(0, 1).     (E-A1)

The error d of the odometry then follows, to second order (Barfoot and Furgale 2014, eq. 54),

    d_k = A d_(k-1) + n_k + C_k z_k,    A = Ad(T_k^-1),

a linear recursion in the joint state (d, z) of 12 numbers. z keeps unit covariance, so only
P = Cov(d, d) and X = Cov(d, z) are carried:

    P_k = A P A^T + noise_cov + epistemic_cov + rho (A X C^T + C X^T A^T),
    X_k = rho A X + C.                                                                       (E-A2)

tau = 0 gives independent errors, tau = infinity the coherent sum S_k = A S_(k-1) + C_k with
covariance S S^T.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.filters.covariance import (
    CovarianceError,
    bound_scale,
    check_spd,
    symmetric_sqrt,
)
from bayes_vio.geometry import se3

Array = NDArray[np.float64]


class Odometry:
    """The pose T_odom_base [4, 4] and the covariance [6, 6] of its right perturbation.

    correlation_s: tau of the epistemic error (s), zero and infinity allowed; cov: that of the
    first pose (m, rad); std_bound [6]: the largest standard deviations ever reported.
    """

    def __init__(self, correlation_s: float, cov: Array, std_bound: Array | None = None) -> None:
        if not correlation_s >= 0:
            raise ValueError(f"correlation time is {correlation_s} s: give zero or more")
        self._correlation_s = correlation_s
        self._std_bound = np.full(6, np.inf) if std_bound is None else np.asarray(std_bound)
        self.at_bound = False
        self.set_pose(np.eye(4), cov)

    @property
    def T_odom_base(self) -> Array:
        """Return the pose [4, 4]."""
        return self._T_odom_base.copy()

    @property
    def cov(self) -> Array:
        """Return the covariance [6, 6] of the pose's right perturbation (m, rad)."""
        return self._cov.copy()

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Continue from a pose [4, 4] whose error [6, 6] has nothing to do with the weights.

        Raises ValueError for a matrix that is not a pose, CovarianceError for one that is no
        covariance or beyond the bounds.
        """
        cov = np.asarray(cov, np.float64)
        if cov.shape != (6, 6):
            raise CovarianceError(f"a pose covariance must be 6x6, got shape {cov.shape}")
        cov = check_spd(cov, "the given pose covariance")
        if (bound_scale(cov, self._std_bound) < 1 - 1e-9).any():
            std = np.sqrt(np.diagonal(cov))
            raise CovarianceError(
                f"the given pose has std {std}, above {self._std_bound} (m, rad)"
            )
        self._T_odom_base = check_pose(T_odom_base)
        self._cov = cov
        self._cross_cov = np.zeros((6, 6))

    def add(self, T_earlier_later: Array, noise_cov: Array, epistemic_cov: Array, dt_s: float):
        """Append an increment [4, 4] with the two parts of its covariance [6, 6] (E-A2).

        Raises CovarianceError, leaving the odometry as it was, if the sum is not a covariance.
        """
        A = se3.adjoint(se3.inverse(torch.from_numpy(T_earlier_later))).numpy()
        C = symmetric_sqrt(epistemic_cov)
        moved = self._correlation(dt_s) * A @ self._cross_cov
        coherent = moved @ C.T
        cov = A @ self._cov @ A.T + noise_cov + epistemic_cov + coherent + coherent.T
        cov = check_spd(cov, "the covariance of the odometry")
        scale = bound_scale(cov, self._std_bound)
        self.at_bound = bool((scale < 1).any())
        self._cov = cov * np.outer(scale, scale)
        self._cross_cov = scale[:, None] * (moved + C)
        self._T_odom_base = _orthonormal(self._T_odom_base @ T_earlier_later)

    def _correlation(self, dt_s: float) -> float:
        """Return rho of E-A1."""
        return math.exp(-dt_s / self._correlation_s) if self._correlation_s > 0 else 0.0


def check_pose(T: Array) -> Array:
    """Return a pose [4, 4] as float64; raise ValueError if it is not a rigid motion."""
    T = np.array(T, np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise ValueError(f"a pose must be a finite 4x4 matrix, got shape {T.shape}")
    R = T[:3, :3]
    rigid = np.allclose(R.T @ R, np.eye(3), atol=1e-6) and np.linalg.det(R) > 0
    if not (rigid and np.array_equal(T[3], [0, 0, 0, 1])):
        raise ValueError("a pose must be a rotation and a translation, last row 0 0 0 1")
    return T


def _orthonormal(T: Array) -> Array:
    """Pull the rotation back onto SO(3) by one Newton step: rounding adds up over hours."""
    R = T[:3, :3]
    T[:3, :3] = 0.5 * R @ (3 * np.eye(3) - R.T @ R)
    return T
