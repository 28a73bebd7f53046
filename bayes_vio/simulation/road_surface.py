"""Paint the road: asphalt, markings, pavement or verge, as one strip that repeats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation.textures import Gray, fractal_noise, to_gray

STRIP_HALF_WIDTH_M = 12.8
STRIP_TEXELS_ALONG = 8192


class RoadStyle(Enum):
    """What a world's road and roadside are like."""

    CITY = "city"
    SUBURB = "suburb"
    RURAL = "rural"


@dataclass(frozen=True)
class Surface:
    """How a world's ground is painted; brightness in gray levels, lengths in metres."""

    style: RoadStyle
    lane_width_m: float
    asphalt: float
    asphalt_contrast: float
    verge: float
    verge_contrast: float
    marking: float
    dash_m: float
    pavement_width_m: float
    shadow: float  # share of light left in a shadow
    shadow_density: float  # per metre of road

    @property
    def half_width_m(self) -> float:
        return self.lane_width_m + 0.35

    @property
    def verge_from_m(self) -> float:
        return self.half_width_m + 0.2 + self.pavement_width_m


def random_surface(style: RoadStyle, contrast: float, rng: np.random.Generator) -> Surface:
    """Return a surface of a style, drawn at random; ``contrast`` scales the ground's texture."""
    paved = {RoadStyle.CITY: (1.8, 3.0), RoadStyle.SUBURB: (1.2, 2.0), RoadStyle.RURAL: (0.0, 0.0)}
    return Surface(
        style=style,
        lane_width_m=rng.uniform(2.9, 3.7),
        asphalt=rng.uniform(70, 125),
        asphalt_contrast=contrast * rng.uniform(7, 13),
        verge=rng.uniform(60, 110),
        verge_contrast=contrast * rng.uniform(16, 28),
        marking=rng.uniform(175, 235),
        dash_m=rng.choice([2.0, 3.0, 4.0]),
        pavement_width_m=rng.uniform(*paved[style]),
        shadow=rng.uniform(0.45, 0.9),
        shadow_density=rng.uniform(0.02, 0.12),
    )


