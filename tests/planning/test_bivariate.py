"""Upper tails against scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import owens_t as scipy_owens_t
from scipy.stats import multivariate_normal, norm

from bayes_vio.planning.bivariate import owens_t, upper_quadrant, upper_tail

LIMIT = st.floats(-7, 7)


def quadrant(h: float, k: float, r: float) -> float:
    values = (torch.tensor([v], dtype=torch.float64) for v in (h, k, r))
    return upper_quadrant(*values).item()


@given(LIMIT, st.floats(-50, 50))
def test_owens_t_is_scipys(h, a):
    ours = owens_t(*(torch.tensor(v, dtype=torch.float64) for v in (h, a))).item()
    assert ours == pytest.approx(scipy_owens_t(np.float64(h), np.float64(a)), abs=1e-9)


def test_quadrants_are_scipys():
    g = np.random.default_rng(0)
    h, k, r = 2 * g.normal(size=200), 2 * g.normal(size=200), np.tanh(2 * g.normal(size=200))
    ours = upper_quadrant(*(torch.from_numpy(v) for v in (h, k, r))).numpy()
    pairs = zip(-h, -k, r, strict=True)
    truth = [multivariate_normal.cdf([a, b], cov=[[1, c], [c, 1]]) for a, b, c in pairs]
    np.testing.assert_allclose(ours, truth, atol=1e-9)


@pytest.mark.parametrize("r", [-1.0, -0.99, -0.3, 0.0, 0.6, 0.999, 1.0])
def test_the_quadrant_above_zero_has_its_closed_form(r):
    assert quadrant(0.0, 0.0, r) == pytest.approx(0.25 + math.asin(r) / (2 * math.pi), abs=1e-7)


@given(LIMIT, LIMIT)
def test_equal_variables_share_the_smaller_tail(h, k):
    assert quadrant(h, k, 1.0) == pytest.approx(norm.sf(max(h, k)), abs=1e-7)
    assert quadrant(h, k, 0.0) == pytest.approx(norm.sf(h) * norm.sf(k), abs=1e-9)


@given(LIMIT, LIMIT, st.floats(-1, 1))
def test_a_joint_probability_keeps_frechets_bounds(h, k, r):
    p, q = norm.sf(h), norm.sf(k)
    assert max(0.0, p + q - 1) - 1e-9 <= quadrant(h, k, r) <= min(p, q) + 1e-9


def test_tails_are_accurate_far_out():
    z = torch.tensor([0.0, 3.0, 8.0], dtype=torch.float64)
    np.testing.assert_allclose(upper_tail(z).numpy(), norm.sf(z.numpy()), rtol=1e-12)
