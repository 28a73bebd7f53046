"""Tell that the car stands, and the gyro's bias from it.

While it stands it has not moved, whatever a network makes of images that hardly change, and what
the gyro says is its bias, to be taken out of what it says later: a filter of Kalman's for a bias
that wanders (random walk), each axis by itself, the same variance for all. Standing measures the
bias, driving lets its variance grow. Before the first standstill
the bias is unknown and nothing is taken out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.samples import VIEW_FOCAL_PX

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StandstillSettings:
    """When a car is taken to stand, and what is known of a car's gyro; SI units."""

    flow_px: float = 0.25  # three quarters of the view move by less; noise alone is 0.1 to 0.2
    flow_s: float = 0.08  # over at least so long: at 30 images/s a car creeps by less from one on
    rate_bound_rad_s: float = 0.03  # beyond any car gyro's bias: the car turns
    rate_std_rad_s: float = 0.01  # of the bins of one interval
    specific_force_std_m_s2: float = 0.15
    settling_s: float = 0.5  # the suspension swings for a while after a stop
    noise_density: float = 1e-3  # rad/s/sqrt(Hz), an idling engine included
    walk: float = 3e-5  # of the bias, rad/s^2/sqrt(Hz)
    known_std_rad_s: float = 1e-3  # a bias known worse is as good as unknown
    unmoved_flow_px: float = 0.4  # a car that rolls by 0.2 m/s at most, or an image with noise
    stopping_speed_m_s: float = 5.0  # no car was faster just before it stood
    unseen_speed_std_m_s: float = 0.1  # of a motion that would not show
    unseen_rate_std_rad_s: float = 5e-3  # of a gyro while the car swings to rest


def stands(
    flow: NDArray[np.floating] | None,
    imu: NDArray,
    imu_valid: NDArray,
    settings: StandstillSettings,
    flow_px: float | None = None,
) -> bool:
    """Return whether image and IMU both say that the car stands.

    flow [2, 40, 128] over at least the settings' flow_s, see FlowSum (None: no usable image, so
    nobody knows), imu [20, 6], imu_valid [20]; flow_px: instead of the settings'. Three quarters
    of the view must not move (the sky may flicker, another car pass), which bounds a turn to
    0.02 rad/s and the settings' flow_px; the IMU must be steady and all there.
    """
    if flow is None or not imu_valid.all():
        return False
    moved_px = np.quantile(np.hypot(flow[0], flow[1]), 0.75) * VIEW_FOCAL_PX
    turning = np.abs(imu[:, ANGULAR_RATE].mean(0)).max()
    unsteady = imu[:, ANGULAR_RATE].std(0).max()
    shaking = np.linalg.norm(imu[:, SPECIFIC_FORCE].std(0))
    return bool(
        moved_px < (flow_px or settings.flow_px)
        and turning < settings.rate_bound_rad_s
        and unsteady < settings.rate_std_rad_s
        and shaking < settings.specific_force_std_m_s2
    )


class FlowSum:
    """Add the flow of successive intervals up to one over at least ``span_s``.

    A creeping car moves a view by less than the flow's noise from one image to the next if these
    come fast, but by more over a tenth of a second; the noise grows by far less, since what one
    interval reads too much the next reads too little. Cells are added as they lie: where they
    move away from under each other the car does not stand.
    """

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self.reset()

    def reset(self) -> None:
        """Forget all intervals."""
        self._newest: deque[tuple[NDArray[np.floating], float]] = deque()

    def add(self, flow: NDArray[np.floating] | None, dt_s: float) -> NDArray[np.floating] | None:
        """Return the flow [2, 40, 128] over the newest intervals that last ``span_s`` together.

        flow: of an interval of dt_s, None where there is none. None is returned behind it, until
        there is enough.
        """
        if flow is None:
            self.reset()
            return None
        self._newest.append((flow, dt_s))
        lasts_s = sum(length_s for _, length_s in self._newest)
        while lasts_s - self._newest[0][1] >= self._span_s:
            lasts_s -= self._newest.popleft()[1]
        if lasts_s < self._span_s:
            return None
        return np.stack([part for part, _ in self._newest]).sum(axis=0, dtype=np.float32)


class GyroBias:
    """The gyro's bias [3] (rad/s, base axes) and its standard deviation, from standstills."""

    def __init__(self, settings: StandstillSettings | None = None) -> None:
        self._settings = settings or StandstillSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the bias."""
        self._stood_s = 0.0
        self._last: tuple[Array, float] | None = None
        self._bias = np.zeros(3)
        self._var: float | None = None

    @property
    def std(self) -> float | None:
        """Return the bias' standard deviation (rad/s, each axis); None: it is not known.

        It becomes known by standing, and forgotten by driving long enough.
        """
        std = None if self._var is None else float(np.sqrt(self._var))
        return std if std is not None and std < self._settings.known_std_rad_s else None

    @property
    def rate(self) -> Array:
        """Return what to take out of the gyro's rates [3] (rad/s): zero where nothing is known."""
        return np.zeros(3) if self.std is None else self._bias

    def observe(self, standing: bool, imu: NDArray, dt_s: float) -> None:
        """Take the bins [20, 6] of an interval (bias included) and whether the car stood in it.

        An interval counts only once the next one was found standing, too: a car moves off before
        its images show it.
        """
        s = self._settings
        if self._var is not None:
            self._var += s.walk**2 * dt_s
        if standing and self._last is not None:
            self._update(*self._last)
        self._stood_s = self._stood_s + dt_s if standing else 0.0
        settled = standing and self._stood_s > s.settling_s
        mean = imu[:, ANGULAR_RATE].mean(0).astype(np.float64)
        self._last = (mean, s.noise_density**2 / dt_s) if settled else None

    def _update(self, rate: Array, var: float) -> None:
        if self._var is None:
            self._bias, self._var = rate, var
            return
        gain = self._var / (self._var + var)
        self._bias = self._bias + gain * (rate - self._bias)
        self._var = (1 - gain) * self._var
