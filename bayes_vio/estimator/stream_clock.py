"""Tell by the caller's clock for how long a stream has been silent; no clock is read here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sighting:
    """A stamp of a stream, and the caller's clock when it was first seen."""

    stamp_ns: int
    now_ns: int


class StreamClock:
    """Follow the caller's clock; only its pace matters, and that it does not go back.

    timeout_ns: without a new IMU sample for so long, none is expected any more.
    """

    def __init__(self, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        self._now_ns: int | None = None
        self._newest_imu: Sighting | None = None
        self._odometry: Sighting | None = None

    @property
    def odometry_stamp_ns(self) -> int | None:
        """Return where the odometry stands (images' clock), None before the first image."""
        return self._odometry.stamp_ns if self._odometry else None

    def observe(self, now_ns: int, imu_stamp_ns: int | None) -> bool:
        """Take the time and the newest IMU stamp; return False if the clock went back.

        Timers then start again from the new time.
        """
        backwards = self._now_ns is not None and now_ns < self._now_ns
        self._now_ns = now_ns
        if backwards:
            self._newest_imu = _moved_to(self._newest_imu, now_ns)
            self._odometry = _moved_to(self._odometry, now_ns)
        known_ns = self._newest_imu.stamp_ns if self._newest_imu else None
        if imu_stamp_ns is not None and imu_stamp_ns != known_ns:
            self._newest_imu = Sighting(imu_stamp_ns, now_ns)
        return not backwards

    def advance(self, stamp_ns: int, now_ns: int) -> None:
        """Note where the odometry stands now."""
        self._odometry = Sighting(stamp_ns, now_ns)

    def imu_arrives(self, now_ns: int) -> bool:
        """Return whether an IMU sample is worth waiting for."""
        newest = self._newest_imu
        return newest is not None and now_ns - newest.now_ns < self._timeout_ns

    def silent_ns(self, now_ns: int, time_offset_ns: int) -> int:
        """Return for how long no image has come, in the stamps' time; 0 before the first.

        Told by the IMU's stamps while they arrive (a replay may run slower than the clock), else
        by the clock, as where the IMU's stamps lie so far behind that they are of another epoch.
        """
        if self._odometry is None:
            return 0
        by_clock_ns = now_ns - self._odometry.now_ns
        if self._newest_imu is None or not self.imu_arrives(now_ns):
            return by_clock_ns
        by_imu_ns = self._newest_imu.stamp_ns - time_offset_ns - self._odometry.stamp_ns
        return min(by_clock_ns, by_imu_ns) if by_imu_ns > -self._timeout_ns else by_clock_ns


def _moved_to(sighting: Sighting | None, now_ns: int) -> Sighting | None:
    return Sighting(sighting.stamp_ns, now_ns) if sighting else None
