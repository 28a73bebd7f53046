import sys

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.filters.lasting_errors import WHITE_ERRORS, ErrorModel
from bayes_vio.filters.smoother import Smoother, SmootherSettings, StampError
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation
from tests.filters.smoother_cases import (
    DT_NS,
    FIX_COV,
    START_COV,
    Drive,
    dense_solution,
    draw,
    log,
)

pytest.importorskip("gtsam", reason="GTSAM is not installed: pip install the extra `smoother`")

EVERYTHING = ErrorModel(
    fast=NoiseCorrelation((1.0, 0.5, 0.5, 0.0, 0.3, 2.0), (0.5, 0.3, 0.4, 0.5, 0.2, 0.3)),
    slow=NoiseCorrelation((600.0,) * 6, (0.3, 0.4, 0.2, 0.0, 0.0, 0.0)),
    epistemic_time_s=8.0,
    fix_std_m=1.0,
    fix_time_s=30.0,
)
ROBUST_NEVER = 1e6
START_NS = 1_700_000_000_000_000_000


def fused(settings: SmootherSettings, drive: Drive, each=lambda smoother, k: None) -> Smoother:
    """Return the smoother at the drive's end; ``each`` sees it after every increment."""
    smoother = Smoother(settings, START_NS, drive.T_start, START_COV)
    for stamp_ns, fix in zip(drive.fix_stamp_ns, drive.fixes, strict=True):
        smoother.add_fix(START_NS + int(stamp_ns), fix, FIX_COV)
    for k in range(len(drive)):
        smoother.add_motion(
            START_NS + k * DT_NS,
            START_NS + (k + 1) * DT_NS,
            drive.T_earlier_later[k],
            drive.noise_cov[k],
            drive.epistemic_cov[k],
        )
        each(smoother, k)
    return smoother


@pytest.mark.parametrize(
    "model",
    [
        EVERYTHING,
        WHITE_ERRORS,
        ErrorModel(epistemic_time_s=5.0),
        ErrorModel(fix_std_m=1.0),
        ErrorModel(slow=NoiseCorrelation((600.0,) * 6, (1.0, 0, 0, 0, 0, 0))),
    ],
)
@pytest.mark.parametrize("antenna", [(0.0, 0.0, 0.0), (1.0, -0.4, 1.2)])
def test_within_its_window_it_is_the_dense_solution(model, antenna):
    # Fixes on poses, between them, and two within one interval.
    stamps = np.array([0, 4.4, 4.7, 9, 15.5, 20]) * DT_NS
    drive = draw(model, 20, 3, stamps.astype(np.int64), antenna)
    settings = SmootherSettings(
        errors=model, fix_robust_sigma=ROBUST_NEVER, antenna_in_base_m=antenna
    )
    T, P = dense_solution(model, drive, antenna)
    for k, state in enumerate(fused(settings, drive).states()):
        block = slice(6 * k, 6 * k + 6)
        std = np.sqrt(np.diag(P)[block])
        error = log(np.linalg.inv(T[k]) @ state.T_world_base)
        # Poses are linearised anew only beyond 5 mrad and 0.3 m.
        np.testing.assert_array_less(np.abs(error), 0.05 * std)
        np.testing.assert_allclose(
            state.cov / np.outer(std, std), P[block, block] / np.outer(std, std), atol=0.03
        )


def test_marginalising_loses_nothing_that_the_newest_pose_needs():
    drive = draw(EVERYTHING, 60, 5, np.arange(1, 60, 7) * DT_NS)
    T, P = dense_solution(EVERYTHING, drive)
    settings = SmootherSettings(lag_s=2.0, errors=EVERYTHING, fix_robust_sigma=ROBUST_NEVER)
    smoother = fused(settings, drive)
    assert smoother.stamps_ns[0] > START_NS + 35 * DT_NS
    newest, std = smoother.newest(), np.sqrt(np.diag(P)[-6:])
    np.testing.assert_array_less(
        np.abs(log(np.linalg.inv(T[-1]) @ newest.T_world_base)), 0.1 * std
    )
    np.testing.assert_allclose(np.sqrt(np.diag(newest.cov)), std, rtol=0.05)


def test_without_fixes_it_compounds_and_its_axes_are_ours():
    drive = draw(WHITE_ERRORS, 1, 1, np.array([], np.int64))
    cov = drive.noise_cov[0] + drive.epistemic_cov[0]
    said = fused(SmootherSettings(), drive).newest()
    T_inc = drive.T_earlier_later[0]
    truth = se3.compound(*map(torch.from_numpy, (START_COV, T_inc, cov))).numpy()
    std = np.sqrt(np.diag(truth))
    np.testing.assert_allclose(
        said.cov / np.outer(std, std), truth / np.outer(std, std), atol=1e-6
    )
    np.testing.assert_allclose(said.T_world_base, drive.T_start @ T_inc, atol=1e-9)