class StripPainter:
    """Paint a surface [n_across, n_along]; rows run from right (-12.8 m) to left of the centre."""

    def __init__(self, surface: Surface, texel_m: float, rng: np.random.Generator) -> None:
        self._surface, self._texel_m, self._rng = surface, texel_m, rng
        self._n_across = round(2 * STRIP_HALF_WIDTH_M / texel_m)
        self.length_m = STRIP_TEXELS_ALONG * texel_m
        rows = (np.arange(self._n_across) + 0.5) * texel_m - STRIP_HALF_WIDTH_M
        self._left_m = rows.astype(np.float32)
        self._along_m = (np.arange(STRIP_TEXELS_ALONG, dtype=np.float32) + 0.5) * texel_m

    def paint(self) -> Gray:
        """Return the finished strip."""
        strip = self._asphalt()
        self._patches_and_cracks(strip)
        self._markings(strip)
        self._roadside(strip)
        self._manholes(strip)
        return to_gray(strip * self._shadows())

    def _noise(self, slope: float, coarsest_m: float, stretch: float = 1.0) -> NDArray[np.float32]:
        coarsest_px = coarsest_m / self._texel_m
        shape = self._n_across, STRIP_TEXELS_ALONG
        return fractal_noise(*shape, self._rng, slope, coarsest_px, stretch)

    def _asphalt(self) -> NDArray[np.float32]:
        surface = self._surface
        strip = surface.asphalt + surface.asphalt_contrast * self._noise(0.9, 4.0)
        lane_middle = np.abs(np.abs(self._left_m) - surface.lane_width_m / 2)
        wheel = np.exp(-(((lane_middle - 0.75) / 0.3) ** 2))
        return strip - 6 * wheel[:, None].astype(np.float32)

    def _patches_and_cracks(self, strip: NDArray[np.float32]) -> None:
        rng, surface = self._rng, self._surface
        for _ in range(round(self.length_m * rng.uniform(0.03, 0.15))):
            low = self._pixel(
                rng.uniform(0, self.length_m), rng.uniform(-1, 1) * surface.half_width_m
            )
            size = self._extent(rng.uniform(0.5, 12), rng.uniform(0.4, 2.5))
            area = strip[low[1] : low[1] + size[1], low[0] : low[0] + size[0]]
            area += rng.normal(0, 12)
            high = (low[0] + size[0], low[1] + size[1])
            cv2.rectangle(strip, low, high, surface.asphalt * 0.55, self._thick(0.04))
        for _ in range(round(self.length_m * rng.uniform(0.05, 0.25))):
            self._crack(strip)

    def _crack(self, strip: NDArray[np.float32]) -> None:
        rng = self._rng
        heading = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.2)
        n = int(rng.integers(6, 24))
        angles = heading + np.cumsum(rng.normal(0, 0.25, n))
        steps = 0.5 * np.column_stack([np.cos(angles), np.sin(angles)])
        start = rng.uniform(0, self.length_m), rng.uniform(-1, 1) * self._surface.half_width_m
        points = (np.cumsum(steps, 0) + start + [0, STRIP_HALF_WIDTH_M]) / self._texel_m
        dark = self._surface.asphalt * rng.uniform(0.4, 0.75)
        thick = self._thick(rng.uniform(0.02, 0.10))
        cv2.polylines(strip, [np.rint(points).astype(np.int32)], False, dark, thick, cv2.LINE_AA)

    def _markings(self, strip: NDArray[np.float32]) -> None:
        surface, rng = self._surface, self._rng
        worn = np.clip(0.8 + 0.25 * self._noise(1.0, 1.0), 0, 1)
        period = self.length_m / max(1, round(self.length_m / (3 * surface.dash_m)))
        dashed = (self._along_m % period < surface.dash_m).astype(np.float32)
        edge = np.ones_like(dashed)
        if surface.style is not RoadStyle.RURAL and rng.random() < 0.5:
            edge[:] = 0
        inner = surface.lane_width_m + 0.05
        lines = [(0.0, dashed), (inner, edge), (-inner, edge)]
        paint = np.zeros_like(strip)
        for left, present in lines:
            paint += self._line(left, 0.12)[:, None] * present
        if surface.style is not RoadStyle.RURAL:
            for start in rng.uniform(10, self.length_m - 10, int(rng.integers(1, 5))):
                self._zebra(paint, start)
        strip += (surface.marking - strip) * np.minimum(paint, 1) * worn

    def _line(self, left_m: float, width_m: float) -> NDArray[np.float32]:
        distance = np.abs(self._left_m - left_m)
        return np.clip((width_m / 2 - distance) / self._texel_m + 0.5, 0, 1).astype(np.float32)

    def _zebra(self, paint: NDArray[np.float32], start_m: float) -> None:
        rows = (np.abs(self._left_m) < self._surface.lane_width_m) & (self._left_m % 1.0 < 0.5)
        columns = (self._along_m > start_m) & (self._along_m < start_m + 3)
        paint[np.ix_(rows, columns)] = 1
        stop = (self._along_m > start_m - 1.5) & (self._along_m < start_m - 1.1)
        right = (self._left_m < 0) & (self._left_m > -self._surface.lane_width_m)
        paint[np.ix_(right, stop)] = 1

    def _roadside(self, strip: NDArray[np.float32]) -> None:
        surface = self._surface
        distance = np.abs(self._left_m)
        verge = surface.verge + surface.verge_contrast * self._noise(0.8, 3.0, 0.8)
        beyond = distance >= surface.verge_from_m
        strip[beyond] = verge[beyond]
        kerb = (distance >= surface.half_width_m) & (distance < surface.half_width_m + 0.2)
        if surface.pavement_width_m == 0:
            strip[kerb] = 0.5 * (strip[kerb] + verge[kerb])
            return
        self._pavement(strip, (distance >= surface.half_width_m) & ~beyond)
        stones = np.where(self._along_m % 1.0 < 0.04, 70, self._rng.uniform(130, 185))
        strip[kerb] = stones.astype(np.float32) + self._rng.normal(0, 8, strip[kerb].shape)

    def _pavement(self, strip: NDArray[np.float32], rows: NDArray[np.bool_]) -> None:
        rng = self._rng
        slab = rng.choice([0.3, 0.5, 1.0])
        n = np.array([rows.sum() * self._texel_m / slab, self.length_m / slab]).astype(int) + 2
        tone = rng.uniform(95, 165) + rng.normal(0, 9, n)
        row = (np.arange(rows.sum()) * self._texel_m / slab).astype(int)
        column = (self._along_m / slab).astype(int)
        paving = tone[np.ix_(row, column)]
        joint = (self._along_m % slab < 0.03)[None] | (self._left_m[rows] % slab < 0.03)[:, None]
        fine = 0.6 * self._surface.asphalt_contrast * rng.standard_normal(paving.shape)
        strip[rows] = np.where(joint, 0.6 * paving, paving) + fine

    def _manholes(self, strip: NDArray[np.float32]) -> None:
        rng = self._rng
        for _ in range(round(self.length_m * 0.03)):
            left = rng.uniform(-1, 1) * self._surface.lane_width_m
            centre = self._pixel(rng.uniform(1, self.length_m - 1), left)
            radius = max(1, round(0.33 / self._texel_m))
            cv2.circle(strip, centre, radius, rng.uniform(35, 60), -1, cv2.LINE_AA)
            cv2.circle(strip, centre, radius, rng.uniform(90, 150), 1, cv2.LINE_AA)

    def _shadows(self) -> NDArray[np.float32]:
        """Return the share of light [n_across, n_along] under trees and beside houses."""
        rng, coarse = self._rng, 4
        shape = self._n_across // coarse, STRIP_TEXELS_ALONG // coarse
        covered = np.zeros(shape, np.float32)
        for _ in range(round(self.length_m * self._surface.shadow_density)):
            x = rng.uniform(0, self.length_m) / self._texel_m / coarse
            reach = rng.uniform(4, 12) / self._texel_m / coarse
            y = rng.choice([0, shape[0]])
            axes = (round(reach * rng.uniform(0.15, 0.5)), round(reach))
            angle = rng.uniform(-35, 35)
            cv2.ellipse(covered, (round(x), int(y)), axes, angle, 0, 360, 1.0, -1)
        dapple = fractal_noise(*shape, rng, 1.0, 2.0 / self._texel_m / coarse)
        covered = cv2.GaussianBlur(covered, (0, 0), 0.25 / self._texel_m / coarse)
        covered = np.clip(covered * (1.0 + 0.35 * dapple), 0, 1)
        full = cv2.resize(covered, (STRIP_TEXELS_ALONG, self._n_across))
        return 1 - (1 - self._surface.shadow) * np.asarray(full, dtype=np.float32)

    def _pixel(self, along_m: float, left_m: float) -> tuple[int, int]:
        row = (left_m + STRIP_HALF_WIDTH_M) / self._texel_m
        return int(along_m / self._texel_m), int(row)

    def _extent(self, along_m: float, across_m: float) -> tuple[int, int]:
        return int(along_m / self._texel_m) + 1, int(across_m / self._texel_m) + 1

    def _thick(self, width_m: float) -> int:
        return max(1, round(width_m / self._texel_m))
