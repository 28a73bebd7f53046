"""Forms in which other programs expect covariances and velocities; numbers only, no messages.

ROS messages carry covariances about fixed axes (REP 103), ours are of right perturbations. The
published block is rotated, never transported: the adjoint of an absolute pose would move the point
about which rotations are taken to the origin of the frame, and write the lever arm into it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, LINEAR
from bayes_vio.geometry import se3

Array = NDArray[np.float64]


def fixed_axes_cov(T_parent_child: Array, right_cov: Array) -> Array:
    """Return the covariance [6, 6] of a pose about its parent's axes, as in nav_msgs/Odometry.

    T_parent_child [4, 4]: T_odom_base for ``odometry``, T_earlier_later for ``relative_pose``.
    right_cov [6, 6]: of the pose's right perturbation (m, rad).
    """
    R = torch.from_numpy(np.ascontiguousarray(T_parent_child[:3, :3]))
    return se3.rotate_cov(R, torch.from_numpy(np.ascontiguousarray(right_cov))).numpy()


def right_perturbation_cov(T_parent_child: Array, fixed_cov: Array) -> Array:
    """Return the covariance [6, 6] of the right perturbation; the inverse of ``fixed_axes_cov``.

    For a pose and covariance that come in a message, as for ``set_pose``.
    """
    return fixed_axes_cov(T_parent_child.T, fixed_cov)


def mean_twist(T_earlier_later: Array, dt_s: float) -> Array:
    """Return the mean twist [6] over the interval in base_link (m/s, rad/s): Log(T) / dt."""
    return se3.log(torch.from_numpy(np.ascontiguousarray(T_earlier_later))).numpy() / dt_s


def mean_twist_cov(T_earlier_later: Array, right_cov: Array, dt_s: float) -> Array:
    """Return the covariance [..., 6, 6] of ``mean_twist``: J_r^-1 cov J_r^-T / dt^2.

    Log(T exp(d)) = Log(T) + J_r^-1(Log(T)) d to first order in the increment's right perturbation
    d [..., 6], which lives in base_link at the interval's end (Barfoot and Furgale 2014, eq. 26).
    Dividing the increment's covariance by dt^2 alone would leave the lever arm of half the way: at
    20 m/s and 10 Hz, 1 m times the error of the yaw.
    """
    return mean_twist_with_covs(T_earlier_later, right_cov, dt_s)[1]


def mean_twist_with_covs(
    T_earlier_later: Array, right_cov: Array, dt_s: float
) -> tuple[Array, Array]:
    """Return ``mean_twist`` and ``mean_twist_cov`` at once."""
    xi = se3.log(torch.from_numpy(np.ascontiguousarray(T_earlier_later)))
    J_inverse = np.linalg.inv(se3.right_jacobian(xi).numpy())
    cov = J_inverse @ right_cov @ J_inverse.T / dt_s**2
    return xi.numpy() / dt_s, 0.5 * (cov + np.swapaxes(cov, -1, -2))


def advanced_twist_cov(
    twist_cov: Array,
    dt_s: float,
    acceleration_std_m_s2: float,
    angular_acceleration_std_rad_s2: float,
) -> Array:
    """Return the covariance [6, 6] of the mean twist taken as the twist at the interval's end.

    Between the middle, where the mean twist holds, and the end the car may have accelerated:
    (std dt / 2)^2 is added per axis.
    """
    added = np.empty(6)
    added[LINEAR] = (0.5 * dt_s * acceleration_std_m_s2) ** 2
    added[ANGULAR] = (0.5 * dt_s * angular_acceleration_std_rad_s2) ** 2
    return twist_cov + np.diag(added)
