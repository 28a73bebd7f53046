"""Drives whose errors are drawn from the smoother's own model, and their dense solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayes_vio.filters.lasting_errors import ErrorModel, LastingErrors
from bayes_vio.geometry import se3

DT_NS = 100_000_000
START_COV = np.diag([2.0, 2.0, 1.0, 0.01, 0.01, 0.05]) ** 2
FIX_COV = np.diag([1.5, 1.2, 2.5]) ** 2


@dataclass(frozen=True)
class Drive:
    """T_world_base [n + 1, 4, 4]; increments [n] with both covariances; fixes [m] at stamps."""

    T_world_base: np.ndarray
    T_start: np.ndarray
    T_earlier_later: np.ndarray
    noise_cov: np.ndarray
    epistemic_cov: np.ndarray
    fix_stamp_ns: np.ndarray
    fixes: np.ndarray

    def __len__(self) -> int:
        return len(self.noise_cov)


def exp(xi: np.ndarray) -> np.ndarray:
    return se3.exp(torch.from_numpy(np.asarray(xi, np.float64))).numpy()


def log(T: np.ndarray) -> np.ndarray:
    return se3.log(torch.from_numpy(T)).numpy()


def adjoint(T: np.ndarray) -> np.ndarray:
    return se3.adjoint(torch.from_numpy(T)).numpy()


def random_cov(rng: np.random.Generator, std: np.ndarray) -> np.ndarray:
    A = rng.normal(size=(6, 6))
    return np.outer(std, std) * (A @ A.T / 6 + 0.3 * np.eye(6))


def draw(model: ErrorModel, n: int, seed: int, fix_stamp_ns: np.ndarray, antenna=(0, 0, 0)):
    """Return a winding drive of n increments whose errors are drawn from the model."""
    rng = np.random.default_rng(seed)
    errors = LastingErrors(model)
    R = errors.correlation(DT_NS / 1e9)
    z = np.empty((n + 1, errors.size))
    z[0] = rng.normal(size=errors.size)
    T, poses = exp(np.array([5.0, -3, 1, 0.1, -0.05, 0.7])), []
    poses.append(T)
    measured, noise_cov, epistemic_cov = [], [], []
    std = np.array([0.05, 0.02, 0.02, 1e-3, 1e-3, 2e-3])
    for k in range(n):
        z[k + 1] = R * z[k] + np.sqrt(1 - R**2) * rng.normal(size=errors.size)
        N, E = random_cov(rng, std), random_cov(rng, 0.4 * std)
        white, C = errors.split(N, E)
        T_inc = exp(np.array([0.8, 0, 0, 0, 0, 0.03]) + 0.01 * rng.normal(size=6))
        error = rng.multivariate_normal(np.zeros(6), white) + C @ z[k + 1]
        measured.append(T_inc @ exp(-error))
        noise_cov.append(N)
        epistemic_cov.append(E)
        T = T @ T_inc
        poses.append(T)
    poses = np.stack(poses)
    C_fix = errors.of_fixes()
    fixes = []
    for stamp_ns in fix_stamp_ns:
        position = sum(
            w * (poses[k, :3, 3] + poses[k, :3, :3] @ np.array(antenna, float))
            for k, w in around(stamp_ns)
        )
        last = max(k for k, _ in around(stamp_ns))
        white = rng.multivariate_normal(np.zeros(3), FIX_COV)
        fixes.append(position + C_fix @ z[last] + white)
    T_start = poses[0] @ exp(-rng.multivariate_normal(np.zeros(6), START_COV))
    return Drive(
        poses, T_start, np.stack(measured), np.stack(noise_cov), np.stack(epistemic_cov),
        np.asarray(fix_stamp_ns), np.array(fixes).reshape(-1, 3),
    )  # fmt: skip


def around(stamp_ns: int) -> list[tuple[int, float]]:
    """Return the rows of the poses around a stamp with their weights."""
    k, rest = divmod(int(stamp_ns), DT_NS)
    share = rest / DT_NS
    return [(k, 1.0)] if rest == 0 else [(k, 1 - share), (k + 1, share)]


def dense_solution(model: ErrorModel, drive: Drive, antenna=(0, 0, 0)):
    """Return the poses [n + 1, 4, 4] and covariance [6 (n + 1), 6 (n + 1)] of all at once.

    Generalised least squares with the lasting errors integrated out: one dense covariance of all
    measurements. Gauss-Newton until nothing moves.
    """
    errors, n = LastingErrors(model), len(drive)
    S = _measurement_cov(errors, drive)
    W = np.linalg.inv(S)
    T = [drive.T_start]
    for T_inc in drive.T_earlier_later:
        T.append(T[-1] @ T_inc)
    T = np.stack(T)
    for _ in range(10):
        r, J = _residuals(drive, T, np.array(antenna, float))
        P = np.linalg.inv(J.T @ W @ J)
        step = -P @ J.T @ W @ r
        T = np.stack([T[k] @ exp(step[6 * k : 6 * k + 6]) for k in range(n + 1)])
    assert np.abs(step).max() < 1e-8
    return T, P


def _measurement_cov(errors: LastingErrors, drive: Drive) -> np.ndarray:
    n, m, size = len(drive), len(drive.fixes), errors.size
    R = errors.correlation(DT_NS / 1e9)
    lag = np.abs(np.subtract.outer(np.arange(n + 1), np.arange(n + 1)))
    Z = np.einsum("ijd,de->idje", R ** lag[..., None], np.eye(size)).reshape(
        (n + 1) * size, (n + 1) * size
    )
    C = np.zeros((6 + 6 * n + 3 * m, (n + 1) * size))
    S = np.zeros((len(C), len(C)))
    S[:6, :6] = START_COV
    for k in range(n):
        rows = slice(6 + 6 * k, 12 + 6 * k)
        S[rows, rows], C[rows, (k + 1) * size : (k + 2) * size] = errors.split(
            drive.noise_cov[k], drive.epistemic_cov[k]
        )
    for i, stamp_ns in enumerate(drive.fix_stamp_ns):
        rows, last = slice(6 + 6 * n + 3 * i, 9 + 6 * n + 3 * i), around(stamp_ns)[-1][0]
        S[rows, rows] = FIX_COV
        C[rows, last * size : (last + 1) * size] = -errors.of_fixes()
    return S + C @ Z @ C.T


def _residuals(drive: Drive, T: np.ndarray, antenna: np.ndarray):
    n, m = len(drive), len(drive.fixes)
    r = np.zeros(6 + 6 * n + 3 * m)
    J = np.zeros((len(r), 6 * (n + 1)))

    def right_inverse(xi: np.ndarray) -> np.ndarray:
        return np.linalg.inv(se3.right_jacobian(torch.from_numpy(xi)).numpy())

    r[:6] = log(np.linalg.inv(drive.T_start) @ T[0])
    J[:6, :6] = right_inverse(r[:6])
    for k in range(n):
        rows, T_a_b = slice(6 + 6 * k, 12 + 6 * k), np.linalg.inv(T[k]) @ T[k + 1]
        r[rows] = log(np.linalg.inv(drive.T_earlier_later[k]) @ T_a_b)
        J_inverse = right_inverse(r[rows])
        J[rows, 6 * k + 6 : 6 * k + 12] = J_inverse
        J[rows, 6 * k : 6 * k + 6] = -J_inverse @ adjoint(np.linalg.inv(T_a_b))
    x, y, z = antenna
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    for i, stamp_ns in enumerate(drive.fix_stamp_ns):
        rows = slice(6 + 6 * n + 3 * i, 9 + 6 * n + 3 * i)
        r[rows] = -drive.fixes[i]
        for k, w in around(stamp_ns):
            R = T[k, :3, :3]
            r[rows] += w * (T[k, :3, 3] + R @ antenna)
            J[rows, 6 * k : 6 * k + 6] = w * np.hstack([R, -R @ cross])
    return r, J
