"""Rotation by the network where it changes fast, by the gyro where it changes slowly.

The network smooths the gyro's vibration, but errs by some 1e-4 rad/s for as long as a scene lasts,
and such errors add up. The gyro vibrates, but its integral does not wander, apart from its bias.
With w_k the network's angular rate over an interval and g_k the gyro's, axis by axis,

    w'_k = w_k - s_k,    s_(k+1) = s_k + (1 - exp(-dt / tau)) (w_k - g_k - s_k),             (E-M2)

so that errors of the network that last longer than tau and those of the gyro that are shorter are
left out. tau is infinite where the network is better at all lengths: a gyro with a bias.
E-M2 is linear: the weights' part in w' is the same filter's answer to their part in w.
Source: Mahony, Hamel and Pflimlin (2008), "Nonlinear complementary filters on the special
orthogonal group", section II, for small angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_vio.conventions import ANGULAR

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Crossover:
    """Times tau [3] (s) of E-M2 about x, y, z; infinite where the network alone is better."""

    time_s: tuple[float, float, float] = (math.inf, math.inf, math.inf)

    def __post_init__(self) -> None:
        """Raise ValueError for times that are not three positive numbers."""
        if len(self.time_s) != 3 or not all(time_s > 0 for time_s in self.time_s):
            raise ValueError(f"a crossover needs three times above 0 s, got {self.time_s}")

    def gain(self, dt_s: float) -> Array:
        """Return 1 - exp(-dt / tau) [3]."""
        return -np.expm1(-dt_s / np.array(self.time_s))


NETWORK_ALONE = Crossover()
# Averages of w - g over so long tell a gyro's bias (s); what they usually are, from world to world
# (rad/s); how many standard deviations are usual; and how long the network's errors last (s).
_MEMORY_S, _USUAL_RATE, _USUAL_DEVIATIONS, _LASTING_S = 10.0, 5e-4, 3.0, 1.0


@dataclass(frozen=True)
class Fused:
    """A mean [6] in Log coordinates and features [6, size] of its epistemic error (or None), and
    by what factor [6] the deviation of that error has changed."""

    mean: Array
    features: Array | None
    epistemic_factor: Array


class SlowContradiction:
    """What network and gyro contradict each other by for seconds on end (E-M3).

    The network sees about x and y, and hardly about z, that a gyro has a bias that it had not in
    the fit. E-M2 takes the gyro's word, so the covariance must tell. A gyro that is wrong about
    one axis is trusted no more about another: the largest that is seen counts about all.
    """

    def __init__(self, crossover: Crossover) -> None:
        self._trusts_gyro = np.isfinite(crossover.time_s)
        self.reset()

    def reset(self) -> None:
        """Forget the contradiction."""
        self._sum, self._weight = np.zeros(3), 0.0

    def add(
        self, difference: Array, noise_var: Array, dt_s: float, vibration_var: ArrayLike = 0.0
    ) -> Array:
        """Return the variance [3] (rad^2) that an interval's rotation has beyond the usual.

        difference [3]: the network's rotation less the gyro's (rad); noise_var [3]: the network's
        own, which lasts, and vibration_var [3]: the gyro's, which does not (rad^2). The average
        over the last seconds is held against what it has of both.
        """
        kept = np.exp(-dt_s / _MEMORY_S)
        self._sum = kept * self._sum + (1 - kept) * difference / dt_s
        self._weight = kept * self._weight + (1 - kept)
        average, elapsed_s = self._sum / self._weight, -_MEMORY_S * np.log1p(-self._weight)
        averaged_s = min(2 * _MEMORY_S, elapsed_s)
        lasting, white = min(1.0, max(_LASTING_S, dt_s) / averaged_s), dt_s / averaged_s
        noise_rate_var = (lasting * noise_var + white * np.asarray(vibration_var)) / dt_s**2
        usual_var = _USUAL_RATE**2 + noise_rate_var
        # What is unusual is believed whole: less would be a bias that is half as large.
        seen = np.where(average**2 > _USUAL_DEVIATIONS**2 * usual_var, average**2, 0.0)
        return self._trusts_gyro * seen.max() * dt_s**2


class ComplementaryFilter:
    """Follow E-M2 over consecutive intervals that have both sensors."""

    def __init__(self, crossover: Crossover) -> None:
        self._crossover = crossover
        self.reset()

    def reset(self) -> None:
        """Forget what is slow."""
        self._slow: Array = np.zeros(3)
        self._slow_features: Array | None = None

    def add(
        self, mean: Array, gyro_rate: Array, dt_s: float, features: Array | None = None
    ) -> Fused:
        """Return what E-M2 makes of a mean [6] in Log coordinates (m, rad) over dt_s.

        gyro_rate [3]: the gyro's mean over the interval (rad/s, base axes).
        """
        fused, gain = mean.copy(), self._crossover.gain(dt_s)
        fused[ANGULAR] -= dt_s * self._slow
        self._slow = self._slow + gain * (mean[ANGULAR] / dt_s - gyro_rate - self._slow)
        if features is None:
            return Fused(fused, None, np.ones(6))
        features, factor = self._without_slow(features, dt_s, gain)
        return Fused(fused, features, factor)

    def _without_slow(self, features: Array, dt_s: float, gain: Array) -> tuple[Array, Array]:
        """Return features [6, size] of w', and the factor [6] of their deviation."""
        slow = self._slow_features
        if slow is None:
            slow = np.zeros_like(features[ANGULAR])
        left = features.copy()
        left[ANGULAR] -= dt_s * slow
        self._slow_features = slow + gain[:, None] * (features[ANGULAR] / dt_s - slow)
        before, after = (np.linalg.norm(f, axis=1) for f in (features, left))
        return left, np.divide(after, before, out=np.ones(6), where=before > 0)


def fused_rotations(
    crossover: Crossover, mean: Array, gyro_rate: Array, dt_s: Array
) -> NDArray[np.float64]:
    """Return E-M2 of consecutive means [n, 6] (m, rad), gyro_rate [n, 3] (rad/s), dt_s [n]."""
    complementary = ComplementaryFilter(crossover)
    rows = zip(mean, gyro_rate, dt_s.tolist(), strict=True)
    return np.array([complementary.add(m, g, dt).mean for m, g, dt in rows]).reshape(-1, 6)
