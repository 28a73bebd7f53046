from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.evaluation import calibration, trajectory, verdict
from bayes_vio.evaluation.horizons import (
    accumulated_errors,
    distance_windows,
    window_errors,
)
from bayes_vio.evaluation.verdict import Verdict
from bayes_vio.geometry import se3
from tests.evaluation.synthetic import FRAME_S, chain, synthetic_run

CORRELATION_FRAMES = 20
CORRELATION_S = CORRELATION_FRAMES * FRAME_S


def test_one_frame_is_the_increment():
    run = synthetic_run(30, epistemic=0.3)
    np.testing.assert_array_equal(window_errors(run, 1, 1.0).error, run.increment_errors().error)


def test_a_window_composes_increments_and_compounds_their_noise():
    run = synthetic_run(25, seed=3)
    errors = window_errors(run, 10, 0.0)
    assert len(errors) == 2
    T_window = chain(run.T_earlier_later[10:20])[-1]
    truth = np.linalg.inv(run.T_world_earlier[10]) @ run.T_world_base[19]
    expected = se3.log(torch.from_numpy(np.linalg.inv(T_window) @ truth)).numpy()
    np.testing.assert_allclose(errors.error[1], expected, atol=1e-9)
    cov = torch.zeros(6, 6).double()
    for k in range(10, 20):
        inc = torch.from_numpy(run.T_earlier_later[k])
        cov = se3.compound(cov, inc, torch.from_numpy(run.noise_cov[k]))
    np.testing.assert_allclose(errors.cov[1], cov.numpy(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(errors.epistemic_cov, 0, atol=1e-12)


def test_windows_do_not_reach_over_a_break_in_the_stamps():
    run = synthetic_run(40)
    later = run.stamp_ns + np.where(np.arange(40) >= 15, 10**9, 0)
    earlier = run.earlier_stamp_ns + np.where(np.arange(40) >= 15, 10**9, 0)
    broken = replace(run, stamp_ns=later, earlier_stamp_ns=earlier)
    assert len(window_errors(run, 10, 0.0)) == 4
    assert len(window_errors(broken, 10, 0.0)) == 1 + 2


def test_a_recording_too_short_has_no_windows():
    errors = window_errors(synthetic_run(40), 100, 1.0)
    assert len(errors) == 0
    assert errors.cov.shape == (0, 6, 6)


@pytest.mark.parametrize("frames", [10, 40])
def test_coherent_errors_need_their_correlation_time(frames):
    run = synthetic_run(2400, seed=8, epistemic=0.3, correlation_frames=CORRELATION_FRAMES)
    true = calibration.measure(window_errors(run, frames, CORRELATION_S))
    low, high = true["joint"]["sigma_factor_interval"]
    assert low <= 1 <= high
    assert 0.85 < true["joint"]["sigma_factor"] < 1.15
    white = calibration.measure(window_errors(run, frames, 0.0))
    assert white["joint"]["sigma_factor"] > 1.35
    assert verdict.judge(white)["verdict"] == Verdict.OVERCONFIDENT.value


def test_epistemic_share_grows_with_the_horizon():
    run = synthetic_run(400, epistemic=0.2, correlation_frames=CORRELATION_FRAMES)
    shares = [
        calibration.measure(window_errors(run, frames, CORRELATION_S))["epistemic_share"]
        for frames in (1, 10, 100)
    ]
    assert shares[0] == pytest.approx(0.2)
    assert shares[0] < shares[1] < shares[2] < 1


def test_stretches_of_a_distance_are_kittis_segments():
    run = synthetic_run(400, seed=2)
    windows = distance_windows(run, 100.0, 10)
    errors = accumulated_errors(run, windows, 0.0)
    estimated, true = run.path()
    segments = trajectory.segment_errors(estimated, true, (100.0,), 10)
    assert len(windows) == len(segments.length_m) > 20
    np.testing.assert_allclose(
        np.linalg.norm(errors.error[:, 3:], axis=1) / 100, segments.rotation, rtol=1e-6
    )


def test_stretches_stop_at_a_break_in_the_stamps():
    run = synthetic_run(400, seed=2)
    moved = np.where(np.arange(400) >= 200, 10**9, 0)
    broken = replace(
        run, stamp_ns=run.stamp_ns + moved, earlier_stamp_ns=run.earlier_stamp_ns + moved
    )
    windows = distance_windows(broken, 100.0, 10)
    assert windows
    assert all(w.stop <= 200 or w.start >= 200 for w in windows)
    assert len(windows) < len(distance_windows(run, 100.0, 10))


def test_features_tell_what_epistemic_errors_have_in_common():
    run = synthetic_run(60, seed=5, epistemic=0.3)
    same = tuple(np.linalg.cholesky(cov) for cov in run.epistemic_cov)
    others = tuple(
        np.concatenate([root if k == n else np.zeros((6, 6)) for k in range(60)], 1)
        for n, root in enumerate(same)
    )
    window = [range(5, 45)]
    white = accumulated_errors(run, window, 0.0)
    unshared = accumulated_errors(replace(run, features=others), window, 100.0)
    np.testing.assert_allclose(unshared.cov, white.cov, rtol=1e-5, atol=1e-12)
    shared = accumulated_errors(replace(run, features=same), window, 0.0)
    A, total = np.eye(6), np.zeros((6, 6))
    for k in reversed(window[0]):
        total += A @ same[k]
        T = torch.from_numpy(run.T_earlier_later[k])
        A = A @ se3.adjoint(se3.inverse(T)).numpy()
    np.testing.assert_allclose(shared.epistemic_cov[0], total @ total.T, rtol=1e-5, atol=1e-12)
