"""What the smoother's benchmark does to a drive before and after the smoother."""

import json
from dataclasses import replace

import numpy as np
import pytest
from smoother import (
    ALL,
    CONSTANT,
    OURS,
    Study,
    draw,
    errors_that_last,
    figures,
    reductions,
    scaled,
    second_moment,
)
from smoother_bad_days import BEFORE_S, FAULTS, FailingCamera, faults_of
from smoother_runs import (
    FIX_LASTING_STD_M,
    FIX_STD_M,
    Judged,
    Outages,
    Treatment,
    first,
    fixes,
    fuse,
    increment_errors,
    oracle_cov,
    outages,
    outages_within,
    with_cov,
)

from bayes_vio.artifact import default_artifact_path
from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import CameraModel, Extrinsics, ImuStream, Streams
from bayes_vio.filters.lasting_errors import ErrorModel
from tests.evaluation.synthetic import synthetic_run

WHITE = ErrorModel(fix_std_m=1.0)


def test_outages_come_in_turn_and_leave_fixes_between():
    run = synthetic_run(3000)
    for turn, order in ((0, (10, 30, 60)), (2, (60, 10, 30))):
        where = outages(run, turn)
        assert where.length_s[:3] == order
        starts, ends = np.array(where.start_s), np.add(where.start_s, where.length_s)
        np.testing.assert_allclose(starts[1:] - ends[:-1], 30)
        assert ends[-1] < run.time_s[-1]
    short = outages(first(run, 28), 0)
    assert short.length_s == (10,)


def test_fixes_have_the_stated_noise_and_stop_in_outages():
    run = synthetic_run(3000)
    at = {int(ns): k for k, ns in enumerate(run.stamp_ns)}
    errors = np.array([
        position - run.T_world_base[at[stamp_ns], :3, 3]
        for seed in range(20)
        for stamp_ns, position in fixes(run, Outages((), ()), seed)
    ])  # fmt: skip
    assert errors.std() == pytest.approx(np.hypot(FIX_STD_M, FIX_LASTING_STD_M), rel=0.05)
    where = outages(run, 0)
    given = fixes(run, where, 0)
    assert all(not where.length_at(float(run.time_s[at[ns]])) for ns, _ in given)
    assert len(given) < len(fixes(run, Outages((), ()), 0))


def test_first_seconds_of_a_run_are_a_run():
    run = first(synthetic_run(500), 12.0)
    assert run.time_s[-1] <= 12.0
    assert len(run.T_world_base) == len(run) == len(run.state)


def test_constant_covariance_is_that_of_the_errors_and_scales_by_sigma():
    run = synthetic_run(2000)
    cov = second_moment([run, run])
    np.testing.assert_allclose(cov, np.cov(increment_errors(run).T, bias=True), atol=1e-5)
    std = np.sqrt(np.diag(scaled(cov, 2.0, 3.0)) / np.diag(cov))
    np.testing.assert_allclose(std, [2, 2, 2, 3, 3, 3])


def test_positions_in_an_outage_are_judged_with_a_true_covariance():
    pytest.importorskip("gtsam", reason="GTSAM is not installed: pip install the extra `smoother`")
    run = first(synthetic_run(500), 40)
    judged = fuse(run, Treatment(WHITE), 0, 0)
    assert set(judged.length_s) == {10.0}
    told = figures(judged)["10 s"]
    for end in ("newest", "lagged"):
        assert told[end]["count"] >= 15
        assert told[end]["region_95"] >= 0.5
        assert told[end]["ate_m"] < 5
        assert 0 < told[end]["nll"] < 10
    cautious = fuse(run, Treatment(WHITE, 0.04 * np.eye(6)), 0, 0)
    assert np.median(cautious.sigma_m) > 1.5 * np.median(judged.sigma_m)


def test_the_oracle_tells_how_large_true_errors_are():
    run = synthetic_run(400)
    cov, error = oracle_cov(run, 2.1), increment_errors(run)
    for k in (0, 57, 399):
        near = np.abs(run.time_s - run.time_s[k]) <= 1.05
        expected = np.mean(error[near] ** 2, axis=0)
        np.testing.assert_allclose(np.diag(cov[k]), expected, rtol=1e-6)
    off_diagonal = cov - np.einsum("nii->ni", cov)[:, :, None] * np.eye(6)
    assert not off_diagonal.any()


def test_what_a_smoother_is_told():
    run = synthetic_run(100)
    assert Treatment(WHITE).told(run) is run
    constant = Treatment(WHITE, np.eye(6)).told(run)
    np.testing.assert_array_equal(constant.noise_cov[37], np.eye(6))
    assert not constant.epistemic_cov.any()
    np.testing.assert_array_equal(constant.T_earlier_later, run.T_earlier_later)
    true = Treatment(WHITE, is_true=True).told(run)
    assert np.abs(increment_errors(true)).max() < 1e-12
    assert true.noise_cov.max() < 1e-7


