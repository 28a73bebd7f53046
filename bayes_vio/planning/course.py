"""A seeded street to be driven in closed loop: parked cars, narrow gates, a tunnel, an outage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bayes_vio.planning.lane import lane_borders
from bayes_vio.planning.route import Route
from bayes_vio.planning.world import World

Array = NDArray[np.float64]
_LENGTH_M = 70.0
_FINISH_M = 52.0
_WALL_FROM_M = 0.7  # beyond the lane's border
_PARKED_M = (4.5, 1.9)


class Condition(Enum):
    """What the car's sensors have to see by."""

    CLEAR = "clear"
    DARK = "dark"  # a tunnel: hardly any light
    OUTAGE = "outage"  # the camera has failed


@dataclass(frozen=True)
class Course:
    """A street along a route, to its finish; the map, known to the planner, is exact.

    polygons: what must not be touched, convex and counter-clockwise [v, 2] (m), the first
    ``walls`` of them the street's walls. tunnel_m: from where to where along the route it is dark.
    outage_m: where the camera fails, for outage_s. finish_m: where the drive is over; the route
    goes on, so that no drive ends by stopping short. start_speed_m_s: of the car at first.
    """

    route: Route
    polygons: tuple[Array, ...]
    walls: int
    lane_half_width_m: float
    tunnel_m: tuple[float, float]
    outage_m: float
    outage_s: float
    finish_m: float = _FINISH_M
    start_speed_m_s: float = 5.0

    @cached_property
    def world(self) -> World:
        """Return what must not be touched as the planner knows it."""
        return World.of_polygons(list(self.polygons))

    @property
    def start(self) -> Array:
        """Return the pose [3] (x, y in m, yaw in rad) where the car stands at first."""
        return np.array([*self.route.points[0], self.route.yaw[0]])

    @property
    def obstacles(self) -> tuple[Array, ...]:
        """Return the polygons that are not walls."""
        return self.polygons[self.walls :]

    def dark_at(self, position: Array) -> bool:
        """Return whether a position [2] (m) is beside the dark part of the route."""
        way_m = self.route.nearest(position)
        return self.tunnel_m[0] <= way_m < self.tunnel_m[1]


def random_course(rng: np.random.Generator, lane_half_width_m: float = 3.6) -> Course:
    """Return a street of 52 m: a gate, a parked car in a tunnel, an outage, another gate."""
    bend_m, phase = rng.uniform(-2.0, 2.0), rng.uniform(0, 2 * np.pi)
    x = np.linspace(0.0, _LENGTH_M, 120)
    route = Route.along(np.stack([x, bend_m * np.sin(x / 22 + phase)], 1))
    beyond_m = lane_half_width_m + _WALL_FROM_M
    walls = [*lane_borders(route, 0.0, route.length_m, beyond_m).vertices.numpy()]
    tunnel_from_m = rng.uniform(19, 22)
    tunnel_m = tunnel_from_m, tunnel_from_m + rng.uniform(13, 16)
    builder = _Roadside(route, beyond_m, rng)
    obstacles = [
        *builder.gate(rng.uniform(13, 16)),
        builder.parked(tunnel_from_m + rng.uniform(9, 12)),
        *builder.gate(rng.uniform(44, 47)),
    ]
    return Course(
        route=route,
        polygons=(*walls, *obstacles),
        walls=len(walls),
        lane_half_width_m=lane_half_width_m,
        tunnel_m=tunnel_m,
        outage_m=rng.uniform(36, 39),
        outage_s=rng.uniform(0.5, 1.5),
    )


class _Roadside:
    """Place obstacles by their way along a route and their offset to its left."""

    def __init__(self, route: Route, beyond_m: float, rng: np.random.Generator) -> None:
        self._route, self._beyond_m, self._rng = route, beyond_m, rng

    def parked(self, way_m: float) -> Array:
        """Return a parked car that leaves 3.5 to 4.3 m of the lane."""
        side = self._rng.choice([-1, 1])
        into_m = 2 * self._beyond_m - self._rng.uniform(4.2, 5.0)
        offset_m = side * (self._beyond_m - into_m + 0.5 * _PARKED_M[1])
        return self._box(way_m, offset_m, *_PARKED_M)

    def gate(self, way_m: float) -> list[Array]:
        """Return two blocks with a gap between them."""
        rng, beyond_m = self._rng, self._beyond_m
        width_m, middle_m, depth_m = rng.uniform(2.9, 3.6), rng.uniform(-0.8, 0.8), 1.0
        blocks = []
        for side in (-1, 1):
            edge_m = side * middle_m + 0.5 * width_m
            blocks.append(
                self._box(way_m, side * 0.5 * (edge_m + beyond_m), depth_m, beyond_m - edge_m)
            )
        return blocks

    def _box(self, way_m: float, offset_m: float, length_m: float, width_m: float) -> Array:
        """Return a rectangle [4, 2] along the route, its middle beside a way along it."""
        k = round(way_m / self._route.spacing_m)
        centre = self._route.shifted(slice(k, k + 1), offset_m)[0]
        c, s = np.cos(self._route.yaw[k]), np.sin(self._route.yaw[k])
        corners = 0.5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length_m, width_m]
        return corners @ np.array([[c, s], [-s, c]]) + centre
