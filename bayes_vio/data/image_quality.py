"""Two numbers that tell a usable frame from a dark, glaring or blurred one."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageStatistics:
    """Bounds on a usable view: mean brightness in [0, 255], sharpness in gray levels squared."""

    brightness_low: float
    brightness_high: float
    sharpness_low: float


def image_statistics_of(view: NDArray[np.uint8]) -> tuple[float, float]:
    """Return a view's mean brightness and its sharpness, the variance of its Laplacian."""
    return float(view.mean()), float(cv2.Laplacian(view, cv2.CV_32F).var())


def usable_bounds(
    brightness: NDArray[np.float64], sharpness: NDArray[np.float64]
) -> ImageStatistics:
    """Return bounds a factor beyond the 1st and 99th percentiles of training frames [n].

    A quarter of the least sharpness seen and half of the least brightness: what a driver would
    still drive by stays inside, a covered, blinded or badly blurred camera does not.
    """
    dark, bright = np.percentile(brightness, [1, 99])
    least_sharpness = np.percentile(sharpness, 1)
    return ImageStatistics(
        brightness_low=float(0.5 * dark),
        brightness_high=float(min(0.5 * (bright + 255.0), 250.0)),
        sharpness_low=float(0.25 * least_sharpness),
    )
