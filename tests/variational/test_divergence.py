"""Divergences against Monte Carlo, quadrature, torch's own closed forms and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch.distributions import Normal, kl_divergence

from bayes_vio.variational.divergence import (
    LOG_ALPHA_RANGE,
    gaussian_divergence,
    log_alpha,
    log_uniform_divergence,
)
from tests.cases import normal

finite = st.floats(-4.0, 4.0)


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@settings(deadline=None)
@given(mean=finite, log_variance=st.floats(-12.0, 4.0), log_precision=finite)
def test_gaussian_divergence_is_that_of_torch(mean, log_variance, log_precision):
    ours = gaussian_divergence(double(mean), double(log_variance), math.exp(log_precision))
    std = double(log_variance / 2).exp()
    prior_std = double(-log_precision / 2).exp()
    truth = kl_divergence(Normal(double(mean), std), Normal(double(0.0), prior_std))
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)


def test_gaussian_divergence_is_a_mean_of_log_ratios():
    mean, log_variance = normal(3, 2, seed=1), normal(3, 2, seed=2) - 1
    q, p = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1 / math.sqrt(2.5))
    w = mean + (log_variance / 2).exp() * normal(100_000, 3, 2, seed=3)
    ratios = (q.log_prob(w) - p.log_prob(w)).sum((1, 2))
    error = float(ratios.std()) / math.sqrt(len(ratios))
    ours = float(gaussian_divergence(mean, log_variance, 2.5))
    assert ours == pytest.approx(float(ratios.mean()), abs=4 * error)


def exact_log_uniform(log_alpha: float) -> float:
    """Return KL(N(1, alpha) || 1 / |w|) by quadrature, zero for alpha to infinity."""
    std = math.exp(log_alpha / 2)

    def integrand(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * math.log(abs(1 + std * z))

    # Two intervals: the integrand is singular where they meet.
    edges = [-12.0, max(-1 / std, -12.0), 12.0]
    mean_log = sum(
        integrate.quad(integrand, low, high, limit=400)[0] for low, high in pairwise(edges)
    )
    at_infinity = (np.euler_gamma + math.log(2)) / 2  # -E log|z| of a standard normal z
    return mean_log - log_alpha / 2 + at_infinity


@pytest.mark.parametrize("value", [-7.5, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0])
def test_log_uniform_fit_is_as_good_as_its_source_says(value):
    ours = float(log_uniform_divergence(double(value)))
    assert ours == pytest.approx(exact_log_uniform(value), abs=0.01)


def test_log_uniform_divergence_falls_to_zero():
    values = torch.linspace(*LOG_ALPHA_RANGE, 200, dtype=torch.float64)
    divergences = torch.stack([log_uniform_divergence(v) for v in values])
    assert bool((divergences.diff() < 0).all())
    assert 0 <= float(divergences[-1]) < 1e-3


def test_log_alpha_beyond_its_range_has_no_gradient():
    values = torch.tensor([-20.0, 20.0, 0.0], requires_grad=True)
    log_uniform_divergence(values).backward()
    assert values.grad is not None
    assert values.grad[:2].tolist() == [0.0, 0.0]
    assert float(values.grad[2]) < 0


def test_gradients_are_finite_differences():
    mean = normal(4, seed=4).requires_grad_()
    log_variance = (normal(4, seed=5) - 1).requires_grad_()
    torch.autograd.gradcheck(
        lambda m, v: log_uniform_divergence(log_alpha(m, v)), (mean, log_variance)
    )
    torch.autograd.gradcheck(lambda m, v: gaussian_divergence(m, v, 3.0), (mean, log_variance))


def test_log_alpha_of_a_zero_mean_is_finite():
    values = log_alpha(torch.zeros(2), torch.tensor([-10.0, 0.0]))
    assert bool(torch.isfinite(values).all())
    assert bool((values > 3).all())
