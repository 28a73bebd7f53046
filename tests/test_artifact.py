"""The artifact on disk: equal bits after loading, and every kind of damage refused by name."""

import hashlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from bayes_vio.artifact import ArtifactError, MotionArtifact
from bayes_vio.inspection import inspect_artifact
from tests.artifact_cases import reseal
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


def test_an_edited_description_is_found(folder: Path) -> None:
    file = folder / "artifact.json"
    file.write_text(file.read_text().replace('"time_offset_s": 0.0', '"time_offset_s": 0.1'))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        MotionArtifact.load(folder)


NOWHERE = {"T_base_imu": [[2, 0, 0, 0]], "T_base_camera": [], "source": "x"}
CAMERA = {"width": 320, "height": 120, "K": np.eye(3).tolist(), "distortion": "plumb_bob"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 999}, "format version 999"),
        ({"format_version": 1}, "format version 1, this package reads 3"),
        ({"input": {"imu_bins": 3}}, "inputs of another shape"),
        ({"model": {"width": 32}}, "weights are of another network"),
        # 13 thousand million weights: refused before they are allocated.
        ({"model": {"width": 4096, "blocks": 64}}, "weights are of another network"),
        ({"model": {"width": 10**9}}, "width is 1000000000, not in 1 to 4096"),
        ({"model": {"blocks": 10**6}}, "blocks is 1000000"),
        ({"model": {"width": -16}}, "width is -16"),
        ({"model": {"colour": 1}}, "does not fit"),
        ({"model": None}, "does not fit"),
        ({"sha256": None}, "damaged"),
        ({"dt_range_s": None}, "does not fit"),
        ({"dt_range_s": [0.0, 0.1]}, "dt_range_s must be positive"),
        ({"dt_range_s": [0.2, 0.1]}, "dt_range_s is 0.1"),
        ({"time_offset_s": 1e9}, "time_offset_s is 1000000000.0"),
        ({"epistemic_correlation_s": -1.0}, "epistemic_correlation_s is -1"),
        ({"extrinsics": NOWHERE}, "T_base_imu is not a finite rigid transform"),
        ({"camera": {**CAMERA, "coefficients": [[1.0]]}}, "distortion coefficients"),
        ({"camera": {**CAMERA, "coefficients": [], "distortion": "fish"}}, "'fish' is not known"),
        ({"camera": {**CAMERA, "coefficients": [], "width": 0}}, "size is 0 x 120"),
        ({"camera": {**CAMERA, "coefficients": [], "K": [[-1]]}}, "K is not a finite"),
        ({"noise_correlation": {"time_s": [1.0], "share": [2.0]}}, "six times"),
        ({"image_statistics": {"brightness_low": -1.0}}, "does not fit"),
        ({"metadata": []}, "metadata is no mapping"),
    ],
)
def test_a_description_that_fits_nothing_is_refused(
    folder: Path, changes: dict, message: str
) -> None:
    reseal(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not valid JSON"),
        ('{"format_version": NaN}', "NaN"),
        ("[" * 200_000, "not valid JSON"),
        ('{"a":' * 500 + "1" + "}" * 500, "not valid JSON"),
        ('{"format_version": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("\x00\xff", "not valid JSON"),
        (" " * (4 * 2**20 + 1), "more than the"),
    ],
)
def test_a_description_that_is_none_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "artifact.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


def swap_tensors(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / "artifact.json").read_text())["sha256"]
    reseal(folder, sha256=hashes | {name: hashlib.sha256(content).hexdigest()})


def with_weights(folder: Path, **changes: torch.Tensor) -> None:
    weights = tensors_from_bytes((folder / "model.safetensors").read_bytes())
    swap_tensors(folder, "model.safetensors", tensors_to_bytes(weights | changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("noise_scale", torch.zeros(6), "noise_scale is not positive"),
        ("twist_scale", torch.full((6,), torch.inf), "twist_scale are not finite"),
        ("twist_offset", torch.full((6,), torch.nan), "twist_offset are not finite"),
        ("twist_offset", torch.full((6,), 1e7), "twist_offset are not finite, or beyond 1e"),
        ("noise_scale", torch.ones(6, dtype=torch.float64), "another network"),
        ("noise_scale", torch.ones(7), "another network"),
        ("surplus", torch.ones(1), "another network"),
    ],
)
def test_weights_that_make_no_model_are_refused(
    folder: Path, name: str, value: torch.Tensor, message: str
) -> None:
    with_weights(folder, **{name: value})
    with pytest.raises(ArtifactError, match=message):
        MotionArtifact.load(folder)


