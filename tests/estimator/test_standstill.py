"""The gyro's bias is learned where the car stands, nowhere else, and to the accuracy it claims."""

import numpy as np
import pytest

from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.data.samples import VIEW_FOCAL_PX
from bayes_vio.estimator.standstill import FlowSum, GyroBias, StandstillSettings, stands

DT_S = 0.1
VALID = np.ones(20, np.float32)
STILL = np.zeros((2, 40, 128), np.float32)
SETTINGS = StandstillSettings()
BIAS = np.array([4e-3, -2e-3, 7e-3])


def imu_at_rest(rng: np.random.Generator, bias=BIAS, noise_density: float = 1e-3) -> np.ndarray:
    """Bins [20, 6] of a car that stands, white noise of the gyro's density in them."""
    bins = np.zeros((20, 6))
    bins[:, 2] = GRAVITY_M_S2
    bins[:, :3] += rng.normal(0, 0.02, (20, 3))
    bins[:, 3:] = bias + rng.normal(0, noise_density / np.sqrt(DT_S / 20), (20, 3))
    return bins.astype(np.float32)


def stood(seconds: float, seed: int = 0) -> GyroBias:
    rng, bias = np.random.default_rng(seed), GyroBias()
    for _ in range(round(seconds / DT_S)):
        bias.observe(True, imu_at_rest(rng), DT_S)
    return bias


def test_a_car_at_rest_stands_and_another_car_may_pass() -> None:
    imu = imu_at_rest(np.random.default_rng(0), noise_density=2e-4)
    flow = STILL.copy()
    assert stands(flow, imu, VALID, SETTINGS)
    flow[0, 15:25, 20:40] = 0.1
    assert stands(flow, imu, VALID, SETTINGS)


@pytest.mark.parametrize("what", ["no image", "flow", "turn", "shaking", "vibration", "gap"])
def test_what_is_not_surely_at_rest_does_not_stand(what: str) -> None:
    rng = np.random.default_rng(0)
    imu, valid, flow = imu_at_rest(rng, noise_density=2e-4), VALID.copy(), STILL.copy()
    if what == "flow":
        flow[0] = 0.3 / VIEW_FOCAL_PX  # turning slowly
    if what == "turn":
        imu[:, 5] += 0.05
    if what == "shaking":
        imu[:, :3] += rng.normal(0, 0.3, (20, 3))
    if what == "vibration":
        imu[:, 3:] += rng.normal(0, 0.05, (20, 3))
    if what == "gap":
        valid[7] = 0
    assert not stands(None if what == "no image" else flow, imu, valid, SETTINGS)


def test_a_car_that_creeps_past_a_fast_camera_does_not_stand() -> None:
    # 0.15 pixels of an image 30 times a second are noise, 4.5 pixels a second are a moving car.
    rng, flows = np.random.default_rng(0), FlowSum(SETTINGS.flow_s)
    imu = imu_at_rest(rng, noise_density=2e-4)
    creeping = STILL + np.float32(0.15 / VIEW_FOCAL_PX)
    assert stands(creeping, imu, VALID, SETTINGS)
    summed = [flows.add(creeping, 1 / 30) for _ in range(5)]
    assert summed[0] is None
    assert summed[1] is None
    for flow in summed[2:]:
        assert flow is not None
        np.testing.assert_allclose(flow, 3 * creeping, rtol=1e-5)
        assert not stands(flow, imu, VALID, SETTINGS)


def test_flow_is_added_up_over_as_few_intervals_as_last_long_enough() -> None:
    flows = FlowSum(0.08)
    one = STILL + 1
    slow = flows.add(one, 0.1)
    assert slow is not None
    np.testing.assert_array_equal(slow, one)
    both = flows.add(2 * one, 0.05)  # with the one before it
    assert both is not None
    np.testing.assert_array_equal(both, 3 * one)
    newest = flows.add(4 * one, 0.05)
    assert newest is not None
    np.testing.assert_array_equal(newest, 6 * one)
    assert flows.add(None, 0.1) is None
    assert flows.add(one, 0.05) is None  # what lies behind a gap does not count


def test_nothing_is_taken_out_before_the_car_has_stood() -> None:
    bias = GyroBias()
    for _ in range(50):
        bias.observe(False, imu_at_rest(np.random.default_rng(0)), DT_S)
    assert bias.std is None
    assert not bias.rate.any()
    assert stood(SETTINGS.settling_s).std is None


def test_errors_are_what_the_deviation_says() -> None:
    errors, stds = [], []
    for seed in range(200):
        bias = stood(4.0, seed)
        assert bias.std is not None
        errors.append(bias.rate - BIAS)
        stds.append(bias.std)
    squared = (np.array(errors) / np.array(stds)[:, None]) ** 2
    # 600 errors: the mean of their squares is 1 within 5 sigma.
    assert squared.mean() == pytest.approx(1.0, abs=5 * np.sqrt(2 / squared.size))
    assert max(stds) < 7e-4


def test_moving_off_before_the_image_shows_it_does_not_count() -> None:
    steady, moved_off = stood(3.0), stood(3.0)
    turning = imu_at_rest(np.random.default_rng(9), bias=BIAS + 0.02)
    moved_off.observe(True, turning, DT_S)  # the last interval taken for standing
    moved_off.observe(False, turning, DT_S)
    assert np.abs(moved_off.rate - steady.rate).max() < 1e-3


def test_a_bias_is_forgotten_after_long_driving_and_learned_again() -> None:
    bias = stood(10.0)
    assert bias.std is not None
    first = bias.std
    for _ in range(600):
        bias.observe(False, imu_at_rest(np.random.default_rng(1)), 1.0)
    assert bias.std is not None
    assert bias.std == pytest.approx(np.sqrt(first**2 + 600 * SETTINGS.walk**2), rel=1e-2)
    for _ in range(3000):
        bias.observe(False, imu_at_rest(np.random.default_rng(1)), 1.0)
    assert bias.std is None
    assert not bias.rate.any()
    rng = np.random.default_rng(2)
    for _ in range(60):
        bias.observe(True, imu_at_rest(rng, bias=-BIAS), DT_S)
    np.testing.assert_allclose(bias.rate, -BIAS, atol=1.5e-3)


def test_reset_forgets() -> None:
    bias = stood(5.0)
    bias.reset()
    assert bias.std is None
    assert not bias.rate.any()
