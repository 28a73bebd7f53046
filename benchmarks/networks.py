"""The networks that benchmarks measure: ours, and those that papers about posteriors use.

Weights are random: what is measured here does not depend on their values.
"""

from __future__ import annotations

import itertools
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, IMU_BINS, MotionInput
from bayes_vio.models.motion import MotionModel

OUTPUTS = 6


def reference_cnn() -> nn.Module:
    """Return the CNN of 456 k parameters, [batch, 3, 96, 128] to 6 outputs."""
    widths, layers = (3, 32, 64, 128, 256), []
    for d_in, d_out in itertools.pairwise(widths):
        layers += [nn.Conv2d(d_in, d_out, 3, stride=2, padding=1), nn.ReLU()]
    head = [nn.Linear(256, 257), nn.ReLU(), nn.Linear(257, OUTPUTS)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def motion_model() -> MotionModel:
    """Return the motion model with heads that are not at their zero initialisation."""
    model = MotionModel()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def motion_input(n: int) -> MotionInput:
    return MotionInput(
        gray=torch.rand(n, GRID_HEIGHT, GRID_WIDTH),
        flow=0.05 * torch.randn(n, 2, GRID_HEIGHT, GRID_WIDTH),
        view_valid=torch.ones(n, GRID_HEIGHT, GRID_WIDTH),
        imu=torch.randn(n, IMU_BINS, 6),
        imu_valid=torch.ones(n, IMU_BINS),
        dt=torch.full((n,), 0.1),
        camera_valid=torch.ones(n),
    )


class FlatMotion(nn.Module):
    """The motion model for libraries that want one tensor in and one out: its mean alone.

    The noise head, which does not reach the mean, is frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = motion_model()
        for head in (self.net.noise_hidden, self.net.noise_head):
            head.requires_grad_(False)
        one = motion_input(1)
        self._shapes = {f.name: getattr(one, f.name).shape[1:] for f in fields(one)}

    def forward(self, flat: Tensor) -> Tensor:
        """Return the mean [batch, 6] of inputs made by ``flatten``."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), flat.split(sizes, 1), strict=True)
        return self.net(MotionInput(**{n: p.reshape(-1, *s) for (n, s), p in parts}))[0]


def flatten(x: MotionInput) -> Tensor:
    """Return a motion input as one tensor [batch, numbers]."""
    return torch.cat([getattr(x, f.name).reshape(len(x.dt), -1) for f in fields(x)], 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Source: He et al. (2016), figure 2."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(d_out)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(d_out)
        self.shortcut = nn.Identity()
        if stride > 1 or d_in != d_out:
            self.shortcut = nn.Conv2d(d_in, d_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, d_out, rows / stride, columns / stride]."""
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.shortcut(x))


def resnet18() -> nn.Module:
    """Return a ResNet-18 for small images, half as wide as the original, 2.8 M parameters."""
    stem = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    blocks, d_in = [], 32
    for d_out, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        blocks += [BasicBlock(d_in, d_out, stride), BasicBlock(d_out, d_out, 1)]
        d_in = d_out
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d_in, OUTPUTS)]
    return nn.Sequential(*stem, *blocks, *head)


class DenseLayer(nn.Module):
    """Append ``growth`` channels to the input. Source: Huang et al. (2017), section 3."""

    def __init__(self, d_in: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(d_in), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(d_in, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, d_in + growth, ...]."""
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], 1)


def _densenet(growth: int, width: int, blocks: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for i, n_layers in enumerate(blocks):
        layers += [DenseLayer(width + k * growth, growth) for k in range(n_layers)]
        width += n_layers * growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if i < len(blocks) - 1:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, OUTPUTS)]
    return nn.Sequential(*layers, *head)


def densenet121() -> nn.Module:
    """Return DenseNet-121, 7 M parameters."""
    return _densenet(32, 64, (6, 12, 24, 16))


def densenet161() -> nn.Module:
    """Return DenseNet-161, 26 M parameters."""
    return _densenet(48, 96, (6, 12, 36, 24))
