"""The forward speed without a camera: what was seen last, and what the IMU has felt since.

A window of the IMU shows no speed, a state does. With f the forward specific force and o what the
IMU says at constant speed (slope, tilt, bias; a mean over the last T seconds with a camera),

    u' = u + (f - o) t,    Var(u') = Var(u) + (a^2 + 2 Var(u) / T^2) t^2,                   (E-I1)

t since the speed was seen. The slope changes: a is 0.22 m/s^2 on six KITTI sequences, for all t
from 0.5 to 10 s, and 0.9 on one moment in a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray

from bayes_vio.conventions import SPECIFIC_FORCE
from bayes_vio.estimator.tracking import EstimatorSettings

# A part of an estimate's error lasts: a mean of several is not surer than by this.
_LASTING_SHARE = 0.5
_SHARE_VALID = 0.9


@dataclass(frozen=True)
class Speed:
    """A forward speed (m/s), the mean over an interval, and its variance."""

    mean: float
    var: float


class ForwardSpeed:
    """Carry the forward speed over intervals without a camera; E-I1."""

    def __init__(self, settings: EstimatorSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget the speed, and what the IMU says at constant speed."""
        self._level, self._level_s = 0.0, 0.0
        self.forget()

    def forget(self) -> None:
        """Forget the speed: nothing tells how it has changed."""
        self._known: Speed | None = None
        self._unseen_s, self._gained_m_s = 0.0, 0.0
        self._last_seen: float | None = None
        self._force: float | None = None
        self._felt = 0.0

    def carry(self, imu: NDArray, imu_valid: NDArray, dt_s: float) -> Speed | None:
        """Return the mean speed over the next interval, None where it is not known.

        imu [20, 6], imu_valid [20]: its bins. Without most of them the speed is forgotten.
        """
        valid = imu_valid > 0
        if valid.mean() < _SHARE_VALID:
            self.forget()
            return None
        force = float(imu[valid, SPECIFIC_FORCE][:, 0].mean())
        # From the middle of the last interval to the middle of this one.
        self._felt = force if self._force is None else 0.5 * (self._force + force)
        self._force = force
        self._unseen_s += dt_s
        self._gained_m_s += (self._felt - self._level) * dt_s
        if self._known is None or not self._level_s:
            return None
        level_var = 2 * self._known.var / self._level_s**2
        drift_var = self._settings.unseen_acceleration_std_m_s2**2 + level_var
        var = self._known.var + drift_var * self._unseen_s**2
        return Speed(self._known.mean + self._gained_m_s, var)

    def see(self, seen: Speed, carried: Speed | None, dt_s: float) -> None:
        """Take the speed that a camera saw over the interval that was carried last."""
        if self._last_seen is not None and self._unseen_s <= dt_s:
            memory_s = self._settings.level_memory_s
            self._level_s = min(self._level_s + dt_s, memory_s)
            beyond = self._felt - (seen.mean - self._last_seen) / dt_s
            self._level += dt_s / self._level_s * (beyond - self._level)
        self._last_seen, self._known = seen.mean, _both(seen, carried)
        self._unseen_s, self._gained_m_s = 0.0, 0.0


def _both(seen: Speed, carried: Speed | None) -> Speed:
    """Return what an estimate and the speed carried to it say together."""
    if carried is None:
        return seen
    gain = carried.var / (carried.var + seen.var)
    mean = carried.mean + gain * (seen.mean - carried.mean)
    return Speed(mean, max(gain, _LASTING_SHARE) * seen.var)
