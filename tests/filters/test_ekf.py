"""The error-state EKF against finite differences, dense Gaussian conditioning and Monte Carlo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters import ekf
from bayes_vio.filters.consistency import chi_square_band, nees
from bayes_vio.filters.covariance import check_spd, symmetric_sqrt
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.ekf_state import (
    FIX_ERROR,
    MODEL_ERROR,
    NOISE_ERROR,
    POSE,
    SIZE,
    TWIST,
    EkfState,
)
from bayes_vio.filters.fusion import MotionFilter
from bayes_vio.filters.lasting import LastingPart
from bayes_vio.filters.measurements import PositionFix, TwistMeasurement
from tests.filters.ekf_cases import (
    DT_S,
    EPISTEMIC_COV,
    NOISE_COV,
    SETTINGS,
    START_NS,
    STEP_NS,
    Sampled,
    exp,
    right_error,
    twists,
    without_memory,
)

PARTS = (POSE, TWIST, NOISE_ERROR, MODEL_ERROR, FIX_ERROR)


def random_state(seed: int, cov: np.ndarray | None = None) -> EkfState:
    rng = np.random.default_rng(seed)
    return EkfState(
        START_NS,
        exp(rng.normal(size=6)),
        rng.normal(size=6) * [8, 0.3, 0.3, 0.1, 0.1, 0.3],
        rng.normal(size=6),
        rng.normal(size=6),
        rng.normal(size=3),
        np.eye(SIZE) if cov is None else cov,
        LastingPart.of(SETTINGS.split_noise(NOISE_COV)[1]),
        LastingPart.of(EPISTEMIC_COV),
    )


def random_cov(seed: int) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(SIZE, 2 * SIZE))
    return A @ A.T / (2 * SIZE)


def moved(state: EkfState, error: np.ndarray) -> EkfState:
    return state.corrected(error, state.cov)


def difference(a: EkfState, b: EkfState) -> np.ndarray:
    """Return the error of a against b, in a's coordinates."""
    return np.concatenate(
        [
            right_error(a.T_world_base, b.T_world_base),
            b.twist - a.twist,
            b.noise_error - a.noise_error,
            b.model_error - a.model_error,
            b.fix_error - a.fix_error,
        ]
    )


def test_the_parts_cover_the_error_without_overlap():
    rows = np.concatenate([np.arange(SIZE)[part] for part in PARTS])
    np.testing.assert_array_equal(rows, np.arange(SIZE))


def test_a_correction_moves_every_part_by_its_own_numbers():
    state, error = random_state(0), 1e-3 * np.arange(1.0, SIZE + 1)
    np.testing.assert_allclose(difference(state, moved(state, error)), error, atol=1e-12)


def test_a_forgotten_part_is_independent_of_all_others():
    state = random_state(0, random_cov(0)).forgotten(TWIST, 4 * np.eye(6))
    others = np.setdiff1d(np.arange(SIZE), np.arange(SIZE)[TWIST])
    assert not state.cov[TWIST][:, others].any()
    np.testing.assert_array_equal(state.cov[TWIST, TWIST], 4 * np.eye(6))
    np.testing.assert_array_equal(
        state.cov[np.ix_(others, others)], random_cov(0)[np.ix_(others, others)]
    )


@pytest.mark.parametrize("seed", range(3))
def test_prediction_moves_covariance_as_finite_differences_do(seed):
    """Cov' - Q = F P F^T, F by differences of the nonlinear prediction."""
    state, later_ns = random_state(seed), START_NS + STEP_NS
    predicted = ekf.predict(state, later_ns, SETTINGS)
    F, h = np.zeros((SIZE, SIZE)), 1e-6
    for k in range(SIZE):
        step = h * np.eye(SIZE)[k]
        ahead, behind = (ekf.predict(moved(state, s), later_ns, SETTINGS) for s in (step, -step))
        F[:, k] = (difference(predicted, ahead) - difference(predicted, behind)) / (2 * h)
    P = random_cov(seed)
    with_P = ekf.predict(replace(state, cov=P), later_ns, SETTINGS).cov
    with_2P = ekf.predict(replace(state, cov=2 * P), later_ns, SETTINGS).cov
    np.testing.assert_allclose(with_2P - with_P, F @ P @ F.T, atol=1e-7)


