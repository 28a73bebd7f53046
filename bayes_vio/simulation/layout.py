"""Place houses, trees, cars and signs along both sides of a road, as upright planes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from bayes_vio.simulation.road import SPACING_M, RoadPath
from bayes_vio.simulation.road_surface import RoadStyle, Surface
from bayes_vio.simulation.scenery import PANEL_WIDTH_M, SceneryPainter
from bayes_vio.simulation.textures import Picture

FADE_M = 30.0
_FAR_M = 120.0
_NEAR_M = 70.0
_VARIANTS = 6


@dataclass(frozen=True)
class Plane:
    """An upright picture: foot [2] is the world's xy of its left end, as its beholder sees it.

    direction [2]: unit vector from left to right; slope: rise per metre along it; it stands on
    the ground and fades out towards ``visible_m`` from the camera.
    """

    picture: Picture
    foot: NDArray[np.float64]
    direction: NDArray[np.float64]
    slope: float
    visible_m: float


class Layout:
    """Place planes along both sides of a path, off every part of the road."""

    def __init__(
        self,
        path: RoadPath,
        surface: Surface,
        density: float,
        texel_m: float,
        rng: np.random.Generator,
    ) -> None:
        self._path, self._surface, self._rng = path, surface, rng
        self._density = density
        self._painter = SceneryPainter(0.8 * texel_m, rng)
        self._road = KDTree(path.xy + path.normal * path.centre[:, None])
        self._fresh = self._first_passes()
        self._planes: list[Plane] = []

    def planes(self) -> list[Plane]:
        """Return all planes, in no particular order."""
        rows = {
            RoadStyle.CITY: (self._houses, self._parked_cars, self._street_trees, self._posts),
            RoadStyle.SUBURB: (self._houses, self._hedges, self._trees, self._parked_cars),
            RoadStyle.RURAL: (self._trees, self._hedges, self._delineators, self._trees),
        }[self._surface.style]
        if self._density > 0:
            for row in rows:
                for side in (1, -1):
                    row(side)
        return self._planes

    def _first_passes(self) -> NDArray[np.bool_]:
        """Return where the path [n] is not beside an earlier stretch, which has its scenery."""
        tree = KDTree(self._path.xy)
        gap = round(60 / SPACING_M)
        near = tree.query_ball_point(self._path.xy, 14.0)
        return np.array([min(found) > i - gap for i, found in enumerate(near)])

    def _variants(self, draw: Callable[[], Picture], n: int = _VARIANTS) -> list[Picture]:
        return [draw() for _ in range(n)]

    def _one_of(self, pictures: list[Picture]) -> Picture:
        return pictures[self._rng.integers(len(pictures))]

    def _houses(self, side: int) -> None:
        rng, city = self._rng, self._surface.style is RoadStyle.CITY
        fronts = [self._house_style(city) for _ in range(_VARIANTS)]
        s, end = self._path.s[0] + rng.uniform(0, 20), self._path.s[-1]
        setback_m = self._surface.verge_from_m + (rng.uniform(0, 3) if city else 3)
        while s < end:
            panels, end_wall = fronts[rng.integers(len(fronts))]
            n = int(rng.integers(2, 5)) if city else int(rng.integers(1, 3))
            left_m = side * (setback_m + rng.uniform(0, 1.0 if city else 5.0))
            if self._density > rng.random():
                self._across(s, left_m + side * 4.5, end_wall, _FAR_M)
                for i in range(n):
                    self._beside(s + i * PANEL_WIDTH_M, left_m, self._one_of(panels), _FAR_M)
            s += n * PANEL_WIDTH_M + (rng.exponential(4) if city else rng.uniform(5, 30))

    def _house_style(self, city: bool) -> tuple[list[Picture], Picture]:
        rng = self._rng
        wall, roof = rng.uniform(80, 230), rng.uniform(35, 110)
        n_floors = int(rng.integers(2, 5)) if city else int(rng.integers(1, 3))
        window_m = rng.uniform(0.8, 1.6)
        painter = self._painter
        panels = [painter.wall_panel(wall, n_floors, roof, window_m) for _ in range(3)]
        return panels, painter.end_wall(wall * rng.uniform(0.6, 1.0), n_floors)

    def _parked_cars(self, side: int) -> None:
        rng = self._rng
        paints = [rng.choice([25, 40, 60, 110, 160, 205, 235]) for _ in range(_VARIANTS)]
        cars = [(self._painter.car_side(p), self._painter.car_rear(p)) for p in paints]
        left_m = side * (self._surface.half_width_m + 1.0)
        for s in self._places(12.0 if self._surface.style is RoadStyle.CITY else 25.0, 5.5):
            flank, rear = cars[rng.integers(len(cars))]
            if self._across(s, left_m + side * 0.9, rear, _NEAR_M):
                self._beside(s, left_m, flank, _NEAR_M)

    def _trees(self, side: int) -> None:
        rng = self._rng
        leaf = rng.uniform(50, 100)
        trees = self._variants(lambda: self._painter.tree(rng.uniform(5, 11), leaf))
        trees += self._variants(lambda: self._painter.conifer(rng.uniform(6, 13), 0.7 * leaf), 2)
        trees += self._variants(lambda: self._painter.bush(leaf, 2.5, rng.uniform(1.2, 2.5)), 3)
        for s in self._places(13.0, 2.0):
            left_m = self._surface.verge_from_m + 1.5 + rng.exponential(5.0)
            self._across(s, side * left_m, self._one_of(trees), _FAR_M)

    def _street_trees(self, side: int) -> None:
        rng = self._rng
        trees = self._variants(lambda: self._painter.tree(rng.uniform(5, 8), rng.uniform(50, 90)))
        left_m = side * (self._surface.half_width_m + 2.6)
        for s in self._places(22.0, 8.0):
            self._across(s, left_m, self._one_of(trees), _FAR_M)

    def _hedges(self, side: int) -> None:
        rng = self._rng
        leaf = rng.uniform(45, 95)
        hedges = self._variants(lambda: self._painter.hedge(leaf, rng.uniform(0.9, 1.9)), 3)
        fences = self._variants(lambda: self._painter.fence(rng.uniform(80, 210)), 2)
        left_m = side * (self._surface.verge_from_m + rng.uniform(0.6, 1.4))
        for s in self._places(45.0, 6.0):
            row = [self._one_of(hedges if rng.random() < 0.6 else fences)] * rng.integers(2, 9)
            for i, picture in enumerate(row):
                self._beside(s + 4.0 * i, left_m, picture, _NEAR_M)

    def _posts(self, side: int) -> None:
        lamp, signs = self._painter.lamp_post(), self._variants(self._painter.sign, 3)
        left_m = side * (self._surface.half_width_m + 0.7)
        for s in self._places(35.0, 25.0):
            self._across(s, left_m, lamp, _FAR_M)
        for s in self._places(40.0, 10.0):
            self._across(s, left_m, self._one_of(signs), _NEAR_M)

    def _delineators(self, side: int) -> None:
        post, signs = self._painter.delineator(), self._variants(self._painter.sign, 3)
        left_m = side * (self._surface.half_width_m + 0.9)
        for s in np.arange(self._path.s[0], self._path.s[-1], 25.0):
            self._across(s, left_m, post, _NEAR_M)
        for s in self._places(90.0, 30.0):
            self._across(s, left_m * 1.1, self._one_of(signs), _NEAR_M)

    def _places(self, mean_m: float, least_m: float) -> NDArray[np.float64]:
        """Return distances along the path: ``mean_m`` apart on average, at least ``least_m``."""
        length = self._path.s[-1] - self._path.s[0]
        spare = max(mean_m / max(self._density, 1e-3) - least_m, 0.1)
        steps = least_m + self._rng.exponential(spare, int(length / least_m) + 1)
        s = self._path.s[0] + np.cumsum(steps)
        return s[s < self._path.s[-1]]

    def _across(self, s: float, left_m: float, picture: Picture, visible_m: float) -> bool:
        """Stand a picture across the road, its middle ``left_m`` left of the centre."""
        i = self._index(s)
        right = -self._path.normal[i]
        middle = self._point(i, left_m)
        foot = middle - right * picture.width_m / 2
        return self._add(picture, i, foot, right, 0.0, visible_m)

    def _beside(self, s: float, left_m: float, picture: Picture, visible_m: float) -> bool:
        """Stand a picture along the road, seen from the road, starting at s."""
        i, j = self._index(s), self._index(s + picture.width_m)
        ends = self._point(i, left_m), self._point(j, left_m)
        heights = self._path.height[i], self._path.height[j]
        if left_m < 0:
            ends, heights = ends[::-1], heights[::-1]
        length = np.linalg.norm(ends[1] - ends[0])
        if not 0.5 < length / picture.width_m < 1.5:
            return False  # too tight a bend
        direction = (ends[1] - ends[0]) / length
        slope = (heights[1] - heights[0]) / length
        return self._add(picture, i if left_m > 0 else j, ends[0], direction, slope, visible_m)

    def _index(self, s: float) -> int:
        return int(min(np.searchsorted(self._path.s, s), len(self._path.s) - 1))

    def _point(self, i: int, left_m: float) -> NDArray[np.float64]:
        path = self._path
        return path.xy[i] + path.normal[i] * (path.centre[i] + left_m)

    def _add(
        self,
        picture: Picture,
        i: int,
        foot: NDArray[np.float64],
        direction: NDArray[np.float64],
        slope: float,
        visible_m: float,
    ) -> bool:
        """Add a plane unless it would stand on the road or beside an earlier stretch of it."""
        middle = 0.5 * picture.width_m if picture.height_m > 3 else 0.0
        on_ground = foot + direction * np.array([[middle], [picture.width_m - middle]])
        clear_m = self._surface.half_width_m + 0.05
        if not self._fresh[i] or self._road.query(on_ground)[0].min() < clear_m - SPACING_M / 2:
            return False
        self._planes.append(Plane(picture, foot, direction, slope, visible_m))
        return True
