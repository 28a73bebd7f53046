"""The road along a trajectory, and the ground around a stretch of it as a height field."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from bayes_vio.simulation.trajectory import Trajectory

SPACING_M = 0.5
VISIBLE_M = 180.0
PATCH_ADVANCE_M = 80.0
_CELL_M = 1.0
_REMAP_COLUMNS = 32_000  # OpenCV's remap takes images that are less than 32767 pixels wide
_BEHIND_M = 60.0
_AHEAD_M = 260.0  # of road beyond both ends of the drive, straight on


@dataclass(frozen=True)
class RoadPath:
    """Where the car's base_link passes, on the ground, every half metre or so.

    s [n] (m), xy [n, 2] (m), height [n] (m, of the ground), tangent [n, 2], slope [n],
    centre [n] (m): how far left of the car's path the road's centre line runs;
    time_s, time_distance [m]: when the car is where.
    """

    s: NDArray[np.float64]
    xy: NDArray[np.float64]
    height: NDArray[np.float64]
    tangent: NDArray[np.float64]
    slope: NDArray[np.float64]
    centre: NDArray[np.float64]
    time_s: NDArray[np.float64]
    time_distance: NDArray[np.float64]

    def distance_at(self, time_s: float) -> float:
        """Return the distance s (m) of the car at a time (s)."""
        return float(np.interp(time_s, self.time_s, self.time_distance))

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vectors to the left of the path [n, 2]."""
        return np.column_stack([-self.tangent[:, 1], self.tangent[:, 0]])


def road_path(
    trajectory: Trajectory, base_height_m: float, centre_m: float, rng: np.random.Generator
) -> RoadPath:
    """Return the road under a trajectory whose base_link is ``base_height_m`` above it.

    centre_m: how far left of the car the road's centre runs, on average; it wanders by 0.15 m.
    """
    time_s = np.arange(trajectory.start_s, trajectory.end_s, 0.02)
    position = trajectory.position(time_s)
    kept = _spaced(position)
    points = _extended(position[kept], trajectory.pose([trajectory.start_s, trajectory.end_s]))
    step = np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1)
    s = np.concatenate([[0.0], np.cumsum(step)]) - _AHEAD_M
    height = gaussian_filter1d(points[:, 2] - base_height_m, 3.0, mode="nearest")
    gradient = np.gradient(np.column_stack([points[:, :2], height]), s, axis=0)
    speed = np.linalg.norm(gradient[:, :2], axis=1)
    wander = gaussian_filter1d(rng.standard_normal(len(s)), 60.0)
    centre = centre_m + 0.15 * wander / max(wander.std(), 1e-12)
    passed = np.searchsorted(kept, np.arange(len(time_s)), side="right") - 1
    offset = (len(points) - len(kept)) // 2
    return RoadPath(
        s=s,
        xy=points[:, :2],
        height=height,
        tangent=gradient[:, :2] / speed[:, None],
        slope=gradient[:, 2] / speed,
        centre=centre,
        time_s=time_s,
        time_distance=s[passed + offset],
    )


