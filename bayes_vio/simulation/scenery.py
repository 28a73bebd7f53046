"""Draw what stands beside a road: walls, trees, hedges, cars, signs, as flat pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation.textures import Picture, fractal_noise, to_gray

PANEL_WIDTH_M = 7.5
_FLOOR_M = 3.0


class SceneryPainter:
    """Paint pictures at ``texel_m`` metres per pixel; sizes in metres, tones in gray levels."""

    def __init__(self, texel_m: float, rng: np.random.Generator) -> None:
        self._texel_m, self._rng = texel_m, rng

    def wall_panel(self, wall: float, n_floors: int, roof: float, window_m: float) -> Picture:
        """Return a piece of a house's front, of gray level ``wall``, with the edge of its roof."""
        height_m = n_floors * _FLOOR_M + 2.0
        gray = self._plaster(wall, height_m, PANEL_WIDTH_M)
        for floor in range(n_floors):
            top_m = 2.0 + (n_floors - 1 - floor) * _FLOOR_M + 0.6
            for middle_m in (1.25, 3.75, 6.25):
                self._opening(gray, middle_m, top_m, window_m, floor == 0)
        self._box(gray, 0, height_m - 0.5, PANEL_WIDTH_M, 0.5, 0.65 * wall)
        self._roof(gray, roof)
        opacity = np.full(gray.shape, 255, np.float32)
        return self._picture(gray, opacity, PANEL_WIDTH_M, height_m, joined=True)

    def end_wall(self, wall: float, n_floors: int) -> Picture:
        """Return the nine-metre gable end of a house."""
        width_m, eaves_m, ridge_m = 9.0, n_floors * _FLOOR_M, 3.0
        gray = self._plaster(wall, eaves_m + ridge_m, width_m)
        for floor in range(n_floors):
            if self._rng.random() < 0.6:
                middle_m = self._rng.uniform(2.5, 6.5)
                self._opening(gray, middle_m, ridge_m + floor * _FLOOR_M + 0.6, 0.9, False)
        outline = [(0, ridge_m), (width_m / 2, 0), (width_m, ridge_m)]
        outline += [(width_m, ridge_m + eaves_m), (0, ridge_m + eaves_m)]
        opacity = self._outline(gray.shape, outline)
        return self._picture(gray, opacity, width_m, eaves_m + ridge_m)

    def tree(self, height_m: float, leaf: float) -> Picture:
        """Return a broad-leaved tree, its crown lit from above."""
        width_m = 0.75 * height_m
        opacity, gray = self._blank(height_m, width_m)
        trunk_m = 0.035 * height_m
        self._fill(opacity, [(width_m / 2, 0.4 * height_m), (width_m / 2, height_m)], trunk_m)
        gray[:] = 45
        crown = np.zeros_like(opacity)
        for _ in range(26):
            r = self._rng.uniform(0.08, 0.16) * height_m
            x = np.clip(self._rng.normal(0.5, 0.15) * width_m, 1.2 * r, width_m - 1.2 * r)
            y = max(self._rng.uniform(0.16, 0.62) * height_m, 1.2 * r)
            self._disc(crown, x, y, r)
        return self._leafy(gray, opacity, crown, leaf, width_m, height_m)

    def conifer(self, height_m: float, leaf: float) -> Picture:
        """Return a tall dark conifer."""
        width_m = 0.45 * height_m
        opacity, gray = self._blank(height_m, width_m)
        gray[:] = 40
        self._fill(opacity, [(width_m / 2, 0.5 * height_m), (width_m / 2, height_m)], 0.3)
        outline = [(width_m / 2, 0.02 * height_m)]
        outline += [(0.93 * width_m, 0.9 * height_m), (0.07 * width_m, 0.9 * height_m)]
        crown = self._outline(gray.shape, outline)
        return self._leafy(gray, opacity, crown, leaf, width_m, height_m)

    def bush(self, leaf: float, width_m: float, height_m: float) -> Picture:
        """Return a bush, or with a large width a piece of hedge."""
        opacity, gray = self._blank(height_m, width_m)
        crown = np.zeros_like(opacity)
        radius = 0.4 * min(width_m, height_m)
        for x in np.linspace(radius, width_m - radius, max(3, int(4 * width_m / height_m))):
            self._disc(crown, x, height_m - radius * self._rng.uniform(1.0, 1.5), radius)
        return self._leafy(gray, opacity, crown, leaf, width_m, height_m)

    def hedge(self, leaf: float, height_m: float) -> Picture:
        """Return four metres of clipped hedge."""
        opacity, gray = self._blank(height_m, 4.0)
        opacity[:] = 255
        return self._leafy(gray, opacity, opacity.copy(), leaf, 4.0, height_m, joined=True)

    def fence(self, tone: float) -> Picture:
        """Return four metres of a fence of boards or a rail on posts."""
        opacity, gray = self._blank(1.1, 4.0)
        gray[:] = tone + self._rng.normal(0, 10, gray.shape)
        pitch_m = self._rng.choice([0.16, 0.25, 2.0])
        for x in np.arange(pitch_m / 2, 4.0, pitch_m):
            self._fill(opacity, [(x, 0.1), (x, 1.1)], 0.11)
        for y in (0.25, 0.65):
            self._fill(opacity, [(0, y), (4.0, y)], 0.12)
        return self._picture(gray, opacity, 4.0, 1.1, joined=True)

    def car_rear(self, paint: float) -> Picture:
        """Return a car seen from behind."""
        gray = self._car_body(paint, 1.5, 1.8)
        self._box(gray, 0.30, 0.12, 1.2, 0.45, 40)
        self._box(gray, 0.05, 0.62, 0.25, 0.2, 95)
        self._box(gray, 1.50, 0.62, 0.25, 0.2, 95)
        self._box(gray, 0.64, 0.85, 0.52, 0.12, 215)
        self._box(gray, 0.0, 1.15, 1.8, 0.1, 30)
        outline = [(0.35, 0.02), (1.45, 0.02), (1.75, 0.55), (1.78, 1.25), (1.7, 1.27)]
        outline += [(1.7, 1.5), (1.45, 1.5), (1.45, 1.27), (0.35, 1.27), (0.35, 1.5)]
        outline += [(0.1, 1.5), (0.1, 1.27), (0.02, 1.25), (0.05, 0.55)]
        return self._picture(gray, self._outline(gray.shape, outline), 1.8, 1.5)

    def car_side(self, paint: float) -> Picture:
        """Return a car seen from the side, its rear on the left."""
        gray = self._car_body(paint, 1.5, 4.4)
        glass = [(0.75, 0.5), (1.15, 0.12), (2.5, 0.12), (3.05, 0.52)]
        self._polygon(gray, glass, 45)
        self._box(gray, 1.75, 0.1, 0.08, 0.45, paint)
        self._box(gray, 1.9, 0.65, 0.18, 0.05, 0.4 * paint)
        outline = [(0.1, 0.5), (0.65, 0.45), (1.1, 0.02), (2.55, 0.02), (3.15, 0.5)]
        outline += [(4.2, 0.65), (4.38, 0.9), (4.38, 1.27), (0.05, 1.27)]
        opacity = self._outline(gray.shape, outline)
        for x in (0.85, 3.5):
            self._disc(opacity, x, 1.18, 0.32)
            self._disc(gray, x, 1.18, 0.32, 25)
            self._disc(gray, x, 1.18, 0.18, 130)
        return self._picture(gray, opacity, 4.4, 1.5)

    def sign(self) -> Picture:
        """Return a traffic sign on its pole, 2.6 m high."""
        width_m, height_m = 0.8, 2.6
        opacity, gray = self._blank(height_m, width_m)
        gray[:] = 120
        self._fill(opacity, [(0.4, 0.3), (0.4, height_m)], 0.07)
        if self._rng.random() < 0.5:
            for radius, tone in ((0.32, 90), (0.25, 235)):
                self._disc(opacity, 0.4, 0.36, radius)
                self._disc(gray, 0.4, 0.36, radius, tone)
        else:
            for shrink, tone in ((0.0, 85), (0.09, 235)):
                shape = [(0.4, 0.02 + 1.6 * shrink), (0.74 - shrink, 0.66 - 0.6 * shrink)]
                shape.append((0.06 + shrink, 0.66 - 0.6 * shrink))
                self._polygon(opacity, shape, 255)
                self._polygon(gray, shape, tone)
        self._box(gray, 0.35, 0.3, 0.1, 0.16, 40)
        return self._picture(gray, opacity, width_m, height_m)

    def lamp_post(self) -> Picture:
        """Return a street lamp, 6.5 m high."""
        opacity, gray = self._blank(6.5, 1.6)
        gray[:] = self._rng.uniform(60, 150)
        self._fill(opacity, [(0.3, 0.25), (0.3, 6.5)], 0.15)
        self._fill(opacity, [(0.3, 0.25), (1.5, 0.12)], 0.10)
        self._fill(opacity, [(1.1, 0.18), (1.55, 0.14)], 0.2)
        return self._picture(gray, opacity, 1.6, 6.5)

    def delineator(self) -> Picture:
        """Return a white roadside post with a black band, 1.05 m high."""
        opacity, gray = self._blank(1.05, 0.4)
        gray[:] = 225
        self._fill(opacity, [(0.2, 0.05), (0.2, 1.05)], 0.14)
        self._box(gray, 0.0, 0.2, 0.4, 0.25, 35)
        return self._picture(gray, opacity, 0.4, 1.05)

    def _plaster(self, wall: float, height_m: float, width_m: float) -> NDArray[np.float32]:
        shape = self._texels(height_m, width_m)
        rough = 4.0 * fractal_noise(*shape, self._rng, 0.8, 30.0)
        stain = 6.0 * fractal_noise(*shape, self._rng, 1.5, 200.0)
        gray = (wall + rough + stain).astype(np.float32)
        if self._rng.random() < 0.25:  # brickwork
            gray[:: max(2, round(0.2 / self._texel_m))] -= 22
        return gray

    def _opening(
        self, gray: NDArray[np.float32], middle_m: float, top_m: float, width_m: float, low: bool
    ) -> None:
        """Draw a window, or on the ground floor now and then a door."""
        rng = self._rng
        door = low and rng.random() < 0.3
        high_m = 2.2 if door else 1.4
        left_m = middle_m - width_m / 2
        frame, glass = rng.uniform(150, 235), rng.uniform(20, 75)
        self._box(gray, left_m - 0.08, top_m - 0.08, width_m + 0.16, high_m + 0.16, frame)
        self._box(gray, left_m, top_m, width_m, high_m, 0.8 * frame if door else glass)
        if door:
            return
        self._box(gray, left_m, top_m, width_m, 0.3 * high_m * rng.random(), rng.uniform(90, 200))
        self._box(gray, middle_m - 0.03, top_m, 0.06, high_m, frame)
        self._box(gray, left_m - 0.12, top_m + high_m + 0.05, width_m + 0.24, 0.08, 0.8 * frame)

    def _roof(self, gray: NDArray[np.float32], roof: float) -> None:
        rows = round(1.9 / self._texel_m)
        gray[:rows] = roof + self._rng.normal(0, 7, (rows, gray.shape[1]))
        gray[: rows : max(2, round(0.3 / self._texel_m))] -= 18
        gray[rows : rows + max(1, round(0.12 / self._texel_m))] = 60

    def _leafy(
        self,
        gray: NDArray[np.float32],
        opacity: NDArray[np.float32],
        crown: NDArray[np.float32],
        leaf: float,
        width_m: float,
        height_m: float,
        joined: bool = False,
    ) -> Picture:
        """Fill the crown with leaves: ragged at its edge, in clumps, lighter at the top."""
        shape = gray.shape
        clumps = fractal_noise(shape[0], shape[1], self._rng, 1.1, 0.8 / self._texel_m)
        soft = cv2.GaussianBlur(crown, (0, 0), 0.12 / self._texel_m)
        ragged = np.clip((soft - 128 + 75 * np.clip(clumps, -1.6, 1.25)) * 4 + 128, 0, 255)
        lit = np.linspace(1.2, 0.75, shape[0], dtype=np.float32)[:, None]
        leaves = leaf * lit + 0.38 * leaf * clumps
        share = ragged / 255
        mixed = (gray * (1 - share) + leaves * share).astype(np.float32)
        return self._picture(mixed, np.maximum(opacity, ragged), width_m, height_m, joined)

    def _car_body(self, paint: float, height_m: float, width_m: float) -> NDArray[np.float32]:
        shape = self._texels(height_m, width_m)
        shade = np.linspace(1.15, 0.7, shape[0], dtype=np.float32)[:, None]
        noise = 3 * fractal_noise(*shape, self._rng, 1.0, 20.0)
        return (paint * shade + noise).astype(np.float32)

    def _texels(self, height_m: float, width_m: float) -> tuple[int, int]:
        return max(2, round(height_m / self._texel_m)), max(2, round(width_m / self._texel_m))

    def _blank(
        self, height_m: float, width_m: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        shape = self._texels(height_m, width_m)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _box(
        self, image: NDArray[np.float32], x: float, y: float, w: float, h: float, tone: float
    ) -> None:
        self._polygon(image, [(x, y), (x + w, y), (x + w, y + h), (x, y + h)], tone)

    def _polygon(
        self, image: NDArray[np.float32], points: list[tuple[float, float]], tone: float
    ) -> None:
        pixels = np.rint(np.array(points) / self._texel_m - 0.5).astype(np.int32)
        cv2.fillPoly(image, [pixels], float(tone))

    def _disc(
        self, image: NDArray[np.float32], x: float, y: float, r: float, tone: float = 255.0
    ) -> None:
        centre = round(x / self._texel_m), round(y / self._texel_m)
        cv2.circle(image, centre, max(1, round(r / self._texel_m)), float(tone), -1)

    def _fill(
        self, image: NDArray[np.float32], ends: list[tuple[float, float]], width_m: float
    ) -> None:
        (x0, y0), (x1, y1) = np.rint(np.array(ends) / self._texel_m).astype(int).tolist()
        thick = max(1, round(width_m / self._texel_m))
        cv2.line(image, (x0, y0), (x1, y1), 255.0, thick)

    def _outline(
        self, shape: tuple[int, ...], points: list[tuple[float, float]]
    ) -> NDArray[np.float32]:
        opacity = np.zeros(shape, np.float32)
        self._polygon(opacity, points, 255)
        return opacity

    def _picture(
        self,
        gray: NDArray[np.float32],
        opacity: NDArray[np.float32],
        width_m: float,
        height_m: float,
        joined: bool = False,
    ) -> Picture:
        return Picture(to_gray(gray), to_gray(opacity), width_m, height_m, joined)
