"""Where a camera's rays meet the ground: a march on few columns, then Newton on all pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation.road import VISIBLE_M, GroundPatch

_NEAREST_M = 1.0
_COLUMN_STEP = 32
_N_NEWTON = 2
_N_BISECT = 10
# Rays are taken to have met the ground where they end within this share of their depth of it.
_TOLERANCE = 3e-4


def _depths(n_near: int, far_step_m: float) -> NDArray[np.float32]:
    """Return depths [n] (m) in growing steps up to 40 m, then in steps that miss no crest."""
    near = np.geomspace(_NEAREST_M, 40.0, n_near)
    far = np.arange(40.0 + far_step_m, VISIBLE_M + far_step_m, far_step_m)
    return np.concatenate([near, far]).astype(np.float32)


_COARSE_M = _depths(16, 5.0)
_FINE_M = _depths(24, 2.0)


@dataclass(frozen=True)
class GroundView:
    """The ground per pixel: direction [h, w, 3] of the ray (world axes, depth 1), depth [h, w]
    along the optical axis (m, inf where the ray misses), raster coordinates cell_x, cell_y [h, w].
    """

    direction: NDArray[np.float32]
    depth: NDArray[np.float32]
    cell_x: NDArray[np.float32]
    cell_y: NDArray[np.float32]


def see_ground(
    patch: GroundPatch, rays: NDArray[np.float32], T_world_camera: NDArray[np.float64]
) -> GroundView:
    """Return what rays [h, w, 3] (optical frame, depth 1) see of a patch of ground."""
    height, width = rays.shape[:2]
    R = T_world_camera[:3, :3].astype(np.float32)
    direction = (rays.reshape(-1, 3) @ R.T).reshape(height, width, 3)
    cell_x, cell_y = np.zeros((2, height, width), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    steepest = patch.steepest_from(T_world_camera[:3, 3])
    x, y, z = np.moveaxis(direction[:, :: _COLUMN_STEP // 4], -1, 0)
    meets = (z < np.float32(steepest) * np.sqrt(x * x + y * y)).any(1)
    top = int(np.argmax(meets)) if meets.any() else height
    if top < height:
        caster = _Caster(patch, direction[top:], T_world_camera[:3, 3])
        depth[top:], cell_x[top:], cell_y[top:] = caster.cast()
    return GroundView(direction, depth, cell_x, cell_y)


class _Caster:
    """Intersect rays from one point with one patch; raster coordinates are linear in the depth."""

    def __init__(
        self, patch: GroundPatch, direction: NDArray[np.float32], origin: NDArray[np.float64]
    ) -> None:
        self._patch, self._direction = patch, direction
        x, y = patch.cell(origin[:1], origin[1:2])
        self._x, self._y = x[0], y[0]
        east = patch.cell(origin[:1] + 1, origin[1:2])[0]
        self._cells_per_m = np.float32(east[0] - x[0])
        self._z = np.float32(origin[2])

    def cast(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return depth, cell_x, cell_y [h, w]."""
        inverse, slope = self._march()
        depth: NDArray[np.float32] = np.reciprocal(np.maximum(inverse, np.float32(1e-6)))
        for _ in range(_N_NEWTON):
            x, y = self._cells(depth, self._direction)
            closer = self._clearance(depth, self._direction, x, y) / slope
            depth = np.clip(depth - closer, 0.5 * _NEAREST_M, 4 * VISIBLE_M).astype(np.float32)
        x, y = self._cells(depth, self._direction)
        residual = np.abs(self._clearance(depth, self._direction, x, y))
        missed = residual > _TOLERANCE * depth
        depth[missed | (depth > VISIBLE_M)] = np.inf
        again = np.flatnonzero(missed & (inverse > 0))
        if again.size:
            self._bisect(again, depth, x, y)
        return depth, x, y

    def _bisect(
        self,
        pixels: NDArray[np.int64],
        depth: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.float32],
    ) -> None:
        """Find the ground of single pixels [n] beside crests, where Newton's method fails."""
        rays = self._direction.reshape(-1, 3)[pixels][None]
        depths = _FINE_M[:, None]
        below = self._clearance(depths, rays, *self._cells(depths, rays)) <= 0
        last = np.clip(below.argmax(0), 1, len(_FINE_M) - 1)
        near, far = depths[last - 1].T, depths[last].T
        for _ in range(_N_BISECT):
            middle = np.float32(0.5) * (near + far)
            under = self._clearance(middle, rays, *self._cells(middle, rays)) <= 0
            near, far = np.where(under, near, middle), np.where(under, middle, far)
        found = np.where(below.any(0), far[0], np.float32(np.inf))
        cell_x, cell_y = self._cells(far, rays)
        depth.flat[pixels], x.flat[pixels], y.flat[pixels] = found, cell_x[0], cell_y[0]

    def _march(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return inverse depth and the clearance's slope [h, w] of the first crossing, about.

        Inverse depth is linear over the pixels of a plane, so few columns suffice for a start.
        """
        height, width = self._direction.shape[:2]
        columns = np.unique(np.append(np.arange(0, width, _COLUMN_STEP), width - 1))
        rays = self._direction[:, columns].reshape(1, -1, 3)
        depths = _COARSE_M[:, None]
        x, y = self._cells(depths, rays)
        clearance = self._clearance(depths, rays, x, y)
        below = clearance <= 0
        last = np.clip(below.argmax(0), 1, len(_COARSE_M) - 1)
        pick = np.arange(len(last))
        after, before = clearance[last, pick], clearance[last - 1, pick]
        gap = depths[last, 0] - depths[last - 1, 0]
        slope = np.minimum((after - before) / gap, -1e-4)
        start = depths[last - 1, 0] - before / slope
        inverse = np.where(below.any(0), 1 / np.maximum(start, 0.1), 0)
        shape = height, len(columns)
        return (
            _widened(inverse.reshape(shape), columns, width),
            _widened(slope.reshape(shape), columns, width),
        )

    def _cells(
        self, depth: NDArray[np.float32], direction: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        reach = depth * self._cells_per_m
        return self._x + reach * direction[..., 0], self._y + reach * direction[..., 1]

    def _clearance(
        self,
        depth: NDArray[np.float32],
        direction: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        return self._z + depth * direction[..., 2] - self._patch.heights(x, y)


def _widened(
    coarse: NDArray[np.float32], columns: NDArray[np.int64], width: int
) -> NDArray[np.float32]:
    """Interpolate columns [h, n] at ``columns`` linearly to all columns [h, width]."""
    position = np.interp(np.arange(width), columns, np.arange(len(columns)))
    first = np.minimum(position.astype(int), len(columns) - 2)
    weight = (position - first).astype(np.float32)
    left, right = coarse[:, first], coarse[:, first + 1]
    return np.asarray(left + (right - left) * weight, dtype=np.float32)
