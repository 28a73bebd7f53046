"""Hand messages from the executor's thread to the worker's; images may overtake, samples never.

A node that was held up for once should not lose images, one that always takes too long must not
let them age. So a reader that has kept up may work off a backlog, for a while; where it cannot,
two images may wait for their turn, and a third overtakes all that wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

# Far ahead of every stamp: no IMU sample wakes the worker.
NEVER_NS = 2**62
_WAITING_IMAGES = 2
# A reader that needs two thirds of an image's interval works off a backlog of 30 images meanwhile.
_CATCH_UP_S = 2.0


@dataclass
class Delivery:
    """What is read at once: IMU samples in order, an image, commands.

    samples_before_image: how many of the samples came before the image did.
    """

    imu: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    image: Any = None
    samples_before_image: int = 0
    skipped_images: int = 0
    commands: list[Callable[[], None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.imu or self.image is not None or self.commands)

    def put_image(self, message: Any) -> None:
        """Add an image behind the samples so far; one that is there already is skipped."""
        self.skipped_images += self.image is not None
        self.image, self.samples_before_image = message, len(self.imu)

    def append(self, later: Delivery) -> None:
        """Add what came later, whose image is not there yet."""
        self.imu += later.imu
        self.commands += later.commands
        self.skipped_images += later.skipped_images + (later.image is not None)


class Inbox:
    """A thread-safe letter box that wakes its reader for what an estimate can come of.

    An image or a command wakes it at once, an IMU sample only as ``wake_from`` says: at 400 Hz
    waking for each would cost more than reading them together.

    backlog: the images that may wait after the process was held up.
    """

    def __init__(self, backlog: int = 30) -> None:
        self._backlog = backlog
        self._condition = Condition()
        self._deliveries = deque([Delivery()])  # with an image each, but the last
        self._ready = False
        self._wake_stamp_ns = NEVER_NS
        self._keeps_up = True  # the reader has been idle since an image was overtaken
        self._behind_since_s: float | None = None  # from when on more than two have waited

    def put_imu(self, stamp_ns: int, sample: tuple[float, ...]) -> None:
        """Add one sample [6] (m/s^2, rad/s)."""
        with self._condition:
            self._deliveries[-1].imu.append((stamp_ns, sample))
            if stamp_ns >= self._wake_stamp_ns:
                self._wake()

    def wake_from(self, stamp_ns: int) -> None:
        """Wake the reader from this IMU stamp on; at once where it has come meanwhile."""
        with self._condition:
            self._wake_stamp_ns = stamp_ns
            newest = self._deliveries[-1].imu
            if newest and newest[-1][0] >= stamp_ns:
                self._wake()

    def put_image(self, message: Any) -> None:
        """Add an image message, which overtakes those that wait if they are too many."""
        with self._condition:
            waiting = self._waiting_images()
            if waiting >= _WAITING_IMAGES and not self._may_wait(waiting):
                self._join()
            elif waiting:
                self._deliveries.append(Delivery())
            self._deliveries[-1].put_image(message)
            self._wake()

    def _waiting_images(self) -> int:
        return len(self._deliveries) - (self._deliveries[-1].image is None)

    def _may_wait(self, waiting: int) -> bool:
        """Return whether the reader is granted one more image, as it is expected to catch up."""
        now_s = time.monotonic()
        if self._behind_since_s is None:
            self._behind_since_s = now_s
        in_time = now_s - self._behind_since_s < _CATCH_UP_S
        return self._keeps_up and in_time and waiting < self._backlog

    def _join(self) -> None:
        self._keeps_up = False
        first, *later = self._deliveries
        for delivery in later:
            first.append(delivery)
        self._deliveries = deque([first])

    def put_command(self, command: Callable[[], None]) -> None:
        """Have the reader call something in its own thread, after the samples so far."""
        with self._condition:
            self._deliveries[-1].commands.append(command)
            self._wake()

    def take(self, timeout_s: float) -> Delivery:
        """Wait until something worth waking for is there, or the timeout; return it.

        What came with and behind an image is returned up to the next image.
        """
        with self._condition:
            if not self._waiting_images():
                self._keeps_up = True
            self._condition.wait_for(lambda: self._ready, timeout_s)
            delivery = self._deliveries.popleft()
            self._ready = bool(self._deliveries)
            if not self._deliveries:
                self._deliveries.append(Delivery())
            if self._waiting_images() < _WAITING_IMAGES:
                self._behind_since_s = None
        return delivery

    def _wake(self) -> None:
        self._ready = True
        self._condition.notify()
