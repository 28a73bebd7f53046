import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from bayes_vio.geometry import se3, so3
from tests.geometry.test_so3 import rotation_vectors

EXAMPLES = settings(max_examples=40, deadline=None)


@st.composite
def twists(draw: st.DrawFn, largest_m: float = 50.0, largest_rad: float = 3.0) -> torch.Tensor:
    linear = draw(st.lists(st.floats(-largest_m, largest_m), min_size=3, max_size=3))
    return torch.cat([torch.tensor(linear).double(), draw(rotation_vectors(largest_rad))])


def algebra_matrix(xi: torch.Tensor) -> np.ndarray:
    M = np.zeros((4, 4))
    M[:3, :3], M[:3, 3] = so3.hat(xi[3:]), xi[:3]
    return M


def random_cov(seed: int, scale: float) -> torch.Tensor:
    A = torch.randn(6, 6, dtype=torch.float64, generator=torch.manual_seed(seed))
    return scale**2 * (A @ A.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64))


def draws(cov: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    white = torch.randn(n, 6, dtype=torch.float64, generator=torch.manual_seed(seed))
    return white @ torch.linalg.cholesky(cov).T


def assert_cov_close(samples: torch.Tensor, cov: torch.Tensor, sigmas: float = 5.0) -> None:
    """Compare a sample covariance with ``cov``, entry by entry, within its standard error."""
    std = cov.diagonal().sqrt()
    error = (samples.T.cov() - cov) / std / std[:, None]
    correlation = cov / std / std[:, None]
    standard_error = ((1 + correlation**2) / len(samples)).sqrt()
    assert float((error / standard_error).abs().max()) < sigmas


@EXAMPLES
@given(twists())
def test_exp_is_the_matrix_exponential(xi):
    np.testing.assert_allclose(se3.exp(xi), expm(algebra_matrix(xi)), atol=1e-11)


@EXAMPLES
@given(twists())
def test_log_inverts_exp(xi):
    np.testing.assert_allclose(se3.log(se3.exp(xi)), xi, atol=1e-9)


@EXAMPLES
@given(twists(), twists())
def test_inverse_and_parts(a, b):
    T = se3.exp(a) @ se3.exp(b)
    np.testing.assert_allclose(T @ se3.inverse(T), np.eye(4), atol=1e-11)
    rebuilt = se3.from_rotation_translation(se3.rotation(T), se3.translation(T))
    np.testing.assert_allclose(rebuilt, T, atol=1e-14)


@EXAMPLES
@given(twists(), twists(1.0, 1.0))
def test_adjoint_moves_a_perturbation_to_the_other_side(xi, d):
    T = se3.exp(xi)
    left = se3.exp(se3.adjoint(T) @ d) @ T
    np.testing.assert_allclose(T @ se3.exp(d), left, atol=1e-10)


@EXAMPLES
@given(twists(5.0, 2.0))
def test_adjoint_of_exp_is_exp_of_curly_hat(xi):
    expected = expm(se3.curly_hat(xi).numpy())
    np.testing.assert_allclose(se3.adjoint(se3.exp(xi)), expected, atol=1e-10)


@EXAMPLES
@given(twists(5.0, 2.8), twists(1.0, 1.0).filter(lambda d: d.norm() > 1e-3))
def test_jacobians_by_central_differences(xi, direction):
    step = 1e-5 * direction / direction.norm()
    later, earlier = se3.exp(xi + step), se3.exp(xi - step)
    left = se3.log(later @ se3.inverse(earlier)) / 2e-5
    right = se3.log(se3.inverse(earlier) @ later) / 2e-5
    np.testing.assert_allclose(left, se3.left_jacobian(xi) @ step / 1e-5, atol=1e-6)
    np.testing.assert_allclose(right, se3.right_jacobian(xi) @ step / 1e-5, atol=1e-6)


@EXAMPLES
@given(twists(5.0, 0.3))
def test_left_jacobian_is_the_series_of_the_bracket(xi):
    ad, term, total = se3.curly_hat(xi).numpy(), np.eye(6), np.eye(6)
    for k in range(1, 25):
        term = term @ ad / (k + 1)
        total = total + term
    np.testing.assert_allclose(se3.left_jacobian(xi), total, atol=1e-9)


def test_series_of_the_coupling_meets_its_closed_form():
    v = torch.tensor([3.0, -1.0, 2.0]).double()
    axis = torch.tensor([0.6, -0.64, 0.48]).double()
    below, above = (se3.left_jacobian(torch.cat([v, axis * (5e-2 + d)])) for d in (-1e-10, 1e-10))
    np.testing.assert_allclose(below, above, atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1])
def test_log_cov_to_right_cov_against_monte_carlo(seed):
    xi = torch.tensor([1.5, -0.4, 0.2, 0.3, -0.5, 0.8]).double()
    cov = random_cov(seed, 3e-3)
    T_true = se3.exp(xi + draws(cov, 20_000, seed + 10))
    errors = se3.log(se3.inverse(se3.exp(xi)) @ T_true)
    assert_cov_close(errors, se3.log_cov_to_right_cov(xi, cov))


@pytest.mark.parametrize("seed", [0, 1])
def test_compound_against_monte_carlo(seed):
    T, T_inc = (se3.exp(draws(random_cov(s, 1.0), 1, s)[0]) for s in (seed + 2, seed + 3))
    cov, cov_inc = random_cov(seed, 5e-3), random_cov(seed + 1, 2e-3)
    T_true = T @ se3.exp(draws(cov, 20_000, seed + 20))
    T_inc_true = T_inc @ se3.exp(draws(cov_inc, 20_000, seed + 30))
    errors = se3.log(se3.inverse(T @ T_inc) @ T_true @ T_inc_true)
    assert_cov_close(errors, se3.compound(cov, T_inc, cov_inc))


def test_rotate_cov_against_monte_carlo_far_from_the_origin():
    T = se3.exp(torch.tensor([0, 0, 0, 0.1, -0.2, 2.0]).double())
    T[:3, 3] = torch.tensor([500.0, -290.0, 30.0])
    cov = torch.diag(torch.tensor([0.04, 0.03, 0.02, 2e-3, 2e-3, 4e-3]).double() ** 2)
    T_true = T @ se3.exp(draws(cov, 20_000, 5))
    R_error = se3.rotation(T_true) @ se3.rotation(T).mT
    about_fixed_axes = torch.cat([se3.translation(T_true - T), so3.log(R_error)], -1)
    assert_cov_close(about_fixed_axes, se3.rotate_cov(se3.rotation(T), cov))


@EXAMPLES
@given(twists(), st.integers(0, 1000))
def test_covariances_stay_positive_definite(xi, seed):
    cov = random_cov(seed, 0.1)
    for moved in (se3.compound(cov, se3.exp(xi), cov), se3.log_cov_to_right_cov(xi, cov)):
        np.testing.assert_array_equal(moved, moved.mT)
        torch.linalg.cholesky(moved)
