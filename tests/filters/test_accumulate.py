import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.covariance import CovarianceError, symmetric_sqrt
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation

START_COV = np.diag([1e-6] * 3 + [1e-8] * 3)
DT_S = 0.1


def random_cov(rng: np.random.Generator, std: float) -> np.ndarray:
    A = rng.normal(size=(6, 6))
    return std**2 * (A @ A.T / 6 + 0.1 * np.eye(6))


def increments(n: int, seed: int = 0, std: float = 2e-3):
    """Return n increments of a winding drive: (T, noise_cov, epistemic_cov)."""
    rng = np.random.default_rng(seed)
    xi = np.array([0.8, 0, 0, 0, 0, 0.05]) + rng.normal(scale=0.02, size=(n, 6))
    T = se3.exp(torch.from_numpy(xi)).numpy()
    return [(T[k], random_cov(rng, std), random_cov(rng, 0.5 * std)) for k in range(n)]


def accumulated(steps, tau_s: float) -> Odometry:
    odometry = Odometry(tau_s, START_COV)
    for T, noise_cov, epistemic_cov in steps:
        odometry.add(T, noise_cov, epistemic_cov, DT_S)
    return odometry


def joint_recursion(steps, tau_s: float) -> np.ndarray:
    """Return the covariance by the 12 x 12 joint recursion of (d, z), slow and obvious."""
    rho = math.exp(-DT_S / tau_s)
    P = np.zeros((12, 12))
    P[:6, :6], P[6:, 6:] = START_COV, np.eye(6)
    for T, noise_cov, epistemic_cov in steps:
        C = symmetric_sqrt(epistemic_cov)
        A = se3.adjoint(se3.inverse(torch.from_numpy(T))).numpy()
        F = np.block([[A, rho * C], [np.zeros((6, 6)), rho * np.eye(6)]])
        G = np.vstack([C, np.eye(6)]) * math.sqrt(1 - rho**2)
        P = F @ P @ F.T + G @ G.T
        P[:6, :6] += noise_cov
    return P[:6, :6]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 10_000), st.integers(1, 30))
def test_equals_the_joint_recursion(tau_s, seed, n):
    steps = increments(n, seed)
    np.testing.assert_allclose(
        accumulated(steps, tau_s).cov, joint_recursion(steps, tau_s), rtol=1e-9, atol=1e-14
    )


def test_without_correlation_both_parts_compound_as_noise():
    steps = increments(40)
    cov = torch.from_numpy(START_COV)
    for T, noise_cov, epistemic_cov in steps:
        cov = se3.compound(cov, torch.from_numpy(T), torch.from_numpy(noise_cov + epistemic_cov))
    np.testing.assert_allclose(accumulated(steps, 0.0).cov, cov, rtol=1e-12)


def test_with_endless_correlation_the_epistemic_part_is_a_coherent_sum():
    steps = increments(40)
    noise_part, S = torch.from_numpy(START_COV), np.zeros((6, 6))
    for T, noise_cov, epistemic_cov in steps:
        T = torch.from_numpy(T)
        noise_part = se3.compound(noise_part, T, torch.from_numpy(noise_cov))
        S = se3.adjoint(se3.inverse(T)).numpy() @ S + symmetric_sqrt(epistemic_cov)
    expected = noise_part.numpy() + S @ S.T
    np.testing.assert_allclose(accumulated(steps, math.inf).cov, expected, rtol=1e-12)


def test_limits_are_continuous():
    steps = increments(30)
    for tau_s, limit_s in ((1e-4, 0.0), (1e9, math.inf)):
        near, limit = accumulated(steps, tau_s).cov, accumulated(steps, limit_s).cov
        np.testing.assert_allclose(near, limit, rtol=1e-6)


@pytest.mark.parametrize("tau_s", [0.0, 0.3, 2.0, math.inf])
def test_monte_carlo(tau_s):
    n, steps = 4000, increments(60, seed=3)
    rng = np.random.default_rng(7)
    rho = math.exp(-DT_S / tau_s) if tau_s > 0 else 0.0
    T_true = se3.exp(torch.from_numpy(rng.multivariate_normal(np.zeros(6), START_COV, n)))
    z = rng.normal(size=(n, 6))
    for T, noise_cov, epistemic_cov in steps:
        z = rho * z + math.sqrt(1 - rho**2) * rng.normal(size=(n, 6))
        noise = rng.multivariate_normal(np.zeros(6), noise_cov, n)
        error = torch.from_numpy(noise + z @ symmetric_sqrt(epistemic_cov))
        T_true = T_true @ torch.from_numpy(T) @ se3.exp(error)
    odometry = accumulated(steps, tau_s)
    T_odom_base = torch.from_numpy(odometry.T_odom_base)
    errors = se3.log(se3.inverse(T_odom_base) @ T_true).numpy()
    sampled, cov = np.cov(errors.T), odometry.cov
    std = np.sqrt(np.diagonal(cov))
    correlation = cov / np.outer(std, std)
    standard_error = np.sqrt((1 + correlation**2) / n)
    assert np.abs((sampled - cov) / np.outer(std, std) / standard_error).max() < 5


