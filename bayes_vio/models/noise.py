"""How the noise of one increment is related to that of the next."""

from __future__ import annotations

from dataclasses import dataclass

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
