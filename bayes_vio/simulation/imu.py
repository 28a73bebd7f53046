"""Simulate an IMU on a trajectory: noise, bias, vibration, mounting and a clock that is off."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.simulation.trajectory import Trajectory


@dataclass(frozen=True)
class ImuSettings:
    """An IMU's rate, errors and place.

    Noise densities are in m/s^2/sqrt(Hz) and rad/s/sqrt(Hz), bias random walks in m/s^3/sqrt(Hz)
    and rad/s^2/sqrt(Hz); constant biases are drawn with the given standard deviations.
    vibration_per_speed: standard deviation of a further white noise of the accelerometer, m/s^2
    per m/s of speed. A sample that describes the true time t is stamped t + time_offset_s.
    Raises ValueError for a rate that is not positive or a T_base_imu that is not a pose.
    """

    rate_hz: float = 100.0
    accelerometer_noise_density: float = 2e-3
    gyroscope_noise_density: float = 2e-4
    accelerometer_bias_std: float = 0.05
    gyroscope_bias_std: float = 2e-3
    accelerometer_random_walk: float = 3e-4
    gyroscope_random_walk: float = 2e-5
    vibration_per_speed: float = 0.01
    time_offset_s: float = 0.0
    T_base_imu: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        if not self.rate_hz > 0:
            raise ValueError(f"the IMU's rate is {self.rate_hz} Hz: it must be positive")
        R_base_imu = self.T_base_imu[:3, :3]
        if self.T_base_imu.shape != (4, 4) or not np.allclose(
            R_base_imu @ R_base_imu.T, np.eye(3), atol=1e-6
        ):
            raise ValueError("T_base_imu is not a pose: give a 4x4 matrix with a rotation")


PERFECT_IMU = ImuSettings(
    accelerometer_noise_density=0.0,
    gyroscope_noise_density=0.0,
    accelerometer_bias_std=0.0,
    gyroscope_bias_std=0.0,
    accelerometer_random_walk=0.0,
    gyroscope_random_walk=0.0,
    vibration_per_speed=0.0,
)


@dataclass(frozen=True)
class ImuRecord:
    """What an IMU reported: stamp_s [n] (its own clock) and samples, bias [n, 6] in its axes."""

    stamp_s: NDArray[np.float64]
    samples: NDArray[np.float64]
    bias: NDArray[np.float64]


def simulate_imu(
    trajectory: Trajectory, settings: ImuSettings, rng: np.random.Generator
) -> ImuRecord:
    """Return the samples of an IMU that rides along a whole trajectory."""
    R_base_imu = settings.T_base_imu[:3, :3]
    n = int(np.floor((trajectory.end_s - trajectory.start_s) * settings.rate_hz + 1e-6)) + 1
    time_s = trajectory.start_s + np.arange(n) / settings.rate_hz
    true = np.empty((n, 6))
    force = trajectory.specific_force(time_s, settings.T_base_imu[:3, 3])
    true[:, SPECIFIC_FORCE] = force @ R_base_imu
    true[:, ANGULAR_RATE] = trajectory.angular_rate(time_s) @ R_base_imu
    bias = bias_walk(n, settings, rng)
    speed = np.linalg.norm(trajectory.velocity_world(time_s), axis=1)
    samples = true + bias + white_noise(speed, settings, rng)
    return ImuRecord(time_s + settings.time_offset_s, samples, bias)


def _both(accelerometer: float, gyroscope: float) -> NDArray[np.float64]:
    return np.repeat([accelerometer, gyroscope], 3)


def bias_walk(n: int, settings: ImuSettings, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the bias over n samples [n, 6]: a constant plus a random walk (m/s^2, rad/s)."""
    std = _both(settings.accelerometer_bias_std, settings.gyroscope_bias_std)
    walk = _both(settings.accelerometer_random_walk, settings.gyroscope_random_walk)
    steps = rng.standard_normal((n, 6)) * walk / np.sqrt(settings.rate_hz)
    return rng.standard_normal(6) * std + np.cumsum(steps, 0)


def white_noise(
    speed: NDArray[np.float64], settings: ImuSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return white noise [n, 6], the accelerometer's growing with the speed [n] (m/s)."""
    density = _both(settings.accelerometer_noise_density, settings.gyroscope_noise_density)
    std = np.tile(density * np.sqrt(settings.rate_hz), (len(speed), 1))
    vibration = settings.vibration_per_speed * speed[:, None]
    std[:, SPECIFIC_FORCE] = np.hypot(std[:, SPECIFIC_FORCE], vibration)
    return rng.standard_normal(std.shape) * std
