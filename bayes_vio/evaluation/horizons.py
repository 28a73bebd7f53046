"""Errors over windows of several frames, beside the covariance accumulated over each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bayes_vio.evaluation import trajectory
from bayes_vio.evaluation.calibration import Errors
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation

Array = NDArray[np.float64]

HORIZONS_FRAMES = (1, 10, 100)
# A window starts from a pose known exactly: small enough to vanish beside any increment (m, rad).
_START_COV = np.diag(np.full(6, 1e-14))
_STD_BOUND = np.full(6, 1e9)  # what is judged here is never clipped


def window_errors(
    run: Run,
    frames: int,
    correlation_s: float,
    noise_correlation: NoiseCorrelation = WHITE_NOISE,
) -> Errors:
    """Return the errors of composed increments over non-overlapping windows of so many frames.

    A window holds consecutive intervals only; each starts an odometry afresh, whose epistemic
    error is coherent over correlation_s (s) and of whose noise a part lasts. One frame gives the
    increments themselves.
    """
    if frames == 1:
        return run.increment_errors()
    windows = _windows(run, frames)
    parts = [_accumulate(run, window, correlation_s, noise_correlation) for window in windows]
    noise_cov = np.array([noise for _, noise, _ in parts]).reshape(-1, 6, 6)
    cov = np.array([total for _, _, total in parts]).reshape(-1, 6, 6)
    T_window = np.array([T for T, _, _ in parts]).reshape(-1, 4, 4)
    first = [window.start for window in windows]
    last = [window.stop - 1 for window in windows]
    truth = trajectory.relative(run.T_world_earlier[first], run.T_world_base[last])
    error = trajectory.right_error(T_window, truth)
    return Errors(error, cov - noise_cov, noise_cov, np.zeros(len(windows), np.int64))


def _windows(run: Run, frames: int) -> list[range]:
    """Return the rows of each window; a break in the chain of stamps starts anew."""
    breaks = np.flatnonzero(run.earlier_stamp_ns[1:] != run.stamp_ns[:-1]) + 1
    edges = [0, *breaks.tolist(), len(run)]
    return [
        range(start, start + frames)
        for begin, end in pairwise(edges)
        for start in range(begin, end - frames + 1, frames)
    ]


def _accumulate(
    run: Run, window: range, correlation_s: float, noise_correlation: NoiseCorrelation
) -> tuple[Array, Array, Array]:
    """Return the composed increment, the covariance of its noise alone, and the whole one.

    The error is linear in the two parts, so what the noise leaves of the whole is epistemic.
    """
    whole = Odometry(correlation_s, _START_COV, _STD_BOUND, noise_correlation)
    noise = Odometry(0.0, _START_COV, _STD_BOUND, noise_correlation)
    dt_s, nothing = run.dt_s, np.zeros((6, 6))
    for k in window:
        T_inc, noise_cov = run.T_earlier_later[k], run.noise_cov[k]
        whole.add(T_inc, noise_cov, run.epistemic_cov[k], dt_s[k])
        noise.add(T_inc, noise_cov, nothing, dt_s[k])
    return whole.T_odom_base, noise.cov, whole.cov