def test_nothing_is_learned_of_errors_that_no_weights_made():
    run = synthetic_run(400)
    run = replace(run, epistemic_cov=run.noise_cov)
    known = errors_that_last(default_artifact_path(), [run], None)
    blind = with_cov(run, run.noise_cov)
    assert known.epistemic_time_s > 0
    assert errors_that_last(default_artifact_path(), [blind], None).epistemic_time_s == 0


def test_true_increments_leave_the_errors_of_fixes():
    pytest.importorskip("gtsam", reason="GTSAM is not installed: pip install the extra `smoother`")
    run = first(synthetic_run(500), 40)
    published, true = (
        figures(fuse(run, treatment, 0, 0))["10 s"]["newest"]
        for treatment in (Treatment(WHITE), Treatment(WHITE, is_true=True))
    )
    assert true["median_sigma_m"] < published["median_sigma_m"]
    assert true["ate_m"] < 3


def still_camera(duration_s: float) -> Streams:
    """Return a camera at 4 Hz whose images differ, and an IMU."""
    stamp_ns = 5 * NS_PER_S + np.arange(round(4 * duration_s) + 1, dtype=np.int64) * NS_PER_S // 4

    def frames():
        for number, ns in enumerate(stamp_ns.tolist()):
            yield ns, np.full((20, 40), 100 + number % 150, np.uint8)

    return Streams(
        name="still",
        camera=CameraModel(40, 20, np.diag([20.0, 20.0, 1.0])),
        extrinsics=Extrinsics(np.eye(4), np.eye(4), "made up"),
        image_stamp_ns=stamp_ns,
        frames=frames,
        imu=ImuStream(stamp_ns, np.zeros((len(stamp_ns), 6))),
        reference=None,
        dropped={},
    )


@pytest.mark.parametrize("turn", [0, 2])
def test_the_camera_fails_from_before_an_outage_to_its_half(turn):
    streams = still_camera(250.0)
    where, camera = outages_within(250.0, turn), FailingCamera(turn)
    assert len(faults_of(where)) >= 3
    good, bad = dict(streams.frames()), dict(camera.of(streams).frames())
    time_s = (streams.image_stamp_ns - streams.image_stamp_ns[0]) / NS_PER_S
    failing = np.zeros(len(time_s), bool)
    for start_s, length_s in zip(where.start_s, where.length_s, strict=True):
        failing |= (time_s >= start_s - BEFORE_S) & (time_s < start_s + length_s / 2)
    spoilt = np.array([not np.array_equal(good[ns], bad[ns]) for ns in good])
    np.testing.assert_array_equal(spoilt, failing)
    kinds = [fault.kind for fault in faults_of(where)][: len(FAULTS)]
    assert kinds == [kind for kind, _ in FAULTS]


def test_the_first_seconds_of_a_bad_day_end_there():
    camera = FailingCamera(0, 100.0)
    streams = camera.of(still_camera(250.0))
    assert len(list(streams.frames())) == len(streams.image_stamp_ns) == 401
    assert camera.suffix != FailingCamera(0).suffix != FailingCamera(2).suffix


def judged(error_m: float, squared: float) -> Judged:
    """Return both ends of a window in every outage, with one error."""
    length_s, lagged = np.repeat([10.0, 30.0, 60.0], 20), np.tile([False, True], 30)
    n = len(lagged)
    inside = np.where(np.arange(n) % 20 < 2, 100.0, squared)
    nll = np.full(n, 2.0)
    return Judged(length_s, np.zeros(n), np.full(n, error_m), inside, np.ones(n), nll, lagged)


def test_verdicts_and_picture(tmp_path):
    told = {CONSTANT: figures(judged(5.0, 1.0)), OURS: figures(judged(3.9, 1.0))}
    lower = reductions(told)
    assert lower["by_outage"]["30 s"]["lagged"] == pytest.approx(0.22)
    assert all(lower["met"].values())
    assert lower["others"][CONSTANT] == {"newest": 0, "lagged": 0}
    assert lower["by_outage"][ALL]["newest"] == pytest.approx(0.22)
    told[OURS] = figures(judged(4.1, 50.0))
    assert not any(reductions(told)["met"].values())
    json.dumps(told, allow_nan=False)
    draw(tmp_path / "smoother.png", told, "made up")
    assert (tmp_path / "smoother.png").stat().st_size > 10_000


def test_scales_are_searched_until_neither_is_better_alone(monkeypatch):
    study = Study(None, 1)  # pyright: ignore[reportArgumentType]
    asked: list[tuple[float, float]] = []

    def costs(runs, cov, pairs, turns):
        asked.extend(pairs)
        return {(a, b): np.log(a / 4) ** 2 + 0.4 * np.log(b / a) ** 2 for a, b in pairs}

    monkeypatch.setattr(study, "_costs", costs)
    linear, angular, tried = study.best_scales([], np.eye(6))
    assert (linear, angular) == (4, 4)
    assert min(tried, key=tried.__getitem__) == "4 4"
    assert len(asked) == len(set(asked)) == len(tried) < 16
