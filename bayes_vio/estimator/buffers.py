"""What the streaming estimator keeps of its inputs: IMU samples and images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S

_PERIOD_SAMPLES = 50


@dataclass
class WaitingImage:
    """An image [height, width] uint8 waiting since ``since_ns`` (caller's clock; None: unseen).

    view [80, 256]: the image as the virtual camera sees it, once it has been projected.
    """

    stamp_ns: int
    gray: NDArray[np.uint8]
    since_ns: int | None = None
    view: NDArray[np.uint8] | None = None


class ImuBuffer:
    """The newest IMU samples, bounded in time and in number, allocated once.

    The samples lie in one piece: the arrays are twice as long as needed, and the kept half moves
    to the front whenever the end is reached.
    """

    def __init__(self, length_s: float, rate_max_hz: float) -> None:
        self._capacity = max(2, int(length_s * rate_max_hz))
        self._length_ns = round(length_s * NS_PER_S)
        self._stamp_ns = np.zeros(2 * self._capacity, np.int64)
        self._samples = np.zeros((2 * self._capacity, 6))
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def last_stamp_ns(self) -> int | None:
        """Return the newest stamp, in the IMU's clock."""
        return int(self._stamp_ns[self._end - 1]) if len(self) else None

    def append(self, stamp_ns: int, sample: NDArray[np.float64]) -> None:
        """Add a sample [6] newer than all others; forget those out of the time bound."""
        if self._end == len(self._stamp_ns):
            self._move_to_front()
        self._stamp_ns[self._end] = stamp_ns
        self._samples[self._end] = sample
        self._end += 1
        oldest_ns = stamp_ns - self._length_ns
        while self._stamp_ns[self._begin] < oldest_ns or len(self) > self._capacity:
            self._begin += 1

    def around(self, start_ns: int, end_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return stamps [n] and samples [n, 6] that bracket [start, end], and some from before it.

        The ones from before show the usual period, by which a gap is told from a slow IMU.
        """
        stamp_ns = self._stamp_ns[self._begin : self._end]
        first = int(np.searchsorted(stamp_ns, start_ns, side="right")) - 1 - _PERIOD_SAMPLES
        last = int(np.searchsorted(stamp_ns, end_ns, side="left")) + 1
        chosen = slice(self._begin + max(0, first), self._begin + min(last, len(self)))
        return self._stamp_ns[chosen], self._samples[chosen]

    def clear(self) -> None:
        """Forget everything."""
        self._begin = self._end = 0

    def _move_to_front(self) -> None:
        n = len(self)
        self._stamp_ns[:n] = self._stamp_ns[self._begin : self._end]
        self._samples[:n] = self._samples[self._begin : self._end]
        self._begin, self._end = 0, n
