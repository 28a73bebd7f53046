"""What a street is like over seconds, and how far that is from the streets of training.

Two things tell streets of one kind from those of another: how their pictures look (the statistics
p [4] of ``reliability``), and how far the network's rotation w departs from the gyro's g from
interval to interval, in units of its own noise sigma: unfamiliar pictures, and another gyro,
change that ratio. With d = w - g of three intervals in a row,

    s = (p,  ln r_y,  ln r_z),    r = (d_k - 2 d_(k-1) + d_(k-2))^2 / 6 sigma^2.

One strange picture is no strange street. The mean of s over the last T seconds differs from street
to street and, T being small, by what single images add:

    s_T ~ t(mu, (1 + T_1 / T) Sigma),    m = (s_T - mu)^T Sigma^-1 (s_T - mu) / (k + k T_1 / T),
                                                                                             (E-R3)

with mu and Sigma those of all drives by the likelihood of Student's t, since one drive in ten has
pictures that are spoilt for a while. k is measured on drives that were left out of both: a few
drives are nearer to their own mean than any other street is, and held against distances among
them every new street is unfamiliar.

Source: Lange, Little and Taylor (1989), "Robust statistical modeling using the t distribution",
section 3, for mu and Sigma.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_vio.conventions import ANGULAR

Array = NDArray[np.float64]
# Means of the statistics s_T [n, 6] along a drive, and over how many seconds each is, T [n].
StreetMeans = tuple[Array, Array]

STREET_STATISTICS = 6  # four of the picture, two of the gyro
# Seconds of which the mean is as uncertain by its single images as by the street.
_SINGLE_S = 0.1
_LEAST_ROUGHNESS = 1e-3  # two rotations that are equal have a logarithm, too
_FREEDOM, _STEPS = 4.0, 15  # of Student's t
# What of the time is beyond k on a drive left out is told by what a fifth of it is beyond, as for
# six Gaussian numbers (chi-square 12.59 and 8.56): the tail is that of spoilt pictures.
_LEVEL, _TO_TWENTIETH, _CHI_SQUARE_95 = 0.8, 12.59 / 8.56, 12.59
_QUANTILES = 240  # of every drive as many, however long it is
# Of each variance, and besides: few drives do not fill all directions, a single one none.
_RIDGE, _LEAST_VAR = 0.05, 1e-6


class GyroRoughness:
    """Follow how roughly the network's rotation departs from the gyro's."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the intervals before: the next one does not follow them."""
        self._last: list[Array] = []

    def add(self, mean: Array, rotation: Array, noise_var: Array) -> Array | None:
        """Return (ln r_y, ln r_z) of E-R3, None before three intervals in a row.

        mean [6] (m, rad) and noise_var [6]: the network's increment; rotation [3] (rad): the
        gyro's.
        """
        self._last = [*self._last, mean[ANGULAR] - rotation][-3:]
        if len(self._last) < 3:
            return None
        first, second, third = self._last
        squared = (third - 2 * second + first) ** 2 / (6 * noise_var[ANGULAR])
        return np.log(squared[1:] + _LEAST_ROUGHNESS)


class FadingMean:
    """The mean of values over time, in which what is past fades within ``memory_s``."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._sum: Array = np.zeros(())
        self._weight, self._elapsed_s = 0.0, 0.0

    def add(self, value: ArrayLike, dt_s: float) -> Array:
        """Return the mean [...] after a value [...] that held for dt_s; the first is its own."""
        kept = float(np.exp(-dt_s / self._memory_s))
        self._sum = kept * self._sum + (1 - kept) * np.asarray(value, np.float64)
        self._weight = kept * self._weight + (1 - kept)
        self._elapsed_s += dt_s
        return self._sum / self._weight

    @property
    def averaged_s(self) -> float:
        """Return of how many seconds a plain average tells as much."""
        return min(self._elapsed_s, 2 * self._memory_s)


def means_along(statistics: Array, dt_s: Array, memory_s: float) -> StreetMeans:
    """Return s_T and T along a drive of statistics [n, 6] that held for dt_s [n]."""
    mean, means, averaged_s = FadingMean(memory_s), [], []
    for s, lasted_s in zip(statistics, dt_s.tolist(), strict=True):
        means.append(mean.add(s, lasted_s))
        averaged_s.append(mean.averaged_s)
    return np.array(means).reshape(-1, STREET_STATISTICS), np.array(averaged_s)


def street_distance(mean: Array, precision: Array, street: StreetMeans) -> Array:
    """Return m [n] of E-R3; mean [6] is mu, precision [6, 6] the inverse of k Sigma."""
    s, averaged_s = street
    away = s - mean
    return np.einsum("ni,ij,nj->n", away, precision, away) / _growth(averaged_s)


def expected_roughness(mean: Array, precision: Array, picture: Array) -> Array:
    """Return (ln r_y, ln r_z) that are to be expected of a picture's statistics [4].

    With these in place of two that are not known, m is that of the picture alone.
    """
    pictures, rough = slice(len(picture)), slice(len(picture), None)
    away = precision[rough, pictures] @ (picture - mean[pictures])
    return mean[rough] - np.linalg.solve(precision[rough, rough], away)


def fit_street(drives: Sequence[StreetMeans]) -> tuple[Array, Array] | None:
    """Return mu [6] and the inverse of k Sigma [6, 6] of drives, each of which counts alike.

    None where none of them has any statistics.
    """
    drives = [drive for drive in drives if len(drive[0])]
    if not drives:
        return None
    left_out = [
        street_distance(*_moments([*drives[:k], *drives[k + 1 :]] or drives), drive)
        for k, drive in enumerate(drives)
    ]
    mean, precision = _moments(drives)
    usual = _TO_TWENTIETH * quantile_of_drives(left_out, _LEVEL)
    return mean, precision / max(usual, _CHI_SQUARE_95)


def quantile_of_drives(drives: Sequence[Array], level: float) -> float:
    """Return what values [n] of drives stay below for a share of the time, every drive alike."""
    levels = np.linspace(0, 1, _QUANTILES)
    told = [np.quantile(drive, levels) for drive in drives if len(drive)]
    return float(np.quantile(told, level))


def _growth(averaged_s: Array) -> Array:
    return 1 + _SINGLE_S / averaged_s


def _moments(drives: Sequence[StreetMeans]) -> tuple[Array, Array]:
    """Return mu [6] and the inverse of Sigma [6, 6], by expectation and maximisation."""
    s = np.concatenate([part for part, _ in drives])
    growth = np.concatenate([_growth(averaged_s) for _, averaged_s in drives])
    share = np.concatenate([np.full(len(part), 1 / len(part)) for part, _ in drives]) / len(drives)
    weight, mean, precision = np.ones(len(s)), s[0], np.eye(STREET_STATISTICS)
    for _ in range(_STEPS):
        weighted = share * weight
        mean = weighted @ s / weighted.sum()
        away = (s - mean) / np.sqrt(growth)[:, None]
        cov = (weighted * away.T) @ away
        precision = np.linalg.inv(cov + np.diag(_RIDGE * cov.diagonal() + _LEAST_VAR))
        squared = np.einsum("ni,ij,nj->n", away, precision, away)
        weight = (_FREEDOM + STREET_STATISTICS) / (_FREEDOM + squared)
    return mean, (precision + precision.T) / 2