@pytest.mark.parametrize(
    "measurement",
    [
        TwistMeasurement(START_NS, np.arange(6.0), NOISE_COV, EPISTEMIC_COV),
        PositionFix(START_NS, np.array([1.0, 2, 3]), np.eye(3)),
    ],
)
def test_a_measurements_jacobian_is_that_of_finite_differences(measurement):
    state = random_state(1)
    settings = replace(SETTINGS, antenna_position_m=(1.0, 0.2, 1.5), fix_lasting_std_m=0.7)
    H, h = measurement.innovation(state, settings).H, 1e-6
    for k in range(SIZE):
        step = h * np.eye(SIZE)[k]
        ahead, behind = (
            measurement.innovation(moved(state, s), settings).value for s in (step, -step)
        )
        np.testing.assert_allclose(H[:, k], (behind - ahead) / (2 * h), atol=1e-7)


def test_equals_dense_gaussian_conditioning_where_the_model_is_linear():
    """Small motions, large covariances: one joint Gaussian of all errors, conditioned at once."""
    # A twist known to 1 m/s: with 30 m/s the dense truth would lose six digits.
    settings = replace(SETTINGS, fix_lasting_std_m=0.5, speed_bound_m_s=1.0)
    rng, n, tiny = np.random.default_rng(3), 12, 1e-6
    lasting = settings.split_noise(NOISE_COV)[1], EPISTEMIC_COV
    start = EkfState.started(START_NS, np.eye(4), 0.01 * np.eye(6), settings.twist_std_bound)
    start = start.with_lasting(*lasting)
    state, rows, values, measured_noise = start, [], [], []
    F = linear_map(start, settings)
    none = replace(start, cov=1e-24 * np.eye(SIZE))
    Q_root = symmetric_sqrt(ekf.predict(none, START_NS + STEP_NS, settings).cov)
    noise_parts = [symmetric_sqrt(start.cov)]  # the error as a map of independent draws
    for k in range(n):
        if k:
            noise_parts = [F @ part for part in noise_parts] + [Q_root]
            state = ekf.predict(state, START_NS + k * STEP_NS, settings)
        if k % 4 == 3:
            measurement = PositionFix(state.stamp_ns, tiny * rng.normal(size=3), 0.3 * np.eye(3))
        else:
            measurement = TwistMeasurement(
                state.stamp_ns, tiny * rng.normal(size=6), NOISE_COV, EPISTEMIC_COV
            )
        innovation = measurement.innovation(start, settings)
        rows.append((innovation.H, list(noise_parts)))
        values.append(innovation.value)
        measured_noise.append(innovation.noise_cov)
        state = ekf.update(state, measurement.innovation(state, settings))
    expected_mean, expected_cov = conditioned(noise_parts, rows, values, measured_noise)
    std = np.sqrt(np.diagonal(expected_cov))
    np.testing.assert_allclose(
        state.cov / np.outer(std, std), expected_cov / np.outer(std, std), atol=2e-6
    )
    found = difference(start, state)
    np.testing.assert_allclose(found / std, expected_mean / std, atol=1e-7)


def linear_map(state: EkfState, settings: EkfSettings) -> np.ndarray:
    """Return F of one step at a state at rest, by differences."""
    h, F = 1e-6, np.zeros((SIZE, SIZE))
    for k in range(SIZE):
        ahead = ekf.predict(moved(state, h * np.eye(SIZE)[k]), START_NS + STEP_NS, settings)
        F[:, k] = difference(state, ahead) / h
    return F


def conditioned(parts, rows, values, noises):
    """Return mean and covariance of the last error given all measurements, slow and obvious."""
    wide = sum(part.shape[1] for part in parts)
    present = np.concatenate(parts, axis=1)
    A = np.zeros((sum(len(v) for v in values), wide))
    at = 0
    for H, then in rows:
        known = H @ np.concatenate(then, axis=1)
        A[at : at + len(H), : known.shape[1]] = known
        at += len(H)
    R = np.zeros((len(A), len(A)))
    at = 0
    for noise in noises:
        R[at : at + len(noise), at : at + len(noise)] = noise
        at += len(noise)
    K = present @ A.T @ np.linalg.inv(A @ A.T + R)
    return K @ np.concatenate(values), present @ present.T - K @ A @ present.T


def final_nees(settings_of_filter: EkfSettings, drives: int, steps: int = 25) -> np.ndarray:
    """Return NEES of pose and twist at the end of drives drawn from SETTINGS' model."""
    truth = replace(SETTINGS, fix_lasting_std_m=0.5)
    errors, covs = [], []
    for seed in range(drives):
        vehicle = Sampled(truth, np.random.default_rng(seed))
        start_error = 1e-3 * vehicle.rng.normal(size=6)
        motion = MotionFilter(settings_of_filter, exp(-start_error))
        for k in range(steps):
            motion.feed(vehicle.measured())
            if k % 10 == 9:
                motion.feed(vehicle.fix())
            if k < steps - 1:
                vehicle.step()
        state = motion.state
        assert state is not None
        assert state.stamp_ns == vehicle.stamp_ns
        errors.append(
            np.concatenate(
                [right_error(state.T_world_base, vehicle.T), vehicle.twist - state.twist]
            )
        )
        covs.append(state.cov[:12, :12])
    return nees(np.stack(errors), np.stack(covs))


