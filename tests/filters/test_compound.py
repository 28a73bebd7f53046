"""Fourth order against Monte Carlo: one compound, and drives whose heading is badly known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.compound import SECOND_ORDER, Order, compound_of
from bayes_vio.filters.consistency import nees
from bayes_vio.filters.covariance import check_spd, symmetric_sqrt
from bayes_vio.geometry import se3

STD = np.array([0.5, 0.3, 0.2, 0.1, 0.1, 0.3])


def joint_cov(seed: int, scale: float, correlated: bool) -> np.ndarray:
    """Return the covariance [12, 12] of a and b."""
    A = np.random.default_rng(seed).normal(size=(12, 16))
    cov = A @ A.T / 16
    if not correlated:
        cov[:6, 6:] = cov[6:, :6] = 0
    std = scale * np.tile(STD, 2) / np.sqrt(np.diagonal(cov))
    return std[:, None] * cov * std


def predicted(cov: np.ndarray, order: Order) -> np.ndarray:
    aa, bb, ab = cov[:6, :6], cov[6:, 6:], cov[:6, 6:]
    by = compound_of(aa, bb, ab, order)
    both = np.hstack([by.of_pose, by.of_increment])
    return both @ cov @ both.T + by.left_cov


def sampled(cov: np.ndarray, n: int) -> np.ndarray:
    """Return the second moment of Log(exp(a) exp(b))."""
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(12), cov, n)
    a, b = (torch.from_numpy(np.ascontiguousarray(d)) for d in (draws[:, :6], draws[:, 6:]))
    xi = se3.log(se3.exp(a) @ se3.exp(b)).numpy()
    return xi.T @ xi / n


@pytest.mark.parametrize(("seed", "correlated"), [(0, False), (1, True)])
def test_fourth_order_is_closer_to_monte_carlo(seed, correlated):
    cov, n = joint_cov(seed, 1.0, correlated), 150_000
    truth = sampled(cov, n)
    std = np.sqrt(np.diagonal(truth))
    error = {
        order: np.abs((predicted(cov, order) - truth) / np.outer(std, std)).max()
        for order in (Order.SECOND, Order.FOURTH)
    }
    assert error[Order.FOURTH] < 0.25 * error[Order.SECOND]
    assert error[Order.FOURTH] < 0.02


def test_the_error_of_fourth_order_is_of_the_sixth():
    """Halving the deviations divides the relative error by 16, that of second order by 4."""

    def error(scale: float, order: Order) -> float:
        cov = joint_cov(2, scale, correlated=False)
        truth = exact_terms(cov)
        std = np.sqrt(np.diagonal(cov)[:6])
        return float(np.abs((predicted(cov, order) - truth) / np.outer(std, std)).max())

    ratio = error(0.02, Order.FOURTH) / error(0.01, Order.FOURTH)
    assert 14 < ratio < 18
    assert 3.5 < error(0.02, Order.SECOND) / error(0.01, Order.SECOND) < 4.5


def exact_terms(cov: np.ndarray) -> np.ndarray:
    """Return the polynomial of Barfoot and Furgale for independent a and b, by its blocks."""
    aa, bb = cov[:6, :6], cov[6:, 6:]

    def block(S):
        return S[:3, :3], S[:3, 3:], S[3:, 3:]

    def op(A):
        return -np.trace(A) * np.eye(3) + A

    def op2(A, B):
        return op(A) @ op(B) + op(B @ A)

    def A_of(S):
        _, rp, pp = block(S)
        return np.block([[op(pp), op(rp + rp.T)], [np.zeros((3, 3)), op(pp)]])

    (a_rr, a_rp, a_pp), (b_rr, b_rp, b_pp) = block(aa), block(bb)
    rr = op2(a_pp, b_rr) + op2(a_rp.T, b_rp) + op2(a_rp, b_rp.T) + op2(a_rr, b_pp)
    rp = op2(a_pp, b_rp.T) + op2(a_rp.T, b_pp)
    B = np.block([[rr, rp], [rp.T, op2(a_pp, b_pp)]])
    twelfth = A_of(aa) @ bb + bb @ A_of(aa).T + A_of(bb) @ aa + aa @ A_of(bb).T
    return aa + bb + B / 4 + twelfth / 12


def test_small_angles_are_compounded_to_second_order_as_needed():
    cov = joint_cov(0, 0.1, correlated=True)
    args = cov[:6, :6], cov[6:, 6:], cov[:6, 6:]
    assert compound_of(*args, Order.AS_NEEDED) is SECOND_ORDER
    wide = np.diag([1, 1, 1, 1e-4, 1e-4, 0.11**2])
    assert compound_of(wide, *args[1:], Order.AS_NEEDED) is not SECOND_ORDER


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 5))
def test_whatever_is_compounded_stays_a_covariance(seed, scale):
    check_spd(predicted(joint_cov(seed, scale, correlated=True), Order.FOURTH), "compound")


def drift(tau_s: float, steps: int = 100, seed: int = 3):
    """Return odometries of a winding drive that ends with 0.3 rad of yaw, and true poses."""
    n, rng, dt_s = 3000, np.random.default_rng(seed), 0.1
    coherent = steps if math.isinf(tau_s) else math.sqrt(steps)
    epistemic_cov = np.diag(np.array([0.02, 0.004, 0.004, 1e-3, 1e-3, 0.3]) / coherent) ** 2
    epistemic_cov[:3, :3] = np.diag([0.02, 0.004, 0.004]) ** 2
    noise_cov = np.diag([0.02, 0.01, 0.01, 2e-3, 2e-3, 2e-3]) ** 2
    start_cov = 1e-10 * np.eye(6)
    rho = math.exp(-dt_s / tau_s) if tau_s > 0 else 0.0
    odometries = {o: Odometry(tau_s, start_cov, order=o) for o in (Order.SECOND, Order.FOURTH)}
    T_true, z = torch.eye(4, dtype=torch.float64).expand(n, 4, 4), rng.normal(size=(n, 6))
    for k in range(steps):
        T = se3.exp(torch.tensor([1.0, 0, 0, 0, 0, 0.05 * math.sin(k / 10)]).double())
        z = rho * z + math.sqrt(1 - rho**2) * rng.normal(size=(n, 6))
        noise = rng.multivariate_normal(np.zeros(6), noise_cov, n)
        error = torch.from_numpy(noise + z @ symmetric_sqrt(epistemic_cov))
        T_true = T_true @ T @ se3.exp(error)
        for odometry in odometries.values():
            odometry.add(T.numpy(), noise_cov, epistemic_cov, dt_s)
    return odometries, T_true


@pytest.mark.parametrize("tau_s", [0.0, math.inf])
def test_coverage_in_lie_coordinates_at_a_third_of_a_radian_of_yaw(tau_s):
    """Noise: 0.3 rad of yaw at the end, 2 cm forward and 1 cm across a step, 100 steps of 1 m."""
    found, (odometries, T_true) = {}, drift(tau_s)
    for order, odometry in odometries.items():
        T = torch.from_numpy(odometry.T_odom_base)
        error = se3.log(se3.inverse(T) @ T_true).numpy()
        squared = nees(error, np.broadcast_to(odometry.cov, (len(error), 6, 6)))
        found[order] = float(np.mean(squared < stats.chi2.ppf(0.95, 6))), squared.mean() / 6
    assert abs(found[Order.FOURTH][1] - 1) < 0.25
    assert abs(found[Order.FOURTH][1] - 1) <= abs(found[Order.SECOND][1] - 1)
    assert found[Order.FOURTH][0] > 0.91
    assert found[Order.FOURTH][0] >= found[Order.SECOND][0] - 0.002
