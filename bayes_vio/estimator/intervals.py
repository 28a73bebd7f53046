"""Make intervals of what was fed: project images, measure flow, cut IMU windows, judge both."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S
from bayes_vio.data.frames import FlowEstimator, ViewProjector, to_grid_levels
from bayes_vio.data.image_quality import ImageStatistics
from bayes_vio.data.windows import imu_bins
from bayes_vio.estimator.buffers import ImuBuffer, WaitingImage
from bayes_vio.estimator.frame_check import Frame, imu_says_motion, is_frozen, view_fault
from bayes_vio.estimator.standstill import FlowSum, GyroBias, StandstillSettings, stands
from bayes_vio.estimator.tracking import Cause, EstimatorSettings
from bayes_vio.regime import Regime, RegimeClassifier

_INTERVALS_KEPT = 31
_INTERVALS_NEEDED = 5  # before a median means something


@dataclass(frozen=True)
class Interval:
    """What is known of one interval, in the images' clock.

    view [80, 256]: the later image's, with flow [2, 40, 128] from it to the earlier one; both
    None where the camera cannot be used. imu [20, 6], imu_valid [20]: see data.windows. causes:
    what is not nominal so far. regime: of the later image, where the artifact can tell. standing:
    whether image and IMU both say that the car stands. bias_known: whether the gyro's bias is, and
    has been taken out.
    """

    earlier_stamp_ns: int
    stamp_ns: int
    view: NDArray[np.uint8] | None
    flow: NDArray[np.floating] | None
    imu: NDArray[np.float32]
    imu_valid: NDArray[np.float32]
    causes: tuple[Cause, ...]
    regime: Regime | None = None
    standing: bool = False
    bias_known: bool = False

    @property
    def dt_s(self) -> float:
        """Return the interval's length (s)."""
        return (self.stamp_ns - self.earlier_stamp_ns) / NS_PER_S


@dataclass(frozen=True)
class _Flow:
    """The flow [2, 40, 128] that was measured last, and between which views [80, 256]."""

    earlier_view: NDArray[np.uint8]
    view: NDArray[np.uint8]
    flow: NDArray[np.floating]


