"""Relative poses of one stream: their joint covariance against the odometry and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.compound import Order
from bayes_vio.filters.covariance import symmetric_sqrt
from bayes_vio.filters.relative_poses import IncrementStream, relative_poses
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation

DT_S = 0.1
LASTING = NoiseCorrelation((0.5, 5.0, 0.0, 50.0, 1.0, 9.0), (0.5, 0.3, 0.2, 0.7, 0.0, 0.6))
START_COV = 1e-14 * np.eye(6)


def stream(n: int, seed: int = 0, features: bool = False) -> IncrementStream:
    rng = np.random.default_rng(seed)
    xi = np.array([0.8, 0, 0, 0, 0, 0.05]) + rng.normal(scale=0.02, size=(n, 6))
    A = rng.normal(size=(n, 6, 9))
    noise_cov = 1e-5 * (A @ A.transpose(0, 2, 1) + np.eye(6))
    Phi = 2e-3 * (rng.normal(size=(6, 40)) + 0.5 * rng.normal(size=(n, 6, 40)))
    return IncrementStream(
        se3.exp(torch.from_numpy(xi)).numpy(),
        noise_cov,
        Phi @ Phi.transpose(0, 2, 1),
        DT_S * np.arange(1, n + 1),
        Phi if features else None,
        2.0,
        LASTING,
    )


@pytest.mark.parametrize("features", [False, True])
def test_one_span_is_what_the_odometry_accumulates(features):
    increments = stream(25, features=features)
    odometry = Odometry(2.0, START_COV, noise_correlation=LASTING, order=Order.SECOND)
    for k in range(25):
        Phi = increments.features[k] if increments.features is not None else None
        args = increments.T[k], increments.noise_cov[k], increments.epistemic_cov[k]
        odometry.add(*args, DT_S, Phi)
    found = relative_poses(increments, [range(25)])
    np.testing.assert_allclose(found.T[0], odometry.T_odom_base, atol=1e-12)
    std = np.sqrt(np.diagonal(odometry.cov))
    np.testing.assert_allclose(
        found.cov / np.outer(std, std), odometry.cov / np.outer(std, std), atol=2e-6
    )


def test_successive_and_overlapping_relative_poses_against_monte_carlo():
    n, increments = 20_000, stream(24, seed=4)
    spans = [range(8), range(8, 16), range(4, 20), range(23, 24)]
    rng = np.random.default_rng(2)
    z_epistemic, z_noise = rng.normal(size=(2, n, 6))
    rho = math.exp(-DT_S / 2.0)
    times = np.array(LASTING.time_s)
    r = np.where(times > 0, np.exp(-DT_S / np.where(times > 0, times, 1.0)), 0.0)
    true = {row: torch.eye(4, dtype=torch.float64).expand(n, 4, 4) for row in range(len(spans))}
    for k in range(24):
        if k:
            z_epistemic = rho * z_epistemic + math.sqrt(1 - rho**2) * rng.normal(size=(n, 6))
            z_noise = r * z_noise + np.sqrt(1 - r**2) * rng.normal(size=(n, 6))
        white_cov, lasting_cov = LASTING.split(increments.noise_cov[k])
        error = rng.multivariate_normal(np.zeros(6), white_cov, n)
        error += z_noise @ symmetric_sqrt(lasting_cov)
        error += z_epistemic @ symmetric_sqrt(increments.epistemic_cov[k])
        T = torch.from_numpy(increments.T[k]) @ se3.exp(torch.from_numpy(error))
        for row, span in enumerate(spans):
            if k in span:
                true[row] = true[row] @ T
    found = relative_poses(increments, spans)
    errors = [
        se3.log(se3.inverse(torch.from_numpy(found.T[row])) @ true[row]).numpy() for row in true
    ]
    sampled, std = np.cov(np.hstack(errors).T), np.sqrt(np.diagonal(found.cov))
    correlation = found.cov / np.outer(std, std)
    standard_error = np.sqrt((1 + correlation**2) / n)
    deviation = (sampled - found.cov) / np.outer(std, std) / standard_error
    assert np.abs(deviation).max() < 5.5
    assert np.abs(correlation[:6, 6:12]).max() > 0.3  # successive ones are far from independent


def test_blocks_are_those_of_the_joint_covariance():
    increments = stream(10)
    found = relative_poses(increments, [range(5), range(5, 10)])
    np.testing.assert_array_equal(found.block(0, 1), found.cov[:6, 6:])
    np.testing.assert_array_equal(found.block(1, 0), found.block(0, 1).T)
    alone = relative_poses(increments, [range(5, 10)])
    np.testing.assert_allclose(found.block(1, 1), alone.cov, atol=1e-18)
    joint = increments.joint_cov()
    assert np.linalg.eigvalsh(joint).min() > 0
    for k in range(10):
        own = increments.noise_cov[k] + increments.epistemic_cov[k]
        rows = slice(6 * k, 6 * k + 6)
        white, lasting = LASTING.split(increments.noise_cov[k])
        expected = white + lasting + increments.epistemic_cov[k]
        np.testing.assert_allclose(joint[rows, rows], expected, atol=1e-12)
        np.testing.assert_allclose(np.diagonal(expected), np.diagonal(own))


@pytest.mark.parametrize("span", [range(3, 3), range(-1, 2), range(11), range(0, 8, 2)])
def test_what_is_no_span_is_refused(span):
    with pytest.raises(ValueError, match="no span"):
        relative_poses(stream(10), [span])


def test_what_is_no_stream_is_refused():
    good = stream(4)
    with pytest.raises(ValueError, match="shapes"):
        IncrementStream(good.T[:3], good.noise_cov, good.epistemic_cov, good.end_s)
    with pytest.raises(ValueError, match="one after the other"):
        IncrementStream(good.T, good.noise_cov, good.epistemic_cov, good.end_s[::-1])
    with pytest.raises(ValueError, match="features"):
        IncrementStream(
            good.T, good.noise_cov, good.epistemic_cov, good.end_s, np.zeros((3, 6, 2))
        )
