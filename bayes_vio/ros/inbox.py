"""Hand messages from the executor's thread to the worker's; images overtake, IMU samples never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

# Far ahead of every stamp: no IMU sample wakes the worker.
NEVER_NS = 2**62


@dataclass
class Delivery:
    """What came in since the last one: IMU samples in order, the newest image, commands.

    samples_before_image: how many of the samples came before the image did.
    """

    imu: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    image: Any = None
    samples_before_image: int = 0
    skipped_images: int = 0
    commands: list[Callable[[], None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.imu or self.image is not None or self.commands)


class Inbox:
    """A thread-safe letter box that wakes its reader for what an estimate can come of.

    An image or a command wakes it at once, an IMU sample only as ``wake_from`` says: at 400 Hz
    waking for each would cost more than reading them together.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._delivery = Delivery()
        self._ready = False
        self._wake_stamp_ns = NEVER_NS

    def put_imu(self, stamp_ns: int, sample: tuple[float, ...]) -> None:
        """Add one sample [6] (m/s^2, rad/s)."""
        with self._condition:
            self._delivery.imu.append((stamp_ns, sample))
            if stamp_ns >= self._wake_stamp_ns:
                self._wake()

    def wake_from(self, stamp_ns: int) -> None:
        """Wake the reader from this IMU stamp on; at once where it has come meanwhile."""
        with self._condition:
            self._wake_stamp_ns = stamp_ns
            if self._delivery.imu and self._delivery.imu[-1][0] >= stamp_ns:
                self._wake()

    def put_image(self, message: Any) -> None:
        """Add an image message; one that was not read yet is replaced and counted as skipped."""
        with self._condition:
            self._delivery.skipped_images += self._delivery.image is not None
            self._delivery.image = message
            self._delivery.samples_before_image = len(self._delivery.imu)
            self._wake()

    def put_command(self, command: Callable[[], None]) -> None:
        """Have the reader call something in its own thread, after the samples so far."""
        with self._condition:
            self._delivery.commands.append(command)
            self._wake()

    def take(self, timeout_s: float) -> Delivery:
        """Wait until something worth waking for is there, or the timeout; return all that is."""
        with self._condition:
            self._condition.wait_for(lambda: self._ready, timeout_s)
            delivery, self._delivery, self._ready = self._delivery, Delivery(), False
        return delivery

    def _wake(self) -> None:
        self._ready = True
        self._condition.notify()
