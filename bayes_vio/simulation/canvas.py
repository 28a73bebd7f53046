"""An image painted near to far, so that what stands behind a wall costs nothing."""

from __future__ import annotations

import cv2
import numpy as np

from bayes_vio.simulation.textures import Gray

# What shines through less than this (of 255) cannot be seen.
_OPAQUE_BELOW = 16


class Canvas:
    """What has been painted, ``image`` [h, w], and how much still shines through, ``clear``."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.image: Gray = np.zeros(shape, np.uint8)
        self.clear: Gray = np.full(shape, 255, np.uint8)

    def covers(self, area: tuple[slice, slice]) -> bool:
        """Return whether an area is as good as opaque."""
        return cv2.norm(self.clear[area], cv2.NORM_INF) < _OPAQUE_BELOW

    def paint(
        self,
        area: tuple[slice, slice],
        layer: Gray,
        unhidden: Gray | None,
        fade: float,
        haze: float,
        haze_level: float,
    ) -> None:
        """Lay a premultiplied layer [h, w, 2] under all that was painted in an area.

        unhidden [h, w]: 255 where the layer may show; fade: share of its opacity; haze: share of
        its brightness that gives way to haze_level.
        """
        clear = self.clear[area]
        open_here = clear if unhidden is None else cv2.bitwise_and(clear, unhidden)
        premultiplied, opacity = cv2.split(layer)
        veil = haze * haze_level * fade / 255
        shade = cv2.addWeighted(premultiplied, (1 - haze) * fade, opacity, veil, 0)
        image = self.image[area]
        image[:] = cv2.add(image, cv2.multiply(shade, open_here, scale=1 / 255))
        clear -= cv2.multiply(open_here, opacity, scale=fade / 255)

    def finish(self, background: Gray) -> Gray:
        """Return the image in front of a background [h, w]."""
        shining = cv2.multiply(background, self.clear, scale=1 / 255)
        return np.asarray(cv2.add(self.image, shining), dtype=np.uint8)
