"""What the bad-day and epistemic benchmarks do to recordings, and how they judge."""

from dataclasses import replace

import numpy as np
import pytest
from bad_day_faults import FAULTS, unspoilt, with_faults
from bad_day_picture import draw
from bad_days import Spoilt, failures, judged, shortened, spoilt, table
from epistemic import auroc, ratio_to_noise, separated, zero_shot

from bayes_vio.data.bags import open_streams
from bayes_vio.evaluation.calibration import Errors
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings
from bayes_vio.simulation.faults import Fault, FaultKind
from tests.evaluation.synthetic import synthetic_run
from tests.motion_cases import tiny_artifact

ROWS = {row.name: row for row in FAULTS}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    out = tmp_path_factory.mktemp("bad_days") / "drive"
    simulate(
        out,
        SimulationSettings(
            seed=4, drive=DriveSettings(duration_s=7.5), camera=CameraSettings(rate_hz=8)
        ),
    )
    return shortened(open_streams(out), 8.0)


def images(streams) -> dict[int, np.ndarray]:
    return dict(streams.frames())


def inside(day, stamp_ns) -> np.ndarray:
    begin, end = day.spell_ns.T
    return ((stamp_ns[:, None] >= begin) & (stamp_ns[:, None] < end)).any(1)


@pytest.mark.parametrize("name", ["blur", "darkness", "occlusion"])
def test_images_are_spoilt_within_the_spell_and_only_there(streams, name):
    day = ROWS[name].spoil(streams, ROWS[name].strengths[1], 1)
    good, bad = images(streams), images(day.streams)
    stamps = np.array(list(good))
    hit = inside(day, stamps)
    assert 0 < hit.sum() < len(hit)
    changed = np.array([not np.array_equal(good[ns], bad[ns]) for ns in stamps.tolist()])
    np.testing.assert_array_equal(changed, hit)
    again = images(ROWS[name].spoil(streams, ROWS[name].strengths[1], 1).streams)
    assert all(np.array_equal(bad[ns], again[ns]) for ns in stamps.tolist())


def test_strengths_grow(streams):
    good = images(streams)
    for name in ("blur", "darkness", "occlusion"):
        away = []
        for strength in ROWS[name].strengths:
            bad = images(ROWS[name].spoil(streams, strength, 1).streams)
            away.append(np.mean([np.abs(bad[ns].astype(int) - good[ns]).mean() for ns in good]))
        assert 0 < away[0] < away[1] < away[2], name


def test_a_frozen_camera_repeats_and_a_dropping_one_leaves_out(streams):
    frozen = ROWS["frozen"].spoil(streams, 2.0, 1)
    shown = images(frozen.streams)
    hit = np.flatnonzero(inside(frozen, np.array(list(shown))))
    pictures = list(shown.values())
    assert all(np.array_equal(pictures[k], pictures[hit[0] - 1]) for k in hit)
    dropped = ROWS["dropped frames"].spoil(streams, 0.6, 1).streams
    assert set(images(dropped)) == set(dropped.image_stamp_ns.tolist())
    assert len(dropped.image_stamp_ns) < len(streams.image_stamp_ns)


def test_the_imu_loses_and_gains_what_it_should(streams):
    stamps, samples = streams.imu.stamp_ns, streams.imu.samples
    gap = ROWS["IMU gap"].spoil(streams, 1.0, 1)
    lost = np.setdiff1d(stamps, gap.streams.imu.stamp_ns)
    np.testing.assert_array_equal(lost, stamps[inside(gap, stamps)])
    biased = ROWS["IMU bias"].spoil(streams, 0.005, 1).streams.imu.samples
    np.testing.assert_allclose(biased - samples, [[0.1] * 3 + [0.005] * 3] * len(samples))
    late = ROWS["wrong time offset"].spoil(streams, 0.02, 1).streams.imu
    np.testing.assert_array_equal(late.stamp_ns - stamps, 20_000_000)
    K = ROWS["wrong intrinsics"].spoil(streams, 0.1, 1).streams.camera.K
    np.testing.assert_allclose(np.diag(K) / np.diag(streams.camera.K), [1.1, 1.1, 1])


def test_a_recording_without_imu_is_refused(streams):
    fault = (Fault(FaultKind.BLUR, 0.0, 1.0),)
    with pytest.raises(ValueError, match="no IMU"):
        with_faults(replace(streams, imu=None), fault, 1)


def test_an_estimator_is_played_a_bad_day(streams, tmp_path):
    artifact = tiny_artifact()
    blurred = spoilt(artifact, ROWS["blur"].spoil(streams, 0.03, 1))
    assert set(blurred.state) == {"degraded"}
    assert len(blurred.errors) == len(blurred.state)
    good = spoilt(artifact, unspoilt(streams))
    assert len(good.errors) > len(blurred.errors)
    cells = [{"strength": s, **judged([blurred]), "missed": ["x"]} for s in (1, 2, 3)]
    rows = [{"fault": "blur", "unit": "1", "cells": cells}]
    told = {"small": {"no_fault": judged([good]), "faults": rows}}
    assert "MISSED: x" in table("small", told["small"])[-1]
    draw(tmp_path / "bad_days.png", told)
    assert (tmp_path / "bad_days.png").stat().st_size > 10_000


def cell(scale: float, state: str = "tracking", n: int = 500, seed: int = 0) -> dict:
    """Judge errors of N(0, 1) under a covariance whose sigma is ``scale``."""
    error = np.random.default_rng(seed).normal(size=(n, 6))
    half = np.tile(scale**2 / 2 * np.eye(6), (n, 1, 1))
    return judged([Spoilt(Errors(error, half, half, np.zeros(n, int)), np.full(n, state))])


def test_a_true_covariance_misses_nothing_a_false_one_does():
    true = cell(1.0)
    assert true["nees_over_6"] == pytest.approx(1, abs=0.1)
    assert true["translation"]["sharpness"] == pytest.approx(1, abs=0.05)
    assert true["epistemic_share"] == pytest.approx(0.5)
    assert failures(true, weakest=True) == []
    assert "% of the errors while tracking" in failures(cell(0.6), weakest=False)[0]
    assert len(failures(cell(2.5), weakest=False)) == 2
    lost = cell(0.5, "lost")
    assert failures(lost, weakest=False) == []
    assert failures(lost, weakest=True) == ["100 % lost"]
    assert lost["coverage_95_told"] is None


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    known, other = rng.normal(size=200), rng.normal(1.0, size=100)
    pairs = (other[:, None] > known).mean()
    assert auroc(known, other) == pytest.approx(pairs)
    assert auroc(known, known) == pytest.approx(0.5)


def test_a_run_is_set_apart_by_its_epistemic_covariance():
    run = synthetic_run()
    run = replace(run, epistemic_cov=0.5 * run.noise_cov)
    wider = replace(run, epistemic_cov=4 * run.epistemic_cov)
    told = separated([run], wider)
    assert told["epistemic_growth"] == pytest.approx(4)
    assert told["auroc"]["ratio to noise"] >= told["auroc"]["whole log determinant"] >= 0.5
    np.testing.assert_allclose(ratio_to_noise(3 * run.noise_cov, run.noise_cov), 3)
    figures = zero_shot(run)
    assert sum(figures["states"].values()) == pytest.approx(1)
    assert figures["forward_relative_rmse"] < 1
