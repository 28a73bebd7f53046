"""Notice faint specks on the lens: spots of the view that change less than all around them.

A half-transparent speck takes contrast from whatever passes behind it, and stays where it is. One
pair of images hardly shows it, since plain road does as much; but over some seconds in which the
picture moves, every cell below the horizon sees much the same, unless something is in front of it.
(Cells that show nothing at all are ``blind_view``'s.)

The change c of a cell, |difference| of two successive images, counts over its neighbours', and the
mean over time, smoothed by a Gaussian g of one cell, over what lies on either side of the cell:

    r = c / (mean_9x9(c) + 1),   m = g(mean_t(r)),
    s = m / (min_d (mean_3x3(m)(+d) + mean_3x3(m)(-d)) / 2 + 0.05),

d running over the four lines through the cell, 6 cells away. The least of them: on a straight road
lanes and their markings stay where they are, too, but along their own line they are all alike.
What counts is the least s, the one that a hundredth of the cells stays below.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.blind_view import moving_change
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH

Image = NDArray[np.float32]

_LARGEST_CHANGE = 30.0  # gray levels that count: an edge tells no more than some texture
# Gray levels, and of what is usual: where nothing changes.
_NOISE_CHANGE, _NOISE_SHARE = 1.0, 0.05
_NEIGHBOURS, _PATCH = 9, 3  # cells
_SIDES = ((0, 6), (6, 0), (4, 4), (4, -4))  # rows, columns to either side
_BORDER = 6
_NEEDED_S, _AVERAGED_S = 3.0, 6.0  # in which the picture moves
_FIRST_ROW = 2 * GRID_HEIGHT // 5  # somewhat above the horizon; what is in the sky may stay
_SEEN = 0.99  # of a cell: one that is cut changes less
_NONE = 1e-3  # of the neighbours are seen
_FEWEST_CELLS = 500  # below the horizon; fewer have no hundredth
_LEAST_SHARE = 0.01


class LensSpecks:
    """Follow how much less than its surroundings any spot of the view [40, 128] changes.

    view_valid [40, 128]: the share of each cell that the camera sees.
    """

    def __init__(self, view_valid: NDArray[np.floating]) -> None:
        self._seen = np.asarray(view_valid) > _SEEN
        self._weight = self._seen.astype(np.float32)
        self._near = np.maximum(_mean(self._weight, _NEIGHBOURS), _NONE)
        self._close = np.maximum(_smooth(self._weight), _NONE)
        self._judged = self._seen[_FIRST_ROW:]
        self._is_able = bool(self._judged.sum() >= _FEWEST_CELLS)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._change = np.zeros((GRID_HEIGHT, GRID_WIDTH), np.float32)
        self._moved_s = 0.0
        self._least: float | None = None

    def add(self, earlier: NDArray[np.uint8], later: NDArray[np.uint8], dt_s: float) -> None:
        """Take the gray levels [40, 128] of two successive images, dt_s apart."""
        moved = moving_change(earlier, later, self._seen) if self._is_able else None
        if moved is None:
            return
        change = np.minimum(moved[0], _LARGEST_CHANGE) * self._weight
        change /= _mean(change, _NEIGHBOURS) / self._near + _NOISE_CHANGE
        self._moved_s += dt_s
        self._change += min(dt_s / min(self._moved_s, _AVERAGED_S), 1.0) * (change - self._change)
        if self._moved_s >= _NEEDED_S:
            told = self.relative_change()[_FIRST_ROW:][self._judged]
            rank = int(_LEAST_SHARE * len(told))
            self._least = float(np.partition(told, rank)[rank])

    @property
    def least_change(self) -> float | None:
        """Return the relative change that a hundredth of the cells below the horizon stays below.

        None before the picture has moved for three seconds, or where it hardly shows the road.
        """
        return self._least

    def relative_change(self) -> Image:
        """Return how much each cell [40, 128] changes over what lies on either side; 1 is usual.

        What a camera does not see changes by nothing: beside it no spot is called dim.
        """
        change = _smooth(self._change) / self._close * self._weight
        around = np.pad(_mean(change, _PATCH), _BORDER, "reflect")
        sides = [_shifted(around, *d) + _shifted(around, -d[0], -d[1]) for d in _SIDES]
        return change / (np.minimum.reduce(sides) / 2 + np.float32(_NOISE_SHARE))


def _shifted(bordered: NDArray[np.floating], rows: int, columns: int) -> Image:
    top, left = _BORDER + rows, _BORDER + columns
    return bordered[top : top + GRID_HEIGHT, left : left + GRID_WIDTH]


def _mean(values: NDArray[np.floating], width: int) -> Image:
    return np.asarray(cv2.blur(values, (width, width)), np.float32)


def _smooth(values: NDArray[np.floating]) -> Image:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 1.0), np.float32)
