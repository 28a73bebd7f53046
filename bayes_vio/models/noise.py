"""How the noise of one increment is related to that of the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseCorrelation:
    """How much of the noise lasts, and how long: a share [6] of its variance, and tau (s).

    The noise N splits into lasting S N S, S = diag(share)^(1/2), and white W N W,
    W = diag(1 - share)^(1/2), which keeps every axis' variance.
    """

    time_s: float = 0.0
    share: tuple[float, ...] = (0.0,) * 6

    def __post_init__(self) -> None:
        if not self.time_s >= 0 or len(self.share) != 6:
            raise ValueError(f"a noise correlation needs a time >= 0 and six shares, got {self}")
        if not all(0 <= share <= 1 for share in self.share):
            raise ValueError(f"shares of the noise's variance lie in [0, 1], got {self.share}")

    def split(self, noise_cov: Array) -> tuple[Array, Array]:
        """Return the white and the lasting part [6, 6] of a noise covariance."""
        share = np.array(self.share)
        lasting, white = np.sqrt(share), np.sqrt(1 - share)
        return noise_cov * np.outer(white, white), noise_cov * np.outer(lasting, lasting)


WHITE_NOISE = NoiseCorrelation()
