import numpy as np
import pytest
from scipy import stats

from bayes_vio.evaluation import calibration
from bayes_vio.evaluation.calibration import Errors
from tests.evaluation.synthetic import noise_covs, synthetic_run


def gaussian_errors(n, seed=0, epistemic=0.25, claimed=1.0):
    covs = noise_covs(n, seed)
    z = np.random.default_rng(seed + 1).standard_normal((n, 6))
    error = np.einsum("nij,nj->ni", np.linalg.cholesky(covs), z)
    covs = claimed * covs
    return Errors(error, epistemic * covs, (1 - epistemic) * covs, np.zeros(n, np.int64))


def test_true_covariance_comes_out_inside_every_band():
    measured = calibration.measure(gaussian_errors(20_000))
    joint = measured["joint"]
    low, high = joint["nees_band"]
    assert low <= joint["nees_mean"] <= high
    assert joint["region_95"]["low"] <= 0.95 <= joint["region_95"]["high"]
    assert joint["share_in_sample_band"] == pytest.approx(0.95, abs=0.01)
    assert joint["nees_median"] == pytest.approx(joint["nees_median_expected"], rel=0.03)
    for axis in measured["axes"]:
        expected = [0.6827, 0.9545, 0.9973]
        observed = [cell["observed"] for cell in axis["coverage"]]
        np.testing.assert_allclose(observed, expected, atol=0.012)
        assert [cell["expected"] for cell in axis["coverage"]] == pytest.approx(expected, abs=1e-4)


def test_bands_hold_their_confidence_over_repetitions():
    inside = []
    for seed in range(120):
        joint = calibration.measure(gaussian_errors(250, seed))["joint"]
        low, high = joint["nees_band"]
        inside.append(low <= joint["nees_mean"] <= high)
    assert 0.88 <= np.mean(inside) <= 1.0


@pytest.mark.parametrize("claimed", [0.5, 2.0])
def test_sigma_factor_is_the_root_of_the_false_scale(claimed):
    measured = calibration.measure(gaussian_errors(5000, 11, claimed=claimed))
    expected = 1 / np.sqrt(claimed)
    assert measured["joint"]["sigma_factor"] == pytest.approx(expected, rel=0.02)
    low, high = measured["joint"]["sigma_factor_interval"]
    assert low < expected < high
    for axis in measured["axes"]:
        assert axis["sigma_factor"] == pytest.approx(expected, rel=0.04)


def test_correlated_errors_widen_the_bands():
    coherent = synthetic_run(1500, seed=5, epistemic=0.9, correlation_frames=40)
    errors = coherent.increment_errors()
    joint = calibration.measure(errors)["joint"]
    assert joint["effective_count"] < 0.3 * len(errors)
    low, high = joint["nees_band"]
    assert low <= joint["nees_mean"] <= high


def test_nll_is_that_of_scipy():
    errors = gaussian_errors(40)
    expected = [
        -stats.multivariate_normal(np.zeros(6), S).logpdf(e)
        for e, S in zip(errors.error, errors.cov, strict=True)
    ]
    measured = calibration.measure(errors)
    assert measured["nll"] == pytest.approx(np.mean(expected), rel=1e-10)
    second_moment = errors.error.T @ errors.error / 40
    constant = -stats.multivariate_normal(np.zeros(6), second_moment).logpdf(errors.error)
    assert measured["nll_constant_cov"] == pytest.approx(constant.mean(), rel=1e-8)


def test_adapting_truly_beats_the_best_constant_covariance():
    measured = calibration.measure(gaussian_errors(5000))
    assert measured["nll"] < measured["nll_constant_cov"]
    assert measured["sparsification"]["translation"]["ause_relative"] < 0.6
    assert measured["axes"][0]["rank_correlation"] > 0.3


def test_per_axis_measures_by_hand():
    error = np.zeros((4, 6))
    error[:, 0] = [1.0, -1.0, 3.0, 1.0]
    cov = np.tile(np.diag([4.0, 1, 1, 1, 1, 1]), (4, 1, 1))
    measured = calibration.measure(Errors(error, 0.5 * cov, 0.5 * cov, np.zeros(4, np.int64)))
    x = measured["axes"][0]
    assert x["rmse"] == pytest.approx(np.sqrt(3))
    assert x["bias"] == pytest.approx(1.0)
    assert x["sharpness"] == pytest.approx(2 / np.sqrt(3))
    assert x["nees_mean"] == pytest.approx(3 / 4)
    assert x["epistemic_share"] == pytest.approx(0.5)
    assert x["rank_correlation"] is None  # its sigma is constant
    assert measured["axes"][1]["sharpness"] is None  # its error is always zero
    assert measured["nll_constant_cov"] is None


def test_epistemic_share_is_free_of_units():
    covs = noise_covs(50, 2)
    errors = Errors(np.ones((50, 6)) * 1e-3, 0.2 * covs, 0.8 * covs, np.zeros(50, np.int64))
    assert calibration.measure(errors)["epistemic_share"] == pytest.approx(0.2)


def test_reliability_of_a_true_covariance_is_the_diagonal():
    measured = calibration.measure(gaussian_errors(20_000))["reliability"]
    np.testing.assert_allclose(measured["joint"], measured["expected"], atol=0.012)
    for observed in measured["axes"].values():
        np.testing.assert_allclose(observed, measured["expected"], atol=0.014)


def test_sparsification_by_hand():
    error = np.zeros((4, 6))
    error[:, 0] = [4.0, 2.0, 1.0, 3.0]
    cov = np.tile(np.eye(6), (4, 1, 1))
    cov[:, 0, 0] = [16.0, 4.0, 1.0, 9.0]
    zero = np.zeros_like(cov)
    errors = Errors(error, zero, cov, np.zeros(4, np.int64))
    curve = calibration.sparsification(errors, slice(0, 3))
    at_half = curve["rmse"][curve["dropped"].index(0.5)]
    assert at_half == pytest.approx(np.sqrt((1 + 4) / 2))
    assert curve["rmse"][0] == pytest.approx(np.sqrt(30 / 4))
    assert curve["ause_relative"] == pytest.approx(0)
    backwards = Errors(error, zero, 20 * np.eye(6) - cov, np.zeros(4, np.int64))
    assert calibration.sparsification(backwards, slice(0, 3))["ause_relative"] > 1


def test_a_blind_uncertainty_scores_one():
    n = 4000
    error = np.random.default_rng(0).standard_normal((n, 6))
    cov = np.tile(np.eye(6), (n, 1, 1))
    cov *= np.random.default_rng(1).uniform(1, 2, n)[:, None, None]
    errors = Errors(error, 0.1 * cov, 0.9 * cov, np.zeros(n, np.int64))
    assert calibration.sparsification(errors, slice(3, 6))["ause_relative"] == pytest.approx(
        1, abs=0.12
    )


def test_concatenate_numbers_recordings_and_take_keeps_rows():
    both = calibration.concatenate([gaussian_errors(30), gaussian_errors(20, 3)])
    assert len(both) == 50
    assert np.bincount(both.sequence).tolist() == [30, 20]
    np.testing.assert_array_equal(
        both.take(both.sequence == 1).error, gaussian_errors(20, 3).error
    )


def test_no_errors_and_false_covariances_are_refused():
    errors = gaussian_errors(5)
    with pytest.raises(ValueError, match="no errors"):
        calibration.measure(errors.take(np.zeros(5, bool)))
    with pytest.raises(ValueError, match="positive definite"):
        calibration.measure(Errors(errors.error, -2 * errors.cov, errors.cov, errors.sequence))