def test_a_thousand_frames_on_a_straight_road():
    T, steps = np.eye(4), 1000
    T[0, 3] = 1.0
    noise_cov, epistemic_cov = 1e-18 * np.eye(6), 1e-18 * np.eye(6)
    epistemic_cov[0, 0] = 0.01**2

    def std_x(tau_s: float) -> float:
        odometry = Odometry(tau_s, 1e-12 * np.eye(6))
        for _ in range(steps):
            odometry.add(T, noise_cov, epistemic_cov, DT_S)
        return math.sqrt(odometry.cov[0, 0])

    assert std_x(0.0) == pytest.approx(0.01 * math.sqrt(steps), rel=1e-3)
    assert std_x(math.inf) == pytest.approx(0.01 * steps, rel=1e-3)
    rho = math.exp(-DT_S / 5.0)
    lags = np.arange(1, steps)
    exact = steps + 2 * np.sum((steps - lags) * rho**lags)
    assert std_x(5.0) == pytest.approx(0.01 * math.sqrt(exact), rel=1e-3)


def test_pose_is_the_product_of_increments_and_stays_a_rotation():
    odometry, T_odom_base = Odometry(1.0, START_COV), np.eye(4)
    for T, noise_cov, epistemic_cov in increments(500):
        odometry.add(T, noise_cov, epistemic_cov, DT_S)
        T_odom_base = T_odom_base @ T
    np.testing.assert_allclose(odometry.T_odom_base, T_odom_base, atol=1e-9)
    R = odometry.T_odom_base[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-15)


def test_set_pose_starts_from_it_and_forgets_the_correlation():
    steps = increments(20)
    T0 = se3.exp(torch.tensor([10.0, -5.0, 1.0, 0.1, 0.2, 2.0]).double()).numpy()
    continued = accumulated(steps, 2.0)
    fresh = Odometry(2.0, START_COV)
    for odometry in (continued, fresh):
        odometry.set_pose(T0, 4 * START_COV)
        odometry.add(*steps[0], DT_S)
    np.testing.assert_array_equal(continued.cov, fresh.cov)
    np.testing.assert_allclose(continued.T_odom_base, T0 @ steps[0][0], atol=1e-12)


@pytest.mark.parametrize(
    ("T", "cov"),
    [
        (np.eye(3), START_COV),
        (np.full((4, 4), np.nan), START_COV),
        (np.diag([1.0, 1.0, -1.0, 1.0]), START_COV),
        (2 * np.eye(4), START_COV),
        (np.eye(4), np.zeros((6, 6))),
        (np.eye(4), np.eye(3)),
        (np.eye(4), 1e12 * np.eye(6)),
    ],
)
def test_set_pose_refuses_what_is_no_pose_or_no_covariance(T, cov):
    odometry = Odometry(1.0, START_COV, std_bound=np.full(6, 1e5))
    with pytest.raises(ValueError, match=r"pose|covariance"):
        odometry.set_pose(T, cov)
    np.testing.assert_array_equal(odometry.cov, START_COV)
    np.testing.assert_array_equal(odometry.T_odom_base, np.eye(4))


def test_a_bad_increment_is_refused_and_leaves_the_odometry_alone():
    odometry = accumulated(increments(3), 1.0)
    T, cov = odometry.T_odom_base, odometry.cov
    with pytest.raises(CovarianceError):
        odometry.add(np.eye(4), np.full((6, 6), np.nan), START_COV, DT_S)
    with pytest.raises(CovarianceError):
        odometry.add(np.eye(4), -np.eye(6), START_COV, DT_S)
    np.testing.assert_array_equal(odometry.T_odom_base, T)
    np.testing.assert_array_equal(odometry.cov, cov)


