"""Three small trained nets whose dense curvature can be inverted: the truth for comparisons.

An MLP on a made regression, a CNN on MNIST at half resolution, attention over real IMU windows
(KITTI's poses and IMU). The latter two need the recordings: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from kitti_bags import data_folder
from torch import Tensor, nn
from torch.nn import functional as F

N_TRAIN, N_TEST = 1000, 100
_STEPS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 1500, 100, 3e-3, 1e-3
IMU_WINDOW = 10


@dataclass(frozen=True)
class TrainedNet:
    """A net at its MAP in float64, its training data, test inputs, and inputs twice as large."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    x_test: Tensor
    likelihood: str
    noise_cov: Tensor | None

    @property
    def loader(self) -> list[tuple[Tensor, Tensor]]:
        """Return the training data in batches."""
        return list(zip(self.x.split(_BATCH), self.y.split(_BATCH), strict=True))


class WindowAttention(nn.Module):
    """One attention block over IMU tokens [batch, 10, 6], pooled into 6 outputs."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.position = nn.Parameter(0.3 * torch.randn(IMU_WINDOW, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.position
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        h = h + self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        h = h + self.narrow(F.gelu(self.wide(h)))
        return self.head(h.mean(1))


def mlp(seed: int) -> TrainedNet:
    """Return 6 correlated inputs to 2 outputs by two hidden layers of 24."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=g, dtype=torch.float64) / 6**0.5
    x = torch.randn(N_TRAIN + N_TEST, 6, generator=g, dtype=torch.float64) @ mixing
    truth = torch.stack([(x[:, 0] * x[:, 1]).sin() + x[:, 2], (x[:, 3] - x[:, 4]).tanh()], 1)
    y = truth + 0.1 * torch.randn(truth.shape, generator=g, dtype=torch.float64)
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2)]
    return _trained("mlp", nn.Sequential(*layers), x, y, "gaussian", seed)


def cnn(seed: int) -> TrainedNet:
    """Return two convolutions and a linear layer on MNIST, averaged to 14 x 14."""
    with np.load(data_folder() / "images" / "mnist.npz") as file:
        order = np.random.default_rng(seed).permutation(len(file["y_train"]))
        order = order[: N_TRAIN + N_TEST]
        images, labels = file["x_train"][order], file["y_train"][order]
    x = F.avg_pool2d(torch.from_numpy(images[:, None] / 255.0), 2)
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 10))
    return _trained("cnn", net, x, torch.from_numpy(labels).long(), "categorical", seed)


def attention(seed: int) -> TrainedNet:
    """Return attention over ten samples of a car's IMU to the pose increment they span."""
    with np.load(data_folder() / "kitti" / "imu_poses.npz") as file:
        imu, pose = file["imu_00"], file["pose_00"]
    n_frames = len(pose) - 1
    windows = np.stack([imu[10 * k : 10 * k + IMU_WINDOW] for k in range(n_frames)])
    R, t = pose[:, :, :3], pose[:, :, 3]
    step = np.einsum("nji,nj->ni", R[:-1], t[1:] - t[:-1])
    turn = np.einsum("nji,njk->nik", R[:-1], R[1:])
    skew = [turn[:, i, j] - turn[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))]
    target = np.concatenate([step, np.stack(skew, 1) / 2], 1)
    order = np.random.default_rng(seed).permutation(n_frames)[: N_TRAIN + N_TEST]
    x, y = _standard(torch.from_numpy(windows[order])), _standard(torch.from_numpy(target[order]))
    torch.manual_seed(seed)
    return _trained("attention", WindowAttention(), x, y, "gaussian", seed)


NETS: dict[str, Callable[[int], TrainedNet]] = {f.__name__: f for f in (mlp, cnn, attention)}


def _standard(values: Tensor) -> Tensor:
    rows = values.double().flatten(0, -2)
    return ((rows - rows.mean(0)) / rows.std(0)).reshape(values.shape)


def _trained(
    name: str, model: nn.Module, x: Tensor, y: Tensor, likelihood: str, seed: int
) -> TrainedNet:
    model = model.double()
    regression = likelihood == "gaussian"
    loss = nn.functional.mse_loss if regression else nn.functional.cross_entropy
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        batch = torch.randperm(N_TRAIN, generator=generator)[:_BATCH]
        optimizer.zero_grad()
        loss(model(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
    noise_cov = (model(x[:N_TRAIN]) - y[:N_TRAIN]).square().mean(0) if regression else None
    return TrainedNet(name, model, x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], likelihood, noise_cov)
