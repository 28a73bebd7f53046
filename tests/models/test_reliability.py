"""What is usual for a model's inputs: distances against chi-square truth, and what is refused."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.models.reliability import (
    Reliability,
    fit_picture,
    picture_statistics,
    widened,
)

SEEN = np.ones((40, 128))


def usual(seed: int = 0, shift: float = 0.0) -> Reliability:
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 4)) + shift
    mean, precision = fit_picture(pictures, pictures)
    return Reliability(
        picture_mean=tuple(mean.tolist()),
        picture_precision=tuple(map(tuple, precision.tolist())),
        still_share=0.1,
        unseen_share=0.05,
        disagreement_std=(1e-3, 1e-3, 2e-3, 0.2, 5e-3),
        disagreement_response=(0.8, 0.8, 0.8, 1.0, 0.5),
    )


def test_five_percent_of_validation_lie_beyond_a_distance_of_one():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(4, 4))
    training, validation = (rng.normal(size=(20_000, 4)) @ A for _ in range(2))
    mean, precision = fit_picture(training, validation)
    away = validation - mean
    squared = np.einsum("ni,ij,nj->n", away, precision, away)
    assert np.mean(squared > 1) == pytest.approx(0.05, abs=1e-3)
    # Of one Gaussian the mean squared distance is 4 / chi2(0.95, 4), less what the ridge takes.
    assert squared.mean() == pytest.approx(4 / 9.488, rel=0.06)


def test_validation_all_alike_does_not_make_everything_else_far():
    rng = np.random.default_rng(2)
    training = rng.normal(size=(5000, 4))
    mean, precision = fit_picture(training, 1e-3 * rng.normal(size=(100, 4)))
    away = training - mean
    assert np.einsum("ni,ij,nj->n", away, precision, away).mean() < 1.1


def test_statistics_of_known_pictures():
    stripes = np.tile([0.2, 0.6], (40, 64))
    gray = np.stack([stripes, stripes.repeat(2, axis=1)[:, :128], np.full((40, 128), 0.4)])
    told = picture_statistics(gray, SEEN)
    np.testing.assert_allclose(told[:, 3], 0.4, atol=1e-3)
    np.testing.assert_allclose(np.exp(told[0, :3]), [0.2, 0.4, 0], atol=1e-3)
    assert np.exp(told[1, 1]) == pytest.approx(0.2, abs=2e-3)
    assert np.isfinite(told).all()


def test_what_is_not_seen_does_not_count():
    rng = np.random.default_rng(3)
    gray, valid = rng.random((2, 40, 128)), SEEN.copy()
    valid[:, 100:] = 0
    other = gray.copy()
    other[:, :, 100:] = 0
    np.testing.assert_array_equal(
        picture_statistics(gray, valid), picture_statistics(other, valid)
    )
    with pytest.raises(ValueError, match="no two neighbouring"):
        picture_statistics(gray, np.zeros((40, 128)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-20, 20))
def test_what_is_usual_for_one_is_usual_for_either(seed, shift):
    a, b = usual(seed), usual(seed + 1, shift)
    both = widened(a, b)
    pictures = np.random.default_rng(seed).normal(scale=5, size=(200, 4))
    for one in (a, b):
        near = pictures + one.picture_mean
        near = near[one.picture_distance(near) <= 1]
        assert (both.picture_distance(np.array(one.picture_mean)) <= 1).all()
        assert (both.picture_distance(near) <= 3.5).all()
    assert both.disagreement_std == tuple(
        map(max, zip(a.disagreement_std, b.disagreement_std, strict=True))
    )


def test_the_street_of_either_is_usual_for_both_and_none_where_one_does_not_tell():
    a, b = (
        replace(
            usual(k), street_mean=(m,) + (0.0,) * 5, street_precision=tuple(map(tuple, np.eye(6)))
        )
        for k, m in enumerate((-1.0, 1.0))
    )
    both = widened(a, b)
    assert both.street_mean == (0.0,) * 6
    np.testing.assert_allclose(both.street_precision, np.diag([1 / 4] + [1 / 2] * 5))
    alone = widened(a, usual(1))
    assert alone.street_mean is None
    assert alone.street_precision is None


def test_of_two_artifacts_the_longer_levers_and_the_wider_bound_are_kept():
    a = replace(usual(), disagreement_bound=2.6, rotation_lever_m=((1.0, 2.0, 3.0),) * 3)
    b = replace(usual(1), disagreement_bound=3.4, rotation_lever_m=((2.0, 1.0, 3.5),) * 3)
    assert widened(a, b).disagreement_bound == 3.4
    assert widened(a, b).rotation_lever_m == ((2.0, 2.0, 3.5),) * 3
    assert widened(a, usual()).rotation_lever_m is None


def test_specks_are_judged_by_deviations_below_the_usual_where_that_was_measured():
    known = replace(usual(), least_change=(0.8, 0.05))
    assert known.speck_deviations(0.6) == pytest.approx(4)
    assert known.speck_deviations(0.9) == known.speck_deviations(None) == 0
    assert usual().speck_deviations(0.1) == 0
    other = replace(usual(1), least_change=(0.75, 0.04))
    assert widened(known, other).least_change == (0.75, 0.05)
    assert widened(known, usual(1)).least_change is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture_mean": (0.0,) * 3}, "shapes"),
        ({"picture_mean": (float("nan"),) * 4}, "up to nan"),
        ({"picture_precision": tuple(map(tuple, 1e300 * np.eye(4)))}, "up to 1e"),
        ({"street_mean": (0.0,) * 6}, "not both"),
        ({"street_precision": tuple(map(tuple, np.eye(6)))}, "not both"),
        ({"street_mean": (0.0,) * 4, "street_precision": tuple(map(tuple, np.eye(3)))}, "shapes"),
        (
            {"street_mean": (0.0,) * 6, "street_precision": tuple(map(tuple, -np.eye(6)))},
            "street precision that is not positive definite",
        ),
        ({"picture_precision": tuple(map(tuple, -np.eye(4)))}, "not positive definite"),
        ({"picture_precision": tuple(map(tuple, np.tri(4)))}, "not symmetric"),
        ({"still_share": 1.0}, "shares"),
        ({"unseen_share": float("nan")}, "shares"),
        ({"disagreement_std": (0.0,) * 5}, "five positive"),
        ({"disagreement_response": (2.0,) * 5}, "responses"),
        ({"disagreement_response": (0.5,) * 4}, "responses"),
        ({"disagreement_bound": float("nan")}, "at least 1 deviation"),
        ({"disagreement_bound": 0.5}, "at least 1 deviation"),
        ({"rotation_lever_m": ((1.0,) * 3,) * 2}, "nine levers"),
        ({"vibration_std": (-1e-3, 0.0, 0.0)}, "three deviations of vibration"),
        ({"vibration_std": (0.0, float("nan"), 0.0)}, "three deviations of vibration"),
        ({"rotation_lever_m": ((-1.0,) * 3,) * 3}, "nine levers"),
        ({"rotation_lever_m": ((float("nan"),) * 3,) * 3}, "nine levers"),
        ({"least_change": (0.8,)}, "a least change and its deviation"),
        ({"least_change": (0.8, 0.0)}, "a least change and its deviation"),
        ({"least_change": (float("nan"), 0.04)}, "a least change and its deviation"),
        ({"least_change": (1e5, 0.04)}, "a least change and its deviation"),
    ],
)
def test_numbers_that_no_fit_measures_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(usual(), **changes)
    assert Reliability(**asdict(usual())) == usual()
