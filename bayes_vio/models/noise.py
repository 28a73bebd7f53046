"""How the noise of one increment is related to that of the next, and to its circumstances."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseCorrelation:
    """How much of each axis' noise lasts, and how long: shares [6] of its variance, tau [6] (s).

    The noise N splits into lasting S N S, S = diag(share)^(1/2), and white W N W,
    W = diag(1 - share)^(1/2), which keeps every axis' variance.
    """

    time_s: tuple[float, ...] = (0.0,) * 6
    share: tuple[float, ...] = (0.0,) * 6

    def __post_init__(self) -> None:
        if len(self.time_s) != 6 or not all(time_s >= 0 for time_s in self.time_s):
            raise ValueError(f"a noise correlation needs six times >= 0, got {self.time_s}")
        if len(self.share) != 6 or not all(0 <= share <= 1 for share in self.share):
            raise ValueError(f"a noise correlation needs six shares in [0, 1], got {self.share}")

    def split(self, noise_cov: Array) -> tuple[Array, Array]:
        """Return the white and the lasting part [6, 6] of a noise covariance."""
        share = np.array(self.share)
        lasting, white = np.sqrt(share), np.sqrt(1 - share)
        return noise_cov * np.outer(white, white), noise_cov * np.outer(lasting, lasting)


WHITE_NOISE = NoiseCorrelation()
_ONES = (1.0,) * 6


@dataclass(frozen=True)
class Circumstances:
    """What the noise's deviations are where a car meets what training does not have.

    Factors [6] where no camera sees, where the gyro's bias is known and taken out, where both is
    so, and where no IMU tells; factors [6] of the epistemic deviations where a sensor is alone,
    since the posterior's data always had both; and the deviations [6] (m/s, rad/s) of the twist
    of a car that stands.
    """

    imu_alone_scale: tuple[float, ...] = _ONES
    bias_known_scale: tuple[float, ...] = _ONES
    imu_alone_bias_known_scale: tuple[float, ...] = _ONES
    camera_alone_scale: tuple[float, ...] = _ONES
    imu_alone_epistemic_scale: tuple[float, ...] = _ONES
    camera_alone_epistemic_scale: tuple[float, ...] = _ONES
    standing_std: tuple[float, ...] = (0.1, 0.1, 0.1, 5e-3, 5e-3, 5e-3)

    def __post_init__(self) -> None:
        """Raise ValueError for what is not six numbers within bounds far beyond any fit."""
        for field in fields(self):
            values = np.array(getattr(self, field.name), np.float64)
            low, high = (1e-6, 10.0) if field.name == "standing_std" else (0.01, 100.0)
            if values.shape != (6,) or not ((values >= low) & (values <= high)).all():
                raise ValueError(f"{field.name} is not six numbers from {low:g} to {high:g}")

    def scale(self, camera_sees: bool, bias_known: bool, imu_tells: bool = True) -> Array:
        """Return the factors [6] of an interval that at least one sensor tells of."""
        if not imu_tells:
            return np.array(self.camera_alone_scale)
        if camera_sees:
            return np.array(self.bias_known_scale if bias_known else _ONES)
        return np.array(self.imu_alone_bias_known_scale if bias_known else self.imu_alone_scale)

    def epistemic_scale(self, camera_sees: bool, imu_tells: bool) -> Array:
        """Return the factors [6] of the epistemic deviations, by the sensors that tell."""
        if camera_sees and imu_tells:
            return np.ones(6)
        alone = (
            self.camera_alone_epistemic_scale if camera_sees else self.imu_alone_epistemic_scale
        )
        return np.array(alone)

    @property
    def standing_twist_cov(self) -> Array:
        """Return the covariance [6, 6] of the twist of a car that stands (m/s, rad/s)."""
        return np.diag(np.square(self.standing_std))


AS_IN_TRAINING = Circumstances()