def test_weights_of_another_fit_are_refused(folder: Path) -> None:
    with_weights(folder, twist_offset=torch.ones(6))
    with pytest.raises(ArtifactError, match="fitted to another model"):
        MotionArtifact.load(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    ],
)
def test_absurd_sizes_in_a_header_allocate_nothing(folder: Path, header: dict) -> None:
    text = json.dumps(header).encode()
    swap_tensors(folder, "model.safetensors", len(text).to_bytes(8, "little") + text + b"0" * 8)
    with pytest.raises(ArtifactError, match="does not fit"):
        MotionArtifact.load(folder)
    swap_tensors(folder, "model.safetensors", (2**63).to_bytes(8, "little") + text)
    with pytest.raises(ArtifactError, match="does not fit"):
        MotionArtifact.load(folder)


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(ArtifactError, match=r"more than the \d+ that are read"):
        MotionArtifact.load(folder)


@pytest.mark.parametrize("name", ["artifact.json", "model.safetensors", "posterior.safetensors"])
def test_links_and_pipes_inside_are_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    file = folder / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is a symbolic link"):
        MotionArtifact.load(folder)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        MotionArtifact.load(folder)


def test_names_in_the_description_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    """Only the three known names are opened, whatever a description says."""
    hashes = json.loads((folder / "artifact.json").read_text())["sha256"]
    reseal(folder, sha256=hashes | {"../secret": "0" * 64, str(tmp_path / "x"): "0" * 64})
    assert MotionArtifact.load(folder).time_offset_s == 0.0


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert MotionArtifact.load(tmp_path / "current").time_offset_s == 0.0


def test_saving_over_a_link_replaces_the_link_alone(
    artifact: MotionArtifact, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "artifact.json").read_bytes()
    (tmp_path / "current").symlink_to(folder)
    replace(artifact, time_offset_s=0.05).save(tmp_path / "current")
    assert not (tmp_path / "current").is_symlink()
    assert MotionArtifact.load(tmp_path / "current").time_offset_s == 0.05
    assert (folder / "artifact.json").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"time_offset_s": float("nan")}, {"dt_range_s": (0.0, 1.0)}, {"metadata": None}]
)
def test_values_that_could_not_be_loaded_make_no_artifact(
    artifact: MotionArtifact, change: dict
) -> None:
    with pytest.raises(ArtifactError, match=next(iter(change))):
        replace(artifact, **change)


def test_metadata_that_json_cannot_hold_is_refused_before_writing(
    artifact: MotionArtifact, folder: Path
) -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        replace(artifact, metadata={"nees": float("inf")}).save(folder)
    assert MotionArtifact.load(folder).metadata == artifact.metadata


def test_an_artifact_that_predicts_nonsense_is_not_written(tmp_path: Path) -> None:
    broken = tiny_artifact()
    broken.posterior.model.get_parameter("mean_head.bias").data.fill_(torch.nan)
    with pytest.raises(ArtifactError, match="cannot be written"):
        broken.save(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_no_artifact_and_no_json_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        MotionArtifact.load(tmp_path / "nothing")
    (folder / "artifact.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        MotionArtifact.load(folder)


def test_a_folder_of_something_else_is_not_overwritten(
    artifact: MotionArtifact, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="is no artifact"):
        artifact.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (folder / "report.html").write_text("a page")
    with pytest.raises(ArtifactError, match=r"holds report\.html"):
        artifact.save(folder)
    assert (folder / "report.html").read_text() == "a page"


@pytest.mark.parametrize("failing", ["artifact.json", "model.safetensors"])
def test_a_failed_write_leaves_the_earlier_artifact(
    artifact: MotionArtifact, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        if path.name == failing:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr("bayes_vio.artifact.write_whole", full_disk)
    with pytest.raises(OSError, match="No space"):
        artifact.save(folder)
    monkeypatch.undo()
    assert MotionArtifact.load(folder).metadata == artifact.metadata
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]


def test_what_a_killed_save_left_is_removed(artifact: MotionArtifact, folder: Path) -> None:
    leftover = folder.parent / ".artifact.partial-killed"
    leftover.mkdir()
    (leftover / "model.safetensors").write_text("half")
    artifact.save(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]


def test_saving_without_an_exchange_of_names_replaces_too(
    artifact: MotionArtifact, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems that lack renameat2."""
    monkeypatch.setattr("bayes_vio.whole_files._exchange", lambda *_: False)
    replace(artifact, time_offset_s=0.05).save(folder)
    assert MotionArtifact.load(folder).time_offset_s == 0.05
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]


def test_names_in_a_file_do_not_command_a_terminal(folder: Path) -> None:
    recording = {"name": "[/bold]\x1b[2J drive"}
    reseal(folder, metadata={"recordings": {"train": [recording]}})
    out = io.StringIO()
    inspect_artifact(folder, Console(file=out, width=200, markup=False))
    assert "[/bold]?[2J drive" in out.getvalue()
    inspect_artifact(folder)
    reseal(folder, metadata={"validation": {"rmse": 3}})
    with pytest.raises(ArtifactError, match="metadata that no fit writes"):
        inspect_artifact(folder)
