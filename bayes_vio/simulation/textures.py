"""Textures and their reductions: periodic noise, ripmaps (an atlas of them for the road)."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

Gray = NDArray[np.uint8]


def fractal_noise(
    height: int,
    width: int,
    rng: np.random.Generator,
    slope: float = 1.0,
    coarsest_px: float = 64.0,
    stretch: float = 1.0,
) -> NDArray[np.float32]:
    """Return periodic noise [height, width] of mean 0 and standard deviation 1.

    Its amplitude falls as frequency ** -slope above 1 / coarsest_px (slope 1: equal contrast in
    every octave); ``stretch`` > 1 makes it longer along the width.
    """
    fy = np.fft.fftfreq(height)[:, None].astype(np.float32)
    fx = (np.fft.rfftfreq(width) * stretch)[None].astype(np.float32)
    amplitude = np.maximum(np.hypot(fy, fx), 1 / coarsest_px) ** -np.float32(slope)
    amplitude[0, 0] = 0
    white = rng.standard_normal((height, width), dtype=np.float32)
    spectrum = np.asarray(scipy.fft.rfft2(white)) * amplitude
    noise = np.asarray(scipy.fft.irfft2(spectrum, s=white.shape))
    return (noise / noise.std()).astype(np.float32)


def to_gray(brightness: NDArray[np.floating]) -> Gray:
    """Return brightness as uint8: a texture's paint saturates at black and at white."""
    return np.clip(np.rint(brightness), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Picture:
    """A flat texture [height, width] with opacity, and its size in metres.

    ``gray`` and ``opacity`` are uint8; ``joined`` pictures reach half a texel further, so that
    neighbours leave no gap between them. Reductions by powers of two along each axis are made on
    demand, because a plane seen at an angle shrinks along one axis only.
    """

    gray: Gray
    opacity: Gray
    width_m: float
    height_m: float
    joined: bool = False
    _levels: dict[tuple[int, int], Gray] = field(default_factory=dict)

    def level(self, i: int, j: int) -> Gray:
        """Return the picture reduced by 2^i along the width and 2^j along the height.

        Texels [h + 2, w + 2, 2] uint8, with a border of one: gray premultiplied by opacity, and
        opacity. See ``level_size`` for w and h.
        """
        key = (i, j)
        if key not in self._levels:
            self._levels[key] = self._reduced(i, j)
        return self._levels[key]

    def _reduced(self, i: int, j: int) -> Gray:
        full = np.dstack([cv2.multiply(self.gray, self.opacity, scale=1 / 255), self.opacity])
        height, width = self.gray.shape
        columns, rows = level_size(np.array([width, height]), np.array([i, j])).tolist()
        texels = cv2.resize(full, (columns, rows), interpolation=cv2.INTER_AREA)
        border = cv2.BORDER_REPLICATE if self.joined else cv2.BORDER_CONSTANT
        return np.asarray(cv2.copyMakeBorder(texels, 1, 1, 1, 1, border), dtype=np.uint8)


def level_size(size: NDArray[np.int64], level: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sizes [..., 2] in texels of pictures of sizes [..., 2] reduced to levels."""
    return np.maximum(np.rint(size / 2.0**level), 1).astype(np.int64)


class RipmapAtlas:
    """A periodic strip, reduced along each axis on its own, all levels in one image.

    strip [n_across, n_along] uint8, both powers of two, periodic along and clamped across.
    Levels (i, j) are reduced by 2^i along and 2^j across.
    """

    def __init__(self, strip: Gray, levels_along: int, levels_across: int) -> None:
        self.n_across, self.n_along = strip.shape
        self._last = levels_along - 1, levels_across - 1
        i, j = np.arange(levels_along), np.arange(levels_across)
        widths, heights = self.n_along >> i, self.n_across >> j
        self._x0 = (np.cumsum(widths + 2) - widths - 1).astype(np.float32)
        self._y0 = (np.cumsum(heights + 2) - heights - 1).astype(np.float32)
        self._atlas = np.zeros(
            (int(heights.sum()) + 2 * j.size, int(widths.sum()) + 2 * i.size), np.uint8
        )
        for column in range(levels_along):
            for row in range(levels_across):
                self._place(strip, column, row)

    def _place(self, strip: Gray, i: int, j: int) -> None:
        size = (self.n_along >> i, self.n_across >> j)
        level = cv2.resize(strip, size, interpolation=cv2.INTER_AREA)
        level = cv2.copyMakeBorder(level, 0, 0, 1, 1, cv2.BORDER_WRAP)
        level = cv2.copyMakeBorder(level, 1, 1, 0, 0, cv2.BORDER_REPLICATE)
        x, y = int(self._x0[i]) - 1, int(self._y0[j]) - 1
        self._atlas[y : y + level.shape[0], x : x + level.shape[1]] = level

    def sample(self, along: NDArray[np.float32], across: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the strip's brightness [h, w] at texel coordinates [h, w] of neighbouring pixels.

        The level follows the pixel's footprint along each axis, so nothing is undersampled.
        """
        i = _level(along, self._last[0])
        j = _level(across, self._last[1])
        shrink_i, shrink_j = np.ldexp(np.float32(1), -i), np.ldexp(np.float32(1), -j)
        periodic = along - np.floor(along / self.n_along) * np.float32(self.n_along)
        x = self._x0[i] + periodic * shrink_i - np.float32(0.5)
        clamped = np.clip(across, 0, self.n_across)
        y = self._y0[j] + clamped * shrink_j - np.float32(0.5)
        return np.asarray(cv2.remap(self._atlas, x, y, cv2.INTER_LINEAR), dtype=np.uint8)


def _level(coordinate: NDArray[np.float32], last: int) -> NDArray[np.int32]:
    """Return log2 of the step between neighbouring pixels, rounded, in 0..last, [h, w] int32."""
    step = np.empty_like(coordinate)
    step[:, :-1] = np.abs(coordinate[:, 1:] - coordinate[:, :-1])
    step[:, -1] = step[:, -2]
    down = np.abs(coordinate[1:] - coordinate[:-1])
    step[:-1] = np.maximum(step[:-1], down)
    step[-1] = np.maximum(step[-1], down[-1])
    level = np.rint(np.log2(np.maximum(step, 1.0)))
    return np.minimum(level, last).astype(np.int32)
