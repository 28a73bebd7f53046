"""Tell an IMU that repeats one sample, and a gyro that says nothing but zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S
from bayes_vio.estimator.tracking import Cause

_FEWEST = 10  # of a slow stream


class StuckSamples:
    """Judge the samples of a stream: no IMU is free of noise, whatever its car does.

    Samples alike to the last bit, or all-zero rates, may come by chance or by coarse steps, but
    not ten in a row that last ``longest_s`` together.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_ns = round(longest_s * NS_PER_S)
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._last = b""
        self._frozen, self._dead = _Row(), _Row()

    def add(self, stamp_ns: int, sample: NDArray[np.float64]) -> Cause | None:
        """Take the next sample [6]; return what is wrong with it, or None."""
        told = sample.tobytes()
        repeated, self._last = told == self._last, told
        frozen = self._frozen.goes_on(repeated, stamp_ns, self._longest_ns)
        dead = self._dead.goes_on(not sample[ANGULAR_RATE].any(), stamp_ns, self._longest_ns)
        if frozen:
            return Cause.IMU_FROZEN
        return Cause.GYRO_DEAD if dead else None


class _Row:
    """Samples in a row that are suspicious."""

    def __init__(self) -> None:
        self._count, self._since_ns = 0, 0

    def goes_on(self, suspicious: bool, stamp_ns: int, longest_ns: int) -> bool:
        """Return whether there have been too many for too long."""
        if not suspicious:
            self._count = 0
            return False
        if self._count == 0:
            self._since_ns = stamp_ns
        self._count += 1
        return self._count >= _FEWEST and stamp_ns - self._since_ns >= longest_ns
