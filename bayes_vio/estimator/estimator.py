"""Streaming estimator without ROS: feed IMU samples and images, ask for motion estimates.

Stamps are the sensors', the clock is passed in and need not share their epoch, only their pace;
nothing here reads a clock or starts a thread, so the same feed gives the same estimates.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S, SPECIFIC_FORCE
from bayes_vio.data.frames import ViewProjector
from bayes_vio.data.samples import CameraModel, Extrinsics
from bayes_vio.estimator.buffers import ImuBuffer, WaitingImage
from bayes_vio.estimator.increments import Increment, IncrementPredictor
from bayes_vio.estimator.intervals import Interval, IntervalBuilder
from bayes_vio.estimator.missing_samples import MissingSamples
from bayes_vio.estimator.stamps import FaultyStamp, Passage, StampGate
from bayes_vio.estimator.stream_clock import StreamClock
from bayes_vio.estimator.stuck_samples import StuckSamples
from bayes_vio.estimator.tracking import Cause, EstimatorSettings, MotionEstimate, TrackingState
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.regime.classes import Regime

if TYPE_CHECKING:
    from bayes_vio.artifact import MotionArtifact

__all__ = ["Cause", "Estimator", "EstimatorSettings", "MotionEstimate", "TrackingState"]

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
_EVENTS_KEPT = 64
# A clock set anew by more than 30 years must not carry stamps beyond 64 bits.
_LONGEST_SILENCE_NS = 10**18


class Estimator:
    """Turn an IMU stream and an image stream into increments and odometry, with covariances.

    camera, extrinsics and time_offset_s (s; see conventions) are the artifact's where not given.
    ``counters`` holds what was left out or not nominal, by the values of Cause, since the start.
    Raises ValueError where the camera sees too little of the view ahead of base_link.
    """

    def __init__(
        self,
        artifact: MotionArtifact,
        settings: EstimatorSettings | None = None,
        camera: CameraModel | None = None,
        extrinsics: Extrinsics | None = None,
        time_offset_s: float | None = None,
    ) -> None:
        self._artifact = artifact
        self._settings = s = settings or EstimatorSettings()
        self._camera = camera or artifact.camera
        extrinsics = extrinsics or artifact.extrinsics
        offset_s = artifact.time_offset_s if time_offset_s is None else time_offset_s
        self._time_offset_ns = round(offset_s * NS_PER_S)
        self._R_base_imu = np.asarray(extrinsics.T_base_imu, np.float64)[:3, :3]
        projector = ViewProjector(self._camera, extrinsics.T_base_camera[:3, :3])
        usable_images = artifact.image_statistics
        self._builder = IntervalBuilder(
            projector, usable_images, self._time_offset_ns, s, artifact.regime
        )
        self._predictor = IncrementPredictor(artifact, s, projector.valid)
        self._imu = ImuBuffer(s.imu_buffer_s, s.imu_rate_max_hz)
        self._imu_gate: StampGate[Array] = StampGate(s.stamp_jump_s, s.stamp_jump_messages)
        self._image_gate: StampGate[Image] = StampGate(s.stamp_jump_s, s.stamp_jump_messages)
        self._reach_ns = round(artifact.dt_range_s[1] * s.dt_margin * NS_PER_S)
        # An interval that the model may still be asked for is waited for.
        self._timeout_ns = max(round(s.timeout_s * NS_PER_S), self._reach_ns)
        # A sample that belongs to an image may be stamped, hence arrive, that much later.
        self._imu_wait_ns = round(s.imu_wait_s * NS_PER_S) + max(0, self._time_offset_ns)
        self._missing = MissingSamples(s.timeout_s)
        self._stuck = StuckSamples(s.imu_stuck_s)
        self._clock = StreamClock(self._timeout_ns)
        self.counters: Counter[str] = Counter()
        self._events: deque[str] = deque(maxlen=_EVENTS_KEPT)
        self._start_anew()

    def _start_anew(self) -> None:
        self._imu.clear()
        self._waiting: deque[WaitingImage] = deque()
        self._imu_gate.reset()
        self._image_gate.reset()
        self._missing.reset()
        self._stuck.reset()
        self._imu_fault: Cause | None = None
        self._builder.reset()
        self._predictor.reset()
        self._clock.reset()
        self._state = TrackingState.WAITING
        correlation_s, s = self._artifact.epistemic_correlation_s, self._settings
        initial_std = np.repeat([s.initial_position_std_m, s.initial_angle_std_rad], 3)
        self._odometry = Odometry(
            correlation_s,
            np.diag(initial_std**2),
            s.std_bound,
            self._artifact.noise_correlation,
        )

    @property
    def state(self) -> TrackingState:
        """Return the state after the last estimate."""
        return self._state

    @property
    def regime(self) -> Regime | None:
        """Return what is believed of the newest image and of the motion; None where none can tell.

        Works the motion out: some milliseconds, in whatever thread asks.
        """
        return self._predictor.regime()

    @property
    def awaited_imu_stamp_ns(self) -> int | None:
        """Return the IMU stamp for which the oldest waiting image waits; None: none waits."""
        return self._waiting[0].stamp_ns + self._time_offset_ns if self._waiting else None

    def events(self) -> list[str]:
        """Return what was left out or went wrong since the last call, oldest first, for a log."""
        events = list(self._events)
        self._events.clear()
        return events

    def reset(self, cause: str = "asked for") -> None:
        """Forget streams, velocity and pose: the odometry starts again at the identity."""
        self._count(Cause.RESET, cause)
        self._start_anew()

    def set_pose(self, T_odom_base: Array, odom_cov: Array) -> None:
        """Continue the odometry from a pose [4, 4] with the covariance [6, 6] of its right error.

        Raises ValueError for what is no pose, no covariance, or beyond the bounds of the settings.
        """
        self._odometry.set_pose(T_odom_base, odom_cov)

    def feed_imu(self, stamp_ns: int, sample: ArrayLike) -> None:
        """Take one sample [6]: specific force (m/s^2), angular rate (rad/s), in the IMU's axes."""
        values = np.asarray(sample, np.float64)
        fault = self._sample_fault(values)
        if fault is not None:
            self._count(*fault)
        else:
            self._take_samples(self._imu_gate.take(stamp_ns, values))

    def feed_image(self, stamp_ns: int, gray: Image) -> None:
        """Take one image [height, width] uint8; it is copied."""
        fault = self._image_fault(gray)
        if fault is not None:
            self._count(*fault)
        else:
            self._take_images(self._image_gate.take(stamp_ns, gray.copy()))

    def _take_samples(self, passage: Passage[Array]) -> None:
        self._count_stamps("imu", passage.faults)
        if passage.went_back:
            self._start_from("imu", passage.items, self._image_gate.reset())
            return
        for stamp_ns, sample in passage.items:
            if fault := self._stuck.add(stamp_ns, sample):
                self._leave_out(fault, stamp_ns)
            else:
                self._imu_fault = None
                in_base = sample.reshape(2, 3) @ self._R_base_imu.T
                self._imu.append(stamp_ns, in_base.reshape(6))
            if missing := self._missing.add(stamp_ns):
                self._count(Cause.IMU_SAMPLES_MISSING, f"{missing} before {stamp_ns} ns", missing)

    def _leave_out(self, fault: Cause, stamp_ns: int) -> None:
        """Count a stuck sample; the first of a row is an event."""
        if fault is self._imu_fault:
            self.counters[fault.value] += 1
        else:
            self._count(fault, f"{stamp_ns} ns")
        self._imu_fault = fault

    def _take_images(self, passage: Passage[Image]) -> None:
        self._count_stamps("image", passage.faults)
        if passage.went_back:
            self._start_from("image", self._imu_gate.reset(), passage.items)
            return
        for stamp_ns, gray in passage.items:
            self._waiting.append(WaitingImage(stamp_ns, gray))
            if len(self._waiting) > self._settings.pending_images:
                self._skip(Cause.FRAMES_SKIPPED)

    def _start_from(
        self, stream: str, samples: list[tuple[int, Array]], images: list[tuple[int, Image]]
    ) -> None:
        """Start anew with what has come since the stamps of a stream went back."""
        self.reset(f"{stream} stamps went back")
        for stamp_ns, sample in samples:
            self._take_samples(self._imu_gate.take(stamp_ns, sample))
        for stamp_ns, gray in images:
            self._take_images(self._image_gate.take(stamp_ns, gray))

    def _count_stamps(self, stream: str, faults: list[FaultyStamp]) -> None:
        for faulty in faults:
            cause = Cause(f"{stream}_stamp_{faulty.fault.value}")
            self._count(cause, f"{faulty.stamp_ns} ns after {faulty.last_ns} ns")

    def _sample_fault(self, sample: Array) -> tuple[Cause, str] | None:
        if sample.shape != (6,):
            return Cause.IMU_SHAPE, f"a sample has the shape {sample.shape}, not (6,)"
        if not np.isfinite(sample).all():
            return Cause.IMU_NOT_FINITE, "a sample holds a number that is not finite"
        s = self._settings
        strong = np.abs(sample[SPECIFIC_FORCE]).max() > s.specific_force_bound_m_s2
        fast = np.abs(sample[ANGULAR_RATE]).max() > s.angular_rate_bound_rad_s
        if not (strong or fast):
            return None
        said = ", ".join(f"{value:.3g}" for value in sample)
        return Cause.IMU_OUT_OF_RANGE, f"{said} (m/s^2, rad/s) is more than any car feels"

    def _image_fault(self, gray: Image) -> tuple[Cause, str] | None:
        if not isinstance(gray, np.ndarray) or gray.dtype != np.uint8 or gray.ndim != 2:
            return Cause.IMAGE_TYPE, "an image is no [height, width] of uint8"
        camera, (height, width) = self._camera, gray.shape
        if (width, height) == (camera.width, camera.height):
            return None
        calibrated = f"the calibration is for {camera.width} x {camera.height}"
        return Cause.IMAGE_SIZE, f"an image is {width} x {height}, but {calibrated}"

    def estimate(self, now_ns: int) -> MotionEstimate | None:
        """Return the newest increment; None: nothing new, or an image waits for IMU samples.

        now_ns: the caller's clock, going at the pace of the stamps (ROS time). The newest image
        wins, the ones before it are skipped. Without images for the timeout, an increment without
        one is returned, so that the odometry's covariance grows over the gap.
        """
        self._take_samples(self._imu_gate.observe(now_ns))
        self._take_images(self._image_gate.observe(now_ns))
        if not self._clock.observe(now_ns, self._imu.last_stamp_ns):
            self._count(Cause.CLOCK_BACKWARDS)
            for image in self._waiting:
                image.since_ns = now_ns
        image = self._newest_ready_image(now_ns)
        start_ns = self._clock.odometry_stamp_ns
        if image is None:
            if start_ns is not None and self._waiting:
                self._builder.look_ahead(start_ns, self._waiting[-1])
            self._predictor.catch_up()
            return self._without_image(start_ns, now_ns)
        if start_ns is None:
            self._builder.start(image)
            self._clock.advance(image.stamp_ns, now_ns)
            return None
        return self._emit(self._builder.to_image(start_ns, image, self._imu), now_ns)

    def _newest_ready_image(self, now_ns: int) -> WaitingImage | None:
        """Take the newest image that need not wait (any more), skipping older ones."""
        while self._waiting and (cause := self._too_soon(self._waiting[0].stamp_ns)):
            self._skip(cause)
        ready = [n for n, image in enumerate(self._waiting) if self._is_ready(image, now_ns)]
        if not ready:
            return None
        for _ in range(self._newest_in_reach(ready)):
            self._skip(Cause.FRAMES_SKIPPED)
        return self._waiting.popleft()

    def _newest_in_reach(self, ready: list[int]) -> int:
        """Return the newest image, but none too late for the model if that can be avoided."""
        start_ns = self._clock.odometry_stamp_ns
        reach_ns = None if start_ns is None else start_ns + self._reach_ns
        near = [n for n in ready if reach_ns and self._waiting[n].stamp_ns <= reach_ns]
        return (near or ready)[-1]

    def _too_soon(self, stamp_ns: int) -> Cause | None:
        """Return why an image ends no interval: it is behind the odometry, or close upon it."""
        start_ns = self._clock.odometry_stamp_ns
        if start_ns is None:
            return None
        if stamp_ns <= start_ns:
            return Cause.IMAGE_LATE
        shortest_s = self._settings.interval_min_s
        if self._builder.sound_view_at(start_ns) is not None:
            shortest_s = self._artifact.dt_range_s[0] / self._settings.dt_margin
        too_soon = stamp_ns - start_ns < round(shortest_s * NS_PER_S)
        return Cause.FRAMES_TOO_SOON if too_soon else None

    def _is_ready(self, image: WaitingImage, now_ns: int) -> bool:
        if image.since_ns is None:
            image.since_ns = now_ns
        newest_ns = self._imu.last_stamp_ns
        covered = newest_ns is not None and newest_ns >= image.stamp_ns + self._time_offset_ns
        waited = now_ns - image.since_ns >= self._imu_wait_ns
        return covered or waited or not self._clock.imu_arrives(now_ns)

    def _without_image(self, start_ns: int | None, now_ns: int) -> MotionEstimate | None:
        """Return an increment over a time without images, once it is as long as the timeout."""
        silent_ns = self._clock.silent_ns(now_ns, self._time_offset_ns)
        if start_ns is None or self._waiting or silent_ns < self._timeout_ns:
            return None
        # Called late, one increment spans all the time that has passed.
        late = silent_ns >= 2 * self._timeout_ns
        length_ns = min(silent_ns, _LONGEST_SILENCE_NS) if late else self._timeout_ns
        interval = self._builder.without_image(start_ns, start_ns + length_ns, self._imu)
        return self._emit(interval, now_ns)

    def _emit(self, interval: Interval, now_ns: int) -> MotionEstimate:
        if self._imu_fault is not None and not interval.imu_valid.all():
            interval = replace(interval, causes=(*interval.causes, self._imu_fault))
        increment = self._predictor.predict(interval)
        causes = increment.causes + self._accumulate(increment, interval.dt_s)
        self._clock.advance(interval.stamp_ns, now_ns)
        self._state = _state_of(increment.lost, causes)
        for cause in causes:
            self._count(cause, f"{self._state.value}, {interval.dt_s:.3f} s")
        return MotionEstimate(
            earlier_stamp_ns=interval.earlier_stamp_ns,
            stamp_ns=interval.stamp_ns,
            dt_s=interval.dt_s,
            T_earlier_later=increment.T_earlier_later,
            epistemic_cov=increment.epistemic_cov,
            noise_cov=increment.noise_cov,
            state=self._state,
            cause=", ".join(cause.value for cause in causes),
            T_odom_base=self._odometry.T_odom_base,
            odom_cov=self._odometry.cov,
            regime=increment.regime,
        )

    def _accumulate(self, increment: Increment, dt_s: float) -> tuple[Cause, ...]:
        """Add the increment; where rounding ate the pose's covariance, call the pose unknown."""
        T_earlier_later = increment.T_earlier_later
        noise_cov, epistemic_cov = increment.noise_cov, increment.epistemic_cov
        try:
            self._odometry.add(
                T_earlier_later,
                noise_cov,
                epistemic_cov,
                dt_s,
                increment.features,
                increment.noise_correlation,
            )
        except CovarianceError:
            unknown = np.diag(self._settings.std_bound**2)
            self._odometry.set_pose(self._odometry.T_odom_base @ T_earlier_later, unknown)
            return (Cause.ODOMETRY_COVARIANCE,)
        if self._odometry.at_bound:
            self._count(Cause.POSE_UNKNOWN)
        return ()

    def _skip(self, cause: Cause) -> None:
        """Leave out the oldest waiting image: part of normal work, so counted but no event."""
        self._waiting.popleft()
        self.counters[cause.value] += 1

    def _count(self, cause: Cause, detail: str = "", number: int = 1) -> None:
        self.counters[cause.value] += number
        self._events.append(f"{cause.value}: {detail}" if detail else cause.value)


def _state_of(lost: bool, causes: tuple[Cause, ...]) -> TrackingState:
    if lost or Cause.ODOMETRY_COVARIANCE in causes:
        return TrackingState.LOST
    return TrackingState.DEGRADED if causes else TrackingState.TRACKING
