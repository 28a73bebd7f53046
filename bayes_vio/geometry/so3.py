"""SO(3), batched: exponential, logarithm and the Jacobians between them.

Source: Sola, Deray, Atchuthan, "A micro Lie theory for state estimation in robotics" (2018),
Appendix B. Tangent vectors are rotation vectors in radians.
"""

import torch
from torch import Tensor

# Below this angle (rad) the closed forms lose digits in float64 and the series take over.
_SMALL_ANGLE = 1e-3


def hat(w: Tensor) -> Tensor:
    """Return the skew matrices [..., 3, 3] with ``hat(w) @ v == cross(w, v)``; w [..., 3]."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def vee(W: Tensor) -> Tensor:
    """Return the vectors [..., 3] of skew matrices [..., 3, 3]."""
    return torch.stack([W[..., 2, 1], W[..., 0, 2], W[..., 1, 0]], -1)


def _eye_like(W: Tensor) -> Tensor:
    return torch.eye(3, dtype=W.dtype, device=W.device).expand_as(W)


def coefficients(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3, each with theta's shape."""
    small = theta < _SMALL_ANGLE
    t = torch.where(small, torch.ones_like(theta), theta)
    t2 = theta * theta
    a = torch.where(small, 1 - t2 / 6 + t2 * t2 / 120, torch.sin(t) / t)
    b = torch.where(small, 0.5 - t2 / 24 + t2 * t2 / 720, 2 * torch.sin(t / 2) ** 2 / t**2)
    c = torch.where(small, 1 / 6 - t2 / 120 + t2 * t2 / 5040, (t - torch.sin(t)) / t**3)
    return a, b, c


def exp(w: Tensor) -> Tensor:
    """Return the rotation matrices [..., 3, 3] of rotation vectors w [..., 3] (rad)."""
    W = hat(w)
    a, b, _ = coefficients(w.norm(dim=-1)[..., None, None])
    return _eye_like(W) + a * W + b * W @ W


def log(R: Tensor) -> Tensor:
    """Return the rotation vectors [..., 3] (rad, norm at most pi) of rotations R [..., 3, 3].

    Goes through the unit quaternion of largest component, so it is accurate at 0 and at pi.
    """
    q = quaternion(R)
    q = torch.where(q[..., 3:] < 0, -q, q)
    v, scalar = q[..., :3], q[..., 3]
    norm = v.norm(dim=-1)
    small = norm < _SMALL_ANGLE
    safe = torch.where(small, torch.ones_like(norm), norm)
    ratio = norm / scalar
    series = (2 - 2 * ratio**2 / 3 + 2 * ratio**4 / 5) / scalar
    factor = torch.where(small, series, 2 * torch.atan2(safe, scalar) / safe)
    return factor[..., None] * v


def quaternion(R: Tensor) -> Tensor:
    """Return unit quaternions [..., 4], order (x, y, z, w), of rotations R [..., 3, 3].

    Source: Shepperd (1978): of four equivalent formulas, take the one without cancellation.
    """
    r00, r11, r22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xw, yw, zw = vee(R - R.mT).unbind(-1)
    xy, xz, yz = (
        R[..., 0, 1] + R[..., 1, 0],
        R[..., 0, 2] + R[..., 2, 0],
        R[..., 1, 2] + R[..., 2, 1],
    )
    rows = [
        torch.stack([1 + r00 - r11 - r22, xy, xz, xw], -1),
        torch.stack([xy, 1 - r00 + r11 - r22, yz, yw], -1),
        torch.stack([xz, yz, 1 - r00 - r11 + r22, zw], -1),
        torch.stack([xw, yw, zw, 1 + r00 + r11 + r22], -1),
    ]
    outer = torch.stack(rows, -2)  # 4 q q^T
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    q = outer.gather(-2, index).squeeze(-2)
    return q / q.norm(dim=-1, keepdim=True)


def from_quaternion(q: Tensor) -> Tensor:
    """Return rotations [..., 3, 3] of quaternions q [..., 4], order (x, y, z, w), any norm > 0."""
    q = q / q.norm(dim=-1, keepdim=True)
    W = hat(q[..., :3])
    return _eye_like(W) + 2 * q[..., 3, None, None] * W + 2 * W @ W


def left_jacobian(w: Tensor) -> Tensor:
    """Return J_l(w) [..., 3, 3]: exp(w + d) = exp(J_l(w) d) exp(w) to first order in d."""
    W = hat(w)
    _, b, c = coefficients(w.norm(dim=-1)[..., None, None])
    return _eye_like(W) + b * W + c * W @ W


def left_jacobian_inverse(w: Tensor) -> Tensor:
    """Return J_l(w)^-1 [..., 3, 3], for angles below 2 pi."""
    W = hat(w)
    theta = w.norm(dim=-1)[..., None, None]
    small = theta < _SMALL_ANGLE
    t = torch.where(small, torch.ones_like(theta), theta)
    # 1/t^2 - cot(t/2) / (2 t) = (1 - (t/2) cot(t/2)) / t^2
    half = t / 2
    closed = (1 - half * torch.cos(half) / torch.sin(half)) / t**2
    d = torch.where(small, 1 / 12 + theta**2 / 720, closed)
    return _eye_like(W) - 0.5 * W + d * W @ W
