"""Yesterday's artifact as the prior of today's recordings, from bags to the new artifact."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.cli import main
from bayes_vio.continual import ContinueSettings, continue_fit
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import prepare
from bayes_vio.evaluation.fit_report import report_folder
from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.refit_state import RefitStateError
from bayes_vio.regime import storage
from bayes_vio.regime.fit import RegimeScores
from bayes_vio.training.recordings import FitObserver
from tests.data.drives import Drive, write_drive
from tests.motion_cases import Samples, tiny_artifact
from tests.regime_cases import small_classifier

SETTINGS = ContinueSettings(epochs=7, curvature_samples=16, calibration_samples=16, seed=3)
FILES = ("artifact.json", "model.safetensors", "posterior.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return bags of four drives, and the artifact of the first."""
    folder = tmp_path_factory.mktemp("continual")
    for number, name in enumerate(("old", "new", "newer", "held")):
        write_drive(folder / name, Drive(duration_s=4, speed_m_s=4.0 + number))
    recording = prepare(open_streams(folder / "old"), folder / "cache", workers=1)
    taught = [{"name": recording.name, "sha256": recording.sha256}]
    metadata = {"prior_precision": 1.0, "recordings": {"train": taught, "validation": []}}
    artifact = tiny_artifact(n=200)
    artifact.model.noise_scale.fill_(1.5)
    scores = RegimeScores(0.9, {"nominal": 0.9}, None, {}, 0.99, 1.0, 0.95)
    replace(
        artifact,
        posterior=_fitted(artifact),
        metadata=metadata | {"regime": asdict(scores)},
        regime=small_classifier(),
    ).save(folder / "car")
    return folder


def _fitted(artifact: MotionArtifact, structure: str = "inf"):
    loader = Samples.random(200, 0).loader(16)
    return fit_posterior(artifact.model, loader, structure=structure, rank=8)


@pytest.fixture
def unreported(monkeypatch) -> None:
    """Leave out the page beside the artifact: drawing it takes longer than all else."""
    monkeypatch.setattr("bayes_vio.continual.report_on", lambda *arguments: None)


@pytest.fixture(scope="module")
def child(folder) -> MotionArtifact:
    return again(folder, folder / "car", folder / "child", "new")


def again(
    folder: Path, parent: Path, out: Path, bag: str, settings=SETTINGS, observer=None, held="held"
) -> MotionArtifact:
    work_dir = out.parent / f"{out.name}.work"
    decoded = folder / "child.work" / "frames"
    if decoded.exists() and not work_dir.exists():
        shutil.copytree(decoded, work_dir / "frames")
    bags = [folder / bag], [folder / held]
    return continue_fit(parent, *bags, out, settings, work_dir=work_dir, observer=observer)


