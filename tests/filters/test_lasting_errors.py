import numpy as np
import pytest

from bayes_vio.filters.lasting_errors import ErrorModel, LastingErrors, lasting_noise
from bayes_vio.models.noise import NoiseCorrelation
from tests.filters.smoother_cases import random_cov

FAST = NoiseCorrelation((2.0, 1.0, 0.0, 1.0, 1.0, 1.0), (0.5, 0.2, 0.5, 0.0, 0.1, 0.3))
SLOW = NoiseCorrelation((600.0,) * 6, (0.3, 0.4, 0.0, 0.0, 0.0, 0.0))


def test_parts_add_up_to_the_variance_of_every_axis():
    rng = np.random.default_rng(0)
    N, E = random_cov(rng, np.full(6, 0.1)), random_cov(rng, np.full(6, 0.02))
    errors = LastingErrors(ErrorModel(FAST, SLOW, epistemic_time_s=10.0, fix_std_m=1.0))
    assert errors.size == 4 + 2 + 6 + 3
    white, C = errors.split(N, E)
    np.testing.assert_allclose(np.diag(white + C @ C.T), np.diag(N + E), rtol=1e-12)
    np.testing.assert_allclose(errors.of_fixes() @ errors.of_fixes().T, np.eye(3))
    assert not (C @ errors.of_fixes().T).any()  # fixes and increments err apart


def test_white_errors_leave_nothing_that_lasts():
    errors = LastingErrors(ErrorModel())
    white, C = errors.split(np.eye(6), 0.5 * np.eye(6))
    assert errors.size == 0
    assert C.shape == (6, 0)
    np.testing.assert_array_equal(white, 1.5 * np.eye(6))


def test_an_axis_of_which_all_lasts_keeps_a_positive_definite_white_part():
    all_lasts = NoiseCorrelation((5.0,) * 6, (1.0,) * 6)
    white, _ = LastingErrors(ErrorModel(all_lasts)).split(np.eye(6), np.eye(6) * 1e-12)
    np.linalg.cholesky(white)


def drawn(frames: int, fast: float, tau_s: float, slow: float, seed: int, dt_s: float = 0.1):
    """Return unit errors [frames, 6] of which shares last for tau_s and for the whole drive."""
    rng = np.random.default_rng(seed)
    rho, z = np.exp(-dt_s / tau_s), np.empty((frames, 6))
    z[0] = rng.normal(size=6)
    for k in range(1, frames):
        z[k] = rho * z[k - 1] + np.sqrt(1 - rho**2) * rng.normal(size=6)
    white = np.sqrt(1 - fast - slow) * rng.normal(size=(frames, 6))
    sign = np.where(rng.random(6) < 0.5, -1, 1)
    return np.sqrt(fast) * z + np.sqrt(slow) * sign + white, dt_s


def test_shares_and_times_are_found_again():
    fast, slow = lasting_noise([drawn(6000, 0.4, 1.5, 0.3, seed) for seed in range(4)])
    assert np.mean(fast.share) == pytest.approx(0.4, abs=0.08)
    assert np.mean(fast.time_s) == pytest.approx(1.5, rel=0.3)
    assert np.mean(slow.share) == pytest.approx(0.3, abs=0.06)


def test_white_noise_is_found_to_be_white():
    fast, slow = lasting_noise([drawn(6000, 0.0, 1.0, 0.0, 1)])
    assert np.max(fast.share) < 0.1
    assert np.max(slow.share) < 0.05


def test_what_makes_no_model_is_refused():
    with pytest.raises(ValueError, match="more than 1"):
        ErrorModel(
            NoiseCorrelation((1.0,) * 6, (0.7,) * 6), NoiseCorrelation((9.0,) * 6, (0.5,) * 6)
        )
    with pytest.raises(ValueError, match="epistemic_time_s"):
        ErrorModel(epistemic_time_s=-1.0)
    with pytest.raises(ValueError, match="fix_time_s"):
        ErrorModel(fix_time_s=0.0)
    with pytest.raises(ValueError, match="20 frames"):
        lasting_noise([(np.zeros((10, 6)), 0.1)])
