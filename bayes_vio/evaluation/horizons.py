"""Errors over windows of several frames, beside the covariance accumulated over each."""

from __future__ import annotations

from collections.abc import Sequence
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

    A window holds consecutive intervals only. One frame gives the increments themselves; for more
    see ``accumulated_errors``.
    """
    if frames == 1:
        return run.increment_errors()
    windows = [
        range(start, start + frames)
        for chain in _chains(run)
        for start in range(chain.start, chain.stop - frames + 1, frames)
    ]
    return accumulated_errors(run, windows, correlation_s, noise_correlation)


def distance_windows(run: Run, length_m: float, step_frames: int) -> list[range]:
    """Return the rows of stretches of so many metres along the reference, overlapping.

    One begins every step_frames and ends with the first pose beyond its length, as KITTI's
    segments do; a break in the chain of stamps starts anew.
    """
    windows = []
    for chain in _chains(run):
        T = np.concatenate([run.T_world_earlier[chain.start][None], run.T_world_base[chain]])
        distance_m = trajectory.path_length(T)
        starts = np.arange(0, len(chain), step_frames)
        ends = np.searchsorted(distance_m, distance_m[starts] + length_m, side="right")
        windows += [
            range(chain.start + int(first), chain.start + int(last))
            for first, last in zip(starts, ends, strict=True)
            if last < len(distance_m)
        ]
    return windows


def accumulated_errors(
    run: Run,
    windows: Sequence[range],
    correlation_s: float,
    noise_correlation: NoiseCorrelation = WHITE_NOISE,
) -> Errors:
    """Return the errors of increments composed over windows of rows, with their covariance.

    Each window starts an odometry afresh. Of the noise a part lasts; what epistemic errors have in
    common is told by the run's features, and where it has none they are coherent over
    correlation_s (s).
    """
    parts = [_accumulate(run, window, correlation_s, noise_correlation) for window in windows]
    noise_cov = np.array([noise for _, noise, _ in parts]).reshape(-1, 6, 6)
    cov = np.array([total for _, _, total in parts]).reshape(-1, 6, 6)
    T_window = np.array([T for T, _, _ in parts]).reshape(-1, 4, 4)
    first = [window.start for window in windows]
    last = [window.stop - 1 for window in windows]
    truth = trajectory.relative(run.T_world_earlier[first], run.T_world_base[last])
    error = trajectory.right_error(T_window, truth)
    return Errors(error, cov - noise_cov, noise_cov, np.zeros(len(windows), np.int64))


def _chains(run: Run) -> list[range]:
    """Return the rows of each chain of intervals without a break between their stamps."""
    breaks = np.flatnonzero(run.earlier_stamp_ns[1:] != run.stamp_ns[:-1]) + 1
    return [range(begin, end) for begin, end in pairwise([0, *breaks.tolist(), len(run)])]


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
        features = run.features[k] if run.features else None
        whole.add(T_inc, noise_cov, run.epistemic_cov[k], dt_s[k], features)
        noise.add(T_inc, noise_cov, nothing, dt_s[k])
    return whole.T_odom_base, noise.cov, whole.cov
