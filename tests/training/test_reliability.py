"""What a fit measures of its recordings' inputs, on a simulated drive."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bayes_vio.data.bags import open_streams
from bayes_vio.data.blind_view import unseen_share
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.samples import ImuStream
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings
from bayes_vio.training.reliability import measure_reliability

STD = 5e-4


class TrueCamera(nn.Module):
    """Tells the recording's own rotations, scaled and with noise, whatever the IMU says."""

    def __init__(self, recording, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("noise_scale", torch.ones(6))
        _, target = MotionDataset([recording], (1,)).batch(range(self.count(recording)))
        g = torch.Generator().manual_seed(seed)
        self.rotation = scale * target[:, 3:] + STD * torch.randn(len(target), 3, generator=g)
        self.told = 0

    @staticmethod
    def count(recording) -> int:
        return int((recording.samples.stride == 1).sum())

    def forward(self, x):
        assert not x.imu_valid.any()
        mean = torch.zeros(len(x), 6)
        mean[:, 3:] = self.rotation[self.told : self.told + len(x)]
        self.told += len(x)
        return mean, (STD * torch.ones(len(x), 6)).diag_embed()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    simulate(
        folder / "drive",
        SimulationSettings(
            seed=5, drive=DriveSettings(duration_s=12.0), camera=CameraSettings(rate_hz=10)
        ),
    )
    return prepare(open_streams(folder / "drive"), folder / "cache", time_offset_s=0.0, workers=1)


def test_a_good_camera_shows_errors_whole_and_disagrees_by_little(recording):
    usual = measure_reliability(TrueCamera(recording), [recording], [recording])
    assert usual is not None
    # The simulated gyro's own bias is all that it shows, beside noise.
    assert max(usual.disagreement_std[:3]) < 4e-3
    assert usual.disagreement_std[4] < 0.02
    # Not whole: on a drive that hardly turns, a wrong scale explains some of a bias.
    assert min(usual.disagreement_response[:3]) > 0.7
    assert usual.disagreement_response[4] > 0.7
    assert usual.unseen_share == pytest.approx(unseen_share(recording.frames.view_valid))
    assert 0 <= usual.still_share < 0.5
    gray = recording.frames.gray(np.arange(0, 100, 10)) / 255
    distance = usual.picture_distance(np.array([[np.log(0.001)] * 3 + [gray.mean()]]))
    assert distance[0] > 10


def test_a_camera_that_shows_half_of_a_rotation_shows_half_of_a_bias(recording):
    usual = measure_reliability(TrueCamera(recording, 0.5), [recording], [recording])
    assert usual is not None
    assert min(usual.disagreement_response[:3]) >= 0.4
    assert max(usual.disagreement_response[:3]) < 0.65


def test_without_an_imu_nothing_is_called_usual(recording):
    blind = replace(
        recording, imu=ImuStream(recording.imu.stamp_ns[:2], recording.imu.samples[:2])
    )
    blind = replace(
        blind,
        samples=replace(blind.samples, imu_valid=np.zeros_like(blind.samples.imu_valid)),
    )
    assert measure_reliability(TrueCamera(recording), [recording], [blind]) is None
