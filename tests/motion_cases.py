"""Small motion inputs, targets and artifacts for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import GRAVITY_M_S2, R_BASE_OPTICAL
from bayes_vio.data.image_quality import ImageStatistics
from bayes_vio.data.samples import CameraModel, Extrinsics, MotionInput
from bayes_vio.models.flow_geometry import rotation_flow_basis
from bayes_vio.models.motion import MotionModel, MotionModelSettings
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.posterior import fit_posterior

TINY = MotionModelSettings(width=16, heads=2, blocks=1, latents=2, hidden=16)


def random_motion(n: int, seed: int = 0, dt_s: float = 0.1) -> tuple[MotionInput, Tensor]:
    """Return inputs and targets of turns and straights; flow and gyro agree with the target."""
    g = torch.Generator().manual_seed(seed)
    rate = torch.randn(n, 3, generator=g) * torch.tensor([0.01, 0.02, 0.2])
    speed = 8 * torch.rand(n, generator=g)
    target = torch.zeros(n, 6)
    target[:, 0] = speed * dt_s
    target[:, 3:] = rate * dt_s
    target += 0.002 * torch.randn(n, 6, generator=g)
    flow = dt_s * torch.einsum("chwk,bk->bchw", rotation_flow_basis(), rate)
    flow[:, 1, 25:] -= 0.03 * speed[:, None, None] * dt_s
    imu = torch.zeros(n, 20, 6)
    imu[..., 2] = GRAVITY_M_S2
    imu[..., 3:] = rate[:, None]
    imu += 0.01 * torch.randn(n, 20, 6, generator=g)
    x = MotionInput(
        gray=torch.rand(n, 40, 128, generator=g),
        flow=flow,
        view_valid=torch.ones(n, 40, 128),
        imu=imu,
        imu_valid=torch.ones(n, 20),
        dt=torch.full((n,), dt_s),
        camera_valid=torch.ones(n),
    )
    return x, target


@dataclass(frozen=True)
class Batches:
    """A re-iterable of (input, target) batches, shuffled by a seed or in order."""

    x: MotionInput
    target: Tensor
    batch_size: int
    order: Tensor

    def __iter__(self) -> Iterator[tuple[MotionInput, Tensor]]:
        for rows in self.order.split(self.batch_size):
            yield self.x.map(lambda t, rows=rows: t[rows]), self.target[rows]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)


@dataclass(frozen=True)
class Samples:
    """Random motion samples in memory, with the interface of data.dataset.MotionDataset."""

    x: MotionInput
    target: Tensor

    @staticmethod
    def random(n: int, seed: int = 0) -> Samples:
        return Samples(*random_motion(n, seed))

    def __len__(self) -> int:
        return len(self.target)

    def loader(self, batch_size: int, shuffle_seed: int | None = None) -> Batches:
        order = torch.arange(len(self))
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
            order = torch.randperm(len(self), generator=generator)
        return Batches(self.x, self.target, batch_size, order)


def camera_model(width: int = 320, height: int = 120) -> CameraModel:
    focal = width / 256 * 148.0
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return CameraModel(width, height, K)


def extrinsics() -> Extrinsics:
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_BASE_OPTICAL
    T_base_camera[:3, 3] = [1.0, 0.0, 1.2]
    return Extrinsics(np.eye(4), T_base_camera, "test")


def tiny_artifact(
    seed: int = 0, settings: MotionModelSettings = TINY, n: int = 32
) -> MotionArtifact:
    """Return an artifact with an untrained net and a real posterior on random motion."""
    torch.manual_seed(seed)
    model = MotionModel(settings).eval()
    scale = torch.tensor([1.0, 0.05, 0.05, 0.01, 0.01, 0.01])
    model.set_road(1.65, 2.4)
    model.set_twist_statistics(torch.tensor([4.0, 0, 0, 0, 0, 0]), scale)
    samples = Samples.random(n, seed)
    posterior = fit_posterior(model, samples.loader(16), likelihood="gaussian", rank=8)
    return MotionArtifact(
        model=model,
        posterior=posterior,
        camera=camera_model(),
        extrinsics=extrinsics(),
        time_offset_s=0.0,
        epistemic_correlation_s=1.0,
        noise_correlation=NoiseCorrelation((0.5,) * 6, (0.2, 0, 0, 0, 0, 0.1)),
        image_statistics=ImageStatistics(20.0, 240.0, 5.0),
        dt_range_s=(0.03, 0.5),
        metadata={"made_for": "tests"},
    )
