"""Choose on validation drives down to which length the gyro's rotation beats the network's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR
from bayes_vio.models.backbone import mean_angular_rate
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover, fused_rotations
from bayes_vio.models.motion import MotionModel
from bayes_vio.training.map_fit import MotionSamples

Array = NDArray[np.float64]

# Below half a second the gyro's vibration comes through at camera rates of 10 Hz.
CANDIDATES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, math.inf)
HORIZONS = (10, 100)  # increments over which rotations are summed up and judged


@dataclass(frozen=True)
class DriveAnswers:
    """What the model says along one drive, in order of time: mean [n, 6] and noise_cholesky
    [n, 6, 6] in Log coordinates (m, rad), target [n, 6], gyro_rate [n, 3] (rad/s), dt_s [n],
    has_imu [n]."""

    mean: Array
    noise_cholesky: Array
    target: Array
    gyro_rate: Array
    dt_s: Array
    has_imu: NDArray[np.bool_]

    @property
    def std(self) -> Array:
        """Return the noise's standard deviations [n, 6]."""
        return np.linalg.norm(self.noise_cholesky, axis=2)

    def errors(self, crossover: Crossover = NETWORK_ALONE) -> Array:
        """Return target less mean [n, 6], rotations fused where the IMU is all there."""
        mean, both = self.mean.copy(), self.has_imu
        mean[both] = fused_rotations(
            crossover, self.mean[both], self.gyro_rate[both], self.dt_s[both]
        )
        return self.target - mean


@torch.no_grad()
def drive_answers(model: MotionModel, drive: MotionSamples, batch_size: int = 64) -> DriveAnswers:
    """Return what the model says of a drive's samples, which are in order of time."""
    device = model.twist_scale.device
    parts = []
    for x, target in drive.loader(batch_size):
        mean, noise_cholesky = model(x.map(lambda t: t.to(device)))
        row = (mean, noise_cholesky, target, mean_angular_rate(x), x.dt, x.imu_valid.amin(1) > 0)
        parts.append([t.cpu() for t in row])
    mean, noise_cholesky, target, gyro_rate, dt_s, has_imu = (
        torch.cat(column).double().numpy() for column in zip(*parts, strict=True)
    )
    return DriveAnswers(mean, noise_cholesky, target, gyro_rate, dt_s, has_imu > 0)


def choose_crossover(drives: Sequence[DriveAnswers]) -> Crossover:
    """Return for each axis the time that makes rotations best, the other axes left alone.

    Judged are single increments by the likelihood under the network's noise, with which errors of
    rotation and translation go together, and sums over the horizons by their RMS error. Horizons
    longer than every drive are left out, and without an IMU the network stays alone.
    """
    drives = [d for d in drives if d.has_imu.any()]
    if not drives:
        return NETWORK_ALONE
    scores = [[_score(drives, axis, t) for t in CANDIDATES_S] for axis in range(3)]
    x, y, z = (CANDIDATES_S[i] for i in np.argmin(scores, axis=1))
    return Crossover((x, y, z))


def _score(drives: Sequence[DriveAnswers], axis: int, time_s: float) -> float:
    """Return nats per increment, and logarithms of RMS errors of sums, but for a constant."""
    x, y, z = (time_s if a == axis else math.inf for a in range(3))
    errors = [d.errors(Crossover((x, y, z))) for d in drives]
    white = [
        np.linalg.solve(d.noise_cholesky, e[..., None])
        for d, e in zip(drives, errors, strict=True)
    ]
    nats = 0.5 * float(np.mean(np.concatenate(white) ** 2)) * errors[0].shape[1]
    for n in HORIZONS:
        sums = np.concatenate([_summed(e[:, ANGULAR][:, axis], n) for e in errors])
        nats += 0.5 * float(np.log(np.mean(sums**2))) if len(sums) else 0.0
    return nats


def _summed(errors: Array, n: int) -> Array:
    """Return the sums [m] of errors [frames] over stretches of n frames in a row."""
    whole = len(errors) // n * n
    return errors[:whole].reshape(-1, n).sum(1)
