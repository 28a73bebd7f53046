"""The fit learns, resumes to the same bits after a kill, stops early, refuses other fits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bayes_vio.data.samples import MotionInput
from bayes_vio.models.backbone import RoadReader, Stabiliser
from bayes_vio.models.flow_geometry import ray_grid
from bayes_vio.models.motion import MotionModel
from bayes_vio.training.checkpoint import CheckpointError, Progress
from bayes_vio.training.map_fit import (
    MapEstimate,
    MapFitSettings,
    fit_map,
    road_statistics,
    twist_statistics,
    validation_nll,
)
from tests.motion_cases import TINY, Samples, random_motion

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
    untrained = fit(tmp_path / "none", replace(settings, epochs=0)).model
    before = validation_nll(untrained, VALIDATION, 8, torch.device("cpu"))
    nll = fit(tmp_path / "c", settings).progress.validation_nll
    assert min(nll) < nll[0]
    assert min(nll) < before - 1.0


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


def test_twist_statistics_are_those_of_the_residual_to_gyro_and_road() -> None:
    model = MotionModel(TINY)
    model.set_road(1.65, 3.0)
    model.set_twist_statistics(torch.full((6,), 0.7), torch.ones(6))  # must not matter
    offset, scale = twist_statistics(TRAIN, model)
    twist = TRAIN.target / TRAIN.x.dt[:, None]
    twist[:, 3:] -= TRAIN.x.imu[..., 3:].mean(1)
    twist[:, 0] -= 1.65 * RoadReader()(Stabiliser()(TRAIN.x).way, TRAIN.x.dt)[:, 0]
    torch.testing.assert_close(offset, twist.sort(0).values[32], rtol=1e-4, atol=1e-5)
    # Of 64 nearly normal residuals: the percentiles' scatter is a tenth.
    torch.testing.assert_close(scale[3:], twist[:, 3:].std(0), rtol=0.35, atol=0)


def test_a_road_that_is_hidden_now_and_then_does_not_blow_up_the_scale() -> None:
    x, target = random_motion(200)
    model = MotionModel(TINY)
    model.set_road(0.0, 0.0)
    spoilt = target.clone()
    spoilt[:10, 0] = 1e3
    clean, dirty = (twist_statistics(Samples(x, t), model)[1] for t in (target, spoilt))
    torch.testing.assert_close(dirty[1:], clean[1:])
    assert float(dirty[0]) < 1.3 * float(clean[0])


def test_the_cameras_height_is_told_by_the_road() -> None:
    speed = torch.linspace(2, 15, 64)
    height, usual_speed = road_statistics(Samples(*road_drive(speed, height=1.4)))
    assert height == pytest.approx(1.4, rel=0.01)
    assert usual_speed == pytest.approx(float(speed.mean()) / 1.4, rel=0.01)


def test_a_car_that_never_moves_tells_no_height() -> None:
    assert road_statistics(Samples(*road_drive(torch.zeros(64), height=1.4))) == (0.0, 0.0)


def road_drive(speed: torch.Tensor, height: float) -> tuple[MotionInput, torch.Tensor]:
    """Straight drives over a flat road at speeds [n] (m/s)."""
    x, _ = random_motion(len(speed))
    u, v = ray_grid()
    way = (speed * x.dt / height)[:, None, None]
    depth = 1 + way * v.clamp(min=0)
    flow = torch.stack([u / depth - u, v / depth - v], 1)
    imu = torch.zeros_like(x.imu)
    target = torch.zeros(len(speed), 6)
    target[:, 0] = speed * x.dt
    return MotionInput(**{**vars(x), "flow": flow, "imu": imu}), target


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
