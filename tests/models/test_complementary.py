"""E-M2 keeps the network's fast part and the gyro's slow one, for means and features alike."""

import math

import numpy as np
import pytest

from bayes_vio.conventions import ANGULAR, LINEAR
from bayes_vio.models.complementary import (
    NETWORK_ALONE,
    ComplementaryFilter,
    Crossover,
    SlowContradiction,
    fused_rotations,
)

DT_S = 0.1
CROSSOVER = Crossover((0.5, 1.0, 2.0))


def drive(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means [n, 6], gyro rates [n, 3] and intervals [n] of a random drive."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.02, (n, 6)), rng.normal(0, 0.2, (n, 3)), rng.uniform(0.05, 0.2, n)


def test_an_error_of_the_network_that_lasts_adds_up_to_tau_times_itself() -> None:
    n, bias = 400, np.array([2e-3, -1e-3, 5e-4])
    gyro = np.random.default_rng(1).normal(0, 0.3, (n, 3))
    mean = np.zeros((n, 6))
    mean[:, ANGULAR] = DT_S * (gyro + bias)
    fused = fused_rotations(CROSSOVER, mean, gyro, np.full(n, DT_S))
    wandered = (fused[:, ANGULAR] - DT_S * gyro).sum(0)
    # The geometric series dt / (1 - exp(-dt / tau)): tau, and half an interval.
    np.testing.assert_allclose(wandered, bias * DT_S / CROSSOVER.gain(DT_S), rtol=1e-6)


def test_vibration_of_the_gyro_comes_through_as_an_average_over_tau() -> None:
    n, sigma = 40_000, 0.01
    mean, gyro = np.zeros((n, 6)), np.random.default_rng(2).normal(0, sigma, (n, 3))
    fused = fused_rotations(CROSSOVER, mean, gyro, np.full(n, DT_S))
    gain = CROSSOVER.gain(DT_S)
    expected = DT_S**2 * sigma**2 * gain / (2 - gain)
    found = fused[100:, ANGULAR].var(0)
    # n gain / 2 independent values: 5 sigma of their mean square.
    assert (np.abs(found / expected - 1) < 5 * np.sqrt(2 / (n * gain / 2))).all()


def test_translation_and_a_network_alone_stay_as_they_are() -> None:
    mean, gyro, dt_s = drive(50)
    np.testing.assert_array_equal(fused_rotations(NETWORK_ALONE, mean, gyro, dt_s), mean)
    fused = fused_rotations(CROSSOVER, mean, gyro, dt_s)
    np.testing.assert_array_equal(fused[:, LINEAR], mean[:, LINEAR])
    assert (fused[1:, ANGULAR] != mean[1:, ANGULAR]).all()


def test_features_answer_to_the_weights_as_means_do() -> None:
    mean, gyro, dt_s = drive(30)
    rng = np.random.default_rng(3)
    features, w = rng.normal(0, 1e-3, (30, 6, 12)), rng.normal(size=12)
    at_mode, moved = ComplementaryFilter(CROSSOVER), ComplementaryFilter(CROSSOVER)
    for m, g, dt, phi in zip(mean, gyro, dt_s, features, strict=True):
        told = at_mode.add(m, g, dt, phi)
        other = moved.add(m + phi @ w, g, dt)
        assert told.features is not None
        np.testing.assert_allclose(other.mean, told.mean + told.features @ w, atol=1e-15)
        ratio = np.linalg.norm(told.features, axis=1) / np.linalg.norm(phi, axis=1)
        np.testing.assert_allclose(told.epistemic_factor, ratio)
        assert other.features is None
        np.testing.assert_array_equal(other.epistemic_factor, 1.0)


def test_features_that_are_zero_have_no_factor() -> None:
    told = ComplementaryFilter(CROSSOVER).add(np.zeros(6), np.zeros(3), DT_S, np.zeros((6, 4)))
    np.testing.assert_array_equal(told.epistemic_factor, 1.0)


def test_weights_that_err_alike_in_every_frame_are_forgotten() -> None:
    complementary, features = ComplementaryFilter(CROSSOVER), np.ones((6, 1))
    total = np.zeros((6, 1))
    for _ in range(400):
        told = complementary.add(np.zeros(6), np.zeros(3), DT_S, features)
        assert told.features is not None
        total += told.features
    np.testing.assert_allclose(total[LINEAR], 400.0)
    np.testing.assert_allclose(total[ANGULAR, 0], 1 / CROSSOVER.gain(DT_S), rtol=1e-6)


def test_reset_forgets() -> None:
    mean, gyro, _ = drive(5)
    complementary = ComplementaryFilter(CROSSOVER)
    first = complementary.add(mean[0], gyro[0], DT_S, np.ones((6, 2)))
    complementary.add(mean[1], gyro[1], DT_S, np.ones((6, 2)))
    complementary.reset()
    again = complementary.add(mean[0], gyro[0], DT_S, np.ones((6, 2)))
    np.testing.assert_array_equal(again.mean, first.mean)
    np.testing.assert_array_equal(again.features, first.features)


@pytest.mark.parametrize("wrong", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0)])
def test_times_are_checked(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="three times above 0 s"):
        Crossover(wrong)


