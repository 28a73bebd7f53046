"""Align two clocks by what a gyro and something else say of the same turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S
from bayes_vio.data.samples import ImuStream
from bayes_vio.data.windows import SampledSignal

Array = NDArray[np.float64]

_COARSE_STEP_S = 0.010
_CURVATURE_STEP_S = 1e-3
_BOUND_SIGMAS = 2.5
# No turn is known better: keeps axes that do not turn at all from telling anything.
_LEAST_STD_RAD = 1e-6
_CORRELATED_S = 2.0
# The averaging kernel of the gyro: eight equal parts of one sample period.
_KERNEL = (np.arange(8) + 0.5) / 8 - 0.5


@dataclass(frozen=True)
class Turns:
    """Rotation vectors [m, 3] (rad) over intervals [start_s, end_s] [m] in the gyro's seconds."""

    rotation: Array
    start_s: Array
    end_s: Array

    def __len__(self) -> int:
        return len(self.rotation)

    @property
    def duration_s(self) -> Array:
        """Lengths [m] of the intervals (s)."""
        return self.end_s - self.start_s

    def where(self, kept: NDArray[np.bool_]) -> Turns:
        """Return the intervals that are kept [m]."""
        return Turns(self.rotation[kept], self.start_s[kept], self.end_s[kept])

    def over(self, count: int) -> tuple[Turns, NDArray[np.intp]]:
        """Return the sums over every ``count`` intervals in a row, and which [n, count] they are.

        The sum of small rotation vectors is the integral of the angular rate in moving axes.
        """
        first = np.arange(len(self) - count + 1)
        parts = first[:, None] + np.arange(count)
        joined = np.abs(self.start_s[parts[:, 1:]] - self.end_s[parts[:, :-1]]) < 1e-6
        parts = parts[joined.all(1)]
        rotation = self.rotation[parts].sum(1)
        return Turns(rotation, self.start_s[parts[:, 0]], self.end_s[parts[:, -1]]), parts


class Gyro:
    """The angular rate of an IMU at any time, averaged over one sample period.

    Without the average the noise of an interpolated signal would depend on how its samples lie
    to the images, and the best offset be drawn to certain fractions of the period.
    """

    def __init__(self, imu: ImuStream) -> None:
        self._signal = SampledSignal(imu.stamp_ns, imu.samples[:, ANGULAR_RATE])
        self.period_s = float(np.median(np.diff(imu.stamp_ns))) / NS_PER_S
        self._shifts = self.period_s * _KERNEL

    def seconds(self, stamp_ns: NDArray[np.int64]) -> Array:
        """Return stamps as seconds since the first sample."""
        return self._signal.seconds(stamp_ns)

    def covers(self, start_s: Array, end_s: Array) -> NDArray[np.bool_]:
        """Tell [m] whether samples cover [start_s, end_s] without a long hole."""
        half = self.period_s / 2
        return self._signal.covers(start_s - half, end_s + half)

    def rate(self, t: Array) -> Array:
        """Return the rate [m, 3] (rad/s) at times t [m] (s)."""
        return np.mean([self._signal.value(t + shift) for shift in self._shifts], 0)

    def turned(self, start_s: Array, end_s: Array) -> Array:
        """Return the integral [m, 3] (rad) of the rate over intervals (s)."""
        parts = [
            self._signal.integral(end_s + shift) - self._signal.integral(start_s + shift)
            for shift in self._shifts
        ]
        return np.mean(parts, 0)


@dataclass(frozen=True)
class Regression:
    """Turns explained at one offset: per axis three scales and a bias, weighted least squares.

    coefficients [3, 4] (output axis; gyro axes and bias in rad/s), residuals [m, 3] (rad),
    variance [3], regressors [m, 4].
    """

    coefficients: Array
    residuals: Array
    variance: Array
    regressors: Array

    def rest(self, values: Array, weights: Array) -> Array:
        """Return values [m, 3] without what the regressors explain of them."""
        solved = _solve(self.regressors, values, weights)
        return values - self.regressors @ solved.T


def _solve(regressors: Array, values: Array, weights: Array) -> Array:
    """Return coefficients [3, 4] of the weighted regressions of columns of values [m, 3]."""
    scale = np.sqrt((regressors**2).mean(0)) + 1e-12
    scaled = regressors / scale
    normal = np.einsum("mi,ma,mj->aij", scaled, weights, scaled) + 1e-9 * np.eye(4)
    right = np.einsum("mi,ma->ai", scaled, weights * values)
    return np.linalg.solve(normal, right[..., None])[..., 0] / scale


