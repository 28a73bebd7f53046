"""The line that a plan follows: a polyline resampled evenly, with headings and curvature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_SPACING_M = 0.5
_LEAST_LENGTH_M = 0.1


@dataclass(frozen=True)
class Route:
    """A line in the odometry's frame, one point every spacing_m.

    points [n, 2] (m), yaw [n] (rad), curvature [n] (1/m); spacing_m between points.
    """

    points: Array
    yaw: Array
    curvature: Array
    spacing_m: float

    @staticmethod
    def along(points: Array) -> Route:
        """Return the route along a polyline [n, 2] (m).

        Raises ValueError for numbers that are not finite or a line shorter than 0.1 m.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"a route has the shape {points.shape}, not [n, 2]")
        if not np.isfinite(points).all():
            raise ValueError("a route has a point that is not finite")
        steps = np.hypot(*np.diff(points, axis=0).T)
        points, way = points[np.r_[True, steps > 0]], np.r_[0.0, np.cumsum(steps[steps > 0])]
        if way[-1] < _LEAST_LENGTH_M:
            raise ValueError(f"a route is {way[-1]:.2g} m long, less than {_LEAST_LENGTH_M} m")
        count = max(round(way[-1] / _SPACING_M), 2)
        marks = np.linspace(0.0, way[-1], count + 1)
        even = np.stack([np.interp(marks, way, points[:, k]) for k in range(2)], 1)
        yaw = np.unwrap(np.arctan2(*np.gradient(even, axis=0).T[::-1]))
        spacing_m = float(way[-1] / count)
        return Route(even, yaw, np.gradient(yaw, spacing_m), spacing_m)

    @staticmethod
    def to_goal(pose: Array, goal: Array) -> Route:
        """Return the cubic that leaves a pose [3] and arrives at a goal [3] (x, y, yaw)."""
        distance = float(np.hypot(*(goal[:2] - pose[:2])))
        t = np.linspace(0.0, 1.0, max(int(distance / _SPACING_M), 2) * 2)[:, None]
        start, end = (distance * np.array([np.cos(a), np.sin(a)]) for a in (pose[2], goal[2]))
        hermite = (2 * t**3 - 3 * t**2 + 1) * pose[:2] + (3 * t**2 - 2 * t**3) * goal[:2]
        return Route.along(hermite + (t**3 - 2 * t**2 + t) * start + (t**3 - t**2) * end)

    @property
    def length_m(self) -> float:
        """Return the route's length."""
        return self.spacing_m * (len(self.points) - 1)

    def nearest(self, position: Array) -> float:
        """Return how far along the route its point nearest to a position [2] lies (m)."""
        start, way = self.points[:-1], np.diff(self.points, axis=0)
        share = ((position - start) * way).sum(1) / (way * way).sum(1)
        share = np.clip(share, 0.0, 1.0)
        distance = np.hypot(*(start + share[:, None] * way - position).T)
        k = int(distance.argmin())
        return float(k + share[k]) * self.spacing_m

    def slice_of(self, start_m: float, end_m: float) -> slice:
        """Return the slice of at least two points from start to end."""
        last_point = len(self.points) - 1
        first = int(np.clip(start_m / self.spacing_m, 0, last_point - 1))
        last = int(np.clip(np.ceil(end_m / self.spacing_m), first + 1, last_point))
        return slice(first, last + 1)

    def shifted(self, points: slice, offset_m: float) -> Array:
        """Return points [n, 2] offset to the route's left (m)."""
        yaw = self.yaw[points]
        return self.points[points] + offset_m * np.stack([-np.sin(yaw), np.cos(yaw)], 1)
