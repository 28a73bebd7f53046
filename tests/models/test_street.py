"""What is usual of streets: closed forms, and drives held against further ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.models.street import (
    STREET_STATISTICS,
    FadingMean,
    GyroRoughness,
    expected_roughness,
    fit_street,
    means_along,
    street_distance,
)

FRAMES, DT_S, MEMORY_S = 200, 0.1, 5.0
MIXED = np.eye(6) + np.diag([0.6, 0.5, 0.4, 0.3, 0.2], 1)


def test_roughness_is_one_where_departures_are_white_with_the_networks_noise():
    rng = np.random.default_rng(0)
    noise_var = np.full(6, 1e-8)
    roughness, told = GyroRoughness(), []
    for k in range(4000):
        rotation = np.array([0.1, 0.02, -0.05]) * np.sin(0.1 * k)
        mean = np.concatenate([np.zeros(3), rotation + 1e-4 * rng.normal(size=3)])
        told.append(roughness.add(mean, rotation, noise_var))
    assert told[0] is None
    assert told[1] is None
    known = np.array(told[2:])
    np.testing.assert_allclose(np.exp(known).mean(0), 1, rtol=0.1)
    # The mean logarithm of chi-square with one degree of freedom.
    np.testing.assert_allclose(known.mean(0), -1.27, atol=0.1)


def test_a_bias_is_no_roughness_and_a_reset_forgets_what_was():
    roughness, last = GyroRoughness(), None
    for k in range(5):
        mean = np.concatenate([np.zeros(3), np.full(3, 0.01 + 0.002 * k)])
        last = roughness.add(mean, np.zeros(3), np.full(6, 1e-6))
    np.testing.assert_allclose(last, np.log(1e-3), atol=1e-6)
    roughness.reset()
    assert roughness.add(np.ones(6), np.zeros(3), np.ones(6)) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(1e-3, 20)), min_size=1, max_size=20),
    st.floats(0.1, 100),
)
def test_a_fading_mean_is_the_exponentially_weighted_integral(held, memory_s):
    mean, ago_s = FadingMean(memory_s), 0.0
    for value, dt_s in held:
        found = mean.add([value, -value], dt_s)
    weights = []
    for _, dt_s in reversed(held):
        weights.append(np.exp(-ago_s / memory_s) - np.exp(-(ago_s + dt_s) / memory_s))
        ago_s += dt_s
    expected = np.average([value for value, _ in reversed(held)], weights=weights)
    assert found == pytest.approx([expected, -expected], rel=1e-6, abs=1e-9)
    assert mean.averaged_s == pytest.approx(min(ago_s, 2 * memory_s))


def drives(rng, count: int, shift: float = 0.0) -> list:
    """Return streets that differ by 0.2 on every axis, single images by another 0.1."""
    made = []
    for _ in range(count):
        street = 0.2 * rng.normal(size=6) + shift
        statistics = (street + 0.1 * rng.normal(size=(FRAMES, 6))) @ MIXED
        made.append(means_along(statistics, np.full(FRAMES, DT_S), MEMORY_S))
    return made


def beyond(known, further) -> float:
    return float(np.mean([street_distance(*known, drive) > 1 for drive in further]))


def test_of_many_drives_a_further_one_is_beyond_the_usual_for_a_twentieth_of_the_time():
    rng = np.random.default_rng(2)
    known = fit_street(drives(rng, 60))
    assert known is not None
    # A fifth of the time is what k is told by.
    assert 0.02 < beyond(known, drives(rng, 300)) < 0.12
    assert beyond(known, drives(rng, 20, 0.8)) > 0.8


def test_a_few_drives_are_no_measure_of_themselves():
    rng = np.random.default_rng(3)
    told, naive = [], []
    for _ in range(20):
        few, further = drives(rng, 10), drives(rng, 20)
        known = fit_street(few)
        assert known is not None
        usual = np.quantile([street_distance(*known, drive) for drive in few], 0.95)
        told.append(beyond(known, further))
        naive.append(beyond((known[0], known[1] / usual), further))
    assert np.mean(told) < 0.15
    assert np.mean(naive) > np.mean(told) + 0.1


def test_pictures_that_are_spoilt_for_a_while_hardly_change_what_is_usual():
    rng = np.random.default_rng(4)
    known, spoilt = drives(rng, 40), drives(rng, 40)
    for s, _ in spoilt[:2]:
        s[: FRAMES // 4] += 20.0
    clean, other = fit_street(known), fit_street([*known, *spoilt[:2]])
    assert clean is not None
    assert other is not None
    np.testing.assert_allclose(other[0], clean[0], atol=0.1)
    assert 0.5 < np.linalg.det(other[1] @ np.linalg.inv(clean[1])) ** (1 / 6) < 1.5


def test_a_single_image_tells_less_of_a_street_than_seconds_do():
    mean, precision = np.zeros(6), np.diag([1.0, 2.0, 3.0, 0.0, 0.0, 0.0])
    at = np.ones((3, 6)), np.array([0.05, 0.1, 1e9])
    np.testing.assert_allclose(street_distance(mean, precision, at), [2, 3, 6])


def test_with_the_expected_roughness_the_distance_is_that_of_the_picture():
    rng = np.random.default_rng(5)
    A, mean = rng.normal(size=(6, 6)), rng.normal(size=6)
    cov = A @ A.T + np.eye(6)
    picture = rng.normal(size=4)
    rough = expected_roughness(mean, np.linalg.inv(cov), picture)
    whole = np.concatenate([picture, rough])[None], np.array([1e12])
    away = picture - mean[:4]
    assert street_distance(mean, np.linalg.inv(cov), whole)[0] == pytest.approx(
        away @ np.linalg.solve(cov[:4, :4], away)
    )


def test_nothing_is_usual_without_a_drive_and_one_is_enough():
    empty = np.zeros((0, STREET_STATISTICS)), np.zeros(0)
    assert fit_street([empty]) is None
    one = drives(np.random.default_rng(6), 1)
    known = fit_street([empty, *one])
    assert known is not None
    assert np.linalg.eigvalsh(known[1]).min() > 0
    assert beyond(known, one) < 0.2
