"""Judge covariances against errors: NEES, chi-square bands, coverage, effective sample sizes.

NEES is the normalised estimation error squared, ``e^T cov^-1 e``; for a true Gaussian covariance
it is chi-square distributed with as many degrees of freedom as ``e`` has axes. Source: Bar-Shalom,
Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), section 5.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]


def nees(error: ArrayLike, cov: ArrayLike) -> Array:
    """Return the normalised squared errors [n] of error [n, d] under cov [n, d, d].

    Raises ValueError where the shapes disagree, a number is not finite, or a covariance is not
    positive definite.
    """
    e, S = np.asarray(error, np.float64), np.asarray(cov, np.float64)
    if e.ndim != 2 or S.shape != (*e.shape, e.shape[1]):
        raise ValueError(
            f"nees takes error [n, d] and cov [n, d, d], got {e.shape} and {S.shape}."
        )
    if not (np.isfinite(e).all() and np.isfinite(S).all()):
        raise ValueError("nees was given an error or a covariance that is not finite.")
    try:
        L = np.linalg.cholesky(S)
    except np.linalg.LinAlgError as cause:
        raise ValueError("nees was given a covariance that is not positive definite.") from cause
    whitened = np.linalg.solve(L, e[..., None])[..., 0]
    return np.sum(whitened**2, axis=-1)


def chi_square_band(
    degrees: int, count: float = 1, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the two-sided band of the mean of `count` independent chi-square values.

    degrees: axes of one error; count may be an effective, hence fractional, sample size.
    """
    if degrees < 1 or count <= 0 or not 0 < confidence < 1:
        raise ValueError(
            f"A chi-square band needs degrees >= 1, count > 0 and a confidence in (0, 1), "
            f"got {degrees}, {count} and {confidence}."
        )
    tail = (1 - confidence) / 2
    # chdtri inverts the survival function. scipy.stats would add half a second to a node's start.
    low, high = special.chdtri(degrees * count, [1 - tail, tail]) / count
    return float(low), float(high)


def coverage(error: ArrayLike, cov: ArrayLike, sigmas: Sequence[float] = (1, 2, 3)) -> Array:
    """Return the shares [d, len(sigmas)] of errors within so many sigmas, per axis.

    error [n, d], cov [n, d, d]; a Gaussian gives 68.3, 95.4 and 99.7 % at 1, 2 and 3 sigma.
    """
    z = standardised(error, cov)
    if len(z) == 0:
        raise ValueError("coverage was given no errors.")
    return np.stack([np.mean(np.abs(z) <= k, axis=0) for k in sigmas], axis=-1)


def standardised(error: ArrayLike, cov: ArrayLike) -> Array:
    """Return errors over their predicted standard deviations, axis by axis [n, d]."""
    variance = np.diagonal(np.asarray(cov, np.float64), axis1=-2, axis2=-1)
    if not (variance > 0).all():
        raise ValueError("A covariance has a variance that is not positive.")
    return np.asarray(error, np.float64) / np.sqrt(variance)


def wilson_interval(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the binomial interval of a share seen in `count` trials (Wilson, 1927)."""
    q = float(special.ndtri(0.5 + confidence / 2))
    centre = (share + q**2 / (2 * count)) / (1 + q**2 / count)
    spread = share * (1 - share) / count + q**2 / (4 * count**2)
    half = q * np.sqrt(spread) / (1 + q**2 / count)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def effective_count(values: ArrayLike) -> float:
    """Return how many independent values tell as much about the mean as these in sequence [n].

    n over the integrated autocorrelation time, summed over its initial positive sequence (Geyer,
    1992, section 3.3); never above n. Consecutive errors of a moving robot are correlated, and a
    band that took them as independent would be too narrow.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    x = x - x.mean() if n else x
    if n < 4 or not np.any(x):
        return float(n)
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    correlation = np.fft.irfft(spectrum)[: n - n % 2]
    pairs = (correlation / correlation[0]).reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= 0)
    time = 2 * pairs[: ended[0] if len(ended) else None].sum() - 1
    return n / max(1.0, float(time))


class NeesWindow:
    """Keep the mean NEES of the last `length` errors, with the band that a true covariance keeps.

    For use online, where errors come one by one; the band takes them as independent.
    """

    def __init__(self, degrees: int = 6, length: int = 100, confidence: float = 0.95) -> None:
        if length < 1:
            raise ValueError(f"A NEES window needs a length of at least 1, got {length}.")
        chi_square_band(degrees, 1, confidence)
        self.degrees, self.confidence = degrees, confidence
        self._values: deque[float] = deque(maxlen=length)

    def add(self, error: ArrayLike, cov: ArrayLike) -> float:
        """Take one error [d] and its cov [d, d]; return its NEES."""
        e, S = np.asarray(error, np.float64), np.asarray(cov, np.float64)
        if e.shape != (self.degrees,):
            raise ValueError(f"This window takes errors [{self.degrees}], got {e.shape}.")
        value = float(nees(e[None], S[None])[0])
        self._values.append(value)
        return value

    def clear(self) -> None:
        """Forget every error."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def mean(self) -> float:
        """The mean NEES; ValueError while the window is empty."""
        if not self._values:
            raise ValueError("This NEES window is empty.")
        return sum(self._values) / len(self._values)

    @property
    def band(self) -> tuple[float, float]:
        """The band of the mean for a true covariance; ValueError while the window is empty."""
        return chi_square_band(self.degrees, len(self._values), self.confidence)

    @property
    def consistent(self) -> bool:
        """Whether the mean lies within its band; ValueError while the window is empty."""
        low, high = self.band
        return low <= self.mean <= high
