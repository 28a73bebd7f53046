"""The artifact on disk: equal bits after loading, and every kind of damage refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bayes_vio.artifact import ArtifactError, MotionArtifact
from tests.motion_cases import random_motion, tiny_artifact


@pytest.fixture(scope="module")
def artifact() -> MotionArtifact:
    return tiny_artifact()


@pytest.fixture
def folder(artifact: MotionArtifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_loaded_artifact_predicts_the_same_bits(artifact: MotionArtifact, folder: Path) -> None:
    x, _ = random_motion(3, seed=5)
    loaded = MotionArtifact.load(folder)
    ours, theirs = artifact.predict(x), loaded.predict(x)
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.epistemic_cov, theirs.epistemic_cov)
    assert torch.equal(ours.noise_cov, theirs.noise_cov)
    assert loaded.metadata == artifact.metadata
    assert loaded.image_statistics == artifact.image_statistics
    np.testing.assert_array_equal(loaded.camera.K, artifact.camera.K)
    np.testing.assert_array_equal(
        loaded.extrinsics.T_base_camera, artifact.extrinsics.T_base_camera
    )


def test_covariances_are_positive_definite(artifact: MotionArtifact) -> None:
    x, _ = random_motion(8, seed=6)
    p = artifact.predict(x)
    for cov in (p.epistemic_cov, p.noise_cov):
        assert cov.dtype == torch.float64
        assert bool((torch.linalg.eigvalsh(cov) > 0).all())


def test_saving_again_replaces_the_artifact_and_leaves_nothing_beside(
    artifact: MotionArtifact, folder: Path
) -> None:
    replace(artifact, time_offset_s=0.05).save(folder)
    assert MotionArtifact.load(folder).time_offset_s == 0.05
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize("name", ["model.safetensors", "posterior.safetensors"])
def test_one_flipped_bit_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"damaged: {name}"):
        MotionArtifact.load(folder)


def test_a_truncated_file_is_found(folder: Path) -> None:
    file = folder / "posterior.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        MotionArtifact.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"incomplete: model\.safetensors"):
        MotionArtifact.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 999, "format version 999"),
        ("input", {"imu_bins": 3}, "inputs of another shape"),
        ("model", {"width": 32}, "does not fit"),
        ("dt_range_s", None, "does not fit"),
    ],
)
def test_a_changed_description_is_refused(
    folder: Path, key: str, value: object, message: str
) -> None:
    description = json.loads((folder / "artifact.json").read_text())
    description[key] = value
    (folder / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


def test_no_artifact_and_no_json_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        MotionArtifact.load(tmp_path / "nothing")
    (folder / "artifact.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        MotionArtifact.load(folder)


def test_a_folder_of_something_else_is_not_overwritten(
    artifact: MotionArtifact, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="is no artifact"):
        artifact.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_write_leaves_the_earlier_artifact(
    artifact: MotionArtifact, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bayes_vio.artifact.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        artifact.save(folder)
    monkeypatch.undo()
    assert MotionArtifact.load(folder).metadata == artifact.metadata
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]