def content(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


def test_the_child_is_a_whole_artifact_that_knows_where_it_comes_from(folder, child):
    before, parent = read_description(folder / "car"), MotionArtifact.load(folder / "car")
    loaded = MotionArtifact.load(folder / "child")
    assert loaded.metadata == child.metadata
    (ancestor,) = loaded.metadata["ancestry"]
    assert ancestor["seal_sha256"] == before["seal_sha256"]
    assert [r["name"] for r in ancestor["recordings"]["train"]] == ["old"]
    assert [r["name"] for r in loaded.metadata["recordings"]["train"]] == ["new"]
    assert [r["name"] for r in loaded.metadata["recordings"]["validation"]] == ["held"]
    (update,) = loaded.posterior.report.updates
    assert set(update.misfit) == set(loaded.metadata["update"]["misfit"])
    assert all(0 <= share <= 1 for share in update.misfit.values())
    assert loaded.posterior.n_data == parent.posterior.n_data + update.n_data
    assert loaded.posterior.prior_precision == parent.posterior.prior_precision
    assert loaded.dt_range_s == parent.dt_range_s
    assert loaded.time_offset_s == parent.time_offset_s
    mounting = open_streams(folder / "new").extrinsics
    np.testing.assert_allclose(loaded.extrinsics.T_base_camera, mounting.T_base_camera)


def test_the_regime_classifier_stays_as_it_is(folder, child):
    for name in storage.FILES:
        ours, theirs = (folder / car / name for car in ("car", "child"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert child.metadata["regime"]["image_accuracy"] == 0.9
    report = json.loads((report_folder(folder / "child") / "fit_report.json").read_text())
    assert report["regime"]["spoiled_noticed"] == 0.95
    assert "state of an image" in (report_folder(folder / "child") / "fit_report.html").read_text()


def test_the_weights_moved_and_nothing_outside_the_posterior(folder, child):
    parent = MotionArtifact.load(folder / "car")
    covered = {p for c in child.posterior.report.covered for p in c.parameters}
    moved = {
        name
        for name, p in child.model.named_parameters()
        if not torch.equal(p, parent.model.get_parameter(name))
    }
    assert moved == covered
    assert not torch.equal(child.model.noise_scale, parent.model.noise_scale)
    assert (
        child.posterior.report.updates[0].loss_after
        < child.posterior.report.updates[0].loss_before
    )


def test_information_grows_in_every_layer(folder, child):
    parent = MotionArtifact.load(folder / "car").posterior
    for name, layer in parent.layers.items():
        if layer.matrix().numel() <= 300:
            more = child.posterior.precision_dense(name) - parent.precision_dense(name)
            scale = float(parent.precision_dense(name).diagonal().max())
            assert float(torch.linalg.eigvalsh(more).min()) > -1e-5 * scale, name


def test_the_report_and_inspect_tell_of_it(folder, child, capsys):
    report = json.loads((report_folder(folder / "child") / "fit_report.json").read_text())
    assert len(report["training"]["validation_nll"]) == len(child.metadata["curves"]["train_loss"])
    assert main(["inspect", "--artifact", str(folder / "child")]) == 0
    shown = capsys.readouterr().out
    assert child.metadata["ancestry"][0]["seal_sha256"][:12] in shown
    assert "outside its basis" in shown
    assert "kept of the refit" in shown


@pytest.mark.usefixtures("unreported")
def test_a_grandchild_has_both_in_its_ancestry_and_refuses_their_recordings(folder, child):
    quick = replace(SETTINGS, epochs=2)
    young = again(folder, folder / "child", folder / "grandchild", "newer", quick)
    seals = [a["seal_sha256"] for a in young.metadata["ancestry"]]
    parents = (folder / "car", folder / "child")
    assert seals == [read_description(p)["seal_sha256"] for p in parents]
    assert len(young.posterior.report.updates) == 2
    for bag in ("old", "new"):
        with pytest.raises(ValueError, match=f"^{bag}: .* would count twice"):
            again(folder, folder / "child", folder / "twice", bag, quick)
    with pytest.raises(ValueError, match=r"^old: .* cannot judge"):
        again(folder, folder / "child", folder / "judged", "newer", quick, held="old")
    assert not (folder / "twice").exists()


class Notes(FitObserver):
    """Keep what is told."""

    def __init__(self):
        self.texts: list[str] = []

    def note(self, text):
        """Keep it."""
        self.texts.append(text)


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("kept", [0, 1])
def test_a_round_that_makes_validation_worse_is_not_kept(
    folder, child, tmp_path, monkeypatch, kept
):
    nlls, seen = iter([2.0, 1.0, 3.0] if kept else [1.0, 2.0, 3.0]), []

    def worse(model, *arguments) -> float:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return next(nlls)

    monkeypatch.setattr("bayes_vio.continual.validation_nll", worse)
    out, notes = tmp_path / "child", Notes()
    found = again(folder, folder / "car", out, "new", observer=notes)
    parent = MotionArtifact.load(folder / "car")
    for name, parameter in found.model.named_parameters():
        assert torch.equal(parameter, seen[kept][name]), name
        assert kept or torch.equal(parameter, parent.model.get_parameter(name)), name
    assert found.posterior.n_data > parent.posterior.n_data
    assert (found.posterior.report.updates[-1].distance > 0) == bool(kept)
    curves = MotionArtifact.load(out).metadata["curves"]
    assert (curves["best_epoch"], curves["best_nll"]) == (kept + 1, 1.0)
    told = ("yesterday's weights are kept", "the rounds after it were worse")[kept]
    assert any(told in text for text in notes.texts), notes.texts


class Killed(Exception):
    """Stands for a process that ends."""


class Kill(FitObserver):
    """End after some rounds of the refit."""

    def __init__(self, rounds: int):
        self.left = rounds

    def epoch(self, progress, epochs):
        """Count down."""
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("unreported")
def test_a_killed_run_goes_on_to_the_same_bits(folder, child, tmp_path, rounds):
    out = tmp_path / "child"
    with pytest.raises(Killed):
        again(folder, folder / "car", out, "new", observer=Kill(rounds))
    assert not out.exists()
    again(folder, folder / "car", out, "new")
    assert content(out) == content(folder / "child")


@pytest.mark.usefixtures("unreported")
def test_a_stored_refit_of_something_else_is_not_gone_on_with(folder, child, tmp_path):
    out = tmp_path / "child"
    with pytest.raises(Killed):
        again(folder, folder / "car", out, "new", observer=Kill(3))
    with pytest.raises(RefitStateError, match="other data or settings"):
        again(folder, folder / "car", out, "newer")
    state = tmp_path / "child.work" / "refit.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    with pytest.raises(RefitStateError, match="remove it"):
        again(folder, folder / "car", out, "new")


def command(folder: Path, out: Path, *options: str, bag: str = "new", parent="car") -> list[str]:
    bags = [str(folder / bag), "--validation", str(folder / "held")]
    return ["fit", *bags, "--continue", str(folder / parent), "--out", str(out), *options]


def test_the_command_line_end_to_end(folder, tmp_path, capsys):
    before = content(folder / "car")
    out = tmp_path / "child"
    assert main(command(folder, out, "--epochs", "3", "--device", "cpu")) == 0
    assert "yesterday's" in capsys.readouterr().out
    assert MotionArtifact.load(out).metadata["ancestry"]
    assert content(folder / "car") == before


def refused(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.err.startswith("bayes-vio: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--structure", "efb"), "--structure has no meaning with --continue"),
        (("--rank", "5"), "--rank has no meaning"),
        (("--learning-rate", "0.1"), "--learning-rate has no meaning"),
        (("--batch-size", "8"), "--batch-size has no meaning"),
    ],
)
def test_options_of_a_new_fit_are_refused(folder, tmp_path, capsys, options, told):
    assert main(command(folder, tmp_path / "child", *options)) == 2
    assert told in refused(capsys)


def test_the_parent_is_never_overwritten(folder, tmp_path, capsys):
    before = content(folder / "car")
    (tmp_path / "link").symlink_to(folder / "car")
    for out in (folder / "car", folder / "new" / ".." / "car", tmp_path / "link"):
        assert main(command(folder, out)) == 2
        assert "is the artifact to continue" in refused(capsys)
    assert content(folder / "car") == before


def test_bad_parents_and_bags_are_one_line(folder, tmp_path, capsys):
    artifact = tiny_artifact()
    replace(artifact, posterior=_fitted(artifact, "kfac")).save(folder / "kfac")
    assert main(command(folder, tmp_path / "child", parent="kfac")) == 2
    assert "'kfac' cannot be updated" in refused(capsys)
    assert main(command(folder, tmp_path / "child", parent="held")) == 2
    assert "no artifact at" in refused(capsys)
    assert main(command(folder, tmp_path / "child", bag="held")) == 2
    assert "a recording has one use" in refused(capsys)
    assert main(command(folder, tmp_path / "child", bag="old")) == 2
    assert "would count twice" in refused(capsys)
    assert not (tmp_path / "child").exists()
