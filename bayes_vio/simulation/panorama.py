"""What lies beyond sight of the road: sky, clouds and the horizon, as a panorama at infinity."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation.textures import Gray, fractal_noise, to_gray

# Tangents of the elevations that the panorama spans.
_TOP = 1.2
_BOTTOM = -0.15
# So fine it takes 53 MB, and fits OpenCV's remap, whose images are less than 32767 pixels wide.
_FINEST_PX_PER_RAD = 2500.0
# Share of the haze's brightness that ground far away takes on.
GROUND_HAZE = 0.75


@dataclass(frozen=True)
class Panorama:
    """Brightness by direction: pixels [h, w + 2] over azimuth (periodic) and tan(elevation)."""

    pixels: Gray
    px_per_rad: float

    def sample(self, direction: NDArray[np.float32]) -> Gray:
        """Return the brightness [h, w] seen along directions [h, w, 3] (world axes)."""
        x, y, z = direction[..., 0], direction[..., 1], direction[..., 2]
        azimuth = np.arctan2(y, x) + np.float32(np.pi)
        column = azimuth * np.float32(self.px_per_rad) + 0.5
        tangent = z / np.maximum(np.sqrt(x * x + y * y), 1e-6)
        row = (np.float32(_TOP) - tangent) * np.float32(self.px_per_rad)
        row = np.clip(row, 0, self.pixels.shape[0] - 1)
        return np.asarray(cv2.remap(self.pixels, column, row, cv2.INTER_LINEAR), dtype=np.uint8)


def random_panorama(px_per_rad: float, haze: float, rng: np.random.Generator) -> Panorama:
    """Return a random sky over a skyline; ``haze`` is the gray level at the horizon.

    Finer than 2500 px_per_rad there is nothing to see: longer lenses show that sky enlarged.
    """
    px_per_rad = min(px_per_rad, _FINEST_PX_PER_RAD)
    width = round(2 * np.pi * px_per_rad)
    height = round((_TOP - _BOTTOM) * px_per_rad)
    tangent = _TOP - (np.arange(height, dtype=np.float32)[:, None] + 0.5) / px_per_rad
    zenith = haze - rng.uniform(0, 70)
    sky = zenith + (haze - zenith) * np.exp(-np.maximum(tangent, 0) / 0.25)
    clouds = fractal_noise(height, width, rng, 1.5, 0.6 * px_per_rad, 2.5)
    cover = np.clip(clouds - rng.uniform(-0.5, 1.5), 0, 1.5) * np.clip(tangent * 6, 0, 1)
    pixels = sky + rng.uniform(15, 45) * cover
    for distance in (0.5, 1.0):
        skyline = _skyline(width, px_per_rad, rng)
        below = np.clip((skyline - tangent) * px_per_rad + 0.5, 0, 1)
        tone = haze * (1 - 0.42 * distance) + 6 * fractal_noise(height, width, rng, 0.8, 8.0)
        pixels = pixels + below * (tone - pixels)
    ground = np.clip(-tangent * px_per_rad / 2, 0, 1)
    pixels = pixels + ground * (GROUND_HAZE * haze - pixels)
    wrapped = cv2.copyMakeBorder(to_gray(pixels), 0, 0, 1, 1, cv2.BORDER_WRAP)
    return Panorama(np.asarray(wrapped, dtype=np.uint8), width / (2 * np.pi))


def _skyline(width: int, px_per_rad: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the tangent of the elevation [1, width] of hills, woods or roofs far away."""
    hills = fractal_noise(1, width, rng, 2.0, 1.0 * px_per_rad)
    woods = fractal_noise(1, width, rng, 1.0, 0.1 * px_per_rad)
    height = rng.uniform(0.015, 0.05) * (1 + 0.6 * hills) + 0.006 * woods
    return np.maximum(height, 0.004).astype(np.float32)