NOISE_STD = np.array([4e-4, 9e-4, 5e-5])  # rad over an interval, as on KITTI


def test_a_bias_that_the_network_sees_widens_the_rotation() -> None:
    bias = np.array([0.005, -0.004, 0.0])
    told, rng, var = SlowContradiction(CROSSOVER), np.random.default_rng(0), np.zeros(3)
    for _ in range(200):
        noise = rng.normal(size=3) * NOISE_STD
        var = told.add(noise - bias * DT_S, NOISE_STD**2, DT_S)
    # About z nothing shows, but a gyro with two biases may have a third.
    assert (np.sqrt(var) > 0.7 * np.abs(bias).max() * DT_S).all()
    assert (np.sqrt(var) < 1.2 * np.abs(bias).max() * DT_S).all()
    told.reset()
    assert not told.add(np.zeros(3), NOISE_STD**2, DT_S).any()


def test_what_is_usual_widens_nothing() -> None:
    rng, widened = np.random.default_rng(1), 0
    for _ in range(40):
        told, wander = SlowContradiction(CROSSOVER), rng.normal(size=3) * 3e-4
        for _ in range(100):
            difference = rng.normal(size=3) * NOISE_STD + wander * DT_S
            widened += int(told.add(difference, NOISE_STD**2, DT_S).any())
    assert widened < 0.01 * 4000


def test_the_networks_noise_that_lasts_a_second_contradicts_nothing() -> None:
    rng, widened, kept = np.random.default_rng(2), 0, np.exp(-DT_S / 0.5)
    for _ in range(40):
        told, noise = SlowContradiction(CROSSOVER), rng.normal(size=3) * NOISE_STD
        for _ in range(100):
            step = rng.normal(size=3) * NOISE_STD
            noise = kept * noise + np.sqrt(1 - kept**2) * step
            widened += int(told.add(noise, NOISE_STD**2, DT_S).any())
    assert widened < 0.02 * 4000


def test_vibration_that_is_told_contradicts_nothing() -> None:
    vibration_std, told = np.array([1e-3, 3e-3, 1e-3]), SlowContradiction(CROSSOVER)
    rng, little = np.random.default_rng(3), np.full(3, 1e-10)
    steps = rng.normal(size=(400, 3)) * vibration_std
    assert not any(told.add(step, little, DT_S, vibration_std**2).any() for step in steps)
    told.reset()
    assert any(told.add(step, little, DT_S).any() for step in steps)


def test_where_the_network_is_alone_the_gyro_contradicts_nothing() -> None:
    told, var = SlowContradiction(Crossover((0.5, math.inf, math.inf))), np.zeros(3)
    for _ in range(100):
        var = told.add(np.full(3, 1e-3), NOISE_STD**2, DT_S)
    assert var[0] > 0
    assert not var[1:].any()
