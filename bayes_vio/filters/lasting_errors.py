"""The errors of increments and fixes that last, as the state of a smoother; how long they last.

Noise of an increment lasts at two scales: for seconds (a slope, a scene: what the artifact's
``noise_correlation`` says), and for a whole drive (a load that tilts the camera, a world unlike
those of training: what the mean error of a held-out drive says). A share of every axis' variance
is of each, the rest is white,

    cov(n_k, n_(k+l)) = S_fast R_fast^l + S_slow R_slow^l,  R = exp(-dt / tau),              (E-S2)

with S = diag(share)^(1/2) N diag(share)^(1/2) and N the noise covariance of the increment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bayes_vio.filters.covariance import symmetric_sqrt
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation

Array = NDArray[np.float64]

# Errors that last less are another one in every frame.
_SHORTEST_TIME_S = 1e-3
# What stays white of a noise of which all lasts: a factor needs a positive definite covariance.
_LEAST_WHITE_SHARE = 1e-6
# How long errors of a whole drive are taken to last: beyond any lag that a drive shows.
DRIVE_TIME_S = 600.0


@dataclass(frozen=True)
class ErrorModel:
    """What lasts of the errors of increments and fixes, in SI units.

    fast, slow: shares of the noise and their times (``lasting_noise`` measures both; the
    artifact's ``noise_correlation`` will do for fast); epistemic_time_s: the artifact's
    ``epistemic_correlation_s``; fix_std_m, fix_time_s: of the part of a fix's error that varies
    slowly, beside its white covariance.
    """

    fast: NoiseCorrelation = WHITE_NOISE
    slow: NoiseCorrelation = WHITE_NOISE
    epistemic_time_s: float = 0.0
    fix_std_m: float = 0.0
    fix_time_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epistemic_time_s", "fix_std_m"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give zero or more")
        if not self.fix_time_s > 0:
            raise ValueError(f"fix_time_s is {self.fix_time_s}: give a number above 0")
        if (np.add(self.fast.share, self.slow.share) > 1 + 1e-9).any():
            raise ValueError("the shares of the noise that last add up to more than 1 on an axis")


WHITE_ERRORS = ErrorModel()


class LastingErrors:
    """Where each lasting error stands in z, of unit variance, and how long it lasts.

    z holds one number per axis of which a share lasts, for fast and for slow noise, six for
    epistemic errors unless they are white, and three for fixes unless those are.
    """

    def __init__(self, model: ErrorModel) -> None:
        self._shares, times = [], []
        for part in (model.fast, model.slow):
            time_s = np.array(part.time_s)
            self._shares.append(np.where(time_s > _SHORTEST_TIME_S, part.share, 0.0))
            times.append(time_s[self._shares[-1] > 0])
        self._epistemic = model.epistemic_time_s > _SHORTEST_TIME_S
        times.append(np.full(6 if self._epistemic else 0, model.epistemic_time_s))
        self._fix_std_m = model.fix_std_m
        times.append(np.full(3 if model.fix_std_m > 0 else 0, model.fix_time_s))
        self.time_s: Array = np.concatenate(times)

    @property
    def size(self) -> int:
        """Return the length of z."""
        return len(self.time_s)

    def correlation(self, dt_s: float) -> Array:
        """Return the diagonal of R [size] over dt_s."""
        return np.exp(-dt_s / self.time_s)

    def split(self, noise_cov: Array, epistemic_cov: Array) -> tuple[Array, Array]:
        """Return the white part [6, 6] of an increment's error, and C [6, size] of C z."""
        white = np.sqrt(np.maximum(1 - sum(self._shares), _LEAST_WHITE_SHARE))
        white_cov = noise_cov * np.outer(white, white)
        columns = []
        for share in self._shares:
            s = np.sqrt(share)
            columns.append(symmetric_sqrt(noise_cov * np.outer(s, s))[:, share > 0])
        if self._epistemic:
            columns.append(symmetric_sqrt(epistemic_cov))
        else:
            white_cov = white_cov + epistemic_cov
        known = np.concatenate(columns, axis=1)
        C = np.zeros((6, self.size))
        C[:, : known.shape[1]] = known
        return white_cov, C

    def of_fixes(self) -> Array:
        """Return C [3, size] of fixes (m)."""
        C = np.zeros((3, self.size))
        if self._fix_std_m > 0:
            C[:, -3:] = self._fix_std_m * np.eye(3)
        return C


def lasting_noise(
    drives: Sequence[tuple[Array, float]], longest_s: float = 60.0
) -> tuple[NoiseCorrelation, NoiseCorrelation]:
    """Return the fast and the slow part of the noise, measured on held-out drives.

    drives: errors over their predicted sigma [frames, 6] and the interval between frames (s). The
    autocorrelation about zero, over lags up to longest_s and half of each drive, is fitted per
    axis by share_fast exp(-lag / tau) + share_slow, drives weighted by their length. Raises
    ValueError for a drive of less than 20 frames.
    """
    if not drives or min(len(z) for z, _ in drives) < 20:
        raise ValueError("how long errors last needs held-out drives of 20 frames or more")
    step_s = max(dt_s for _, dt_s in drives)
    lag_s, rho, weight = [], [], []
    for z, dt_s in drives:
        most = int(min(longest_s, len(z) * dt_s / 2) / step_s)
        lags_s = step_s * np.arange(1, most + 1)
        lag_s.append(lags_s)
        rho.append(_autocorrelation(z, np.round(lags_s / dt_s).astype(int)))
        weight.append(np.full(most, len(z) * dt_s / sum(len(z) * dt_s for z, dt_s in drives)))
    all_lags, all_rho, all_weights = (np.concatenate(part) for part in (lag_s, rho, weight))
    # Every decade of lags counts alike: frames apart tell of tau, half a drive of what stays.
    found = [_two_shares(all_lags, r, all_weights / all_lags) for r in all_rho.T]
    fast = NoiseCorrelation(tuple(f[0] for f in found), tuple(f[1] for f in found))
    return fast, NoiseCorrelation((DRIVE_TIME_S,) * 6, tuple(f[2] for f in found))


def _autocorrelation(z: Array, frames: NDArray[np.int64]) -> Array:
    """Return rho [lags, axes] about zero: a mean that lasts is an error like any other."""
    power = np.mean(z**2, axis=0)
    return np.array([np.mean(z[k:] * z[: len(z) - k], axis=0) / power for k in frames])


def _two_shares(lag_s: Array, rho: Array, weight: Array) -> tuple[float, float, float]:
    """Return tau (s), the fast and the slow share that fit one axis' rho [lags] best."""
    best, w = (np.inf, 0.0, 0.0, 0.0), np.sqrt(weight)
    for tau_s in np.geomspace(2 * lag_s.min(), lag_s.max() / 3, 40):
        basis = np.stack([np.exp(-lag_s / tau_s), np.ones_like(lag_s)], axis=1)
        shares, misfit = optimize.nnls(basis * w[:, None], rho * w)
        if misfit < best[0]:
            best = (misfit, float(tau_s), *(shares / max(1.0, shares.sum())).tolist())
    return best[1:]