class IntervalBuilder:
    """Remember the last view, and compare the next one with it; each image is projected once.

    A pair of views is used only if both are sound and the earlier one is of the very moment where
    the odometry stands: behind a frozen image the next one spans an unknown time.
    """

    def __init__(
        self,
        projector: ViewProjector,
        usable_images: ImageStatistics,
        time_offset_ns: int,
        settings: EstimatorSettings,
        regimes: RegimeClassifier | None = None,
    ) -> None:
        self._projector = projector
        self._regimes = regimes
        self._flow = FlowEstimator(projector.valid_pixels)
        self._usable_images = usable_images
        self._time_offset_ns = time_offset_ns
        self._settings = settings
        self._standstill = StandstillSettings()
        self.gyro_bias = GyroBias(self._standstill)
        self._flow_sum = FlowSum(self._standstill.flow_s)
        self.reset()

    def reset(self) -> None:
        """Forget the last view and the usual interval."""
        self._last: Frame | None = None
        self._measured: _Flow | None = None
        self._lengths_s: deque[float] = deque(maxlen=_INTERVALS_KEPT)
        self.gyro_bias.reset()
        self._flow_sum.reset()

    def start(self, image: WaitingImage) -> None:
        """Take the first image, to which no interval leads."""
        self._last = self._look_at(image, moving=False)

    def sound_view_at(self, stamp_ns: int) -> NDArray[np.uint8] | None:
        """Return the last view [80, 256] if it is of that moment and shows it."""
        last = self._last
        return last.view if last and last.stamp_ns == stamp_ns and last.fault is None else None

    def look_ahead(self, start_ns: int, image: WaitingImage) -> None:
        """Project an image and measure its flow while its IMU samples are still on their way."""
        view, earlier_view = self._view_of(image), self.sound_view_at(start_ns)
        if earlier_view is not None:
            self._flow_between(earlier_view, view)

    def to_image(self, start_ns: int, image: WaitingImage, samples: ImuBuffer) -> Interval:
        """Return the interval from ``start_ns`` to an image, and remember its view."""
        imu, imu_valid = self._imu_window(samples, start_ns, image.stamp_ns)
        earlier_view = self.sound_view_at(start_ns)
        frame = self._look_at(image, imu_says_motion(imu, imu_valid, self._settings))
        if self._regimes is not None and self._last is not None:
            levels = to_grid_levels(self._last.view), to_grid_levels(frame.view)
            frame = frame.judged(self._regimes.judge_image(*levels, imu, imu_valid))
        causes = _camera_causes(frame, earlier_view) + _imu_causes(imu_valid)
        if self._last is not None and self._last.stamp_ns == start_ns:
            causes += self._dropped_frames((image.stamp_ns - start_ns) / NS_PER_S)
        self._last = frame
        view = flow = None
        if frame.fault is None and earlier_view is not None:
            view, flow = frame.view, self._flow_between(earlier_view, frame.view)
        dt_s = (image.stamp_ns - start_ns) / NS_PER_S
        known = self._standstill
        seen = self._flow_sum.add(flow, dt_s), imu, imu_valid, known
        unmoved = stands(*seen, known.unmoved_flow_px)
        imu = self._without_bias(stands(*seen), imu, imu_valid, dt_s)
        return Interval(
            earlier_stamp_ns=start_ns,
            stamp_ns=image.stamp_ns,
            view=view,
            flow=flow,
            imu=imu,
            imu_valid=imu_valid,
            causes=tuple(causes),
            regime=frame.regime,
            standing=unmoved,
            bias_known=self.gyro_bias.std is not None,
        )

    def without_image(self, start_ns: int, end_ns: int, samples: ImuBuffer) -> Interval:
        """Return an interval that ends with no image."""
        imu, imu_valid = self._imu_window(samples, start_ns, end_ns)
        causes = (Cause.IMAGE_MISSING, *_imu_causes(imu_valid))
        self._flow_sum.reset()
        imu = self._without_bias(False, imu, imu_valid, (end_ns - start_ns) / NS_PER_S)
        known = self.gyro_bias.std is not None
        return Interval(start_ns, end_ns, None, None, imu, imu_valid, causes, bias_known=known)

    def _without_bias(
        self,
        standing: bool,
        imu: NDArray[np.float32],
        imu_valid: NDArray[np.float32],
        dt_s: float,
    ) -> NDArray[np.float32]:
        """Learn the gyro's bias if the car stands, and return the bins [20, 6] without it."""
        self.gyro_bias.observe(standing, imu, dt_s)
        corrected = imu.copy()
        corrected[:, ANGULAR_RATE] -= self.gyro_bias.rate * imu_valid[:, None]
        return corrected

    def _look_at(self, image: WaitingImage, moving: bool) -> Frame:
        view = self._view_of(image)
        fault = view_fault(view, self._usable_images)
        last = self._last
        if fault is None and last and is_frozen(last.view, view, moving, self._settings):
            fault = Cause.IMAGE_FROZEN
        return Frame(image.stamp_ns, view, fault)

    def _view_of(self, image: WaitingImage) -> NDArray[np.uint8]:
        if image.view is None:
            image.view = self._projector.project(image.gray)
        return image.view

    def _flow_between(
        self, earlier_view: NDArray[np.uint8], view: NDArray[np.uint8]
    ) -> NDArray[np.floating]:
        known = self._measured
        if known is None or known.earlier_view is not earlier_view or known.view is not view:
            flow = self._flow(earlier_view, view)
            self._measured = known = _Flow(earlier_view, view, flow)
        return known.flow

    def _imu_window(
        self, samples: ImuBuffer, start_ns: int, end_ns: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start_ns, end_ns = start_ns + self._time_offset_ns, end_ns + self._time_offset_ns
        return imu_bins(*samples.around(start_ns, end_ns), start_ns, end_ns)

    def _dropped_frames(self, length_s: float) -> list[Cause]:
        usual_s = median(self._lengths_s) if self._lengths_s else length_s
        known = len(self._lengths_s) >= _INTERVALS_NEEDED
        self._lengths_s.append(length_s)
        dropped = known and length_s > self._settings.dropped_frame_ratio * usual_s
        return [Cause.FRAMES_DROPPED] if dropped else []


def _camera_causes(frame: Frame, earlier_view: NDArray[np.uint8] | None) -> list[Cause]:
    if frame.fault is not None:
        return [frame.fault]
    causes = [Cause.IMAGE_DOUBTFUL] if frame.is_doubtful else []
    return causes + ([Cause.EARLIER_IMAGE_UNUSABLE] if earlier_view is None else [])


def _imu_causes(imu_valid: NDArray[np.float32]) -> list[Cause]:
    if not imu_valid.any():
        return [Cause.IMU_MISSING]
    return [] if imu_valid.all() else [Cause.IMU_GAP]
