"""The regime classifier as a part of the artifact: optional, whole, and refused when damaged."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bayes_vio.artifact import ArtifactError, MotionArtifact
from bayes_vio.inspection import inspect_artifact
from bayes_vio.regime import storage
from bayes_vio.sealed import pack, sealed, unpack
from tests.motion_cases import random_motion, tiny_artifact
from tests.regime_cases import imu_windows, scenes, small_classifier

PARTS = (storage.WEIGHTS, storage.IMAGE, storage.EGO_MOTION)


@pytest.fixture(scope="module")
def artifact() -> MotionArtifact:
    scores = {"image_accuracy": 0.97, "image_accuracy_by_class": {"nominal": 0.5, "dark": None}}
    whole = tiny_artifact()
    return replace(whole, regime=small_classifier(), metadata={"regime": scores})


@pytest.fixture
def folder(artifact: MotionArtifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "artifact")
    return tmp_path / "artifact"


def judged(artifact: MotionArtifact) -> np.ndarray:
    assert artifact.regime is not None
    earlier, later = scenes(1, seed=2)
    imu, valid = imu_windows(1)
    regime = artifact.regime.judge_image(earlier[0], later[0], imu[0], valid[0])
    motion = artifact.regime.with_ego_motion(regime, random_motion(1)[0]).ego_motion
    assert motion is not None
    return np.concatenate([regime.image.probs, regime.image.doubts, motion.probs])


def test_a_loaded_artifact_judges_with_the_same_bits(artifact, folder):
    loaded = MotionArtifact.load(folder)
    np.testing.assert_array_equal(judged(loaded), judged(artifact))
    assert {f.name for f in folder.iterdir()} == {
        "artifact.json", "model.safetensors", "posterior.safetensors", *PARTS,
    }  # fmt: skip


def test_it_is_optional_and_goes_when_the_artifact_is_replaced(artifact, folder):
    replace(artifact, regime=None).save(folder)
    loaded = MotionArtifact.load(folder)
    assert loaded.regime is None
    assert not {f.name for f in folder.iterdir()} & set(PARTS)
    assert "regime" not in json.loads((folder / "artifact.json").read_text())
    x, _ = random_motion(2)
    assert torch.equal(loaded.predict(x).mean, artifact.predict(x).mean)


@pytest.mark.parametrize("name", PARTS)
def test_damage_is_found(folder, name):
    whole = (folder / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (bytes(flipped), whole[:-50], b""):
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"damaged: {name}"):
            MotionArtifact.load(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        MotionArtifact.load(folder)
    (folder / name).symlink_to(folder / "artifact.json")
    with pytest.raises(ArtifactError, match="is a symbolic link"):
        MotionArtifact.load(folder)


def reseal(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "artifact.json").read_text()) | changes
    description.pop("seal_sha256")
    (folder / "artifact.json").write_text(json.dumps(sealed(description)))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"files": ["../secret"]}, "no file of a regime classifier"),
        ({"files": ["artifact.json"]}, "no file of a regime classifier"),
        ({"files": []}, "regime.safetensors"),
        ({"thresholds": {}}, "doubtful_fault"),
        ({"thresholds": {"doubtful_fault": 2, "doubtful_information": 1, "unusable_fault": 1}},
         "doubtful_fault must be a probability"),
        ([], "does not fit"),
        (7, "does not fit"),
    ],
)  # fmt: skip
def test_a_description_that_tells_of_no_classifier_is_refused(folder, told, message):
    own = json.loads((folder / "artifact.json").read_text())["regime"]
    reseal(folder, regime=own | told if isinstance(told, dict) else told)
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change weights, and let every hash say that it was meant."""
    content = (folder / storage.WEIGHTS).read_bytes()
    _, weights = unpack(content, storage.FORMAT, storage.VERSION)
    weights = {k: t for k, t in (weights | changes).items() if t is not None}
    content = pack(weights, {"format": storage.FORMAT, "version": storage.VERSION})
    (folder / storage.WEIGHTS).write_bytes(content)
    hashes = json.loads((folder / "artifact.json").read_text())["sha256"]
    reseal(folder, sha256=hashes | {storage.WEIGHTS: hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("image.scale", lambda t: 0 * t, "scale of the regime's features is not positive"),
        ("image.scale", lambda t: t * torch.nan, "not finite"),
        ("image.hidden.weight", lambda t: t[:, 1:], "another network"),
        ("image.head.weight", lambda t: t[1:], "another network"),
        ("image.head.bias", lambda t: t + 1, "fitted to another model"),
        ("image.grouping", lambda t: t[0], "does not fit"),
        ("image.offset", lambda t: None, "does not fit"),
        ("image.centre", lambda t: t.double(), "another network"),
        ("encoder.top.weight", lambda t: t[1:], "another network"),
        ("encoder.stem.weight", lambda t: t * torch.inf, "not finite"),
        ("surplus", lambda t: torch.ones(1), None),
    ],
)
def test_weights_that_make_no_classifier_are_refused(folder, name, change, message):
    _, weights = unpack((folder / storage.WEIGHTS).read_bytes(), storage.FORMAT, storage.VERSION)
    change_weights(folder, **{name: change(weights.get(name))})
    if message is None:
        MotionArtifact.load(folder)
        return
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


def test_another_heads_posterior_is_refused(folder):
    (folder / storage.IMAGE).write_bytes((folder / storage.EGO_MOTION).read_bytes())
    hashes = json.loads((folder / "artifact.json").read_text())["sha256"]
    reseal(folder, sha256=hashes | {storage.IMAGE: hashes[storage.EGO_MOTION]})
    with pytest.raises(ArtifactError, match="fitted to another model"):
        MotionArtifact.load(folder)


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files_that_were_sealed_anew_are_refused_or_judge(folder, seed):
    """Any bits, behind right hashes: ArtifactError, or probabilities that are some."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(PARTS))
    data = bytearray((folder / name).read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(data)))
        data[start : start + 8] = rng.bytes(len(data[start : start + 8]))
    (folder / name).write_bytes(data)
    hashes = json.loads((folder / "artifact.json").read_text())["sha256"]
    reseal(folder, sha256=hashes | {name: hashlib.sha256(data).hexdigest()})
    try:
        probs = judged(MotionArtifact.load(folder))
    except ArtifactError:
        return
    assert np.isfinite(probs).all()


def test_inspect_shows_it(folder, capsys):
    inspect_artifact(folder, Console(width=200, markup=False))
    shown = capsys.readouterr().out
    assert "regime classifier" in shown
    assert "97.0 %" in shown
    assert "nominal 50.0 %, dark none" in shown
