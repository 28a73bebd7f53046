from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.evaluation import trajectory
from tests.evaluation.synthetic import chain, drive, exp


def straight(n, step_m):
    return chain(np.tile(exp([step_m, 0, 0, 0, 0, 0]), (n, 1, 1)))


def turning(n, step_m, yaw_rad):
    """Return poses of unit steps forward, each followed by a turn in place."""
    turn, step = exp([0, 0, 0, 0, 0, yaw_rad]), exp([step_m, 0, 0, 0, 0, 0])
    return chain(np.tile(step @ turn, (n, 1, 1)))


def test_right_error_is_the_perturbation_that_was_put_in():
    rng = np.random.default_rng(0)
    T, xi = exp(rng.standard_normal((5, 6))), 0.1 * rng.standard_normal((5, 6))
    np.testing.assert_allclose(trajectory.right_error(T, T @ exp(xi)), xi, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3))
def test_rotation_angle_is_the_norm_of_the_rotation_vector(w):
    T = exp([[1.0, 2.0, 3.0, *w]])
    assert trajectory.rotation_angle(T)[0] == pytest.approx(np.linalg.norm(w), abs=1e-7)


def test_rotation_angle_is_accurate_for_a_millionth_of_a_degree():
    angle = np.deg2rad(1e-6)
    T = exp([[0, 0, 0, 0, 0, angle]])
    assert trajectory.rotation_angle(T)[0] == pytest.approx(angle, rel=1e-6)


def test_path_length_adds_steps():
    np.testing.assert_allclose(trajectory.path_length(straight(4, 2.5)), [0, 2.5, 5, 7.5, 10])


def test_scale_error_on_a_straight_line_is_t_rel():
    scale = 0.03
    true, estimate = straight(1000, 1.0), straight(1000, 1.0 + scale)
    errors = trajectory.segment_errors(estimate, true)
    # A segment ends at the first pose beyond its length, one step of 1 m later here.
    overshoot = (errors.length_m + 1.0) / errors.length_m
    np.testing.assert_allclose(errors.translation, scale * overshoot, rtol=1e-9)
    np.testing.assert_allclose(errors.rotation, 0, atol=1e-12)


def test_scale_error_is_t_rel_exactly_where_steps_are_fine():
    true, estimate = straight(12_000, 0.01), straight(12_000, 0.0102)
    drift = trajectory.drift(estimate, true)
    assert drift["t_rel_percent"] == pytest.approx(2.0, rel=2e-4)
    assert [row["length_m"] for row in drift["lengths"]] == [100.0]


def test_constant_yaw_drift_is_r_rel_exactly():
    per_metre = np.deg2rad(0.004)
    true, estimate = straight(1000, 1.0), turning(1000, 1.0, per_metre)
    errors = trajectory.segment_errors(estimate, true)
    frames = errors.length_m + 1
    np.testing.assert_allclose(errors.rotation, per_metre * frames / errors.length_m, rtol=1e-9)
    # The end of an arc of n unit steps against the straight line, in closed form.
    n = frames[0]
    steps = np.exp(1j * per_metre * np.arange(n)).sum()
    expected = abs(n - steps) / errors.length_m[0]
    assert errors.translation[0] == pytest.approx(expected, rel=1e-9)
    drift = trajectory.drift(estimate, true)
    assert drift["r_rel_deg_per_100m"] == pytest.approx(0.4, rel=5e-3)


def test_segments_are_those_of_the_development_kit():
    """Count and end each segment with the kit's own loop, on a path of uneven steps."""
    true = chain(drive(1200, seed=4))
    estimate = chain(drive(1200, seed=4) @ exp(np.full((1200, 6), 1e-4)))
    distance = [0.0]
    for a, b in pairwise(true):
        distance.append(distance[-1] + float(np.linalg.norm(b[:3, 3] - a[:3, 3])))
    expected = []
    for first in range(0, len(true), 10):
        for length in range(100, 900, 100):
            last = next((i for i, d in enumerate(distance) if d > distance[first] + length), -1)
            if last == -1:
                continue
            delta_true = np.linalg.inv(true[first]) @ true[last]
            delta = np.linalg.inv(estimate[first]) @ estimate[last]
            error = np.linalg.inv(delta) @ delta_true
            cosine = np.clip(0.5 * (np.trace(error[:3, :3]) - 1), -1, 1)
            expected.append((np.arccos(cosine) / length, np.linalg.norm(error[:3, 3]) / length))
    errors = trajectory.segment_errors(estimate, true)
    rotation, translation = np.mean(expected, axis=0)
    assert len(errors.length_m) == len(expected)
    assert errors.translation.mean() == pytest.approx(translation, rel=1e-9)
    assert errors.rotation.mean() == pytest.approx(rotation, rel=1e-5)


def test_short_paths_are_measured_over_50_m_and_say_so():
    drift = trajectory.drift(straight(80, 1.02), straight(80, 1.0))
    assert "50 m" in drift["note"]
    assert drift["t_rel_percent"] == pytest.approx(2.0 * 51 / 50)
    nothing = trajectory.drift(straight(30, 1.02), straight(30, 1.0))
    assert nothing["t_rel_percent"] is None
    assert nothing["segments"] == 0
    assert "not measured" in nothing["note"]


def test_absolute_error_aligns_the_first_pose():
    true = chain(drive(200), exp([5, 6, 7, 0.1, 0.2, 0.3]))
    moved = exp([100, -50, 3, 0.4, -0.1, 2.0]) @ true
    exact = trajectory.absolute_error(moved, true)
    assert exact["translation_max_m"] < 1e-9
    assert exact["rotation_final_deg"] < 1e-5
    scaled = trajectory.absolute_error(straight(100, 1.1), straight(100, 1.0))
    assert scaled["translation_final_m"] == pytest.approx(10.0)
    assert scaled["translation_rmse_m"] == pytest.approx(
        0.1 * np.sqrt(np.mean(np.arange(101) ** 2))
    )