def test_bound_is_held_and_told():
    bound = np.array([10.0, 10, 10, 1, 1, 1])
    odometry = Odometry(5.0, START_COV, bound)
    for _ in range(100):
        for T, _, _ in increments(3):
            odometry.add(T, np.diag([4.0, 4, 4, 0.04, 0.04, 0.04]), 0.1 * np.eye(6), DT_S)
        np.linalg.cholesky(odometry.cov)
        assert (np.sqrt(np.diagonal(odometry.cov)) <= bound * (1 + 1e-12)).all()
    assert odometry.at_bound


def test_correlation_time_must_make_sense():
    for tau_s in (-1.0, math.nan):
        with pytest.raises(ValueError, match="correlation time"):
            Odometry(tau_s, START_COV)


def test_noise_that_lasts_equals_an_epistemic_error_of_that_size_and_time() -> None:
    steps = increments(20)
    share = (0.3, 0.0, 1.0, 0.2, 0.9, 0.5)
    ours = Odometry(0.0, START_COV, noise_correlation=NoiseCorrelation((0.7,) * 6, share))
    theirs = Odometry(0.7, START_COV)
    lasting, white = np.sqrt(share), np.sqrt(1 - np.array(share))
    for T, noise_cov, _ in steps:
        ours.add(T, noise_cov, np.zeros((6, 6)), DT_S)
        parts = (noise_cov * np.outer(w, w) for w in (white, lasting))
        theirs.add(T, *parts, DT_S)
    np.testing.assert_allclose(ours.cov, theirs.cov, rtol=1e-10, atol=1e-15)
    plain = Odometry(0.0, START_COV)
    for T, noise_cov, _ in steps:
        plain.add(T, noise_cov, np.zeros((6, 6)), DT_S)
    assert ours.cov[0, 0] > 1.2 * plain.cov[0, 0]


def test_one_step_does_not_depend_on_what_lasts() -> None:
    T, noise_cov, epistemic_cov = increments(1)[0]
    ours = Odometry(2.0, START_COV, noise_correlation=NoiseCorrelation((1.0,) * 6, (0.5,) * 6))
    ours.add(T, noise_cov, epistemic_cov, DT_S)
    np.testing.assert_allclose(
        ours.cov, accumulated([(T, noise_cov, epistemic_cov)], 2.0).cov, rtol=1e-10, atol=1e-15
    )


def test_lasting_noise_has_a_time_of_its_own_on_every_axis() -> None:
    times_s, share = (0.2, 1.0, 5.0, 0.0, 30.0, 2.0), (1.0, 0.5, 0.9, 0.4, 1.0, 0.8)
    noise_cov = np.diag([4e-4, 1e-4, 2e-4, 1e-6, 3e-6, 2e-6])
    ours = Odometry(0.0, START_COV, noise_correlation=NoiseCorrelation(times_s, share))
    n = 40
    for _ in range(n):
        ours.add(np.eye(4), noise_cov, np.zeros((6, 6)), DT_S)
    lag = DT_S * np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    for axis, (tau_s, part) in enumerate(zip(times_s, share, strict=True)):
        rho = np.exp(-lag / tau_s) if tau_s > 0 else np.eye(n)
        kernel = part * rho + (1 - part) * np.eye(n)
        expected = START_COV[axis, axis] + noise_cov[axis, axis] * kernel.sum()
        assert ours.cov[axis, axis] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("time_s", "share"),
    [((-1.0,) * 6, (0.1,) * 6), ((1.0,) * 6, (0.1,) * 5), ((1.0,) * 6, (1.2,) * 6)],
)
def test_an_impossible_noise_correlation_is_refused(time_s, share) -> None:
    with pytest.raises(ValueError, match="a noise correlation needs six"):
        NoiseCorrelation(time_s, share)


def test_an_increment_may_say_itself_how_its_noise_lasts():
    steps = increments(20, seed=3)
    lasting = NoiseCorrelation((2.0, 1.0, 0.5, 3.0, 4.0, 1.0), (1.0, 0.5, 0.2, 0.9, 0.0, 0.3))
    told = Odometry(1.0, START_COV)
    constructed = Odometry(1.0, START_COV, noise_correlation=lasting)
    for T, noise_cov, epistemic_cov in steps:
        told.add(T, noise_cov, epistemic_cov, DT_S, noise_correlation=lasting)
        constructed.add(T, noise_cov, epistemic_cov, DT_S)
    np.testing.assert_allclose(told.cov, constructed.cov, rtol=1e-12)
    assert np.trace(told.cov) > np.trace(accumulated(steps, 1.0).cov)
