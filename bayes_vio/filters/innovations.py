"""Judge a filter by its innovations: NIS against its band, whiteness, shares left out.

For a consistent filter the innovation v of every measurement is N(0, S) and independent of all
earlier ones: its normalised square v^T S^-1 v (NIS) is chi-square distributed, and the sample
autocorrelation of whitened innovations is zero up to 1 / sqrt(n). Source: Bar-Shalom, Li,
Kirubarajan (2001), section 5.4.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayes_vio.filters.consistency import NeesWindow, chi_square_band, effective_count, nees

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Consistency:
    """How squared errors [n] of `degrees` axes compare with what their covariances said.

    mean, and the band of it that true covariances keep at `confidence`, for as many independent
    values as the sequence is worth (``effective_count``); region_95: the share within the 95 %
    region.
    """

    degrees: int
    count: int
    effective: float
    mean: float
    band: tuple[float, float]
    region_95: float

    @property
    def consistent(self) -> bool:
        """Whether the mean lies within its band."""
        return self.band[0] <= self.mean <= self.band[1]


def consistency(error: ArrayLike, cov: ArrayLike, confidence: float = 0.95) -> Consistency:
    """Judge errors [n, d], in order of time, under their covariances [n, d, d].

    Errors of a state give its NEES, innovations with S their NIS. Raises ValueError as ``nees``
    does, and for no errors.
    """
    squared = nees(error, cov)
    if not len(squared):
        raise ValueError("consistency was given no errors.")
    degrees = int(np.asarray(error).shape[1])
    effective = effective_count(squared)
    return Consistency(
        degrees,
        len(squared),
        effective,
        float(squared.mean()),
        chi_square_band(degrees, effective, confidence),
        float(np.mean(squared <= special.chdtri(degrees, 0.05))),
    )


def autocorrelation(innovation: ArrayLike, cov: ArrayLike, lags: int = 10) -> Array:
    """Return the mean autocorrelation [lags] of innovations [n, d], whitened by their S [n, d, d].

    At lags 1, 2, ...; of independent innovations each is N(0, 1 / (n d)) about zero.
    """
    v, S = np.asarray(innovation, np.float64), np.asarray(cov, np.float64)
    if len(v) <= lags:
        raise ValueError(f"{lags} lags need more than {lags} innovations, got {len(v)}.")
    z = np.linalg.solve(np.linalg.cholesky(S), v[..., None])[..., 0]
    power = np.mean(z**2)
    return np.array([np.sum(z[k:] * z[:-k]) / (z.size * power) for k in range(1, lags + 1)])


def is_white(
    innovation: ArrayLike, cov: ArrayLike, lags: int = 10, confidence: float = 0.95
) -> bool:
    """Return whether innovations are uncorrelated in time: Box and Pierce's test over the lags."""
    v = np.asarray(innovation, np.float64)
    correlation = autocorrelation(v, cov, lags)
    statistic = v.size * float(np.sum(correlation**2))
    return statistic <= float(special.chdtri(lags, 1 - confidence))


class InnovationMonitor:
    """Keep the NIS of the last `length` innovations of every source, and what was left out.

    For use online. Innovations beyond the gate are counted and not averaged: one outlier would
    otherwise hide what the others say; their share against that of true ones says the rest.
    """

    def __init__(self, length: int = 300, confidence: float = 0.95) -> None:
        NeesWindow(1, length, confidence)
        self._length, self._confidence = length, confidence
        self._windows: dict[Hashable, NeesWindow] = {}
        self.accepted: Counter[Hashable] = Counter()
        self.rejected: Counter[Hashable] = Counter()

    def add(
        self, source: Hashable, innovation: ArrayLike, cov: ArrayLike, accepted: bool = True
    ) -> None:
        """Take an innovation [d] with its covariance S [d, d] (noise and state)."""
        if not accepted:
            self.rejected[source] += 1
            return
        if source not in self._windows:
            degrees = len(np.asarray(innovation))
            self._windows[source] = NeesWindow(degrees, self._length, self._confidence)
        self._windows[source].add(innovation, cov)
        self.accepted[source] += 1

    @property
    def windows(self) -> Mapping[Hashable, NeesWindow]:
        """The window of every source of which innovations were averaged."""
        return self._windows

    def overconfident(self, fewest: int) -> tuple[Hashable, ...]:
        """Return the sources whose mean NIS lies above its band, of those with so many."""
        return tuple(
            source
            for source, window in self._windows.items()
            if len(window) >= fewest and window.mean > window.band[1]
        )

    def rejected_share(self, source: Hashable) -> float:
        """Return the share of a source's innovations that the gate left out."""
        total = self.accepted[source] + self.rejected[source]
        return self.rejected[source] / total if total else 0.0

    def clear(self) -> None:
        """Forget everything."""
        self._windows.clear()
        self.accepted.clear()
        self.rejected.clear()
