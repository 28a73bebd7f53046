"""The coherent sum over frames, as the odometry carries it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.filters.transported import TransportedSum, matched
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation

START_COV = np.diag([1e-6] * 3 + [1e-8] * 3)
DT_S = 0.1
SCALE = np.array([1e-2, 1e-3, 3e-3, 2e-4, 1e-4, 3e-4])


def drive(n: int, seed: int = 0, size: int = 40, common: float = 0.7) -> list[tuple]:
    """Return increments (T, noise_cov, epistemic_cov, features) that share a part of features."""
    rng = np.random.default_rng(seed)
    xi = np.array([0.8, 0, 0, 0, 0, 0.05]) + rng.normal(scale=0.02, size=(n, 6))
    T = se3.exp(torch.from_numpy(xi)).numpy()
    shared, own = rng.normal(size=(6, size)), rng.normal(size=(n, 6, size))
    features = SCALE[:, None] * (common * shared + (1 - common) * own) / np.sqrt(size)
    noise_cov = np.diag((0.5 * SCALE) ** 2)
    return [(T[k], noise_cov, f @ f.T, f) for k, f in enumerate(features)]


def adjoint(T: np.ndarray) -> np.ndarray:
    return se3.adjoint(se3.inverse(torch.from_numpy(T))).numpy()


def odometry_after(steps: list[tuple], **options) -> Odometry:
    odometry = Odometry(options.pop("tau_s", 1.0), START_COV, **options)
    for T, noise_cov, epistemic_cov, features in steps:
        odometry.add(T, noise_cov, epistemic_cov, DT_S, features)
    return odometry


def dense_cov(steps: list[tuple], start_cov: np.ndarray) -> np.ndarray:
    """Return the covariance by the pose's error as a linear map of all that is unknown."""
    parts = [np.linalg.cholesky(start_cov)]
    S = np.zeros_like(steps[0][3])
    for T, noise_cov, _, features in steps:
        A = adjoint(T)
        parts = [A @ p for p in parts] + [np.linalg.cholesky(noise_cov)]
        S = A @ S + features
    whole = np.concatenate([*parts, S], 1)
    return whole @ whole.T


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0, 1))
def test_the_odometry_carries_the_dense_sum(seed, n, common) -> None:
    steps = drive(n, seed, common=common)
    found = odometry_after(steps).cov
    std = np.sqrt(np.diagonal(found))
    error = (found - dense_cov(steps, START_COV)) / np.outer(std, std)
    assert np.abs(error).max() < 1e-6


def test_features_that_nothing_shares_compound_as_noise_and_equal_ones_coherently() -> None:
    steps, n = drive(30, common=1.0), 30
    alone = [
        (T, N, E, np.concatenate([f if j == k else 0 * f for j in range(n)], 1))
        for k, (T, N, E, f) in enumerate(steps)
    ]
    white = Odometry(0.0, START_COV)
    for T, N, E, _ in steps:
        white.add(T, N, E, DT_S)
    np.testing.assert_allclose(odometry_after(alone).cov, white.cov, rtol=1e-6, atol=1e-14)
    coherent = odometry_after(steps).cov
    assert coherent[0, 0] > 5 * white.cov[0, 0]


def test_monte_carlo_over_weights() -> None:
    n, steps = 4000, drive(60, seed=3)
    rng = np.random.default_rng(7)
    T_true = se3.exp(torch.from_numpy(rng.multivariate_normal(np.zeros(6), START_COV, n)))
    w = rng.normal(size=(n, steps[0][3].shape[1]))
    for T, noise_cov, _, features in steps:
        noise = rng.multivariate_normal(np.zeros(6), noise_cov, n)
        error = se3.exp(torch.from_numpy(noise + w @ features.T))
        T_true = T_true @ torch.from_numpy(T) @ error
    odometry = odometry_after(steps)
    T_odom_base = torch.from_numpy(odometry.T_odom_base)
    sampled = np.cov(se3.log(se3.inverse(T_odom_base) @ T_true).numpy().T)
    cov = odometry.cov
    std = np.sqrt(np.diagonal(cov))
    correlation = cov / np.outer(std, std)
    standard_error = np.sqrt((1 + correlation**2) / n)
    assert np.abs((sampled - cov) / np.outer(std, std) / standard_error).max() < 5


