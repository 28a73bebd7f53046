import numpy as np
import pytest

from bayes_vio.filters.consistency import nees
from bayes_vio.filters.innovations import (
    InnovationMonitor,
    autocorrelation,
    consistency,
    is_white,
)


def draws(n: int, d: int, seed: int, rho: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return errors [n, d] of first-order autocorrelation rho and their true covariances."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, d, d))
    cov = A @ A.transpose(0, 2, 1) + 0.3 * np.eye(d)
    z = np.zeros((n, d))
    z[0] = rng.normal(size=d)
    for k in range(1, n):
        z[k] = rho * z[k - 1] + np.sqrt(1 - rho**2) * rng.normal(size=d)
    return np.einsum("nij,nj->ni", np.linalg.cholesky(cov), z), cov


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_true_covariances_are_found_consistent_also_of_lasting_errors(rho):
    found = [consistency(*draws(400, 3, seed, rho)).consistent for seed in range(60)]
    assert np.mean(found) > 0.85


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_false_covariances_are_found(scale):
    error, cov = draws(400, 3, 1)
    judged = consistency(error, scale * cov)
    assert not judged.consistent
    assert judged.mean == pytest.approx(nees(error, cov).mean() / scale)
    assert (judged.region_95 < 0.9) == (scale < 1)
    assert consistency(error, cov).region_95 == pytest.approx(0.95, abs=0.04)


def test_autocorrelation_is_that_of_the_process():
    error, cov = draws(20_000, 3, 2, 0.7)
    np.testing.assert_allclose(autocorrelation(error, cov, 4), 0.7 ** np.arange(1, 5), atol=0.03)


def test_the_test_of_whiteness_has_its_level_and_its_power():
    white = np.mean([is_white(*draws(200, 3, seed)) for seed in range(200)])
    assert 0.9 < white < 0.99
    assert not any(is_white(*draws(200, 3, seed, 0.4)) for seed in range(20))


def test_too_few_innovations_are_refused():
    with pytest.raises(ValueError, match="lags"):
        autocorrelation(*draws(10, 3, 0))
    with pytest.raises(ValueError, match="no errors"):
        consistency(np.zeros((0, 3)), np.zeros((0, 3, 3)))


def test_the_monitor_keeps_sources_apart_and_outliers_out():
    monitor = InnovationMonitor(length=50)
    for e, S in zip(*draws(80, 6, 3), strict=True):
        monitor.add("twist", e, S)
    for e, S in zip(*draws(80, 3, 4), strict=True):
        monitor.add("fix", 3 * e, S)
    for _ in range(20):
        monitor.add("twist", np.full(6, 1e6), np.eye(6), accepted=False)
    assert monitor.windows["twist"].consistent
    assert len(monitor.windows["fix"]) == 50
    assert monitor.overconfident(30) == ("fix",)
    assert monitor.overconfident(51) == ()
    assert monitor.rejected_share("twist") == pytest.approx(0.2)
    assert monitor.rejected_share("fix") == monitor.rejected_share("none") == 0.0
    monitor.clear()
    assert not monitor.windows
    with pytest.raises(ValueError, match="length"):
        InnovationMonitor(length=0)
