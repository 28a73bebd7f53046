"""A drive and an estimator whose error model is known exactly, as a `Run`."""

import numpy as np
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.geometry import se3

FRAME_S = 0.1
NOISE_STD = np.array([0.04, 0.01, 0.015, 8e-4, 1e-3, 5e-4])


def exp(xi):
    return se3.exp(torch.from_numpy(np.asarray(xi, np.float64))).numpy()


def drive(n, seed=0, speed=8.0):
    """Return n increments [n, 4, 4] of a car that brakes, accelerates and turns."""
    t = np.arange(n) * FRAME_S
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, 4)
    v = speed * (1 + 0.35 * np.sin(t / 9 + phase[0]) + 0.1 * np.sin(t / 2.3 + phase[1]))
    yaw_rate = 0.18 * np.sin(t / 11 + phase[2]) ** 3 + 0.05 * np.sin(t / 5 + phase[3])
    zero = np.zeros(n)
    xi = np.stack([v, zero, zero, zero, 0.002 * np.cos(t / 6), yaw_rate], -1) * FRAME_S
    return exp(xi)


def chain(T_inc, T_start=None):
    """Return the poses [n + 1, 4, 4] that increments lead through."""
    poses = [np.eye(4) if T_start is None else T_start]
    for T in T_inc:
        poses.append(poses[-1] @ T)
    return np.stack(poses)


def noise_covs(n, seed):
    """Return covariances [n, 6, 6], correlated and changing by a factor of up to 4 in sigma."""
    rng = np.random.default_rng(seed)
    mix = np.eye(6) + 0.2 * rng.standard_normal((6, 6))
    level = np.exp(0.7 * np.sin(np.arange(n) / 60 + rng.uniform(0, 6)))
    root = level[:, None, None] * (NOISE_STD[:, None] * mix)
    return root @ root.transpose(0, 2, 1)


def gauss_markov(covs, correlation_frames, rng):
    """Return errors [n, 6] with these covariances, coherent over so many frames."""
    keep = np.exp(-1 / correlation_frames) if correlation_frames else 0.0
    z = rng.standard_normal((len(covs), 6))
    for k in range(1, len(z)):
        z[k] = keep * z[k - 1] + np.sqrt(1 - keep**2) * z[k]
    return np.einsum("nij,nj->ni", np.linalg.cholesky(covs), z)


def accumulated(T_inc, noise_cov, epistemic_cov, correlation_s):
    """Return the covariances [n, 6, 6] of the odometry that these increments make."""
    odometry, out = Odometry(correlation_s, np.eye(6) * 1e-10, np.full(6, 1e6)), []
    for T, noise, epistemic in zip(T_inc, noise_cov, epistemic_cov, strict=True):
        odometry.add(T, noise, epistemic, FRAME_S)
        out.append(odometry.cov)
    return np.stack(out)


def synthetic_run(n=3000, seed=0, claimed=1.0, epistemic=0.0, correlation_frames=20, name="drive"):
    """Return a run whose true covariance is known, and claimed times a factor.

    epistemic is the share of the covariance that is coherent over correlation_frames.
    """
    rng = np.random.default_rng(seed)
    covs = noise_covs(n, seed)
    noise, coherent = (1 - epistemic) * covs, epistemic * covs
    xi = gauss_markov(noise, 0, rng)
    if epistemic:
        xi = xi + gauss_markov(coherent, correlation_frames, rng)
    T_true_inc = drive(n, seed)
    T_inc = T_true_inc @ exp(-xi)
    start = exp(np.array([120.0, -40.0, 3.0, 0.02, -0.01, 1.1]))
    truth, odom = chain(T_true_inc, start), chain(T_inc)
    stamp_ns = (1_700_000_000 * NS_PER_S + np.arange(n + 1) * FRAME_S * NS_PER_S).astype(np.int64)
    state = np.full(n, "tracking", dtype="U8")
    state[n // 2 : n // 2 + n // 40] = "degraded"
    return Run(
        name=name,
        earlier_stamp_ns=stamp_ns[:-1],
        stamp_ns=stamp_ns[1:],
        T_earlier_later=T_inc,
        epistemic_cov=claimed * coherent,
        noise_cov=claimed * noise,
        T_odom_base=odom[1:],
        odom_cov=claimed * accumulated(T_inc, noise, coherent, correlation_frames * FRAME_S),
        state=state,
        compute_s=rng.gamma(9, 0.9e-3, n),
        wait_s=rng.uniform(0.06, 0.07, n),
        T_world_earlier=truth[:-1],
        T_world_base=truth[1:],
        unreferenced=3,
        counters={"imu gaps": 1, "dropped frames": 2},
    )
