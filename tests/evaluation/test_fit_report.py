"""The report on a fit: its figures are those of the fit, its page needs nothing, it warns."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import AXES, NS_PER_S
from bayes_vio.data.samples import ReferenceStream
from bayes_vio.evaluation.fit_page import render_fit
from bayes_vio.evaluation.fit_report import report_folder
from bayes_vio.evaluation.fit_verdict import Trust, judge_fit
from bayes_vio.evaluation.recording_quality import describe_recording, stream_timing
from bayes_vio.fit import FitSettings, fit
from bayes_vio.training.map_fit import MapFitSettings
from bayes_vio.training.recordings import FitObserver, read_recordings
from tests.data.drives import Drive, write_drive
from tests.evaluation.test_report import Outline

OFFSET_S = 0.04


class Notes(FitObserver):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    for number, name in enumerate(("town", "wood", "held")):
        drive = Drive(duration_s=8, offset_s=OFFSET_S, speed_m_s=4.0 + number)
        write_drive(folder / name, drive, reference_until_s=7.5 if name == "wood" else np.inf)
    return folder


@pytest.fixture(scope="module")
def fitted(folder) -> tuple[MotionArtifact, Notes]:
    settings = FitSettings(
        map=MapFitSettings(epochs=2),
        prior_precisions=(1e2, 1e4),
        curvature_samples=16,
        calibration_samples=40,
        rank=8,
    )
    notes = Notes()
    bags = [folder / "town", folder / "wood"]
    artifact = fit(bags, [folder / "held"], folder / "car", settings, observer=notes)
    return artifact, notes


@pytest.fixture(scope="module")
def report(fitted, folder) -> dict:
    return json.loads((report_folder(folder / "car") / "fit_report.json").read_text())


@pytest.fixture(scope="module")
def page(fitted, folder) -> str:
    return (report_folder(folder / "car") / "fit_report.html").read_text()


def test_the_artifact_stays_as_it_is(fitted, folder):
    assert {f.name for f in (folder / "car").iterdir()} == {
        "artifact.json",
        "model.safetensors",
        "posterior.safetensors",
        "regime.safetensors",
        "regime_image.safetensors",
        "regime_ego_motion.safetensors",
    }
    assert MotionArtifact.load(folder / "car").metadata == fitted[0].metadata


def test_figures_are_those_of_the_fit(fitted, report):
    artifact, notes = fitted
    metadata = artifact.metadata
    assert report["training"]["validation_nll"] == metadata["curves"]["validation_nll"]
    assert report["training"]["best_epoch"] == metadata["curves"]["best_epoch"]
    assert not report["training"]["continued"]
    assert report["prior_precision"] == metadata["prior_precision"]
    searched = [[p["prior_precision"], p["nll"]] for p in report["prior_search"]]
    assert searched == metadata["prior_search"]
    assert (
        list(report["validation"]["noise_scale"].values())
        == (metadata["validation"]["noise_scale"])
    )
    measured = report["validation"]["measured"]
    assert measured["count"] == metadata["validation"]["count"] == 40
    assert measured["joint"]["nees_mean"] / 6 == pytest.approx(
        metadata["validation"]["nees"], rel=1e-4
    )
    rmse = [axis["rmse"] for axis in measured["axes"]]
    np.testing.assert_allclose(rmse, metadata["validation"]["rmse"], rtol=1e-4)
    assert report["posterior"]["nbytes"] == artifact.posterior.nbytes
    assert report["posterior"]["storage"] == artifact.posterior.storage
    assert report["artifact"]["time_offset_s"] == artifact.time_offset_s
    assert report["time_offset"]["std_s"] == metadata["time_offset_std_s"]
    assert report["verdict"]["claim"] in notes.texts


def test_figures_are_those_of_the_recordings(report):
    town, wood = report["recordings"]["train"]
    (held,) = report["recordings"]["validation"]
    assert [town["name"], wood["name"], held["name"]] == ["town", "wood", "held"]
    assert town["images"]["count"] == 80
    assert town["images"]["rate_hz"] == pytest.approx(10)
    assert town["imu"]["rate_hz"] == pytest.approx(100)
    assert town["driven"]["speed_m_s"]["median"] == pytest.approx(4.0, rel=1e-3)
    assert town["driven"]["distance_m"] == pytest.approx(4.0 * 7.9, rel=1e-3)
    largest = np.degrees(0.5 * 2 * np.pi / 5)
    assert report["seen"]["yaw_rate_deg_s"]["max"] == pytest.approx(largest, rel=0.01)
    assert report["seen"]["speed_m_s"]["max"] == pytest.approx(5.0, rel=1e-3)
    assert town["time_offset"]["offset_s"] == pytest.approx(OFFSET_S, abs=0.002)
    assert report["time_offset"]["offset_s"] == pytest.approx(OFFSET_S, abs=0.002)
    assert report["time_offset"]["recordings"] == 2
    assert wood["dropped"]["samples: no reference"] > 0
    assert not town["dropped"]
    assert town["reference"]["gyro"]["yaw_correlation"] > 0.999
    assert report["extrinsics"]["source"] == "/tf_static"


def test_reference_noise_is_measured(folder, tmp_path):
    recordings = read_recordings(
        [folder / "town"], [folder / "held"], tmp_path, None, None, OFFSET_S, 0, FitObserver()
    )
    assert recordings.time_offset.std_s is None
    town = recordings.train[0]
    assert town.reference is not None
    clean = describe_recording(town)["reference"]["position_noise_m"]
    poses = town.reference.T_world_base.copy()
    poses[:, :3, 3] += 0.02 * np.random.default_rng(0).standard_normal((len(poses), 3))
    object.__setattr__(town, "reference", ReferenceStream(town.reference.stamp_ns, poses))
    noisy = describe_recording(town)["reference"]["position_noise_m"]
    assert clean < 0.005
    assert noisy == pytest.approx(0.02 * np.sqrt(3), rel=0.3)


def test_gaps_and_jitter_are_counted():
    stamp_s = np.arange(100) * 0.1
    stamp_s[60:] += 0.4
    stamp_s += 0.002 * np.random.default_rng(0).standard_normal(100)
    timing = stream_timing((stamp_s * NS_PER_S).astype(np.int64))
    assert timing["gaps"] == 1
    assert timing["rate_hz"] == pytest.approx(10, rel=0.02)
    assert timing["longest_gap_s"] == pytest.approx(0.5, abs=0.01)
    assert timing["jitter_ms"] == pytest.approx(2 * np.sqrt(2), rel=0.4)
    assert stream_timing(np.array([5]))["rate_hz"] is None


def test_page_needs_nothing_and_says_what_the_report_says(page, report):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all(link.startswith("#") for link in outline.links)
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", page)
    assert "script" not in outline.tags
    assert report["verdict"]["claim"] in page
    offset_ms = 1e3 * report["time_offset"]["offset_s"]
    assert f"{offset_ms:.1f} ms later than the camera does" in page
    for part in report["recordings"]["train"]:
        assert part["name"] in page
    assert "samples: no reference" in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()


def test_names_are_escaped(report):
    named = copy.deepcopy(report)
    named["recordings"]["train"][0]["name"] = "<b>town</b>"
    assert "<b>town" not in re.sub(r"<svg.*?</svg>", "", render_fit(named, "<i>x"), flags=re.S)
    assert "<i>x" not in render_fit(named, "<i>x")


def good(report: dict) -> dict:
    """Return a report in which nothing is wrong."""
    fine = copy.deepcopy({key: value for key, value in report.items() if key != "verdict"})
    fine["recordings"]["train"] *= 3
    for part in fine["recordings"]["train"] + fine["recordings"]["validation"]:
        part["reference"]["position_noise_m"] = 0.0
        part["time_offset"] = {**part["time_offset"], "offset_s": OFFSET_S, "std_s": 1e-3}
    fine["seen"] |= {"time_s": 3000.0, "distance_m": 20_000.0}
    fine["seen"]["brightness"] |= {"p1": 40.0, "p99": 180.0}
    fine["validation"]["time_s"] = 600.0
    fine["validation"]["speed_m_s"] = fine["seen"]["speed_m_s"]
    fine["validation"]["noise_scale"] = dict.fromkeys(AXES, 1.0)
    fine["validation"]["judgement"] |= {"verdict": "consistent"}
    fine["time_offset"] = {"offset_s": OFFSET_S, "std_s": 1e-3, "recordings": 6, "given": False}
    fine["training"] |= {"best_epoch": 1, "epochs_allowed": 2}
    fine["prior_search"] = [
        {"prior_precision": p, "nll": nll} for p, nll in ((1.0, 3.0), (10.0, 1.0), (100.0, 2.0))
    ]
    fine["prior_precision"] = 10.0
    axis = {"deg": 0.1, "std_deg": 0.1, "observable": True, "contradicts": False}
    fine["camera_rotation"] = {name: dict(axis) for name in ("roll", "pitch", "yaw")}
    return fine


def test_nothing_wrong_is_fit_to_be_tried(report):
    verdict = judge_fit(good(report))
    assert verdict["limits"] == []
    assert verdict["trust"] == Trust.GOOD.value
    assert any("m/s" in text for text in verdict["trusted"])


def _set(path: str, value):
    def change(report: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            report = report[int(key)] if isinstance(report, list) else report[key]
        report[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words", "trust"),
    [
        (_set("seen.time_s", 300.0), "too little data", Trust.CARE),
        (_set("seen.time_s", 60.0), "too little data", Trust.NONE),
        (_set("validation.time_s", 30.0), "30 s of driving", Trust.CARE),
        (_set("validation.judgement.verdict", "overconfident"), "Errors are", Trust.NONE),
        (_set("validation.judgement.verdict", "too cautious"), "Errors are", Trust.CARE),
        (_set("validation.noise_scale.rotZ", 2.2), "rotZ 2.2", Trust.CARE),
        (_set("validation.speed_m_s", {"p99": 1.0}), "unchecked at the higher", Trust.CARE),
        (_set("seen.brightness.p1", 170.0), "equally bright", Trust.CARE),
        (_set("time_offset.std_s", 0.008), "uncertain: +40 +- 8 ms", Trust.CARE),
        (_set("time_offset.std_s", 0.05), "uncertain", Trust.NONE),
        (_set("recordings.validation.0.time_offset.offset_s", -0.02), "-20 +- 1 ms", Trust.CARE),
        (_set("camera_rotation.pitch.contradicts", True), "camera's pitch", Trust.CARE),
        (_set("camera_rotation.roll.observable", False), "do not show", Trust.CARE),
        (_set("recordings.train.0.imu", None), "without an IMU on town", Trust.CARE),
        (_set("training.best_epoch", 2), "still improving", Trust.CARE),
        (
            _set(
                "training",
                {
                    "train_loss": [2.0, 1.0],
                    "validation_nll": [1.0, 2.0],
                    "best_epoch": 1,
                    "epochs_allowed": 60,
                    "continued": True,
                },
            ),
            "yesterday's weights, which are kept",
            Trust.CARE,
        ),
        (_set("prior_precision", 100.0), "at the end of those tried", Trust.CARE),
        (
            _set("recordings.validation.0.reference.position_noise_m", 9.0),
            "reference's own noise on held",
            Trust.CARE,
        ),
    ],
)
def test_every_bad_case_is_told(report, change, words, trust):
    bad = good(report)
    bad["recordings"]["train"] = copy.deepcopy(bad["recordings"]["train"])
    change(bad)
    verdict = judge_fit(bad)
    assert verdict["trust"] == trust.value
    assert any(words in limit["text"] for limit in verdict["limits"]), verdict["limits"]
    assert verdict["reason"] == verdict["limits"][0]["text"]


def test_few_recordings_and_the_camera_alone_are_told(report):
    bad = good(report)
    bad["recordings"]["train"] = copy.deepcopy(bad["recordings"]["train"][:1])
    bad["recordings"]["train"][0] |= {"imu": None, "time_offset": None}
    texts = [limit["text"] for limit in judge_fit(bad)["limits"]]
    assert any("one recording" in text for text in texts)
    assert any("camera alone" in text for text in texts)
    bad["camera_rotation"] = None
    assert "No recording shows how the camera is turned" in render_fit(
        {"verdict": judge_fit(bad), **bad}, "x"
    )
