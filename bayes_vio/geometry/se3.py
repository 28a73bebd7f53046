"""SE(3), batched: exponential, logarithm, adjoint, Jacobians and compounding of covariances.

A pose is a matrix [..., 4, 4]. Tangent vectors are (linear, angular) [..., 6] in metres and
radians, and covariances are of a right (body-frame) perturbation: T_true = T exp(xi),
xi ~ N(0, cov).

Sources: Sola et al. (2018), Appendix D; Barfoot and Furgale, "Associating uncertainty with
three-dimensional poses" (2014), for the coupling block Q and for compounding.
"""

import torch
from torch import Tensor

from bayes_vio.conventions import ANGULAR, LINEAR
from bayes_vio.geometry import so3

_SMALL_ANGLE = 5e-2


def from_rotation_translation(R: Tensor, t: Tensor) -> Tensor:
    """Return poses [..., 4, 4] of rotations R [..., 3, 3] and translations t [..., 3] (m)."""
    top = torch.cat([R, t[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], -2)


def rotation(T: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] of poses T [..., 4, 4]."""
    return T[..., :3, :3]


def translation(T: Tensor) -> Tensor:
    """Return the translations [..., 3] (m) of poses T [..., 4, 4]."""
    return T[..., :3, 3]


def inverse(T: Tensor) -> Tensor:
    """Return the inverse poses [..., 4, 4]."""
    Rt = rotation(T).mT
    return from_rotation_translation(Rt, -(Rt @ translation(T)[..., None]).squeeze(-1))


def exp(xi: Tensor) -> Tensor:
    """Return the poses [..., 4, 4] of tangent vectors xi [..., 6]."""
    v, w = xi[..., LINEAR], xi[..., ANGULAR]
    t = (so3.left_jacobian(w) @ v[..., None]).squeeze(-1)
    return from_rotation_translation(so3.exp(w), t)


def log(T: Tensor) -> Tensor:
    """Return the tangent vectors [..., 6] of poses T [..., 4, 4]; rotation angle below pi."""
    w = so3.log(rotation(T))
    v = (so3.left_jacobian_inverse(w) @ translation(T)[..., None]).squeeze(-1)
    return torch.cat([v, w], -1)


def adjoint(T: Tensor) -> Tensor:
    """Return Ad(T) [..., 6, 6]: T exp(xi) = exp(Ad(T) xi) T."""
    R = rotation(T)
    zero = torch.zeros_like(R)
    top = torch.cat([R, so3.hat(translation(T)) @ R], -1)
    return torch.cat([top, torch.cat([zero, R], -1)], -2)


def curly_hat(xi: Tensor) -> Tensor:
    """Return ad(xi) [..., 6, 6], the Lie algebra's bracket as a matrix."""
    V, W = so3.hat(xi[..., LINEAR]), so3.hat(xi[..., ANGULAR])
    top = torch.cat([W, V], -1)
    return torch.cat([top, torch.cat([torch.zeros_like(W), W], -1)], -2)


def _coupling(xi: Tensor) -> Tensor:
    """Return Q(xi) [..., 3, 3], the upper right block of the left Jacobian (Barfoot eq. 102)."""
    V, W = so3.hat(xi[..., LINEAR]), so3.hat(xi[..., ANGULAR])
    theta = xi[..., ANGULAR].norm(dim=-1)[..., None, None]
    small = theta < _SMALL_ANGLE
    t = torch.where(small, torch.ones_like(theta), theta)
    t2 = theta**2
    b = torch.where(small, 1 / 6 - t2 / 120 + t2**2 / 5040, (t - torch.sin(t)) / t**3)
    c = torch.where(small, 1 / 24 - t2 / 720 + t2**2 / 40320, (t**2 / 2 + torch.cos(t) - 1) / t**4)
    closed = (t - torch.sin(t) - t**3 / 6) / t**5
    d = torch.where(small, -1 / 120 + t2 / 5040 - t2**2 / 362880, closed)
    d = 0.5 * (-c - 3 * d)
    WV, VW = W @ V, V @ W
    WVW = WV @ W
    first = b * (WV + VW + WVW)
    second = c * (W @ WV + VW @ W - 3 * WVW)
    return 0.5 * V + first + second - d * (WVW @ W + W @ WVW)


def left_jacobian(xi: Tensor) -> Tensor:
    """Return J_l(xi) [..., 6, 6]: exp(xi + d) = exp(J_l(xi) d) exp(xi) to first order in d."""
    J = so3.left_jacobian(xi[..., ANGULAR])
    top = torch.cat([J, _coupling(xi)], -1)
    return torch.cat([top, torch.cat([torch.zeros_like(J), J], -1)], -2)


def right_jacobian(xi: Tensor) -> Tensor:
    """Return J_r(xi) [..., 6, 6]: exp(xi + d) = exp(xi) exp(J_r(xi) d) to first order in d."""
    return left_jacobian(-xi)


def log_cov_to_right_cov(xi: Tensor, cov: Tensor) -> Tensor:
    """Map a covariance of Log coordinates around xi to one of the right perturbation.

    xi [..., 6], cov [..., 6, 6]; returns J_r(xi) cov J_r(xi)^T [..., 6, 6].
    """
    J = right_jacobian(xi)
    return symmetrize(J @ cov @ J.mT)


def compound(cov: Tensor, T_inc: Tensor, cov_inc: Tensor) -> Tensor:
    """Return the covariance of T T_inc, second order: Ad(T_inc^-1) cov Ad(T_inc^-1)^T + cov_inc.

    cov, cov_inc [..., 6, 6] are of right perturbations and independent; T_inc [..., 4, 4].
    """
    Ad = adjoint(inverse(T_inc))
    return symmetrize(Ad @ cov @ Ad.mT + cov_inc)


def rotate_cov(R: Tensor, cov: Tensor) -> Tensor:
    """Return blkdiag(R, R) cov blkdiag(R, R)^T [..., 6, 6]; R [..., 3, 3], cov [..., 6, 6].

    This, and never the adjoint of the absolute pose, turns a body-frame covariance into the
    covariance about fixed axes that ROS messages carry.
    """
    zero = torch.zeros_like(R)
    B = torch.cat([torch.cat([R, zero], -1), torch.cat([zero, R], -1)], -2)
    return symmetrize(B @ cov @ B.mT)


def symmetrize(cov: Tensor) -> Tensor:
    """Return (cov + cov^T) / 2."""
    return 0.5 * (cov + cov.mT)
