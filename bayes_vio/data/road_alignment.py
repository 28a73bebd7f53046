"""Bring a pair of views roughly into line before flow is measured: a turn and a flat road.

Flow is searched within a few pixels, and where texture is weak it stays near where the search
began. A road at speed moves far and holds little: measured from rest, the flow of its near half
was 5 to 40 % too small. But a road moves as one: by the turn and by the way in heights of the
camera. These two are searched over all of it, and the flow begins from there (E-F3).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.samples import VIEW_FOCAL_PX, VIEW_HEIGHT, VIEW_WIDTH

Floats = NDArray[np.float32]

# What is taken for road: rays steeper than this (tangent), and so far beside the heading.
_LEAST_STEEPNESS, _HALF_WIDTH, _WIDENING = 0.055, 0.15, 1.3
_ROW_STEP, _COLUMN_STEP = 2, 4  # every so many pixels are compared
# Ways are searched in even steps of the displacement at this steepness, turns in even steps.
_REFERENCE_STEEPNESS, _STEP_PX, _FURTHEST_HEIGHTS = 0.2, 0.4, 8.0
_YAW_STEP_RAD, _YAW_STEPS = 0.012, 9
_SMOOTHING_PX, _SURROUNDINGS_PX = 0.7, (15, 15)
_LEAST_CONTRAST = 2.0  # gray levels: below it is noise
# Correlations from which on a road is believed, and by which it must be better than rest.
_LEAST_SCORE, _LEAST_GAIN = 0.3, 0.03


@dataclass(frozen=True)
class RoadMotion:
    """How the views of a pair lie to one another: turn to the right (rad) and way in heights.

    The way is the forward displacement over the camera's height above the road.
    """

    yaw: float
    heights: float

    def moved(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return where rays (x, y, 1) of the later view are in the earlier one (E-F3).

        Rays below the horizon meet the road at depth height / y, those above it nothing.
        """
        c, s, d = (np.float32(v) for v in (np.cos(self.yaw), np.sin(self.yaw), self.heights))
        depth: Floats = np.asarray(c - s * x + d * np.maximum(y, 0), np.float32)
        return np.asarray((c * x + s) / depth), np.asarray(y / depth)


REST = RoadMotion(0.0, 0.0)


class RoadAligner:
    """Search turn and way of pairs of views, by the correlation of the road's detail.

    ``valid_pixels`` [80, 256]: pixels that the camera sees. All pixels that the search reads are
    looked up in a table made once.
    """

    def __init__(self, valid_pixels: NDArray[np.bool_]) -> None:
        v, u = np.mgrid[VIEW_HEIGHT // 2 : VIEW_HEIGHT : _ROW_STEP, 0:VIEW_WIDTH:_COLUMN_STEP]
        x, y = normalised(u), normalised(v, VIEW_HEIGHT)
        road = (y > _LEAST_STEEPNESS) & (np.abs(x) < _HALF_WIDTH + _WIDENING * y)
        road &= valid_pixels[v, u]
        self._later = v[road] * VIEW_WIDTH + u[road]
        self._heights = _searched_heights()
        self._yaw = _YAW_STEP_RAD * np.arange(-_YAW_STEPS, _YAW_STEPS + 1.0)
        self._earlier = np.stack(
            [[_flat(*RoadMotion(a, d).moved(x[road], y[road])) for d in self._heights]
             for a in self._yaw]
        )  # fmt: skip

    def __call__(
        self, earlier_view: NDArray[np.uint8], later_view: NDArray[np.uint8]
    ) -> RoadMotion:
        """Return the motion between two views [80, 256], REST where no road tells of one."""
        if not len(self._later):
            return REST
        later = _detail(later_view).take(self._later)
        earlier = _detail(earlier_view).take(self._earlier)
        power = np.einsum("ydn,ydn->yd", earlier, earlier) * (later @ later)
        scores = (earlier @ later) / np.sqrt(power + 1e-6)
        turn, way = np.unravel_index(int(scores.argmax()), scores.shape)
        at_rest = scores[:, 0].max()
        if scores[turn, way] < max(_LEAST_SCORE, at_rest + _LEAST_GAIN):
            return REST
        yaw = _vertex(self._yaw, scores[:, way], int(turn))
        return RoadMotion(yaw, _vertex(self._heights, scores[turn], int(way)))


def normalised(pixel: NDArray, size: int = VIEW_WIDTH) -> Floats:
    """Return view coordinates in focal lengths from the principal point, the view's centre."""
    return ((pixel - (size - 1) / 2) / VIEW_FOCAL_PX).astype(np.float32)


def to_pixels(x: NDArray, size: int = VIEW_WIDTH) -> Floats:
    """Return pixels of the view from coordinates in focal lengths."""
    return (x * VIEW_FOCAL_PX + (size - 1) / 2).astype(np.float32)


def _searched_heights() -> NDArray[np.float64]:
    """Return ways [d] from 0 on; a road at steepness y moves by y - y / (1 + y d)."""
    y = _REFERENCE_STEEPNESS
    furthest = y - y / (1 + y * _FURTHEST_HEIGHTS)
    shift = np.arange(0.0, furthest, _STEP_PX / VIEW_FOCAL_PX)
    return 1 / (y - shift) - 1 / y


def _flat(x: Floats, y: Floats) -> NDArray[np.int32]:
    """Return flat indices [n] of the view's pixels nearest to rays (x, y, 1)."""
    u = np.clip(np.rint(to_pixels(x)), 0, VIEW_WIDTH - 1)
    v = np.clip(np.rint(to_pixels(y, VIEW_HEIGHT)), 0, VIEW_HEIGHT - 1)
    return (v * VIEW_WIDTH + u).astype(np.int32)


def _detail(view: NDArray[np.uint8]) -> Floats:
    """Return what stands out from its surroundings [80, 256], in units of their contrast."""
    gray = cv2.GaussianBlur(view.astype(np.float32), (0, 0), _SMOOTHING_PX)
    rest = gray - cv2.blur(gray, _SURROUNDINGS_PX)
    contrast = np.sqrt(np.maximum(cv2.blur(rest * rest, _SURROUNDINGS_PX), 0))
    return np.asarray(rest / (contrast + np.float32(_LEAST_CONTRAST)), np.float32)


def _vertex(at: NDArray[np.float64], scores: Floats, best: int) -> float:
    """Return where the parabola through the best score and its neighbours is highest."""
    if not 0 < best < len(at) - 1:
        return float(at[best])
    left, middle, right = (float(s) for s in scores[best - 1 : best + 2])
    bend = left - 2 * middle + right
    share = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(at[best] + share * (at[best + 1] - at[best - 1]) / 2)
