"""Spoil gray grids in the ways that the regime classifier learns to tell."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.regime.classes import ImageRegime

Levels = NDArray[np.uint8]
Degradation = Callable[[Levels], Levels]

# In cells of the grid, two pixels of the view each. What is below the ranges is nominal to a
# driver; nothing between is shown to the classifier, which may draw its border there.
_BLUR_SIGMA = (0.75, 4.5)
_SMEAR_LENGTH = (4, 16)
_DARK_GAIN = (0.0, 0.4)
_OCCLUDED_SHARE = (0.1, 1.0)
_DIRT_LEVEL = (10.0, 90.0)
_BRIGHT_DIRT_LEVEL = (90.0, 230.0)


def draw_degradation(regime: ImageRegime, rng: np.random.Generator) -> Degradation:
    """Return a function of gray levels [40, 128], always the same one for the same draws.

    Raises ValueError for a regime that is no change of one image: frozen, nominal.
    """
    if regime is ImageRegime.BLURRED:
        return _smear(rng) if rng.random() < 0.3 else _defocus(rng)
    if regime is ImageRegime.DARK:
        gain = rng.uniform(*_DARK_GAIN)
        return lambda levels: _as_levels(gain * levels)
    if regime is ImageRegime.OCCLUDED:
        return _cover(rng)
    raise ValueError(f"{regime.value} is no change of a single image")


def noisy(levels: Levels, std: float, rng: np.random.Generator) -> Levels:
    """Return levels with white noise of a standard deviation (gray levels)."""
    return _as_levels(levels + std * rng.standard_normal(levels.shape, dtype=np.float32))


def _defocus(rng: np.random.Generator) -> Degradation:
    sigma = float(np.exp(rng.uniform(*np.log(_BLUR_SIGMA))))
    return lambda levels: np.asarray(cv2.GaussianBlur(levels, (0, 0), sigma), np.uint8)


def _smear(rng: np.random.Generator) -> Degradation:
    """Return what a camera that turns during its exposure does: a line of some direction."""
    length, angle = int(rng.integers(*_SMEAR_LENGTH)), rng.uniform(0, np.pi)
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    reach = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    ends = np.rint(length + reach).astype(int), np.rint(length - reach).astype(int)
    cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0)
    kernel /= kernel.sum()
    return lambda levels: np.asarray(cv2.filter2D(levels, -1, kernel), np.uint8)


def _cover(rng: np.random.Generator) -> Degradation:
    """Return a cover of the lens: blots, or a strip from one side; dark mostly, seldom bright."""
    share = rng.uniform(*_OCCLUDED_SHARE)
    opacity = _strip(share, rng) if rng.random() < 0.3 else _blots(share, rng)
    level = rng.uniform(*(_DIRT_LEVEL if rng.random() < 0.75 else _BRIGHT_DIRT_LEVEL))
    return lambda levels: _as_levels(levels + opacity * (level - levels))


def _strip(share: float, rng: np.random.Generator, shape: tuple[int, int] = (40, 128)) -> NDArray:
    opacity = np.zeros(shape, np.float32)
    side = int(rng.integers(4))
    covered = max(1, round(share * shape[0 if side < 2 else 1]))
    where = slice(covered) if side % 2 else slice(-covered, None)
    if side < 2:
        opacity[where] = 1.0
    else:
        opacity[:, where] = 1.0
    return _softened(opacity, rng)


def _blots(share: float, rng: np.random.Generator, shape: tuple[int, int] = (40, 128)) -> NDArray:
    opacity = np.zeros(shape, np.float32)
    while opacity.mean() < share:
        centre = int(rng.integers(shape[1])), int(rng.integers(shape[0]))
        axes = tuple(int(a) for a in rng.uniform(2, 16, 2))
        cv2.ellipse(opacity, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return _softened(opacity, rng)


def _softened(opacity: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    sigma = float(rng.uniform(0.3, 2.0))
    return np.asarray(cv2.GaussianBlur(opacity, (0, 0), sigma), np.float32)


def _as_levels(values: NDArray) -> Levels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
