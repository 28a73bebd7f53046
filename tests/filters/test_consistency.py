import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bayes_vio.filters.consistency import (
    NeesWindow,
    chi_square_band,
    coverage,
    effective_count,
    nees,
    standardised,
    wilson_interval,
)


def random_covs(n, d, seed):
    root = np.random.default_rng(seed).standard_normal((n, d, d))
    return root @ root.transpose(0, 2, 1) + 0.1 * np.eye(d)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_nees_is_the_quadratic_form_of_the_inverse(d, seed):
    rng = np.random.default_rng(seed)
    error, cov = rng.standard_normal((4, d)), random_covs(4, d, seed)
    expected = [e @ np.linalg.inv(S) @ e for e, S in zip(error, cov, strict=True)]
    np.testing.assert_allclose(nees(error, cov), expected, rtol=1e-8)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nees_does_not_depend_on_units_or_axes(seed):
    rng = np.random.default_rng(seed)
    error, cov = rng.standard_normal((3, 6)), random_covs(3, 6, seed)
    A = rng.standard_normal((6, 6)) + 3 * np.eye(6)
    A = np.diag([1e3, 1, 1, 1e-3, 1, 1]) @ A
    np.testing.assert_allclose(nees(error @ A.T, A @ cov @ A.T), nees(error, cov), rtol=1e-6)


@pytest.mark.parametrize(
    ("error", "cov", "said"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3, 2)), "shape|takes"),
        (np.zeros((2, 3)), np.stack([np.eye(3), -np.eye(3)]), "positive definite"),
        (np.full((1, 2), np.nan), np.eye(2)[None], "not finite"),
        (np.zeros((1, 2)), np.full((1, 2, 2), np.inf), "not finite"),
    ],
)
def test_nees_refuses_what_is_no_covariance(error, cov, said):
    with pytest.raises(ValueError, match=said):
        nees(error, cov)


def test_chi_square_band_of_one_sample_is_the_textbook_one():
    assert chi_square_band(6) == pytest.approx((1.2373, 14.4494), abs=1e-3)
    # Bar-Shalom 5.4.2: 50 runs of 2 axes, 95 %: [1.5, 2.6]
    assert chi_square_band(2, 50) == pytest.approx((74.22 / 50, 129.56 / 50), abs=1e-3)


def test_chi_square_band_of_a_mean_holds_its_share_of_means():
    rng = np.random.default_rng(1)
    means = rng.chisquare(6, (20_000, 30)).mean(axis=1)
    low, high = chi_square_band(6, 30, 0.9)
    assert np.mean((means >= low) & (means <= high)) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("arguments", [(0,), (6, 0), (6, 1, 1.0)])
def test_chi_square_band_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="chi-square band"):
        chi_square_band(*arguments)


def test_coverage_of_gaussian_errors_is_the_normal_law():
    rng = np.random.default_rng(2)
    cov = random_covs(1, 3, 5).repeat(40_000, 0)
    error = rng.multivariate_normal(np.zeros(3), cov[0], 40_000)
    expected = 2 * stats.norm.cdf([1, 2, 3]) - 1
    np.testing.assert_allclose(coverage(error, cov), np.tile(expected, (3, 1)), atol=0.008)


def test_coverage_counts_by_hand():
    error = np.array([[0.5], [1.5], [-2.5], [4.0]])
    np.testing.assert_array_equal(coverage(error, np.ones((4, 1, 1))), [[0.25, 0.5, 0.75]])
    with pytest.raises(ValueError, match="no errors"):
        coverage(np.zeros((0, 1)), np.zeros((0, 1, 1)))


def test_standardised_refuses_a_variance_of_zero():
    with pytest.raises(ValueError, match="variance"):
        standardised(np.ones((1, 2)), np.diag([1.0, 0.0])[None])


def test_wilson_interval_is_that_of_scipy_and_stays_within_0_and_1():
    known = stats.binomtest(47, 50).proportion_ci(0.95, method="wilson")
    assert wilson_interval(47 / 50, 50) == pytest.approx((known.low, known.high), abs=1e-12)
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0.0, 10)[0] == pytest.approx(0.0)


def autoregressive(n, rho, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    for k in range(1, n):
        x[k] = rho * x[k - 1] + np.sqrt(1 - rho**2) * x[k]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_count_of_a_known_process(rho):
    n = 20_000
    expected = n * (1 - rho) / (1 + rho)  # its integrated autocorrelation time in closed form
    assert effective_count(autoregressive(n, rho, 3)) == pytest.approx(expected, rel=0.15)


def test_effective_count_never_exceeds_the_count():
    alternating = np.tile([1.0, -1.0], 100)
    assert effective_count(alternating) == 200
    assert effective_count(np.ones(7)) == 7
    assert effective_count([1.0, 2.0]) == 2
    assert effective_count([]) == 0


def test_effective_count_predicts_the_scatter_of_the_mean():
    means = [autoregressive(400, 0.8, seed).mean() for seed in range(300)]
    counts = [effective_count(autoregressive(400, 0.8, seed)) for seed in range(100)]
    assert np.var(means) == pytest.approx(1 / np.median(counts), rel=0.3)


def test_window_keeps_the_last_errors_only():
    window = NeesWindow(degrees=1, length=2)
    for error in (3.0, 1.0, 2.0):
        window.add([error], [[1.0]])
    assert len(window) == 2
    assert window.mean == pytest.approx(2.5)
    assert window.band == chi_square_band(1, 2)
    window.clear()
    with pytest.raises(ValueError, match="empty"):
        _ = window.mean
    with pytest.raises(ValueError):
        _ = window.consistent


@pytest.mark.parametrize(("claimed", "consistent"), [(1.0, True), (0.25, False), (4.0, False)])
def test_window_tells_a_true_covariance_from_a_false_one(claimed, consistent):
    rng = np.random.default_rng(7)
    cov = random_covs(1, 6, 8)[0]
    window = NeesWindow(length=50)
    for error in rng.multivariate_normal(np.zeros(6), cov, 80):
        window.add(error, claimed * cov)
    assert window.consistent is consistent


def test_window_refuses_errors_of_another_size():
    with pytest.raises(ValueError, match="takes errors"):
        NeesWindow(degrees=6).add(np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="length"):
        NeesWindow(length=0)
