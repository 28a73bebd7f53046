import numpy as np
import pytest
import torch

from bayes_vio.filters.published import (
    advanced_twist_cov,
    fixed_axes_cov,
    mean_twist,
    mean_twist_cov,
    right_perturbation_cov,
)
from bayes_vio.geometry import se3, so3


def pose(xi, position=None) -> torch.Tensor:
    T = se3.exp(torch.tensor(xi).double())
    if position is not None:
        T[:3, 3] = torch.tensor(position).double()
    return T


def random_cov(seed: int, std) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(6, 12))
    cov = A @ A.T
    scale = np.asarray(std) / np.sqrt(np.diagonal(cov))
    return scale[:, None] * cov * scale


def perturbed(T: torch.Tensor, cov: np.ndarray, n: int, seed: int) -> torch.Tensor:
    errors = np.random.default_rng(seed).multivariate_normal(np.zeros(6), cov, n)
    return T @ se3.exp(torch.from_numpy(errors))


def assert_cov_close(samples: np.ndarray, cov: np.ndarray) -> None:
    std = np.sqrt(np.diagonal(cov))
    correlation = cov / np.outer(std, std)
    error = (np.cov(samples.T) - cov) / np.outer(std, std)
    assert np.abs(error / np.sqrt((1 + correlation**2) / len(samples))).max() < 5


def test_pose_covariance_580_m_from_the_origin_against_monte_carlo():
    T = pose([0, 0, 0, 0.05, -0.1, 2.2], [500.0, -293.0, 20.0])
    cov = random_cov(0, [0.04, 0.03, 0.02, 1e-3, 1e-3, 4e-3])
    T_true = perturbed(T, cov, 20_000, 1)
    rotated = so3.log(se3.rotation(T_true) @ se3.rotation(T).mT)
    samples = torch.cat([se3.translation(T_true - T), rotated], -1).numpy()
    published = fixed_axes_cov(T.numpy(), cov)
    assert_cov_close(samples, published)
    assert np.sqrt(np.diagonal(published)[:3]).max() < 0.05


def test_the_adjoint_of_the_absolute_pose_would_be_wrong():
    T = pose([0, 0, 0, 0.05, -0.1, 2.2], [500.0, -293.0, 20.0])
    cov = random_cov(0, [0.04, 0.03, 0.02, 1e-3, 1e-3, 4e-3])
    Ad = se3.adjoint(T).numpy()
    assert np.sqrt((Ad @ cov @ Ad.T)[0, 0]) > 1.0


def test_right_perturbation_cov_is_the_inverse():
    T, cov = pose([1.0, 2, 3, 0.3, 0.2, -1]).numpy(), random_cov(3, np.linspace(0.1, 1, 6))
    np.testing.assert_allclose(right_perturbation_cov(T, fixed_axes_cov(T, cov)), cov, atol=1e-14)


def test_twist_and_its_covariance_against_monte_carlo():
    dt_s = 0.1
    T = pose([1.5, 0.05, -0.02, 0.02, -0.03, 0.4])
    cov = random_cov(4, [0.05, 0.02, 0.02, 2e-3, 2e-3, 5e-3])
    samples = se3.log(perturbed(T, cov, 20_000, 5)).numpy() / dt_s
    assert_cov_close(samples, mean_twist_cov(T.numpy(), cov, dt_s))
    np.testing.assert_allclose(
        mean_twist(T.numpy(), dt_s), [15, 0.5, -0.2, 0.2, -0.3, 4], atol=1e-9
    )


def test_twist_covariance_is_that_of_base_link_half_way():
    xi = np.array([0.4, 0.0, 0, 0, 0, 0.05])
    cov = random_cov(6, [0.05, 0.02, 0.02, 2e-3, 2e-3, 5e-3])
    Ad = se3.adjoint(pose(0.5 * xi)).numpy()
    half_way = Ad @ cov @ Ad.T / 0.01
    np.testing.assert_allclose(
        mean_twist_cov(pose(xi).numpy(), cov, 0.1), half_way, atol=1e-3 * half_way.max()
    )


@pytest.mark.parametrize("dt_s", [0.05, 0.2])
def test_advanced_twist_adds_what_the_car_could_have_accelerated(dt_s):
    cov = random_cov(7, np.linspace(0.1, 1, 6))
    added = advanced_twist_cov(cov, dt_s, 3.0, 0.5) - cov
    expected = np.diag(np.repeat([1.5 * dt_s, 0.25 * dt_s], 3) ** 2)
    np.testing.assert_allclose(added, expected, atol=1e-15)
