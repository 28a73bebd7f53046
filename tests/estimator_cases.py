"""A drive of known motion and a model that answers in closed form, to test the estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.image_quality import ImageStatistics
from bayes_vio.data.samples import CameraModel, Extrinsics, MotionInput
from bayes_vio.estimator import Estimator, EstimatorSettings, MotionEstimate
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover
from bayes_vio.models.noise import (
    AS_IN_TRAINING,
    WHITE_NOISE,
    Circumstances,
    NoiseCorrelation,
)
from bayes_vio.models.reliability import Reliability
from bayes_vio.posterior.sketch import FeatureSketch

START_NS = 1_700_000_000 * NS_PER_S
SPEED_M_S = 8.0
YAW_RATE_RAD_S = 0.2
CAMERA = CameraModel(256, 80, np.array([[148.0, 0, 127.5], [0, 148.0, 39.5], [0, 0, 1]]))


def extrinsics(T_base_imu: np.ndarray | None = None) -> Extrinsics:
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_BASE_OPTICAL
    return Extrinsics(np.eye(4) if T_base_imu is None else T_base_imu, T_base_camera, "test")


@dataclass(frozen=True)
class Prediction:
    mean: Tensor
    epistemic_cov: Tensor
    noise_cov: Tensor


@dataclass
class KnownArtifact:
    """Speed is known to the camera alone, angular rate to the IMU alone; the unseen is wide."""

    camera: CameraModel = CAMERA
    extrinsics: Extrinsics = field(default_factory=extrinsics)
    time_offset_s: float = 0.0
    epistemic_correlation_s: float = 2.0
    noise_correlation: NoiseCorrelation = WHITE_NOISE
    image_statistics: ImageStatistics = field(
        default_factory=lambda: ImageStatistics(20.0, 240.0, 5.0)
    )
    dt_range_s: tuple[float, float] = (0.05, 0.2)
    reliability: Reliability | None = None
    model: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    regime: Any = None
    crossover: Crossover = NETWORK_ALONE
    circumstances: Circumstances = AS_IN_TRAINING
    asked: list[MotionInput] = field(default_factory=list)
    corrupt: Callable[[Prediction], Prediction] = lambda p: p

    def predict(self, x: MotionInput) -> Prediction:
        self.asked.append(x)
        camera = bool(x.camera_valid[0] > 0)
        weight = x.imu_valid[0].double()
        imu = bool(weight.sum() > 0)
        dt = x.dt[0].double()
        mean = torch.zeros(1, 6, dtype=torch.float64)
        mean[0, 0] = (SPEED_M_S if camera else 5.0) * dt
        if imu:
            mean[0, 3:] = dt * (weight[:, None] * x.imu[0, :, 3:].double()).sum(0) / weight.sum()
        std = torch.tensor([0.1 if camera else 3.0] * 3 + [0.01 if imu else 0.3] * 3).double() * dt
        return self.corrupt(
            Prediction(mean, (0.2 * std).square().diag()[None], std.square().diag()[None])
        )

    def predict_features(
        self,
        x: MotionInput,
        sketch: FeatureSketch,
    ) -> tuple[Prediction, None]:
        """Return the prediction: of its epistemic error no more is known than its covariance."""
        return self.predict(x), None


@dataclass
class Drive:
    """Sensors of a car on a circle: ``run`` feeds them in order and yields what comes out.

    A frame or sample index in ``without_image`` or ``without_imu`` is not sent; ``images`` and
    ``samples`` change what is sent.
    """

    camera_hz: float = 10.0
    imu_hz: float = 100.0
    start_ns: int = START_NS
    without_image: range | set[int] = field(default_factory=set)
    without_imu: range | set[int] = field(default_factory=set)
    images: Callable[[int, np.ndarray], np.ndarray] = lambda index, image: image
    samples: Callable[[int, np.ndarray], np.ndarray] = lambda index, sample: sample
    clock_ahead_ns: int = 0

    def sample(self, index: int) -> np.ndarray:
        shaking = 1.0 if index % 2 else -1.0
        force = [shaking, SPEED_M_S * YAW_RATE_RAD_S, GRAVITY_M_S2]
        return np.array([*force, 0, 0, YAW_RATE_RAD_S])

    def events(self, end_s: float) -> Iterator[tuple[int, int, int]]:
        """Yield (stamp_ns, 0 for IMU or 1 for image, index); image k is at k / camera_hz."""
        imu = [
            (round(k * NS_PER_S / self.imu_hz), 0, k)
            for k in range(round(end_s * self.imu_hz) + 1)
        ]
        image = [
            (round(k * NS_PER_S / self.camera_hz), 1, k)
            for k in range(round(end_s * self.camera_hz) + 1)
        ]
        yield from sorted(imu + image)

    def run(self, estimator: Estimator, end_s: float) -> list[MotionEstimate]:
        """Feed up to ``end_s`` and ask after every event; return the estimates."""
        estimates = []
        for time_ns, kind, index in self.events(end_s):
            stamp_ns = self.start_ns + time_ns
            if kind == 0 and index not in self.without_imu:
                estimator.feed_imu(stamp_ns, self.samples(index, self.sample(index)))
            if kind == 1 and index not in self.without_image:
                estimator.feed_image(stamp_ns, self.images(index, scene(index)))
            estimate = estimator.estimate(stamp_ns + self.clock_ahead_ns)
            if estimate is not None:
                assert_publishable(estimate)
                estimates.append(estimate)
        return estimates


def no_inertia(**given: float) -> EstimatorSettings:
    """Return settings by which an IMU without a camera tells what the network says alone."""
    return EstimatorSettings(unseen_acceleration_std_m_s2=100.0, **given)


def _texture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(80, 512))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.clip(120 + 40 * smooth / smooth.std(), 0, 255)


_TEXTURE = _texture()


def scene(index: int) -> np.ndarray:
    """Return the image [80, 256] uint8 of a world passing by at 2 pixels a frame, with noise."""
    noise = np.random.default_rng(index).normal(scale=1.5, size=(80, 256))
    passing = np.roll(_TEXTURE, -2 * index, axis=1)[:, :256]
    return np.clip(passing + noise, 0, 255).astype(np.uint8)


def assert_spd(cov: np.ndarray) -> None:
    assert cov.dtype == np.float64
    assert cov.shape == (6, 6)
    assert np.isfinite(cov).all()
    np.testing.assert_array_equal(cov, cov.T)
    std = np.sqrt(np.diagonal(cov))
    np.linalg.cholesky(cov / np.outer(std, std))
    assert std.max() < 1.01e5


def assert_publishable(estimate: MotionEstimate) -> None:
    """Check what is promised of every estimate, whatever came in."""
    for cov in (estimate.epistemic_cov, estimate.noise_cov, estimate.cov, estimate.odom_cov):
        assert_spd(cov)
    for T in (estimate.T_earlier_later, estimate.T_odom_base):
        assert np.isfinite(T).all()
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
    assert estimate.stamp_ns > estimate.earlier_stamp_ns
    assert estimate.dt_s == (estimate.stamp_ns - estimate.earlier_stamp_ns) / NS_PER_S
    assert bool(estimate.cause) == (estimate.state.value != "tracking")
