"""Hand messages from the executor's thread to the worker's; images may overtake, samples never.

A step that was held up for once should not cost an image, one that always takes too long must not
let images age: two may wait for their turn, but a third overtakes all that wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

# Far ahead of every stamp: no IMU sample wakes the worker.
NEVER_NS = 2**62
_WAITING_IMAGES = 2


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
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._deliveries = deque([Delivery()])  # with an image each, but the last
        self._ready = False
        self._wake_stamp_ns = NEVER_NS

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
            waiting = sum(delivery.image is not None for delivery in self._deliveries)
            if waiting == _WAITING_IMAGES:
                self._join()
            elif waiting:
                self._deliveries.append(Delivery())
            self._deliveries[-1].put_image(message)
            self._wake()

    def _join(self) -> None:
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
            self._condition.wait_for(lambda: self._ready, timeout_s)
            delivery = self._deliveries.popleft()
            self._ready = bool(self._deliveries)
            if not self._deliveries:
                self._deliveries.append(Delivery())
        return delivery

    def _wake(self) -> None:
        self._ready = True
        self._condition.notify()
