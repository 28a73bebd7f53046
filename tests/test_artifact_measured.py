"""What a fit measures beside the weights: kept, read from older artifacts, refused if absurd."""

import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bayes_vio.artifact import ArtifactError, MotionArtifact
from bayes_vio.inspection import inspect_artifact
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover
from bayes_vio.models.noise import AS_IN_TRAINING, Circumstances
from bayes_vio.models.reliability import Reliability
from bayes_vio.sealed import sealed
from tests.artifact_cases import reseal
from tests.motion_cases import tiny_artifact

USUAL = Reliability(
    picture_mean=(-1.8, -3.2, -3.1, 0.4),
    picture_precision=tuple(map(tuple, (np.eye(4) + 0.5).tolist())),
    still_share=0.05,
    unseen_share=0.01,
    disagreement_std=(1e-3, 1e-3, 2e-3, 0.2, 5e-3),
    disagreement_response=(0.8, 0.8, 0.8, 1.0, 0.5),
    disagreement_bound=2.75,
    rotation_lever_m=((4.0, 10.0, 5.0), (0.5, 0.7, 9.0), (0.4, 1.3, 0.6)),
    vibration_std=(4e-4, 8e-4, 0.0),
    least_change=(0.77, 0.045),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_artifact().save(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_what_is_usual_for_the_inputs_is_kept(folder: Path) -> None:
    artifact = MotionArtifact.load(folder)
    assert artifact.reliability is None
    replace(artifact, reliability=USUAL).save(folder)
    assert MotionArtifact.load(folder).reliability == USUAL


def test_bound_and_levers_that_were_not_measured_have_a_default(folder: Path) -> None:
    old = asdict(USUAL)
    del old["disagreement_bound"], old["rotation_lever_m"], old["vibration_std"]
    del old["least_change"]
    reseal(folder, reliability=old)
    told = MotionArtifact.load(folder).reliability
    expected = replace(USUAL, disagreement_bound=3.0, rotation_lever_m=None, least_change=None)
    assert told == replace(expected, vibration_std=(0.0, 0.0, 0.0))


def test_how_rotations_are_fused_is_kept(folder: Path) -> None:
    artifact = MotionArtifact.load(folder)
    assert artifact.crossover == NETWORK_ALONE
    crossover = Crossover((0.5, 2.0, math.inf))
    replace(artifact, crossover=crossover).save(folder)
    assert MotionArtifact.load(folder).crossover == crossover
    out = io.StringIO()
    inspect_artifact(folder, Console(file=out, width=200))
    assert "rotX 0.5 s, rotY 2.0 s, rotZ never" in out.getvalue()
    reseal(folder, crossover_s=[0.5, 2.0, -1.0])
    with pytest.raises(ArtifactError, match="three times above 0 s"):
        MotionArtifact.load(folder)


def test_the_noise_under_other_circumstances_is_kept(folder: Path) -> None:
    artifact = MotionArtifact.load(folder)
    assert artifact.circumstances == AS_IN_TRAINING
    scale = (1.5, 1.0, 0.5, 2.0, 1.0, 1.0)
    measured = Circumstances(bias_known_scale=scale, standing_std=(0.03,) * 6)
    replace(artifact, circumstances=measured).save(folder)
    assert MotionArtifact.load(folder).circumstances == measured
    out = io.StringIO()
    inspect_artifact(folder, Console(file=out, width=200))
    assert "x x 1.50" in out.getvalue()
    for damaged in ([1.0] * 5, [1.0] * 5 + [0.0], ["x"] * 6, [1e3] * 6, None, [[1.0]] * 6):
        reseal(folder, circumstances=asdict(measured) | {"bias_known_scale": damaged})
        with pytest.raises(ArtifactError):
            MotionArtifact.load(folder)
    reseal(folder, circumstances=asdict(measured) | {"rain_scale": scale})
    with pytest.raises(ArtifactError):
        MotionArtifact.load(folder)


def test_an_artifact_written_before_this_was_measured_is_read(folder: Path) -> None:
    file = folder / "artifact.json"
    description = json.loads(file.read_text())
    for name in ("reliability", "crossover_s", "circumstances", "seal_sha256"):
        del description[name]
    file.write_text(json.dumps(sealed(description)))
    artifact = MotionArtifact.load(folder)
    assert artifact.reliability is None
    assert artifact.crossover == NETWORK_ALONE
    assert artifact.circumstances == AS_IN_TRAINING


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "does not fit"),
        ({"still_share": 0.1}, "tells"),
        (asdict(USUAL) | {"still_share": 1e30}, "shares outside"),
        (asdict(USUAL) | {"picture_precision": [[1e300] * 4] * 4}, "up to 1e"),
        (asdict(USUAL) | {"disagreement_std": [0] * 5}, "five positive"),
        (asdict(USUAL) | {"colour": 1}, "tells"),
        (asdict(USUAL) | {"rotation_lever_m": [[1.0] * 3]}, "nine levers"),
        (asdict(USUAL) | {"least_change": [0.7, 1e30]}, "a least change"),
    ],
)
def test_what_nothing_measures_is_refused(folder: Path, value: object, message: str) -> None:
    reseal(folder, reliability=value)
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)