class OffsetSearch:
    """Find the offset at which turns [m, 3] are a linear function of the gyro's."""

    def __init__(self, turns: Turns, gyro: Gyro, weights: Array | None = None) -> None:
        self._turns, self._gyro = turns, gyro
        self._weights = np.ones_like(turns.rotation) if weights is None else weights

    def regress(self, offset_s: float) -> Regression:
        """Regress the turns on the gyro's at one offset (s)."""
        start, end = self._turns.start_s + offset_s, self._turns.end_s + offset_s
        regressors = np.column_stack([self._gyro.turned(start, end), self._turns.duration_s])
        coefficients = _solve(regressors, self._turns.rotation, self._weights)
        residuals = self._turns.rotation - regressors @ coefficients.T
        power = (self._weights * residuals**2).sum(0)
        variance = power / self._weights.sum(0) + _LEAST_STD_RAD**2
        return Regression(coefficients, residuals, variance, regressors)

    def misfit(self, offset_s: float) -> float:
        """Return the negative log-likelihood, each axis' noise at its best (nats)."""
        variance = self.regress(offset_s).variance
        return float(0.5 * (self._weights.sum(0) * np.log(variance)).sum())

    def best(self, centre_s: float, reach_s: float) -> float:
        """Return the offset of least misfit within reach (s): a grid, then a bounded search."""
        grid = centre_s + np.arange(-reach_s, reach_s + 1e-9, _COARSE_STEP_S)
        at = grid[np.argmin([self.misfit(offset) for offset in grid])]
        bounds = (float(at - _COARSE_STEP_S), float(at + _COARSE_STEP_S))
        found = minimize_scalar(
            self.misfit, bounds=bounds, method="bounded", options={"xatol": 1e-6}
        )
        return float(found.x)  # pyright: ignore[reportAttributeAccessIssue]

    def robust_weights(self, offset_s: float) -> Array:
        """Return weights [m, 3]: 1 up to 2.5 robust sigmas, then falling as residual^-2."""
        size = np.abs(self.regress(offset_s).residuals)
        bound = _BOUND_SIGMAS * 1.4826 * np.median(size, 0) + _LEAST_STD_RAD
        return (bound / np.maximum(size, bound)) ** 2

    def correlation(self, offset_s: float) -> float:
        """Return the largest correlation of an axis' turns with the gyro's of the same axis."""
        at, w = self.regress(offset_s), self._weights
        seen = _centred(self._turns.rotation, at.regressors[:, 3:], w)
        felt = _centred(at.regressors[:, :3], at.regressors[:, 3:], w)
        power = (w * seen**2).sum(0) * (w * felt**2).sum(0)
        return float(((w * seen * felt).sum(0) / np.sqrt(np.maximum(power, 1e-30))).max())

    def std(self, offset_s: float) -> float:
        """Return the standard error of the offset (s).

        The sandwich estimator: curvature of the misfit, and scores whose correlation over time is
        allowed for (Newey and West, 1987). Where axes disagree by more than their errors, it
        grows to their scatter (Birge, 1932).
        """
        at, w = self.regress(offset_s), self._weights
        start, end = self._turns.start_s + offset_s, self._turns.end_s + offset_s
        rates = self._gyro.rate(end) - self._gyro.rate(start)
        slope = at.rest(rates @ at.coefficients[:, :3].T, w) / np.sqrt(at.variance)
        noise = w * at.residuals / np.sqrt(at.variance)
        step = _CURVATURE_STEP_S
        around = [self.misfit(offset_s + k * step) for k in (-1, 0, 1)]
        curvature = (around[0] - 2 * around[1] + around[2]) / step**2
        if not curvature > 0:
            return float("inf")
        score_var = _score_var(slope, noise, self._lags())
        own = [_score_var(slope[:, [a]], noise[:, [a]], self._lags()) for a in range(3)]
        pull = (slope * noise).sum(0) / np.sqrt(np.maximum(own, 1e-12))
        scatter = max(1.0, float(pull @ pull) / 2)
        return float(np.sqrt(score_var * scatter * self._fitted_share()) / curvature)

    def _fitted_share(self) -> float:
        """Return by what residual variances are too small because five values were fitted."""
        span_s = float(self._turns.end_s[-1] - self._turns.start_s[0])
        independent = span_s / float(self._turns.duration_s.mean())
        return independent / max(independent - 5, 1.0)

    def _lags(self) -> int:
        steps = np.diff(self._turns.start_s)
        return min(round(_CORRELATED_S / float(np.median(steps))), len(self._turns) // 4)


def _centred(values: Array, duration: Array, weights: Array) -> Array:
    """Return values [m, 3] without the constant rate that explains most of them."""
    rate = (weights * duration * values).sum(0) / (weights * duration**2).sum(0)
    return values - duration * rate


def _score_var(slope: Array, noise: Array, lags: int) -> float:
    """Return the variance of the sum of slope * noise [m, k], the noise correlated over time.

    The larger of two estimates: products as they are (noise may be larger where the car turns),
    and noise of one autocovariance throughout (which few data tell better).
    """
    score, m = (slope * noise).sum(1), len(slope)
    observed, stationary = 0.0, 0.0
    for lag in range(lags + 1):
        share = (1 if lag == 0 else 2) * (1 - lag / (lags + 1))
        observed += share * float(score[lag:] @ score[: m - lag])
        autocov = (noise[lag:] * noise[: m - lag]).sum(0) / (m - lag)
        stationary += share * float(autocov @ (slope[lag:] * slope[: m - lag]).sum(0))
    return max(observed, stationary, 1e-12)