def test_drives_of_its_own_model_have_true_covariances():
    squared = final_nees(replace(SETTINGS, fix_lasting_std_m=0.5), 24)
    low, high = chi_square_band(12, 24, 0.999)
    assert low < squared.mean() < high


def test_lasting_errors_taken_as_white_make_it_overconfident():
    settings = replace(without_memory(SETTINGS), fix_lasting_std_m=0.5)
    squared = final_nees(settings, 24)
    assert squared.mean() > 1.5 * chi_square_band(12, 24, 0.999)[1]


def test_a_twist_repeated_without_end_does_not_make_its_lasting_error_known():
    """The information in the part that lasts is that of one measurement, not of a hundred."""
    settings = replace(SETTINGS, epistemic_correlation_s=float("inf"))
    steady, white = MotionFilter(settings), MotionFilter(without_memory(settings))
    for measurement in twists(100):
        steady.feed(measurement)
        white.feed(measurement)
    assert steady.state is not None
    assert white.state is not None
    std = np.sqrt(np.diagonal(steady.state.twist_cov))
    assert (std >= 0.99 * np.sqrt(np.diagonal(EPISTEMIC_COV))).all()
    assert np.sqrt(white.state.twist_cov[5, 5]) < 0.9 * std[5]


def test_fixes_tell_the_model_error():
    """A speed that is 3 sigma too large for long is seen beside fixes, and taken off."""
    motion, speed = MotionFilter(SETTINGS), 8.0
    wrong = 3 * np.sqrt(EPISTEMIC_COV[0, 0])
    for k in range(300):
        stamp_ns = START_NS + k * STEP_NS
        twist = np.array([speed + wrong, 0, 0, 0, 0, 0])
        motion.feed(TwistMeasurement(stamp_ns, twist, NOISE_COV, EPISTEMIC_COV))
        if k % 10 == 0:
            motion.feed(
                PositionFix(stamp_ns, np.array([speed * k * DT_S, 0, 0]), 0.01 * np.eye(3))
            )
    assert motion.state is not None
    assert abs(motion.state.twist[0] - speed) < 0.4 * wrong


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 300))
def test_predictions_grow_and_stay_covariances(seed, gap_s):
    state = random_state(seed, random_cov(seed)).forgotten(TWIST, np.eye(6))
    later = ekf.predict(state, state.stamp_ns + round(min(gap_s, 20) * NS_PER_S), SETTINGS)
    check_spd(later.cov, "predicted")
    assert np.linalg.slogdet(later.pose_cov)[1] > np.linalg.slogdet(state.pose_cov)[1]
    over = ekf.after_gap(state, state.stamp_ns + round(gap_s * NS_PER_S), SETTINGS)
    check_spd(over.cov[:12, :12], "bridged")
    std, bound = np.sqrt(np.diagonal(over.pose_cov)), SETTINGS.pose_std_bound
    assert (std <= bound * (1 + 1e-12)).all()
    assert (np.minimum(np.sqrt(np.diagonal(state.pose_cov)), bound) <= std + 1e-12).all()


def test_the_twists_variance_ends_at_its_bound():
    state = next_state = EkfState.started(START_NS, np.eye(4), np.eye(6), np.full(6, 1e-3))
    short = replace(SETTINGS, acceleration_density=(10.0,) * 3 + (1.0,) * 3)
    for k in range(1, 60):
        next_state = ekf.predict(next_state, START_NS + k * NS_PER_S, short)
        assert (np.diagonal(next_state.twist_cov) >= np.diagonal(state.twist_cov) - 1e-12).all()
        state = next_state
    bound = short.twist_std_bound
    assert (np.sqrt(np.diagonal(state.twist_cov)) <= bound * (1 + 1e-12)).all()
    np.testing.assert_allclose(np.sqrt(np.diagonal(state.twist_cov)), bound, rtol=1e-3)


def test_it_does_not_predict_into_the_past():
    with pytest.raises(ValueError, match="cannot go back"):
        ekf.predict(random_state(0), START_NS - 1, SETTINGS)
