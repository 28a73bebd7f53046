"""Accumulate increments to odometry with a covariance that knows which errors are coherent.

Errors of successive increments are not independent. All frames share one set of weights, so the
epistemic error stays alike for as long as the scene does; and part of the noise lasts, too: a
road's slope, a scene's texture. With right perturbations, increment k has the error

    T_true = T_k exp(n_k + Phi_k w + sum_j C_jk z_jk),    n_k ~ N(0, white_cov),

with features Phi_k of the epistemic error, where they are known, and w the one error of all
weights (``transported``). C_j is the symmetric root of the covariance of another lasting part (j =
lasting noise, and the epistemic error of increments without features), and z_j are stationary
first-order Gauss-Markov processes:

    z_jk = R_j z_j(k-1) + (1 - R_j^2)^(1/2) w_k,    R_j = diag exp(-dt / tau_j),
    z, w ~ N(0, 1),                                                                          (E-A1)

with one tau for the epistemic part and one per axis for the lasting noise.

The error d of the odometry then follows, to second order (Barfoot and Furgale 2014, eq. 54),

    d_k = A d_(k-1) + n_k + Phi_k w + sum_j C_jk z_jk,    A = Ad(T_k^-1),

a linear recursion in the joint state (d, w, z). w and z keep unit covariance, so only P =
Cov(d, d), X_j = Cov(d, z_j) and S = Cov(d, w) are carried:

    P_k = A P A^T + white_cov + sum_j [C_j C_j^T + A X_j R_j C_j^T + C_j R_j X_j^T A^T],
    X_jk = A X_j R_j + C_j,                                                                  (E-A2)

and S as X with R = 1, C = Phi (E-A3). tau = 0 gives independent errors, tau = infinity the
coherent sum S_k = A S_(k-1) + C_k with covariance S S^T, whose axes are the same in every frame:
features know better. Where the accumulated angle is no longer small, the same recursion runs with
the maps of the fourth order (E-A4 in ``compound``) in front of A and C.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.filters.compound import Order, compound_of
from bayes_vio.filters.covariance import (
    CovarianceError,
    bound_scale,
    check_spd,
    symmetric_sqrt,
)
from bayes_vio.filters.transported import TransportedSum, matched
from bayes_vio.geometry import se3
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation

Array = NDArray[np.float64]


class Odometry:
    """The pose T_odom_base [4, 4] and the covariance [6, 6] of its right perturbation.

    correlation_s: tau of the epistemic error of increments without features (s), zero and infinity
    allowed; cov: that of the first pose (m, rad); std_bound [6]: the largest standard deviations
    ever reported; noise_correlation: how much of the noise lasts; order: to which the covariance
    is compounded.
    """

    def __init__(
        self,
        correlation_s: float,
        cov: Array,
        std_bound: Array | None = None,
        noise_correlation: NoiseCorrelation = WHITE_NOISE,
        order: Order = Order.AS_NEEDED,
    ) -> None:
        if not correlation_s >= 0:
            raise ValueError(f"correlation time is {correlation_s} s: give zero or more")
        self._epistemic_tau_s = np.full(6, correlation_s)
        self._noise_correlation, self._order = noise_correlation, order
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
        self._cross_cov = [np.zeros((6, 6)) for _ in range(2)]  # epistemic, lasting noise
        self._sum = TransportedSum.empty()

    def add(
        self,
        T_earlier_later: Array,
        noise_cov: Array,
        epistemic_cov: Array,
        dt_s: float,
        features: Array | None = None,
        noise_correlation: NoiseCorrelation | None = None,
    ) -> None:
        """Append an increment [4, 4] with the two parts of its covariance [6, 6] (E-A2).

        features [6, size] of the epistemic error (right perturbation, m and rad) tell what it has
        in common with that of other increments; they are matched to epistemic_cov. Without them it
        is a process of correlation_s. noise_correlation: of this increment, where its noise lasts
        otherwise than usual. Raises CovarianceError, leaving the odometry as it was, if the sum is
        not a covariance.
        """
        if not (np.isfinite(noise_cov).all() and np.isfinite(epistemic_cov).all()):
            raise CovarianceError("the covariance of the increment is not finite")
        A = se3.adjoint(se3.inverse(torch.from_numpy(T_earlier_later))).numpy()
        lasting = noise_correlation or self._noise_correlation
        white_cov, lasting_cov = lasting.split(noise_cov)
        times_s = (self._epistemic_tau_s, np.array(lasting.time_s))
        shared, Phi = self._sum.moved(A), None
        increment_cov, cross_cov = white_cov + lasting_cov + epistemic_cov, np.zeros((6, 6))
        if features is not None:
            Phi, epistemic_cov = matched(features, epistemic_cov), np.zeros((6, 6))
            cross_cov = shared.cross_cov(Phi)
        roots = [symmetric_sqrt(part) for part in (epistemic_cov, lasting_cov)]
        moved = [
            A @ X * _correlation(dt_s, tau_s)
            for tau_s, X in zip(times_s, self._cross_cov, strict=True)
        ]
        cross_cov = cross_cov + sum(X @ C.T for X, C in zip(moved, roots, strict=True))
        pose_cov = A @ self._cov @ A.T
        by = compound_of(pose_cov, increment_cov, cross_cov, self._order)
        a, b = by.of_pose, by.of_increment
        cov = a @ pose_cov @ a.T + b @ increment_cov @ b.T + by.left_cov
        cov = cov + _twice(a @ cross_cov @ b.T)
        shared = shared.moved(a) if Phi is None else shared.moved(a).plus(b @ Phi)
        kept = [a @ X + b @ C for X, C in zip(moved, roots, strict=True)]
        self._keep(check_spd(cov, "the covariance of the odometry"), kept, shared)
        self._T_odom_base = _orthonormal(self._T_odom_base @ T_earlier_later)

    def _keep(self, cov: Array, cross_cov: list[Array], shared: TransportedSum) -> None:
        scale = bound_scale(cov, self._std_bound)
        self.at_bound = bool((scale < 1).any())
        self._cov = cov * np.outer(scale, scale)
        self._cross_cov = [scale[:, None] * X for X in cross_cov]
        self._sum = shared.moved(np.diag(scale))


def _twice(cross_cov: Array) -> Array:
    """Return what Cov(a, b) [6, 6] adds to the covariance of a + b."""
    return cross_cov + cross_cov.T


def _correlation(dt_s: float, tau_s: Array) -> Array:
    """Return the diagonal of R [6] of E-A1."""
    return np.where(tau_s > 0, np.exp(-dt_s / np.where(tau_s > 0, tau_s, 1.0)), 0.0)


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
