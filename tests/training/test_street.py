"""What a recording's street is like, on a simulated drive with a model of known roughness."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bayes_vio.conventions import ANGULAR_RATE
from bayes_vio.data.frames import to_unit
from bayes_vio.estimator.tracking import EstimatorSettings
from bayes_vio.models.reliability import picture_statistics
from bayes_vio.training import reliability, street
from bayes_vio.training.street import means_of
from tests.training.drive_cases import prepared_drive

STD = 5e-4


class NoisyGyro(nn.Module):
    """Tells the gyro's rotation, with white noise about y as it says and twice that about z."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise_scale", torch.ones(6))
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        noise = STD * torch.randn(len(x), 3, generator=self.generator)
        noise[:, 2] *= 2
        mean = torch.zeros(len(x), 6)
        mean[:, 3:] = x.dt[:, None] * x.imu[..., ANGULAR_RATE].mean(1) + noise
        return mean, (STD * torch.ones(len(x), 6)).diag_embed()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return prepared_drive(tmp_path_factory.mktemp("street"), seed=6, duration_s=20.0)


def test_means_are_those_of_the_pictures_and_of_the_models_noise(recording):
    street, averaged_s = means_of(NoisyGyro(), recording)
    assert 100 < len(street) < len(recording.frame_stamp_ns)
    np.testing.assert_allclose(averaged_s[:3], [0.1, 0.2, 0.3], atol=1e-3)
    assert averaged_s.max() == pytest.approx(10)
    # Chi-square of one degree of freedom has a mean logarithm of -1.27.
    expected = np.array([-1.27, -1.27 + np.log(4)])
    np.testing.assert_allclose(street[-20:, 4:].mean(0), expected, atol=0.6)
    last = np.arange(len(recording.frame_stamp_ns))[-60:]
    pictures = picture_statistics(
        to_unit(recording.frames.gray(last)), recording.frames.view_valid
    )
    np.testing.assert_allclose(street[-1, :4], pictures.mean(0), atol=0.3)


def test_a_car_that_stands_tells_nothing(recording):
    samples = recording.samples
    standing = replace(recording, samples=replace(samples, target=np.zeros_like(samples.target)))
    street, averaged_s = means_of(NoisyGyro(), standing)
    assert street.shape == (0, 6)
    assert averaged_s.shape == (0,)


def test_what_is_usual_is_measured_with_the_estimators_memory():
    assert EstimatorSettings.unfamiliar_memory_s == street._MEMORY_S
    assert EstimatorSettings.agreement_memory_s == reliability._MEMORY_S
