import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.estimator.coasting import Coasting
from bayes_vio.estimator.tracking import EstimatorSettings
from bayes_vio.geometry import se3

SETTINGS = EstimatorSettings()
TWIST = np.array([12.0, 0.1, -0.1, 0.01, 0.0, 0.1])
TWIST_COV = np.diag([0.04, 0.01, 0.01, 1e-4, 1e-4, 1e-4])
COASTING = Coasting(TWIST, TWIST_COV, SETTINGS)


def test_the_mean_keeps_its_velocity_and_then_stands():
    T, _ = COASTING.increment(2.0, 3.5)
    np.testing.assert_allclose(T, se3.exp(torch.from_numpy(1.5 * TWIST)), atol=1e-12)
    across, _ = COASTING.increment(9.0, 100.0)
    np.testing.assert_allclose(across, se3.exp(torch.from_numpy(TWIST)), atol=1e-12)
    standing, _ = COASTING.increment(20.0, 21.0)
    np.testing.assert_array_equal(standing, np.eye(4))


def test_displacement_is_what_the_car_could_have_done():
    std = np.sqrt(np.diagonal(COASTING.displacement_cov(2.0)))
    assert std[0] == pytest.approx(np.hypot(2 * 0.2, 0.5 * 3.0 * 2.0**2))
    assert std[5] == pytest.approx(np.hypot(2 * 0.01, 0.5 * 0.5 * 2.0**2))


def test_the_error_of_the_mean_velocity_is_bounded():
    std = np.sqrt(np.diagonal(COASTING.displacement_cov(1000.0)))
    assert std[0] == pytest.approx(1000 * np.hypot(0.2, 30.0))
    assert std[5] == pytest.approx(1000 * np.hypot(0.01, 1.0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-3, 30), min_size=1, max_size=12))
def test_a_gap_in_pieces_adds_up_to_the_whole(pieces):
    coasting = Coasting(np.zeros(6), TWIST_COV, SETTINGS)
    ends = np.cumsum(pieces)
    starts = np.concatenate([[0], ends[:-1]])
    covs = [coasting.increment(a, b)[1] for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(sum(covs), coasting.displacement_cov(ends[-1]), rtol=1e-6)
    for cov, a, b in zip(covs, starts, ends, strict=True):
        np.linalg.cholesky(cov)
        acceleration_alone = np.array([3.0] * 3 + [0.5] * 3) * (a + b) / 2 * (b - a)
        if 0.5 * b * 0.5 < 1.0:  # below the bound on the mean angular rate
            assert (np.sqrt(np.diagonal(cov)) >= 0.999999 * acceleration_alone).all()


def test_unknown_velocity_is_wide_and_centred_on_standing():
    T, cov = Coasting.unknown(SETTINGS).increment(0.0, 0.1)
    np.testing.assert_array_equal(T, np.eye(4))
    assert np.sqrt(cov[0, 0]) == pytest.approx(3.0, rel=0.01)
