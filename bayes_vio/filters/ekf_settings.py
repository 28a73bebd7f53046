"""What the small filter assumes of the vehicle and of its inputs, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EkfSettings:
    """Settings of the filter, in SI units; the last letters of a name are its unit.

    epistemic_correlation_s and noise_correlation are the artifact's (``bayes-vio inspect``): for
    how long the two parts of a twist's error stay alike, zero and infinity allowed.
    """

    epistemic_correlation_s: float = 5.0
    noise_correlation: NoiseCorrelation = WHITE_NOISE

    # How the twist changes between measurements: the density of a white acceleration along x, y,
    # z (m/s^2 per sqrt Hz) and about them (rad/s^2 per sqrt Hz), and the twist's largest standard
    # deviations, which it reaches if nothing is measured any more.
    acceleration_density: tuple[float, ...] = (3.0, 0.05, 0.1, 0.06, 0.06, 0.1)
    speed_bound_m_s: float = 30.0
    angular_rate_bound_rad_s: float = 1.0

    # Where the pose starts, and the largest standard deviations that are ever reported of it.
    initial_position_std_m: float = 1e-3
    initial_angle_std_rad: float = 1e-3
    position_std_bound_m: float = 1e5
    angle_std_bound_rad: float = float(np.pi)

    # Fixes of an antenna at this place in base_link; of their error a part lasts.
    antenna_position_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    fix_lasting_std_m: float = 0.0
    fix_correlation_s: float = 60.0

    # A measurement is left out where less than this share of true ones is farther off; after so
    # many in a row the filter is taken to be wrong, and not they.
    gate_probability: float = 1e-4
    rejections_max: int = 10

    # Measurements may come late by history_s; a stamp that lies farther back, or further ahead
    # than max_gap_s, is followed after jump_messages in a row.
    history_s: float = 1.0
    max_gap_s: float = 10.0
    jump_messages: int = 3

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that has no meaning."""
        may_be_zero = ("epistemic_correlation_s", "fix_lasting_std_m", "fix_correlation_s")
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and not (value > 0 or name in may_be_zero):
                raise ValueError(f"filter setting {name} is {value}: give a number above 0")
            if name in may_be_zero and not value >= 0:
                raise ValueError(f"filter setting {name} is {value}: give zero or more")
        if len(self.acceleration_density) != 6 or not min(self.acceleration_density) > 0:
            raise ValueError("acceleration_density must be six numbers above 0")
        if len(self.antenna_position_m) != 3 or not np.isfinite(self.antenna_position_m).all():
            raise ValueError("antenna_position_m must be three finite numbers")
        if self.gate_probability >= 1:
            raise ValueError("gate_probability must lie between 0 and 1")

    @property
    def twist_std_bound(self) -> Array:
        """Return the largest standard deviations [6] of the twist (m/s, rad/s)."""
        return np.repeat([self.speed_bound_m_s, self.angular_rate_bound_rad_s], 3)

    @property
    def pose_std_bound(self) -> Array:
        """Return the largest standard deviations [6] of the pose (m, rad)."""
        return np.repeat([self.position_std_bound_m, self.angle_std_bound_rad], 3)

    @property
    def initial_pose_cov(self) -> Array:
        """Return the covariance [6, 6] of the pose at which the filter starts (m, rad)."""
        std = np.repeat([self.initial_position_std_m, self.initial_angle_std_rad], 3)
        return np.diag(std**2)

    def split_noise(self, noise_cov: Array) -> tuple[Array, Array]:
        """Return white and lasting part [6, 6] of a noise; axes without a time are white."""
        times, share = self.noise_correlation.time_s, self.noise_correlation.share
        kept = tuple(s if t > 0 else 0.0 for t, s in zip(times, share, strict=True))
        return NoiseCorrelation(times, kept).split(noise_cov)

    @property
    def twist_decay_s(self) -> Array:
        """Return the time [6] (s) in which the twist forgets: 2 bound^2 / density^2 (F2)."""
        return 2 * (self.twist_std_bound / np.array(self.acceleration_density)) ** 2
