"""Tell how much of the view shows nothing: outside the camera's image, or covered.

What sticks to a lens stays where it is while the picture around it moves. A cell is still if its
brightness has hardly changed from image to image over some five to ten of them in which others
did. So are parts of a clear sky; how many usually are is measured on validation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Of the change that a quarter of the cells exceeds, at most: mean change of a still cell from one
# image to the next, and by itself (gray levels).
_STILL_SHARE, _STILL_CHANGE = 0.06, 1.0
_MOVING_QUANTILE, _MOVING_CHANGE = 0.75, 4.0  # gray levels: less, and the picture rests
_LARGEST_CHANGE = 5.0  # gray levels that count: what falls on the lens is soon known to stay
_IMAGES = 5  # over which changes are averaged; so many are needed
_SEEN = 0.5  # of a cell


class StillCells:
    """Follow how much each cell [40, 128] of the view changes, while the picture moves.

    view_valid [40, 128]: the share of each cell that the camera sees.
    """

    def __init__(self, view_valid: NDArray[np.floating]) -> None:
        self._seen = np.asarray(view_valid) > _SEEN
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._change = np.zeros(self._seen.shape, np.float32)
        self._images, self._share = 0, 0.0

    def add(self, earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> None:
        """Take the gray levels [40, 128] of two successive images."""
        moved = moving_change(earlier, later, self._seen)
        if moved is None:
            return
        change, usual = moved
        self._images += 1
        step = np.minimum(change, _LARGEST_CHANGE) - self._change
        self._change += step / min(self._images, _IMAGES)
        if self._images >= _IMAGES:
            still = self._change[self._seen] < min(_STILL_CHANGE, _STILL_SHARE * usual)
            self._share = float(still.mean())

    @property
    def share(self) -> float:
        """Return the share of seen cells that are still; 0 before enough images have come."""
        return self._share


def moving_change(
    earlier: NDArray[np.uint8], later: NDArray[np.uint8], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], float] | None:
    """Return how much gray levels [40, 128] changed, and what a quarter of the seen cells exceeds.

    None where the picture rests.
    """
    change = np.abs(np.asarray(later, np.float32) - np.asarray(earlier, np.float32))
    usual = float(np.quantile(change[seen], _MOVING_QUANTILE))
    return None if usual < _MOVING_CHANGE else (change, usual)


def unseen_share(view_valid: NDArray[np.floating]) -> float:
    """Return the share of the view [40, 128] that lies outside the camera's image."""
    return 1.0 - float(np.mean(view_valid))


def blind_share(still: float, unseen: float, usual_still: float, usual_unseen: float) -> float:
    """Return the share of the view that is blind beyond the usual, in 0 to 1.

    still: of the cells that are seen; unseen: of the view.
    """
    covered = max(0.0, still - usual_still) * (1 - unseen)
    return covered + max(0.0, unseen - usual_unseen)
