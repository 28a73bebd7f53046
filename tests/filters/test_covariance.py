import numpy as np
import pytest

from bayes_vio.filters.covariance import CovarianceError, bounded, check_spd, symmetric_sqrt


def random_cov(seed: int, std: np.ndarray) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(6, 9))
    cov = A @ A.T
    scale = std / np.sqrt(np.diagonal(cov))
    return scale[:, None] * cov * scale


MIXED_STD = np.array([1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6])


def test_check_spd_returns_an_exactly_symmetric_covariance_whatever_the_units():
    cov = random_cov(0, MIXED_STD)
    uneven = cov * (1 + 1e-8 * np.triu(np.ones((6, 6))))
    checked = check_spd(uneven, "it")
    np.testing.assert_array_equal(checked, checked.T)
    np.testing.assert_allclose(checked, cov, rtol=1e-7)


def with_entry(value: float, row: int, column: int) -> np.ndarray:
    cov = np.eye(6)
    cov[row, column] = cov[column, row] = value
    return cov


@pytest.mark.parametrize(
    ("cov", "said"),
    [
        (with_entry(np.nan, 0, 1), "not finite"),
        (with_entry(np.inf, 2, 2), "not finite"),
        (with_entry(0.0, 2, 2), "not positive"),
        (with_entry(-1.0, 5, 5), "not positive"),
        (with_entry(1.5, 0, 5), "not positive definite"),
        (with_entry(1.0, 0, 5), "singular|not positive definite"),
        (np.eye(6) + np.triu(np.full((6, 6), 1e-3), 1), "not symmetric"),
    ],
)
def test_check_spd_names_what_is_wrong(cov, said):
    with pytest.raises(CovarianceError, match=f"^it .*({said})"):
        check_spd(cov, "it")


def test_bounded_keeps_correlations_and_what_is_within():
    cov = random_cov(1, MIXED_STD)
    bound = np.full(6, 10.0)
    result = bounded(cov, bound)
    np.testing.assert_allclose(np.sqrt(np.diagonal(result)), np.minimum(MIXED_STD, 10.0))
    np.testing.assert_array_equal(result[2:, 2:], cov[2:, 2:])
    std = np.sqrt(np.diagonal(result))
    expected = cov / np.outer(MIXED_STD, MIXED_STD)
    np.testing.assert_allclose(result / np.outer(std, std), expected, rtol=1e-12)


def test_symmetric_sqrt():
    cov = random_cov(2, np.linspace(0.1, 2, 6))
    root = symmetric_sqrt(cov)
    np.testing.assert_allclose(root @ root, cov, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(root, root.T, atol=1e-13)
    np.testing.assert_allclose(symmetric_sqrt(np.zeros((6, 6))), 0)
