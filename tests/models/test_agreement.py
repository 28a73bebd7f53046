"""Contradictions of camera and gyro: against dense least squares and errors put in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.models.agreement import (
    _PRIOR_STD,
    Estimate,
    GyroWindow,
    SensorAgreement,
    rotation_cov_of,
)

DT_S = 0.1
STD = np.array([1.5e-3, 7e-4, 2e-3])


def drive(n: int, seed: int, bias: np.ndarray, offset_s: float):
    """Yield the camera's rotation and the gyro's window of a shaking, turning car."""
    rng = np.random.default_rng(seed)
    time_s = DT_S / 20 * (np.arange(20 * n + 1) + 0.5)
    phase = rng.uniform(0, 6, 3)
    frequency_hz, amplitude = np.array([1.1, 0.9, 0.2]), np.array([0.05, 0.05, 0.3])

    def rate(at_s: np.ndarray) -> np.ndarray:
        return amplitude * np.sin(2 * np.pi * frequency_hz * at_s[:, None] + phase)

    true, told = rate(time_s), rate(time_s + offset_s) + bias
    for k in range(n):
        rows = slice(20 * k, 20 * (k + 1))
        camera = DT_S * true[rows].mean(0) + STD * rng.normal(size=3)
        imu = np.concatenate([np.zeros((20, 3)), told[rows]], axis=1)
        yield camera, GyroWindow.of(imu, DT_S)


def followed(n: int, seed: int, bias=(0.0, 0.0, 0.0), offset_s=0.0, memory_s=1e9):
    agreement = SensorAgreement(memory_s)
    for camera, gyro in drive(n, seed, np.array(bias), offset_s):
        agreement.add(camera, np.diag(STD**2), gyro, DT_S)
    return agreement.estimate.theta


def test_the_recursion_is_the_weighted_least_squares_of_all_intervals():
    vibration_std, memory_s = np.array([5e-4, 1e-3, 0.0]), 3.0
    agreement, rows = SensorAgreement(memory_s, vibration_std), []
    rng = np.random.default_rng(0)
    for camera, gyro in drive(60, 1, np.array([1e-3, 0, 2e-3]), 0.01):
        A = rng.normal(size=(3, 3))
        cov = np.diag(STD) @ (A @ A.T + np.eye(3)) @ np.diag(STD)
        agreement.add(camera, cov, gyro, DT_S)
        rows.append((gyro.design, camera - gyro.rotation, cov + np.diag(vibration_std**2)))
    information, told = np.diag(_PRIOR_STD**-2), np.zeros(5)
    for age, (H, y, cov) in enumerate(reversed(rows)):
        weight = np.exp(-DT_S * age / memory_s)
        information += weight * H.T @ np.linalg.inv(cov) @ H
        told += weight * H.T @ np.linalg.inv(cov) @ y
    known = agreement.estimate
    np.testing.assert_allclose(known.theta, np.linalg.solve(information, told), rtol=1e-8)
    np.testing.assert_allclose(known.var, np.linalg.inv(information).diagonal(), rtol=1e-8)


def test_a_bias_is_told_with_its_sign_turned_around():
    bias = np.array([0.004, -0.003, 0.005])
    theta = followed(600, 2, bias)
    expected_std = STD / DT_S / np.sqrt(600)
    np.testing.assert_allclose(theta[:3], -bias, atol=4 * expected_std.max())


@pytest.mark.parametrize("offset_s", [-0.03, 0.02, 0.05])
def test_a_wrong_time_offset_is_told(offset_s):
    assert followed(600, 3, offset_s=offset_s)[4] == pytest.approx(-offset_s, abs=0.008)


def test_sensors_in_order_tell_no_more_than_their_noise():
    theta = np.array([followed(200, seed) for seed in range(20)])
    std = STD / DT_S / np.sqrt(200)
    assert (np.sqrt(np.mean(theta[:, :3] ** 2, axis=0)) < 1.5 * std).all()


def test_an_old_contradiction_is_forgotten():
    agreement = SensorAgreement(1.0)
    for camera, gyro in drive(100, 4, np.full(3, 0.02), 0.0):
        agreement.add(camera, np.diag(STD**2), gyro, DT_S)
    before = np.abs(agreement.estimate.theta[:3]).min()
    for camera, gyro in drive(100, 5, np.zeros(3), 0.0):
        agreement.add(camera, np.diag(STD**2), gyro, DT_S)
    assert np.abs(agreement.estimate.theta[:3]).max() < 0.5 * before
    agreement.reset()
    np.testing.assert_array_equal(agreement.estimate.theta, 0)
    np.testing.assert_allclose(agreement.estimate.var, _PRIOR_STD**2)


def test_a_comparison_counts_once_however_long_the_time_that_it_stands_for():
    camera, gyro = next(iter(drive(1, 6, np.full(3, 0.02), 0.0)))
    told = []
    for elapsed_s in (DT_S, 5 * DT_S):
        agreement = SensorAgreement(10.0)
        agreement.add(camera, np.diag(STD**2), gyro, elapsed_s)
        told.append(agreement.estimate)
    np.testing.assert_array_equal(told[0].theta, told[1].theta)
    np.testing.assert_array_equal(told[0].var, told[1].var)


def test_deviations_of_sensors_in_order_are_those_of_a_gaussian():
    """With no usual deviation but P, theta over its own deviation is standard normal."""
    told = []
    for seed in range(200):
        agreement = SensorAgreement(1e9)
        for camera, gyro in drive(30, seed, np.zeros(3), 0.0):
            agreement.add(camera, np.diag(STD**2), gyro, DT_S)
        told.append(agreement.estimate.deviations(np.zeros(5)))
    # The largest of four: 95 % lie within 2.49, 19 % within one.
    assert np.mean(np.array(told) < 2.49) == pytest.approx(0.95, abs=0.06)
    assert np.mean(np.array(told) < 1.0) < 0.35


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-0.1, 0.1), min_size=5, max_size=5),
    st.lists(st.floats(1e-4, 0.1), min_size=5, max_size=5),
    st.integers(0, 100),
)
def test_variances_and_covariances_are_such_and_grow_with_the_contradiction(theta, std, seed):
    usual, response = np.array(std), np.full(5, 0.5)
    var = Estimate(np.array(theta), usual**2 / 2).unusual_var(usual, 2.5, response)
    assert (var >= 0).all()
    assert var[3] == 0
    twice = Estimate(2 * np.array(theta), usual**2 / 2)
    assert (twice.unusual_var(usual, 2.5, response) >= var).all()
    assert var.any() == (Estimate(np.array(theta), usual**2 / 2).deviations(usual) > 2.5)
    gyro = next(iter(drive(1, seed, np.zeros(3), 0.0)))[1]
    cov = rotation_cov_of(var, gyro)
    assert np.linalg.eigvalsh(cov).min() >= -1e-15
    np.testing.assert_allclose(
        cov, sum(v * np.outer(h, h) for v, h in zip(var, gyro.design.T, strict=True)), atol=1e-15
    )


def test_what_is_usual_counts_nothing_and_what_is_not_counts_whole():
    usual, response = np.full(5, 1e-3), np.array([0.5, 1, 1, 1, 1])
    var = np.full(5, 3e-6)
    small, large = (
        Estimate(np.full(5, theta), var).unusual_var(usual, 2.0, response) for theta in (4e-3, 0.1)
    )
    np.testing.assert_array_equal(small, np.zeros(5))
    np.testing.assert_allclose(large, np.array([4, 1, 1, 0, 1]) * (1e-2 - 1.6e-5))
