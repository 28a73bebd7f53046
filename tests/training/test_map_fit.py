"""The fit learns, resumes to the same bits after a kill, stops early, refuses other fits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bayes_vio.training.checkpoint import CheckpointError, Progress
from bayes_vio.training.map_fit import MapEstimate, MapFitSettings, fit_map, twist_statistics
from tests.motion_cases import TINY, Samples

SETTINGS = MapFitSettings(epochs=4, batch_size=16, learning_rate=5e-3)
TRAIN, VALIDATION = Samples.random(64, 0), Samples.random(32, 1)


class Killed(Exception):
    pass


def fit(
    path: Path, settings: MapFitSettings = SETTINGS, kill_after: int | None = None
) -> MapEstimate:
    def on_epoch(progress: Progress) -> None:
        if progress.epochs == kill_after:
            raise Killed

    return fit_map(
        TRAIN, VALIDATION, settings, path, "data", torch.device("cpu"), on_epoch, None, TINY
    )


def test_resumed_fit_equals_uninterrupted_fit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tmp_path / "killed", kill_after=2)
    resumed = fit(tmp_path / "killed")
    assert resumed.resumed_from_epoch == 2
    assert resumed.progress == whole.progress
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_training_lowers_the_validation_nll(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=20, batch_size=8)
    nll = fit(tmp_path / "c", settings).progress.validation_nll
    assert min(nll) < nll[0] - 1.0


def test_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=30, patience=2, learning_rate=0.1)
    progress = fit(tmp_path / "c", settings).progress
    assert progress.epochs < 30
    assert progress.epochs - progress.best_epoch == 2
    assert progress.best_nll == min(progress.validation_nll)


def test_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "c")
    with pytest.raises(CheckpointError, match="other data or settings"):
        fit(tmp_path / "c", replace(SETTINGS, seed=7))


def test_partial_checkpoint_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "c.partial").write_bytes(b"half a file")
    assert fit(tmp_path / "c", replace(SETTINGS, epochs=1)).resumed_from_epoch == 0


def test_empty_set_is_refused(tmp_path: Path) -> None:
    empty = Samples(TRAIN.x.map(lambda t: t[:0]), TRAIN.target[:0])
    with pytest.raises(ValueError, match="0 training and 32 validation"):
        fit_map(empty, VALIDATION, SETTINGS, tmp_path / "c", "d", torch.device("cpu"))


def test_twist_statistics_are_those_of_the_residual_to_the_gyro() -> None:
    offset, scale = twist_statistics(TRAIN)
    twist = TRAIN.target / TRAIN.x.dt[:, None]
    twist[:, 3:] -= TRAIN.x.imu[..., 3:].mean(1)
    torch.testing.assert_close(offset, twist.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scale[0], twist[:, 0].std(), rtol=1e-4, atol=0)


def test_a_fit_can_go_on_from_a_fitted_model(tmp_path: Path) -> None:
    first = fit(tmp_path / "first").model
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    gentle = replace(SETTINGS, epochs=1, learning_rate=1e-6)
    second = fit_map(
        TRAIN, VALIDATION, gentle, tmp_path / "second", "d", torch.device("cpu"), start=first
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in first.state_dict().items())
    for name, tensor in second.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-4)