def _spaced(position: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return indices of positions [n, 3] that are at least half a metre apart in the plane."""
    kept = [0]
    last = position[0, :2]
    for i, point in enumerate(position[:, :2]):
        if (point[0] - last[0]) ** 2 + (point[1] - last[1]) ** 2 >= SPACING_M**2:
            kept.append(i)
            last = point
    return np.array(kept)


def _extended(
    points: NDArray[np.float64], T_world_base: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Continue points [n, 3] straight on at both ends, whose poses are T_world_base [2, 4, 4]."""
    ahead = np.arange(1, round(_AHEAD_M / SPACING_M) + 1)[:, None] * SPACING_M
    before = points[0] - ahead[::-1] * T_world_base[0, :3, 0]
    after = points[-1] + ahead * T_world_base[1, :3, 0]
    return np.concatenate([before, points, after])


class GroundPatch:
    """The ground within sight of one stretch of road, on a raster of one-metre cells.

    ``height`` [ny, nx] (m); ``origin`` [2]: the world's xy of the first cell's centre.
    Every cell belongs to the nearest point of the path, so the ground is level across the road.
    """

    def __init__(self, path: RoadPath, start_m: float) -> None:
        self.start_m = start_m
        behind, ahead = start_m - _BEHIND_M, start_m + PATCH_ADVANCE_M + VISIBLE_M + _BEHIND_M
        chosen = np.flatnonzero((path.s >= behind) & (path.s <= ahead))
        seen_from = (path.s >= start_m - 5) & (path.s <= start_m + PATCH_ADVANCE_M + 5)
        reach = VISIBLE_M + 20
        low = np.floor(path.xy[seen_from].min(0) - reach)
        shape = np.ceil((path.xy[seen_from].max(0) + reach - low) / _CELL_M).astype(int)
        self.origin = low
        cell = np.rint((path.xy[chosen] - low) / _CELL_M).astype(int)
        inside = ((cell >= 0) & (cell < shape)).all(1)
        nearest = _nearest(cell[inside], shape, chosen[inside])
        self._fill(path, nearest)

    def _fill(self, path: RoadPath, nearest: NDArray[np.int64]) -> None:
        """Measure every cell along and across the path's tangent at its nearest point [ny, nx]."""
        ny, nx = nearest.shape
        x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) * _CELL_M for n in (nx, ny)))
        local = np.column_stack([path.xy - self.origin, path.tangent]).astype(np.float32)
        # The raster's nearest point is coarse: step along the tangent to the true foot point.
        forward, _ = _offsets(x, y, local[nearest])
        steps = np.clip(np.rint(forward / SPACING_M), -4, 4).astype(np.int64)
        nearest = np.clip(nearest + steps, 0, len(path.s) - 1)
        forward, left = _offsets(x, y, local[nearest])
        profile = np.column_stack([path.height, path.slope, path.s - self.start_m, path.centre])
        height, slope, s, centre = np.moveaxis(profile.astype(np.float32)[nearest], -1, 0)
        height = height + slope * np.clip(forward, -3, 3)
        self.height = cv2.GaussianBlur(height, (0, 0), 1.5)
        stride = slice(None, None, 8)
        self._coarse_height = self.height[stride, stride]
        self._coarse_xy = x[stride, stride], y[stride, stride]
        # One complex number per cell, so that one look-up finds both coordinates.
        self._road = (s + forward + 1j * (left - centre)).astype(np.complex64).reshape(-1)

    def height_at(self, xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the ground's height [h, w] (m) at world xy [h, w, 2] (m)."""
        x, y = self.cell(xy[..., 0], xy[..., 1])
        return self.heights(x, y)

    def cell(
        self, x_world: NDArray[np.floating], y_world: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return raster coordinates (x, y) of world coordinates (m)."""
        x = ((x_world - self.origin[0]) / _CELL_M).astype(np.float32)
        return x, ((y_world - self.origin[1]) / _CELL_M).astype(np.float32)

    def heights(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return heights [h, w] (m) at raster coordinates [h, w]; the border is continued."""
        out = np.zeros(x.shape, np.float32)
        for start in range(0, x.shape[1] if x.size else 0, _REMAP_COLUMNS):
            part = slice(start, start + _REMAP_COLUMNS)
            out[:, part] = cv2.remap(
                self.height, x[:, part], y[:, part], cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
        return out

    def steepest_from(self, origin: NDArray[np.float64]) -> float:
        """Return a bound on the rise per metre to any ground beyond 10 m from origin [3] (m)."""
        x = self._coarse_xy[0] - np.float32(origin[0] - self.origin[0])
        y = self._coarse_xy[1] - np.float32(origin[1] - self.origin[1])
        rise = (self._coarse_height - np.float32(origin[2])) / np.maximum(np.hypot(x, y), 10.0)
        return float(rise.max()) + 0.01

    def road_coordinates(
        self, x: NDArray[np.float32], y: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return distances (along from start_m, left of the centre) [h, w] (m) there.

        Interpolated without cv2.remap, whose older versions round coordinates to 1/32 cell.
        """
        ny, nx = self.height.shape
        x0 = np.clip(x.astype(np.int32), 0, nx - 2)
        y0 = np.clip(y.astype(np.int32), 0, ny - 2)
        wx, wy = x - x0.astype(np.float32), y - y0.astype(np.float32)
        index = y0 * nx + x0
        near = self._road.take(index)
        near += wx * (self._road.take(index + 1) - near)
        index += nx
        far = self._road.take(index)
        far += wx * (self._road.take(index + 1) - far)
        near += wy * (far - near)
        return near.real, near.imag


def _offsets(
    x: NDArray[np.float32], y: NDArray[np.float32], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far (x, y) [ny, nx] are along and left of points [ny, nx, 4] (xy, tangent)."""
    px, py, tx, ty = np.moveaxis(points, -1, 0)
    dx, dy = x - px, y - py
    return dx * tx + dy * ty, tx * dy - ty * dx


def _nearest(
    cell: NDArray[np.int64], shape: NDArray[np.int64], index: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for every cell [shape[1], shape[0]] the index of the nearest marked cell."""
    empty = np.ones((shape[1], shape[0]), np.uint8)
    empty[cell[:, 1], cell[:, 0]] = 0
    _, labels = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.asarray(labels, dtype=np.int64)
    table = np.zeros(int(label.max()) + 1, np.int64)
    table[label[cell[:, 1], cell[:, 0]]] = index
    return table[label]
