"""Order of stamps, gates, gaps, restarts and alignment around the EKF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.alignment import FixAlignment
from bayes_vio.filters.covariance import CovarianceError, check_spd
from bayes_vio.filters.ekf_state import EkfState
from bayes_vio.filters.fusion import MotionFilter, Outcome
from bayes_vio.filters.measurements import PositionFix, Source, TwistMeasurement
from bayes_vio.filters.published import mean_twist, mean_twist_cov
from tests.filters.ekf_cases import (
    DT_S,
    EPISTEMIC_COV,
    NOISE_COV,
    SETTINGS,
    START_NS,
    STEP_NS,
    exp,
    right_error,
    twists,
)

TURN = np.array([8.0, 0, 0, 0, 0, 0.1])


def pose_at(k: float) -> np.ndarray:
    """Return where the vehicle of ``twists`` is at its k-th stamp."""
    return exp(TURN * k * DT_S)


def fix(k: float, offset=(0.0, 0.0, 0.0), std_m: float = 0.5) -> PositionFix:
    stamp_ns = START_NS + round(k * STEP_NS)
    return PositionFix(stamp_ns, pose_at(k)[:3, 3] + offset, std_m**2 * np.eye(3))


def driven(n: int, **changes) -> MotionFilter:
    motion = MotionFilter(replace(SETTINGS, **changes))
    for measurement in twists(n):
        assert motion.feed(measurement).outcome is Outcome.APPLIED
    return motion


def assert_near_truth(motion: MotionFilter, k: int, tolerance_m: float = 0.5) -> None:
    assert motion.state is not None
    assert motion.state.stamp_ns == START_NS + k * STEP_NS
    assert np.linalg.norm(motion.state.T_world_base[:3, 3] - pose_at(k)[:3, 3]) < tolerance_m


def same(a: MotionFilter, b: MotionFilter) -> None:
    assert a.state is not None
    assert b.state is not None
    np.testing.assert_allclose(a.state.T_world_base, b.state.T_world_base, atol=1e-9)
    np.testing.assert_allclose(a.state.cov, b.state.cov, atol=1e-9)
    np.testing.assert_allclose(a.state.model_error, b.state.model_error, atol=1e-9)


def test_exact_twists_lead_along_the_true_path():
    assert_near_truth(driven(100), 99, 0.05)


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(8)))
def test_measurements_in_any_order_within_the_history_give_one_answer(order):
    latest = [*list(twists(22))[14:], *[fix(15.5), fix(18.25)]]
    latest, beyond = [latest[k] for k in (0, 1, 2, 3, 4, 5, 8, 9)], latest[7]
    in_order, shuffled = driven(14), driven(14)
    for measurement in sorted(latest, key=lambda m: m.stamp_ns):
        in_order.feed(measurement)
    for k in order:
        assert shuffled.feed(latest[k]).outcome is Outcome.APPLIED
    for motion in (in_order, shuffled):
        motion.feed(beyond)
    same(in_order, shuffled)


def test_what_comes_before_the_history_is_left_out():
    motion, reference = driven(40), driven(40)
    assert motion.feed(fix(5)).outcome is Outcome.LATE
    assert motion.feed(next(twists(1))).outcome is Outcome.LATE
    same(motion, reference)
    assert motion.outcomes[Source.FIX, Outcome.LATE] == 1


def test_an_outlier_is_left_out_and_costs_nothing():
    motion, reference = driven(30), driven(30)
    fed = motion.feed(fix(29, offset=(0, 40.0, 0)))
    assert fed.outcome is Outcome.GATED
    assert fed.nis is not None
    assert fed.nis > 100
    same(motion, reference)


def test_a_filter_that_is_wrong_gives_way_and_recovers():
    """All fixes lie 60 m beside where the filter thinks it is: after rejections_max it follows."""
    motion = driven(30, rejections_max=4)
    beside = (0.0, 60.0, 0.0)
    outcomes = []
    for k in range(30, 130):
        motion.feed(TwistMeasurement(START_NS + k * STEP_NS, TURN, NOISE_COV, EPISTEMIC_COV))
        if k % 10 == 0:
            outcomes.append(motion.feed(fix(k, beside)).outcome)
    assert outcomes[:5] == [Outcome.GATED] * 4 + [Outcome.INSISTED]
    assert set(outcomes[5:]) == {Outcome.APPLIED}
    assert motion.state is not None
    position = motion.state.T_world_base[:3, 3] - pose_at(129)[:3, 3]
    np.testing.assert_allclose(position, beside, atol=1.5)


def test_a_twist_that_was_wrong_for_long_is_followed():
    motion = driven(30, rejections_max=5)
    fast = TURN + np.array([100.0, 0, 0, 0, 0, 0])
    outcomes = [
        motion.feed(TwistMeasurement(START_NS + k * STEP_NS, fast, NOISE_COV, EPISTEMIC_COV))
        for k in range(30, 50)
    ]
    assert [f.outcome for f in outcomes[:6]] == [Outcome.GATED] * 5 + [Outcome.INSISTED]
    assert {f.outcome for f in outcomes[6:]} == {Outcome.APPLIED}
    assert motion.state is not None
    assert abs(motion.state.twist[0] - 108) < 1


def test_one_stamp_far_ahead_is_left_out_and_a_long_gap_is_followed():
    motion, reference = driven(30), driven(30)
    far_ns = START_NS + 3600 * NS_PER_S
    assert motion.feed(next(twists(1, far_ns))).outcome is Outcome.AHEAD
    same(motion, reference)
    assert motion.feed(list(twists(31))[-1]).outcome is Outcome.APPLIED
    outcomes = [motion.feed(m).outcome for m in twists(20, far_ns)]
    assert outcomes[:3] == [Outcome.AHEAD, Outcome.AHEAD, Outcome.FOLLOWED]
    assert set(outcomes[3:]) == {Outcome.APPLIED}
    assert motion.state is not None
    std = np.sqrt(np.diagonal(motion.state.pose_cov))
    assert std[0] > 0.9 * min(3600 * SETTINGS.speed_bound_m_s, SETTINGS.position_std_bound_m)
    assert std[5] <= np.pi * (1 + 1e-9)
    assert abs(motion.state.twist[0] - 8) < 0.3


def test_a_gap_within_bounds_is_bridged_by_the_motion_model():
    motion = driven(30)
    assert motion.state is not None
    before = motion.state.pose_cov
    for measurement in twists(20, START_NS + 5 * NS_PER_S):
        assert motion.feed(measurement).outcome is Outcome.APPLIED
    assert motion.state.pose_cov[0, 0] > 4 * before[0, 0]
    error = np.linalg.norm(motion.state.T_world_base[:3, 3] - pose_at(69)[:3, 3])
    assert error < 4 * np.sqrt(np.trace(motion.state.pose_cov[:3, :3]))


def test_a_recording_played_again_starts_anew():
    motion, fresh = driven(60), driven(20)
    outcomes = [motion.feed(m).outcome for m in twists(20, START_NS - 60 * NS_PER_S)]
    assert outcomes[:3] == [Outcome.LATE, Outcome.LATE, Outcome.FOLLOWED]
    assert motion.state is not None
    assert fresh.state is not None
    assert np.linalg.norm(motion.state.T_world_base[:3, 3]) < 20
    assert motion.state.stamp_ns == START_NS - 60 * NS_PER_S + 19 * STEP_NS


def test_fixes_do_not_lead_the_time():
    """A receiver whose clock is 5 s ahead is left out, rather than making every twist late."""
    motion = driven(30)
    for k in range(30, 60):
        twist = TwistMeasurement(START_NS + k * STEP_NS, TURN, NOISE_COV, EPISTEMIC_COV)
        assert motion.feed(twist).outcome is Outcome.APPLIED
        if k % 5 == 0:
            assert motion.feed(fix(k + 50)).outcome is Outcome.AHEAD
    assert_near_truth(motion, 59)


def test_fixes_go_on_alone_where_twists_have_stopped():
    motion = driven(30)
    outcomes = [motion.feed(fix(k)).outcome for k in range(60, 100, 10)]
    assert outcomes[2] is Outcome.FOLLOWED
    assert motion.state is not None
    assert np.linalg.norm(motion.state.T_world_base[:3, 3] - pose_at(90)[:3, 3]) < 2


@pytest.mark.parametrize("yaw", [0.0, 0.7, 2.5, -3.0])
def test_the_heading_is_found_in_the_fixes_frame(yaw):
    rng, std_m = np.random.default_rng(5), 0.5
    T_fix_odom = exp([0, 0, 0, 0, 0, yaw])
    T_fix_odom[:3, 3] = [500.0, -200.0, 30.0]
    motion = MotionFilter(SETTINGS, alignment=FixAlignment(20.0, 0.05))
    outcomes = []
    for k in range(300):
        motion.feed(TwistMeasurement(START_NS + k * STEP_NS, TURN, NOISE_COV, EPISTEMIC_COV))
        if k % 10 == 0:
            position = (T_fix_odom @ pose_at(k))[:3, 3] + std_m * rng.normal(size=3)
            stamp_ns = START_NS + k * STEP_NS
            fed = motion.feed(PositionFix(stamp_ns, position, std_m**2 * np.eye(3)))
            outcomes.append(fed.outcome)
    found = outcomes.index(Outcome.APPLIED)
    assert 3 <= found < 8
    assert set(outcomes[:found]) == {Outcome.ALIGNING}
    assert motion.aligned
    assert motion.state is not None
    T_true = T_fix_odom @ pose_at(299)
    error = np.linalg.solve(motion.state.T_world_base, T_true)
    assert np.linalg.norm(error[:3, 3]) < 1.0
    assert abs(np.arctan2(error[1, 0], error[0, 0])) < 0.05
    assert np.sqrt(motion.state.pose_cov[5, 5]) < 0.05


def test_the_alignments_yaw_deviation_is_true():
    """Over draws of the fixes, the yaw right after the alignment errs by what it says."""
    rng, z = np.random.default_rng(11), []
    sure, std = 1e-8 * np.eye(6), np.full(6, 1.0)
    for _ in range(300):
        alignment, found, k = FixAlignment(20.0, 0.2), None, 0
        while found is None:
            k += 10
            state = EkfState.started(START_NS + k * STEP_NS, pose_at(k), sure, std)
            drawn = fix(k, rng.normal(size=3), std_m=1.0)
            found = alignment.add(drawn, state, state, SETTINGS)
        error = right_error(found.T_world_base, pose_at(k))
        z.append(error[[0, 1, 5]] / np.sqrt(np.diagonal(found.pose_cov))[[0, 1, 5]])
    deviation = np.std(z, axis=0)
    assert 0.88 < deviation[2] < 1.12
    assert (deviation[:2] < 1.1).all()
    assert (deviation[:2] > 0.4).all()  # along the track all fixes together know more


def test_fixes_that_come_late_align_as_well():
    """Exact fixes that arrive 0.3 s after their stamps: the position does not stay behind."""
    motion = MotionFilter(SETTINGS, alignment=FixAlignment(20.0, 0.3))
    for k in range(200):
        motion.feed(TwistMeasurement(START_NS + k * STEP_NS, TURN, NOISE_COV, EPISTEMIC_COV))
        if k % 10 == 3 and not motion.aligned:
            motion.feed(fix(k - 3))
            assert motion.state is not None
        if motion.aligned:
            break
    assert_near_truth(motion, k, 0.3)
    assert motion.state is not None
    yaw = right_error(motion.state.T_world_base, pose_at(k))[5]
    assert abs(yaw) < 0.02


def test_a_fix_before_the_first_twist_waits():
    motion = MotionFilter(SETTINGS)
    assert motion.feed(fix(0)).outcome is Outcome.WAITING
    assert motion.state is None


def test_a_pose_that_is_set_is_gone_on_from():
    motion = driven(30)
    T, cov = exp([100.0, 50, 0, 0, 0, 1.0]), np.diag([0.1] * 3 + [0.01] * 3)
    motion.set_pose(T, cov)
    assert motion.state is not None
    np.testing.assert_array_equal(motion.state.T_world_base, T)
    np.testing.assert_array_equal(motion.state.pose_cov, cov)
    assert abs(motion.state.twist[0] - 8) < 0.1
    with pytest.raises(CovarianceError):
        motion.set_pose(T, 0 * cov)
    with pytest.raises(ValueError, match="pose"):
        motion.set_pose(2 * T, cov)


def test_an_increment_is_its_mean_twist_half_way():
    T, later_ns = exp(0.1 * TURN), START_NS + STEP_NS
    cov = np.diag([1e-3] * 3 + [1e-4] * 3) ** 2
    measured = TwistMeasurement.of_increment(T, cov, 0.5 * cov, START_NS, later_ns)
    assert measured.stamp_ns == START_NS + STEP_NS // 2
    np.testing.assert_allclose(measured.twist, mean_twist(T, 0.1))
    np.testing.assert_allclose(measured.epistemic_cov, mean_twist_cov(T, 0.5 * cov, 0.1))
    with pytest.raises(ValueError, match="behind"):
        TwistMeasurement.of_increment(T, cov, cov, START_NS, START_NS)


def changed(value: float) -> np.ndarray:
    cov = NOISE_COV.copy()
    cov[1, 1] = value
    return cov


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_what_is_no_covariance_is_no_measurement(value):
    with pytest.raises(CovarianceError):
        TwistMeasurement(START_NS, TURN, changed(value), EPISTEMIC_COV)
    with pytest.raises(CovarianceError):
        PositionFix(START_NS, np.zeros(3), np.diag([1.0, value, 1.0]))


def test_what_is_not_finite_or_of_another_shape_is_no_measurement():
    for twist in (np.full(6, np.nan), np.zeros(5), np.full(6, np.inf)):
        with pytest.raises(ValueError, match="six finite"):
            TwistMeasurement(START_NS, twist, NOISE_COV, EPISTEMIC_COV)
    with pytest.raises(CovarianceError, match="6x6"):
        TwistMeasurement(START_NS, TURN, NOISE_COV[:3, :3], EPISTEMIC_COV)
    with pytest.raises(CovarianceError, match="semi-definite"):
        TwistMeasurement(START_NS, TURN, NOISE_COV, -0.5 * NOISE_COV)
    with pytest.raises(CovarianceError):  # an epistemic part that is larger than the whole
        TwistMeasurement.of_published(START_NS, TURN, NOISE_COV, 2 * NOISE_COV)
    with pytest.raises(ValueError, match="three finite"):
        PositionFix(START_NS, np.array([1.0, np.nan, 0]), np.eye(3))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_whatever_comes_the_state_stays_a_pose_with_a_covariance(seed):
    rng, motion, stamp_ns = np.random.default_rng(seed), MotionFilter(SETTINGS), START_NS
    for _ in range(30):
        stamp_ns += int(rng.choice([STEP_NS, STEP_NS, STEP_NS, -3 * STEP_NS, 2 * NS_PER_S]))
        size = 10.0 ** rng.uniform(-3, 3)
        if rng.random() < 0.7:
            twist = TURN + size * NOISE_COV.diagonal() ** 0.5 * rng.normal(size=6)
            motion.feed(TwistMeasurement(stamp_ns, twist, size * NOISE_COV, EPISTEMIC_COV))
        else:
            motion.feed(PositionFix(stamp_ns, size * rng.normal(size=3), size * np.eye(3)))
        if motion.state is not None:
            check_spd(motion.state.cov[:12, :12], "pose and twist")
            assert np.linalg.eigvalsh(motion.state.cov).min() > -1e-9
            R = motion.state.T_world_base[:3, :3]
            np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed_bound_m_s": 0.0},
        {"history_s": -1.0},
        {"epistemic_correlation_s": -1.0},
        {"gate_probability": 1.0},
        {"acceleration_density": (1.0, 1.0)},
        {"antenna_position_m": (0.0, np.nan, 0.0)},
        {"rejections_max": 0},
    ],
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SETTINGS, **wrong)
