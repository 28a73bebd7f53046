"""Tell a camera's rotation from coarse optical flow alone, without depth and a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.frames import view_rays
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH

_BLOCK = 4  # grid cells per side of the blocks over which flow is averaged
_ITERATIONS = 6
_HUBER = 1.345
_MIN_NOISE = 3e-4  # focal lengths: a twentieth of a view pixel
_ROWS, _COLUMNS = GRID_HEIGHT // _BLOCK, GRID_WIDTH // _BLOCK


def rotation_from_flow(
    flow: NDArray[np.floating], view_valid: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return rotations [n, 3] (rad, about base axes, later view relative to earlier) of flow.

    flow [n, 2, 40, 128], view_valid [40, 128]. Each frame is explained by three rotations and a
    multiple of the recording's typical translational flow, which is learned from what rotations
    leave over; cells off that model (walls, other cars) lose weight (Huber). The forward
    direction is taken as the view's axis, so a constant share of speed may remain in yaw and
    pitch.
    """
    measured = block_means(np.asarray(flow, np.float64)).reshape(len(flow), -1)
    seen = block_means(np.asarray(view_valid, np.float64)) > 0.99
    weight = np.tile(seen.reshape(-1), 2).astype(np.float64)
    rotations, template = _templates()
    template = _without(rotations, template, weight)
    robust = np.broadcast_to(weight, measured.shape)
    coefficients = np.zeros((len(measured), 4))
    for _ in range(_ITERATIONS):
        model = np.concatenate([rotations, template[:, None]], 1)
        coefficients = _regress(model, measured, robust)
        residuals = measured - coefficients @ model.T
        robust = weight * _huber(residuals, weight)
        rest = measured - coefficients[:, :3] @ rotations.T
        template = _typical(rest, coefficients[:, 3:], robust)
        template = _without(rotations, template, weight)
    return coefficients[:, [2, 1, 0]]


def block_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means [..., 10, 32] of grid values [..., 40, 128] over blocks."""
    shape = (*values.shape[:-2], _ROWS, _BLOCK, _COLUMNS, _BLOCK)
    return values.reshape(shape).mean((-3, -1))


def block_rays() -> NDArray[np.float64]:
    """Return the mean rays [320, 3] of blocks in the view's optical frame (z = 1)."""
    rays = view_rays()
    per_block = rays.shape[0] // _ROWS
    blocks = rays.reshape(_ROWS, per_block, _COLUMNS, per_block, 3)
    return blocks.mean((1, 3)).reshape(-1, 3)


def _templates() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return flow per radian of yaw, pitch, roll [k, 3], and of driving over a flat road [k].

    Small-angle flow from the later view to the earlier one (Longuet-Higgins and Prazdny, 1980),
    k = 2 * 10 * 32: all horizontal displacements, then all vertical ones.
    """
    x, y, _ = block_rays().T
    yaw = np.concatenate([-(1 + x**2), -x * y])
    pitch = np.concatenate([x * y, 1 + y**2])
    roll = np.concatenate([-y, x])
    inverse_depth = np.maximum(y, 0) + 0.02
    return np.stack([yaw, pitch, roll], 1), np.concatenate([-x, -y]) * np.tile(inverse_depth, 2)


def _regress(
    model: NDArray[np.float64], measured: NDArray[np.float64], robust: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return weighted least squares coefficients [n, p] of rows [n, k] on a model [k, p]."""
    k, p = model.shape
    products = (model[:, :, None] * model[:, None, :]).reshape(k, p * p)
    normal = (robust @ products).reshape(-1, p, p)
    ridge = 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(p) + 1e-12
    return np.linalg.solve(normal + ridge, ((robust * measured) @ model)[..., None])[..., 0]


def _huber(residuals: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.abs(residuals)
    sigma = 1.4826 * np.median(size[:, weight > 0], axis=1, keepdims=True)
    bound = _HUBER * np.maximum(sigma, _MIN_NOISE)
    return bound / np.maximum(size, bound)


def _typical(
    rest: NDArray[np.float64], amount: NDArray[np.float64], robust: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the pattern [k] of unit length whose multiples explain the rest [n, k] best."""
    pattern = (robust * amount * rest).sum(0) / np.maximum((robust * amount**2).sum(0), 1e-12)
    return pattern / max(float(np.linalg.norm(pattern)), 1e-12)


def _without(
    rotations: NDArray[np.float64], template: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the template without what rotations explain of it, which could not be told apart."""
    root = np.sqrt(weight)[:, None]
    share = np.linalg.lstsq(root * rotations, root[:, 0] * template, rcond=None)[0]
    return template - rotations @ share
