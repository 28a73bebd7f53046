"""Tell images that show the motion from those that are dark, glaring, blurred or frozen.

Two bounds on a view's statistics tell the worst; what an artifact's regime classifier holds of
the image is added to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.image_quality import ImageStatistics, image_statistics_of
from bayes_vio.estimator.tracking import Cause, EstimatorSettings
from bayes_vio.regime.classes import ImageRegime, ImageVerdict, Regime

_FAULT_OF = {
    ImageRegime.BLURRED: Cause.IMAGE_BLURRED,
    ImageRegime.DARK: Cause.IMAGE_DARK,
    ImageRegime.OCCLUDED: Cause.IMAGE_OCCLUDED,
    ImageRegime.FROZEN: Cause.IMAGE_FROZEN,
}


@dataclass(frozen=True)
class Frame:
    """An image as the model sees it: view [80, 256] uint8, and what is wrong with it (or None).

    ``regime``: what the artifact's classifier believes of it, None without one.
    """

    stamp_ns: int
    view: NDArray[np.uint8]
    fault: Cause | None
    regime: Regime | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether a usable image is unlike those of training."""
        verdict = self.regime.verdict if self.regime else ImageVerdict.NOMINAL
        return self.fault is None and verdict is not ImageVerdict.NOMINAL

    def judged(self, regime: Regime) -> Frame:
        """Return the frame with a regime, whose class is its fault if it has none and must."""
        fault = self.fault
        if fault is None and regime.verdict is ImageVerdict.UNUSABLE:
            fault = _FAULT_OF[regime.image_class]
        return replace(self, fault=fault, regime=regime)


def view_fault(view: NDArray[np.uint8], usable: ImageStatistics) -> Cause | None:
    """Return why a view [80, 256] is outside what the model was trained on, or None."""
    brightness, sharpness = image_statistics_of(view)
    if brightness < usable.brightness_low:
        return Cause.IMAGE_DARK
    if brightness > usable.brightness_high:
        return Cause.IMAGE_BRIGHT
    return Cause.IMAGE_BLURRED if sharpness < usable.sharpness_low else None


def is_frozen(
    earlier_view: NDArray[np.uint8],
    later_view: NDArray[np.uint8],
    moving: bool,
    settings: EstimatorSettings,
) -> bool:
    """Return whether the later view [80, 256] repeats the earlier one.

    Bit for bit always counts (no camera is free of noise), nearly alike only where the IMU says
    that the car is ``moving``: a car that stands sees the same.
    """
    difference = cv2.norm(earlier_view, later_view, cv2.NORM_L1) / later_view.size
    return difference == 0 or (moving and difference < settings.frozen_difference)


def imu_says_motion(
    imu: NDArray[np.float32], imu_valid: NDArray[np.float32], settings: EstimatorSettings
) -> bool:
    """Return whether bins [n, 6] where valid [n] turn, or shake as only a driving car does."""
    bins = imu[imu_valid > 0]
    if not len(bins):
        return False
    rate = float(np.linalg.norm(bins[:, ANGULAR_RATE].mean(0)))
    shaking = float(np.linalg.norm(bins[:, SPECIFIC_FORCE].std(0)))
    return rate > settings.moving_rate_rad_s or shaking > settings.moving_specific_force_std_m_s2
