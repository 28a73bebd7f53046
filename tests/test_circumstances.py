"""The noise where a car meets what training has not: a bias that is known, no camera, standing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from bayes_vio.circumstances import Walk, measure_circumstances, standing_std, walked
from bayes_vio.conventions import ANGULAR, ANGULAR_RATE, LINEAR
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.noise import AS_IN_TRAINING, Circumstances
from bayes_vio.posterior import GaussianPrediction, Posterior
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings
from tests.motion_cases import random_motion

STD_RAD = 2e-4
BIAS_RAD_S = np.array([0.01, -0.008, 0.006], np.float32)


@dataclass(frozen=True)
class GyroAlone:
    """A posterior that turns as the gyro says, and is sure of it by 2e-4 rad; and where no camera
    sees, by a hundred times as much. Without a gyro it does not turn."""

    device = torch.device("cpu")

    def linearisations(self, x: MotionInput) -> Iterator[tuple[MotionInput, slice]]:
        yield x, slice(None)

    def prediction(self, at: MotionInput) -> GaussianPrediction:
        mean = torch.zeros(len(at), 6, dtype=torch.float64)
        mean[:, ANGULAR] = (at.dt[:, None] * at.imu[..., ANGULAR_RATE].mean(1)).double()
        std = STD_RAD * torch.where(at.camera_valid > 0, 1.0, 100.0).double()
        noise_cov = std[:, None, None] ** 2 * torch.eye(6, dtype=torch.float64)
        noise_cov[:, LINEAR, LINEAR] *= 1e8  # it knows nothing of speed
        return GaussianPrediction(mean, 1e-12 * torch.eye(6).expand(len(at), 6, 6), noise_cov)


@dataclass(frozen=True)
class UntoldOfBlindness(GyroAlone):
    """One whose weights nobody told what a gyro alone means: it errs as ever, and doubts that."""

    def prediction(self, at: MotionInput) -> GaussianPrediction:
        p = super().prediction(replace(at, camera_valid=torch.ones_like(at.camera_valid)))
        std = torch.where(at.camera_valid > 0, 1e-6, 0.004).double()
        return replace(p, epistemic_cov=std[:, None, None] ** 2 * torch.eye(6).double())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("drive")
    settings = SimulationSettings(
        seed=3, drive=DriveSettings(duration_s=20.0), camera=CameraSettings(rate_hz=10)
    )
    simulate(folder / "drive", settings)
    streams = open_streams(folder / "drive")
    drive = prepare(streams, folder / "cache", time_offset_s=0.0, workers=1)
    imu = drive.samples.imu.copy()
    imu[..., ANGULAR_RATE] += BIAS_RAD_S
    return replace(drive, samples=replace(drive.samples, imu=imu))


def test_once_the_car_has_stood_the_bias_is_taken_out(recording: Any) -> None:
    walk = walked(recording)
    assert walk is not None
    assert walk.standing.any()
    assert walk.is_known.any()
    assert not walk.bias[~walk.is_known].any()
    known = np.flatnonzero(walk.is_known & ~walk.standing)
    x, target = walk.inputs(known)
    raw, _ = MotionDataset([recording], (1,)).batch(walk.rows[known])
    true_rate = (target[:, ANGULAR] / x.dt[:, None]).mean(0)
    with_bias, without = (
        (t.imu[..., ANGULAR_RATE].mean((0, 1)) - true_rate).abs().max() for t in (raw, x)
    )
    assert with_bias > 5e-3
    assert without < 1e-3
    speed = torch.linalg.vector_norm(walk.inputs(np.flatnonzero(walk.standing))[1][:, :3], dim=1)
    assert speed.max() < 0.02  # m in a tenth of a second


def test_noise_is_less_where_the_bias_is_known_and_of_its_own_size_without_a_camera(
    recording: Any,
) -> None:
    found = measure_circumstances(cast(Posterior, GyroAlone()), [recording], [recording])
    walk = walked(recording)
    assert walk is not None
    x, target = walk.inputs(np.flatnonzero(walk.is_known & ~walk.standing))
    error = target[:, ANGULAR] - x.dt[:, None] * x.imu[..., ANGULAR_RATE].mean(1)
    rms = error.square().mean(0).sqrt().numpy() / STD_RAD
    scale = np.array(found.bias_known_scale)[ANGULAR]
    # The scale's prior holds it nearer to one.
    assert (scale > 0.8 * np.minimum(rms, 1)).all()
    assert (scale < 1.25 * np.maximum(rms, 1)).all()
    with_bias = float(x.dt.mean()) * np.abs(BIAS_RAD_S) / STD_RAD
    assert (scale < 0.6 * with_bias).all()
    # Sure by a hundred times less, of the same errors.
    assert max(found.imu_alone_bias_known_scale[ANGULAR]) < 0.8 * min(scale)
    assert max(found.camera_alone_scale[ANGULAR]) > 3 * max(scale)  # no turn is told
    assert max(found.standing_std) < 0.1
    assert found.scale(camera_sees=True, bias_known=False).tolist() == [1.0] * 6


def test_doubt_that_no_data_told_of_is_measured_where_a_sensor_is_alone(recording: Any) -> None:
    found = measure_circumstances(cast(Posterior, UntoldOfBlindness()), [recording], [recording])
    assert max(found.imu_alone_epistemic_scale[ANGULAR]) < 0.1
    # Blind or not, errors are the same.
    seeing, blind, doubt = (
        np.array(scale)[ANGULAR]
        for scale in (
            found.bias_known_scale,
            found.imu_alone_bias_known_scale,
            found.imu_alone_epistemic_scale,
        )
    )
    assert (np.hypot(blind * STD_RAD, doubt * 0.004) < 3 * seeing * STD_RAD).all()
    np.testing.assert_allclose(found.camera_alone_epistemic_scale, 1.0, atol=0.05)


def test_recordings_without_an_imu_tell_nothing(recording: Any) -> None:
    samples = recording.samples
    blind = replace(
        recording, samples=replace(samples, imu_valid=np.zeros_like(samples.imu_valid))
    )
    assert walked(blind) is None
    found = measure_circumstances(cast(Posterior, GyroAlone()), [blind], [blind])
    assert found == AS_IN_TRAINING


@dataclass
class Standing:
    """A dataset of intervals that should be zero, and are not quite."""

    x: MotionInput
    target: torch.Tensor

    def batch(self, rows: np.ndarray) -> tuple[MotionInput, torch.Tensor]:
        at = torch.as_tensor(rows)
        return self.x.map(lambda t: t[at]), self.target[at]


def test_standing_is_measured_beside_what_is_known_of_cars() -> None:
    n = 4000
    x, _ = random_motion(n)
    x = replace(x, imu=torch.zeros_like(x.imu))
    g = torch.Generator().manual_seed(0)
    target = 0.1 * 0.02 * torch.randn(n, 6, generator=g)
    every, none = np.ones(n, bool), np.zeros((n, 3))
    data = cast(MotionDataset, Standing(x, target))
    walk = Walk(data, np.arange(n), np.full(n, 0.1), none, every, every)
    # 200 independent errors of 0.02, ten of 0.1 m/s and of 5e-3 rad/s.
    prior_var = np.repeat([0.1**2, 5e-3**2], 3)
    expected = np.sqrt((200 * 0.02**2 + 10 * prior_var) / 210)
    np.testing.assert_allclose(standing_std([walk]), expected, rtol=0.05)
    np.testing.assert_allclose(standing_std([]), AS_IN_TRAINING.standing_std)
    unknown = Walk(data, np.arange(n), np.full(n, 0.1), none, ~every, every)
    of_unknown = standing_std([unknown])
    np.testing.assert_allclose(of_unknown[:3], expected[:3], rtol=0.05)
    np.testing.assert_allclose(of_unknown[3:], AS_IN_TRAINING.standing_std[3:])


def test_a_scale_is_chosen_by_camera_and_bias() -> None:
    numbers = [tuple(float(k + i) for i in range(6)) for k in (1, 2, 3, 4)]
    c = Circumstances(*numbers)
    assert c.scale(camera_sees=False, bias_known=False)[0] == 1.0
    assert c.scale(camera_sees=True, bias_known=True)[0] == 2.0
    assert c.scale(camera_sees=False, bias_known=True)[0] == 3.0
    for bias_known in (True, False):
        assert c.scale(camera_sees=True, bias_known=bias_known, imu_tells=False)[0] == 4.0
    lone = replace(
        c, imu_alone_epistemic_scale=(0.5,) * 6, camera_alone_epistemic_scale=(0.3,) * 6
    )
    assert lone.epistemic_scale(camera_sees=True, imu_tells=True).tolist() == [1.0] * 6
    assert lone.epistemic_scale(camera_sees=False, imu_tells=True).tolist() == [0.5] * 6
    assert lone.epistemic_scale(camera_sees=True, imu_tells=False).tolist() == [0.3] * 6
    with pytest.raises(ValueError, match="bias_known_scale is not six numbers"):
        replace(c, bias_known_scale=(0.0,) * 6)
