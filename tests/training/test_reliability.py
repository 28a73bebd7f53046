"""What a fit measures of its recordings' inputs, on a simulated drive."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bayes_vio.data.blind_view import unseen_share
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.samples import ImuStream
from bayes_vio.models.agreement import Estimate
from bayes_vio.models.reliability import picture_statistics
from bayes_vio.training.reliability import (
    measure_reliability,
    usual_disagreement,
    usual_least_change,
)
from tests.training.drive_cases import prepared_drive

STD = 5e-4


class TrueCamera(nn.Module):
    """Tells the recording's own rotations, scaled and with noise, whatever the IMU says."""

    def __init__(self, recording, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("noise_scale", torch.ones(6))
        x, target = MotionDataset([recording], (1,)).batch(range(self.count(recording)))
        g = torch.Generator().manual_seed(seed)
        rotation = scale * target[:, 3:] + STD * torch.randn(len(target), 3, generator=g)
        self.rotation = dict(zip(map(self.name, x.gray), rotation, strict=True))

    @staticmethod
    def count(recording) -> int:
        return int((recording.samples.stride == 1).sum())

    @staticmethod
    def name(gray) -> bytes:
        return gray.numpy().tobytes()

    def forward(self, x):
        mean = torch.zeros(len(x), 6)
        mean[:, 3:] = torch.stack([self.rotation[self.name(gray)] for gray in x.gray])
        return mean, (STD * torch.ones(len(x), 6)).diag_embed()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return prepared_drive(tmp_path_factory.mktemp("usual"), seed=5, duration_s=12.0)


def test_a_good_camera_shows_errors_whole_and_disagrees_by_little(recording):
    usual = measure_reliability(TrueCamera(recording), [recording], [recording])
    assert usual is not None
    # The simulated gyro's own bias is all that it shows, beside noise.
    assert max(usual.disagreement_std[:3]) < 6e-3
    assert usual.disagreement_std[4] < 0.06  # of two dozen comparisons
    # Not whole: on a drive that hardly turns, a wrong scale explains some of a bias.
    assert min(usual.disagreement_response[:3]) > 0.7
    assert usual.disagreement_response[4] >= 0.4
    assert usual.unseen_share == pytest.approx(unseen_share(recording.frames.view_valid))
    assert 0 <= usual.still_share < 0.5
    assert usual.least_change is not None
    assert 0.6 < usual.least_change[0] < 1
    assert 0.03 <= usual.least_change[1] < 0.1
    gray = recording.frames.gray(np.arange(0, 100, 10)) / 255
    distance = usual.picture_distance(np.array([[np.log(0.001)] * 3 + [gray.mean()]]))
    assert distance[0] > 10


def test_a_picture_as_dark_as_training_was_shown_is_usual(recording):
    rows = np.arange(0, 100, 10)
    dark = picture_statistics(
        np.exp(-0.4) * recording.frames.gray(rows) / 255, recording.frames.view_valid
    )
    shown, unshown = (
        measure_reliability(TrueCamera(recording), [recording], [recording], gray_gain_std=std)
        for std in (0.2, 0.0)
    )
    assert shown is not None
    assert unshown is not None
    assert shown.picture_distance(dark).mean() < 0.5 * unshown.picture_distance(dark).mean()


def test_a_camera_that_shows_half_of_a_rotation_shows_less_of_a_bias(recording):
    usual, half = (
        measure_reliability(TrueCamera(recording, scale), [recording], [recording])
        for scale in (1.0, 0.5)
    )
    assert usual is not None
    assert half is not None
    # Not half of it: a drive of some seconds that hardly turns does not tell the scale well.
    assert min(half.disagreement_response[:3]) >= 0.4
    assert max(half.disagreement_response[:3]) < 0.9 * min(usual.disagreement_response[:3])


def drives(rng, count: int, std: float, frames: int = 400) -> list[list[Estimate]]:
    """Return what sensors in order tell of errors, a standard deviation differing by drive."""
    scales = std * np.exp(0.2 * rng.normal(size=count))
    return [
        [Estimate(scale * rng.normal(size=5), np.full(5, 1e-12)) for _ in range(frames)]
        for scale in scales
    ]


def test_of_a_further_drive_one_frame_in_twenty_is_beyond_the_bound():
    rng = np.random.default_rng(0)
    std, bound = usual_disagreement(drives(rng, 12, 0.1))
    np.testing.assert_allclose(std, 0.1, rtol=0.25)
    further = np.concatenate(
        [[e.deviations(std) for e in drive] for drive in drives(rng, 40, 0.1)]
    )
    assert np.mean(further > bound) == pytest.approx(0.05, abs=0.02)


def test_what_is_not_known_well_counts_once():
    """Theta of drives errs by what they disagree by and by its own uncertainty, two deviations."""
    rng, own_std = np.random.default_rng(3), 0.2

    def uncertain(count: int) -> list[list[Estimate]]:
        return [
            [Estimate(e.theta + own_std * rng.normal(size=5), np.full(5, own_std**2)) for e in d]
            for d in drives(rng, count, 0.1, frames=2000)
        ]

    std, bound = usual_disagreement(uncertain(12))
    np.testing.assert_allclose(std, 0.1, rtol=0.35)
    further = np.concatenate([[e.deviations(std) for e in drive] for drive in uncertain(20)])
    assert np.mean(further > bound) == pytest.approx(0.05, abs=0.02)


def test_usual_least_change_is_that_of_all_drives_however_long_each_is():
    rng = np.random.default_rng(0)
    means = 0.8 + 0.03 * rng.normal(size=200)
    told = [m + 0.04 * rng.normal(size=5000 if m > 0.8 else 50) for m in means]
    usual = usual_least_change([*told, np.zeros(0)])
    # Variances within and between drives, equally weighted.
    np.testing.assert_allclose(usual, [means.mean(), np.hypot(0.04, means.std())], rtol=0.02)
    assert usual_least_change([np.full(10, 0.7)]) == pytest.approx((0.7, 0.03))
    assert usual_least_change([np.zeros(0)]) is None


def test_an_outlier_among_frames_or_drives_widens_what_is_usual_by_little():
    rng = np.random.default_rng(1)
    known = drives(rng, 8, 0.1)
    wild = [Estimate(100 * e.theta, e.var) for e in known[0]]
    std, bound = usual_disagreement([*known, wild])
    assert std.max() < 0.2
    # A ninth of all frames is beyond anything: the bound must say so.
    assert bound > 10


def test_one_drive_alone_is_held_against_itself():
    std, bound = usual_disagreement(drives(np.random.default_rng(2), 1, 0.1))
    assert np.isfinite(std).all()
    assert 2.5 <= bound < 4


def test_what_a_gyro_feels_and_no_camera_shows_is_vibration(recording):
    class Smooth(TrueCamera):
        """Claims a tenth of the noise that it has about y."""

        def forward(self, x):
            mean, cholesky = super().forward(x)
            cholesky[:, 4, 4] = 0.1 * STD
            return mean, cholesky

    usual = measure_reliability(Smooth(recording), [recording], [recording])
    assert usual is not None
    assert usual.vibration_std[1] == pytest.approx(STD, rel=0.5)


class Lever(nn.Module):
    """Moves by 7 m along y for each rad that the gyro tells about z, and 2 m along x about y."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise_scale", torch.ones(6))

    def forward(self, x):
        turned = x.dt[:, None] * x.imu[..., 3:].mean(1)
        mean = torch.zeros(len(x), 6)
        mean[:, 1], mean[:, 0] = 7 * turned[:, 2], -2 * turned[:, 1]
        return mean, (STD * torch.ones(len(x), 6)).diag_embed()


def test_levers_are_those_of_the_network(recording):
    usual = measure_reliability(Lever(), [recording], [recording])
    assert usual is not None
    expected = np.zeros((3, 3))
    expected[1, 2], expected[0, 1] = 7, 2
    np.testing.assert_allclose(np.array(usual.rotation_lever_m), expected, atol=1e-2)


def test_without_an_imu_nothing_is_called_usual(recording):
    blind = replace(
        recording, imu=ImuStream(recording.imu.stamp_ns[:2], recording.imu.samples[:2])
    )
    blind = replace(
        blind,
        samples=replace(blind.samples, imu_valid=np.zeros_like(blind.samples.imu_valid)),
    )
    assert measure_reliability(TrueCamera(recording), [recording], [blind]) is None