def test_a_pose_set_anew_forgets_the_sum_and_keeps_it_out_of_what_follows() -> None:
    steps = drive(40)
    T0 = se3.exp(torch.tensor([10.0, -5.0, 1.0, 0.1, 0.2, 2.0]).double()).numpy()
    odometry = odometry_after(steps[:25])
    odometry.set_pose(T0, 4 * START_COV)
    for T, noise_cov, epistemic_cov, features in steps[25:]:
        odometry.add(T, noise_cov, epistemic_cov, DT_S, features)
    truth = dense_cov(steps[25:], 4 * START_COV)
    np.testing.assert_allclose(odometry.cov, truth, rtol=1e-6, atol=1e-13)
    assert odometry.cov[0, 0] < odometry_after(steps).cov[0, 0]


def test_a_guess_between_keeps_the_sum() -> None:
    """A gap without features adds its own covariance; what came before stays coherent."""
    steps = drive(21)
    T, noise_cov, _, _ = steps[10]
    nothing = 1e-20 * np.eye(6)
    odometry = odometry_after(steps[:10])
    odometry.add(T, noise_cov, nothing, DT_S)
    for step in steps[11:]:
        odometry.add(*step[:3], DT_S, step[3])
    silent = (T, noise_cov, nothing, 0 * steps[10][3])
    truth = dense_cov([*steps[:10], silent, *steps[11:]], START_COV)
    np.testing.assert_allclose(odometry.cov, truth, rtol=1e-6, atol=1e-13)


def test_one_increment_has_its_own_covariance_whatever_the_sketch_says() -> None:
    T, noise_cov, epistemic_cov, features = drive(1)[0]
    rough = features * (1 + 0.1 * np.random.default_rng(2).normal(size=features.shape))
    plain = Odometry(1.0, START_COV)
    plain.add(T, noise_cov, epistemic_cov, DT_S)
    found = odometry_after([(T, noise_cov, epistemic_cov, rough)])
    np.testing.assert_allclose(found.cov, plain.cov, rtol=1e-12, atol=1e-18)


covs = st.integers(0, 10_000).map(np.random.default_rng)


@settings(max_examples=60, deadline=None)
@given(covs, st.integers(1, 60), st.floats(0.03, 30))
def test_matched_features_square_to_the_covariance_where_they_span_it(rng, size, scale) -> None:
    features = SCALE[:, None] * rng.normal(size=(6, size))
    root = SCALE[:, None] * rng.normal(size=(6, 9)) * scale
    cov = root @ root.T
    found = matched(features, cov)
    std = np.sqrt(np.diagonal(cov))
    missed = (cov - found @ found.T) / np.outer(std, std)
    assert np.linalg.eigvalsh(missed).min() > -1e-7
    if size >= 12:
        assert np.abs(missed).max() < 1e-4


def test_matching_leaves_features_alone_that_match() -> None:
    _, _, cov, features = drive(1)[0]
    np.testing.assert_allclose(matched(features, cov), features, rtol=1e-6)
    np.testing.assert_allclose(matched(features, 16 * cov), 4 * features, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(covs, st.integers(1, 30))
def test_the_covariance_stays_positive_definite_and_bounded(rng, n) -> None:
    """Sketches of any quality and rank, inflated covariances, lasting noise and bounds."""
    bound = 30 * np.repeat([1e-2, 1e-3], 3)
    noise = NoiseCorrelation((0.5, 5, 0, 50, 1, 9), (0.3, 0.9, 1, 0.5, 0, 0.7))
    odometry = Odometry(2.0, START_COV, bound, noise)
    for T, noise_cov, epistemic_cov, features in drive(n, int(rng.integers(1000)), size=4):
        cov = rng.uniform(1, 30) * (epistemic_cov + 1e-12 * np.eye(6))
        odometry.add(T, noise_cov, cov, DT_S, features * rng.uniform(0, 2, (6, 4)))
        np.linalg.cholesky(odometry.cov)
        assert (np.sqrt(np.diagonal(odometry.cov)) <= bound * (1 + 1e-12)).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(broken) -> None:
    T, noise_cov, epistemic_cov, features = drive(1)[0]
    odometry = Odometry(1.0, START_COV)
    features[2, 3] = broken
    with pytest.raises(CovarianceError, match="features"):
        odometry.add(T, noise_cov, epistemic_cov, DT_S, features)
    with pytest.raises(CovarianceError, match="features"):
        odometry.add(T, noise_cov, 0 * epistemic_cov, DT_S, np.ones((6, 3)))
    np.testing.assert_array_equal(odometry.cov, START_COV)


def test_the_empty_sum_has_no_covariance() -> None:
    empty = TransportedSum.empty(3)
    np.testing.assert_array_equal(empty.moved(np.eye(3)).cov, np.zeros((3, 3)))
    np.testing.assert_array_equal(empty.cross_cov(np.ones((3, 5))), np.zeros((3, 3)))
