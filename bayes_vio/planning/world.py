"""What the car must not touch: a map's occupied cells and its border, as polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.occupancy import Occupancy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Obstacles in the odometry's frame, and the map that they come from, None for no map."""

    obstacles: Obstacles
    occupancy: Occupancy | None = None

    @staticmethod
    def of_map(occupancy: Occupancy) -> World:
        """Return the world of a map; what lies beyond its border is kept out of."""
        return World(Obstacles.of(occupancy.polygons() + occupancy.border()), occupancy)

    @staticmethod
    def of_polygons(polygons: list[Array]) -> World:
        """Return a world without a border, of convex, counter-clockwise polygons [v, 2] (m)."""
        return World(Obstacles.of(polygons))

    def holds(self, position: Array) -> bool:
        """Return whether a position [2] (m) lies on the map, True where there is none."""
        return self.occupancy is None or self.occupancy.holds(position)