def normalised(model: ErrorModel, truth: ErrorModel, seeds: range) -> np.ndarray:
    """Return squared errors [runs, 2] over their covariance: newest and oldest pose."""
    found = []
    for seed in seeds:
        # Fixes for 6 s, an outage of 4 s.
        drive = draw(truth, 100, seed, np.arange(5, 60, 5) * DT_NS)
        smoother = fused(SmootherSettings(lag_s=3.0, errors=model), drive)
        row = []
        for state in (smoother.newest(), smoother.oldest()):
            k = (state.stamp_ns - START_NS) // DT_NS
            error = log(np.linalg.inv(state.T_world_base) @ drive.T_world_base[k])
            row.append(error @ np.linalg.solve(state.cov, error))
        found.append(row)
    return np.array(found)


def test_covariance_is_true_where_errors_are_the_models_and_small_where_they_are_called_white():
    seeds = range(24)
    squared = normalised(EVERYTHING, EVERYTHING, seeds)
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], 6 * len(seeds)) / len(seeds)
    assert ((low < squared.mean(0)) & (squared.mean(0) < high)).all(), squared.mean(0)
    white = normalised(ErrorModel(fix_std_m=1.0), EVERYTHING, range(8))
    assert (white.mean(0) > high).all(), white.mean(0)


def test_an_outlier_among_fixes_does_little():
    drive = draw(WHITE_ERRORS, 60, 2, np.arange(5, 60, 5) * DT_NS)
    spoilt = drive.fixes.copy()
    spoilt[5] += [60.0, -30.0, 10.0]
    outlier = Drive(**{**vars(drive), "fixes": spoilt})

    def error_m(drive: Drive, robust_sigma: float) -> float:
        state = fused(SmootherSettings(fix_robust_sigma=robust_sigma), drive).newest()
        return float(np.linalg.norm(state.T_world_base[:3, 3] - drive.T_world_base[-1, :3, 3]))

    assert error_m(outlier, 2.8) < error_m(drive, 2.8) + 1.5
    assert error_m(outlier, ROBUST_NEVER) > error_m(outlier, 2.8) + 2


def test_what_it_refuses_leaves_it_as_it_was():
    drive = draw(EVERYTHING, 3, 0, np.array([], np.int64))
    smoother = fused(SmootherSettings(errors=EVERYTHING), drive)
    before = smoother.newest()
    step = (drive.T_earlier_later[0], drive.noise_cov[0], drive.epistemic_cov[0])
    end = START_NS + 3 * DT_NS
    with pytest.raises(StampError, match="does not follow on"):
        smoother.add_motion(end + DT_NS, end + 2 * DT_NS, *step)
    with pytest.raises(StampError, match="does not follow on"):
        smoother.add_motion(end, end, *step)
    with pytest.raises(CovarianceError, match="noise"):
        smoother.add_motion(end, end + DT_NS, step[0], -step[1], step[2])
    with pytest.raises(CovarianceError, match="epistemic"):
        smoother.add_motion(end, end + DT_NS, step[0], step[1], np.full((6, 6), np.nan))
    with pytest.raises(CovarianceError, match="epistemic"):
        smoother.add_motion(end, end + DT_NS, *step[:2], -step[2])
    with pytest.raises(ValueError, match="4x4"):
        smoother.add_motion(end, end + DT_NS, np.eye(3), *step[1:])
    with pytest.raises(ValueError, match="position"):
        smoother.add_fix(end, [0.0, np.nan, 0.0], FIX_COV)
    with pytest.raises(CovarianceError, match="fix"):
        smoother.add_fix(end, np.zeros(3), np.zeros((3, 3)))
    after = smoother.newest()
    np.testing.assert_array_equal(before.T_world_base, after.T_world_base)
    np.testing.assert_array_equal(before.cov, after.cov)
    smoother.add_motion(end, end + DT_NS, *step)


def test_fixes_older_than_the_window_are_counted():
    drive = draw(WHITE_ERRORS, 30, 0, np.array([], np.int64))

    def late(smoother: Smoother, k: int) -> None:
        if k == 25:
            smoother.add_fix(START_NS + DT_NS, np.zeros(3), FIX_COV)

    assert fused(SmootherSettings(lag_s=1.0), drive, late).fixes_left_out == 1
    assert fused(SmootherSettings(lag_s=10.0), drive, late).fixes_left_out == 0


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"lag_s": 0.0}, {"fix_robust_sigma": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SmootherSettings(**wrong)


def test_without_gtsam_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gtsam", None)
    with pytest.raises(ImportError, match=r"bayes_vio\[smoother\]"):
        Smoother(SmootherSettings(), 0, np.eye(4), START_COV)
