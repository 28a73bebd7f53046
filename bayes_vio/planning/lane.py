"""The lane beside a route, as keep-out regions along both borders."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.planning.obstacles import Obstacles, strips
from bayes_vio.planning.route import Route

Array = NDArray[np.float64]
# By so much a border may be straightened, and is drawn inward to make up for it.
_TOLERANCE_M = 0.05
# As far outward as the border is kept: no motion gets across between two stations.
_THICKNESS_M = 5.0


def lane_borders(route: Route, start_m: float, end_m: float, half_width_m: float) -> Obstacles:
    """Return both borders of a lane from one place along a route (m) to another.

    Raises ValueError for a half-width that leaves nothing between the borders.
    """
    if not half_width_m > 2 * _TOLERANCE_M:
        raise ValueError(f"a lane's half-width of {half_width_m} m leaves no lane")
    part = route.slice_of(start_m, end_m)
    offset_m = half_width_m - _TOLERANCE_M
    left = _straightened(route.shifted(part, offset_m))
    right = _straightened(route.shifted(part, -offset_m))
    polygons = strips(left, _THICKNESS_M) + strips(right[::-1], _THICKNESS_M)
    return Obstacles.of(polygons)


def _straightened(line: Array) -> Array:
    """Return a polyline with fewer points, nowhere farther than the tolerance from the given."""
    origin = line[0]  # float32 has room for a lane, not for a place in the world
    points = (line - origin).astype(np.float32)[:, None]
    return cv2.approxPolyDP(points, _TOLERANCE_M, False)[:, 0].astype(np.float64) + origin
