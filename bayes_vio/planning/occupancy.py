"""From an occupancy grid to few convex polygons that hold every occupied cell."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# A hull of cells is a staircase of edges; more of them than this are cut down from outside.
_VERTICES_MAX = 8
# How far beyond the map its border keeps the car out.
_BORDER_M = 10.0


@dataclass(frozen=True)
class Occupancy:
    """A grid of cells in the odometry's frame.

    occupied [rows, columns]: bool, row 0 and column 0 at the origin. origin [3]: pose of cell
    (0, 0)'s outer corner, x, y (m), yaw (rad). resolution_m: the side of a cell. Raises ValueError
    for an empty grid, a resolution that is not positive or an origin that is not finite.
    """

    occupied: NDArray[np.bool_]
    origin: Array
    resolution_m: float

    def __post_init__(self) -> None:
        """Check the grid."""
        if self.occupied.ndim != 2 or not self.occupied.size:
            raise ValueError(f"the map is empty: {self.occupied.shape} cells")
        if not (np.isfinite(self.resolution_m) and self.resolution_m > 0):
            raise ValueError(f"the map's resolution is {self.resolution_m} m: give one above 0")
        if np.shape(self.origin) != (3,) or not np.isfinite(self.origin).all():
            raise ValueError("the map's origin is not three finite numbers")

    def to_frame(self, cells: Array) -> Array:
        """Return points [..., 2] (column, row), in cells, in the odometry's frame (m)."""
        c, s = np.cos(self.origin[2]), np.sin(self.origin[2])
        return self.resolution_m * cells @ np.array([[c, s], [-s, c]]) + self.origin[:2]

    def holds(self, position: Array) -> bool:
        """Return whether a position [2] (m) lies on the map."""
        c, s = np.cos(self.origin[2]), np.sin(self.origin[2])
        cell = np.array([[c, s], [-s, c]]) @ (position - self.origin[:2]) / self.resolution_m
        rows, columns = self.occupied.shape
        return bool((cell >= 0).all() and cell[0] <= columns and cell[1] <= rows)

    def polygons(self, tolerance_cells: float = 1.5) -> list[Array]:
        """Return convex, counter-clockwise polygons [v, 2] (m) over all occupied cells.

        They reach at most tolerance_cells beyond an occupied cell.
        """
        free = cv2.copyMakeBorder(
            (~self.occupied).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1
        )
        too_far = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        too_far = (too_far > tolerance_cells)[1:-1, 1:-1]
        _, labels = cv2.connectedComponents(self.occupied.astype(np.uint8), connectivity=8)
        cells = np.argwhere(self.occupied)
        label = labels[self.occupied]
        order = np.argsort(label, kind="stable")
        groups = np.split(cells[order], np.flatnonzero(np.diff(label[order])) + 1)
        hulls = [hull for g in groups if len(g) for hull in _convex_parts(g, too_far)]
        return [self.to_frame(_simplified(hull)) for hull in hulls]

    def border(self) -> list[Array]:
        """Return four polygons [4, 2] (m) around the map, as thick as 10 m."""
        rows, columns = self.occupied.shape
        b = _BORDER_M / self.resolution_m
        boxes = [
            (-b, -b, columns + b, 0),
            (-b, rows, columns + b, rows + b),
            (-b, 0, 0, rows),
            (columns, 0, columns + b, rows),
        ]
        corners = [np.array([[x, y], [u, y], [u, v], [x, v]], float) for x, y, u, v in boxes]
        return [self.to_frame(box) for box in corners]


def _convex_parts(cells: NDArray[np.int64], too_far: NDArray[np.bool_]) -> list[Array]:
    """Return hulls [v, 2] (column, row) of cells [n, 2] (row, column), cut until none is too wide.

    too_far [rows, columns]: cells that no hull may cover by their centre.
    """
    parts, hulls = [cells], []
    while parts:
        part = parts.pop()
        hull = _hull(part)
        if len(part) == 1 or not _covers(hull, part, too_far):
            hulls.append(hull)
            continue
        axis = int(np.ptp(part, axis=0).argmax())
        middle = 0.5 * (part[:, axis].min() + part[:, axis].max())
        parts += [part[part[:, axis] <= middle], part[part[:, axis] > middle]]
    return hulls


def _hull(cells: NDArray[np.int64]) -> Array:
    """Return the counter-clockwise convex hull [v, 2] (column, row) of whole cells."""
    squares = np.concatenate(
        [cells[:, ::-1] + corner for corner in ((0, 0), (1, 0), (1, 1), (0, 1))]
    )
    hull = cv2.convexHull(squares.astype(np.int32))[:, 0].astype(np.float64)
    area = 0.5 * np.sum(
        hull[:, 0] * np.roll(hull[:, 1], -1) - hull[:, 1] * np.roll(hull[:, 0], -1)
    )
    return hull if area > 0 else hull[::-1]


def _simplified(hull: Array) -> Array:
    """Return a convex polygon of at most 8 vertices that holds a hull [v, 2].

    The edge goes whose neighbours, prolonged until they meet, add least: Boyce's order for
    circumscribed polygons.
    """
    while len(hull) > _VERTICES_MAX:
        tip, area = _prolonged(hull, *(np.roll(hull, -k, 0) for k in (1, 2, 3)))
        k = int(area.argmin())
        keep = np.delete(np.arange(len(hull)), [(k + 1) % len(hull), (k + 2) % len(hull)])
        place = int(np.searchsorted(keep, k, side="right"))
        hull = np.insert(hull[keep], place, tip[k], axis=0)
    return hull


def _prolonged(before: Array, start: Array, end: Array, after: Array) -> tuple[Array, Array]:
    """Return where lines before-start and after-end meet [v, 2], and the triangles' areas [v].

    Infinite where they do not meet beyond the edge from start to end.
    """
    u, w, edge = start - before, end - after, end - start
    turn = u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]
    meets = turn < 0
    along = (edge[:, 0] * w[:, 1] - edge[:, 1] * w[:, 0]) / np.where(meets, turn, -1.0)
    tip = start + along[:, None] * u
    rise = tip - start
    area = 0.5 * np.abs(edge[:, 0] * rise[:, 1] - edge[:, 1] * rise[:, 0])
    return tip, np.where(meets, area, np.inf)


def _covers(hull: Array, cells: NDArray[np.int64], too_far: NDArray[np.bool_]) -> bool:
    """Return whether a hull covers the centre of a cell that is too far from an occupied one."""
    low, high = cells.min(0), cells.max(0) + 1
    window = too_far[low[0] : high[0], low[1] : high[1]]
    if not window.any():
        return False
    row, column = np.nonzero(window)
    centre = np.stack([column + low[1], row + low[0]], 1) + 0.5
    edges = np.roll(hull, -1, 0) - hull
    cross = edges[:, 0] * (centre[:, None, 1] - hull[:, 1]) - edges[:, 1] * (
        centre[:, None, 0] - hull[:, 0]
    )
    return bool((cross > 0).all(-1).any())
