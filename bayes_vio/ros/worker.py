"""Run the estimator in its own thread, fed through an inbox; the only thread that touches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.messages import ImageError, gray_of_image, gray_of_jpeg, stamp_ns_of
from bayes_vio.estimator import Estimator
from bayes_vio.estimator.tracking import MotionEstimate
from bayes_vio.ros.diagnostics import Telemetry
from bayes_vio.ros.inbox import NEVER_NS, Delivery, Inbox
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog

# How often the estimator is asked without a new image, so that a silent camera is noticed.
_IDLE_S = 0.05
# Longer than a step and a wait for messages together: the process or its machine stood still.
_HELD_UP_S = 0.25
# Far longer than any step takes, far shorter than anyone waits for a transition.
_STOP_S = 5.0


class StuckError(Exception):
    """The estimator's thread does not come back from a step."""


@dataclass(frozen=True)
class Surroundings:
    """What the worker needs of the node: clock, whether ROS is up, counts and logs."""

    now_ns: Callable[[], int]
    ros_is_up: Callable[[], bool]
    telemetry: Telemetry
    log: ThrottledLog
    states: ChangeLog


class EstimationWorker:
    """Feed one estimator from an inbox and publish what comes out, until stopped.

    publish: called with every estimate, in the worker's thread.
    """

    def __init__(
        self,
        estimator: Estimator,
        inbox: Inbox,
        publish: Callable[[MotionEstimate], None],
        around: Surroundings,
    ) -> None:
        self.estimator = estimator
        self.paused = False
        self._inbox = inbox
        self._publish, self._around = publish, around
        self._stop = Event()
        self._asked_s = time.monotonic()
        self._thread = Thread(target=self._run, name="estimation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its end; StuckError where a step does not end."""
        self._stop.set()
        self._inbox.put_command(lambda: None)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise StuckError(
                f"the estimator's thread is still in a step after {_STOP_S:g} s: stop the process "
                f"and start it again"
            )

    def _run(self) -> None:
        while not self._stop.is_set():
            delivery = self._inbox.take(_IDLE_S)
            try:
                self.step(delivery)
            # The boundary of the thread: whatever goes wrong in one step is told and counted, and
            # the estimator starts anew rather than leave the robot without any odometry.
            except Exception as error:
                if not self._around.ros_is_up():
                    return
                self._around.telemetry.refused["internal_error"] += 1
                self._around.log.error("internal_error", f"{type(error).__name__}: {error}")
                self.estimator.reset("internal error")

    def step(self, delivery: Delivery) -> None:
        """Feed one delivery and publish every estimate that is ready."""
        for command in delivery.commands:
            command()
        self._around.telemetry.refused["image_overtaken"] += delivery.skipped_images
        if self.paused:
            images = delivery.image is not None
            self._around.telemetry.refused["paused"] += len(delivery.imu) + images
            return
        # In the order in which they came: behind samples of a recording that begins again, an
        # image of its end would be taken for the present.
        for stamp_ns, sample in delivery.imu[: delivery.samples_before_image]:
            self.estimator.feed_imu(stamp_ns, sample)
        if delivery.image is not None:
            self._feed_image(delivery.image)
        for stamp_ns, sample in delivery.imu[delivery.samples_before_image :]:
            self.estimator.feed_imu(stamp_ns, sample)
        while (estimate := self._estimate()) is not None:
            self._publish(estimate)
        awaited_ns = self.estimator.awaited_imu_stamp_ns
        self._inbox.wake_from(NEVER_NS if awaited_ns is None else awaited_ns)
        for event in self.estimator.events():
            self._around.log.warn(event.partition(":")[0], event)

    def _estimate(self) -> MotionEstimate | None:
        """Ask the estimator; after standing still, first let in what has come meanwhile.

        Otherwise the time that this process slept through would pass for a gap in the images, and
        they would all come too late.
        """
        now_s = time.monotonic()
        held_up, self._asked_s = now_s - self._asked_s > _HELD_UP_S, now_s
        if held_up and self.estimator.awaited_imu_stamp_ns is None:
            return None
        return self.estimator.estimate(self._around.now_ns())

    def _feed_image(self, message: Any) -> None:
        stamp_ns = stamp_ns_of(message.header)
        try:
            self.estimator.feed_image(stamp_ns, gray_of(message))
        except ImageError as error:
            cause = f"image_{error.cause.replace(' ', '_')}"
            self._around.telemetry.refused[cause] += 1
            self._around.log.warn(cause, f"{cause}: {error}")


def gray_of(message: Any) -> NDArray[np.uint8]:
    """Return the gray image [height, width] of an Image or CompressedImage; ImageError if bad."""
    if hasattr(message, "encoding"):
        return gray_of_image(message)
    return gray_of_jpeg(np.asarray(message.data, dtype=np.uint8))
