"""Image classifiers by published sizes: DenseNet (Huang et al. 2017), ResNet (He et al. 2016).

Definitions only, of 1000 classes; there are no trained weights here. ``parameters`` holds the
published counts, which ``build`` checks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_CLASSES = 1000
_BOTTLENECK = 4


class DenseLayer(nn.Module):
    """Two convolutions (1x1, 3x3), each after a norm; the input is passed on beside the output."""

    def __init__(self, d_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(d_in)
        self.conv1 = nn.Conv2d(d_in, _BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], 1)


def densenet(growth: int, blocks: tuple[int, ...], width: int) -> nn.Module:
    """Return dense blocks with halving transitions between them, and a linear head."""
    layers: list[nn.Module] = [*_stem(width)]
    for i, n_layers in enumerate(blocks):
        for _ in range(n_layers):
            layers.append(DenseLayer(width, growth))
            width += growth
        if i + 1 < len(blocks):
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(width))


class Residual(nn.Module):
    """Convolutions with norms and ReLU between them, added to their input or its projection."""

    def __init__(self, d_in: int, widths: tuple[int, ...], kernels: tuple[int, ...], stride: int):
        super().__init__()
        layers: list[nn.Module] = []
        strides = [stride if k == 3 and 3 not in kernels[:i] else 1 for i, k in enumerate(kernels)]
        sizes = itertools.pairwise((d_in, *widths))
        for (a, b), kernel, step in zip(sizes, kernels, strides, strict=True):
            conv = nn.Conv2d(a, b, kernel, stride=step, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride > 1 or d_in != widths[-1]:
            conv = nn.Conv2d(d_in, widths[-1], 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """Return four stages of residual blocks and a linear head."""
    layers: list[nn.Module] = [*_stem(64)]
    d_in = 64
    for i, n_blocks in enumerate(blocks):
        width = 64 * 2**i
        widths = (width, width, 4 * width) if bottleneck else (width, width)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        for j in range(n_blocks):
            layers.append(Residual(d_in, widths, kernels, 2 if i and not j else 1))
            d_in = widths[-1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(d_in))


def _stem(width: int) -> list[nn.Module]:
    conv = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def _head(width: int) -> nn.Module:
    return nn.Linear(width, N_CLASSES)


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: resnet((2, 2, 2, 2), False), 11_689_512),
    "resnet50": (lambda: resnet((3, 4, 6, 3), True), 25_557_032),
    "densenet121": (lambda: densenet(32, (6, 12, 24, 16), 64), 7_978_856),
    "densenet161": (lambda: densenet(48, (6, 12, 36, 24), 96), 28_681_000),
}


def build(name: str, images: Tensor, seed: int = 0) -> nn.Module:
    """Return a net with random weights, its norms' statistics those of images [n, 3, h, w].

    Raises ValueError where the net is not of its published size.
    """
    make, published = NETS[name]
    torch.manual_seed(seed)
    net = make()
    n_parameters = sum(p.numel() for p in net.parameters())
    if n_parameters != published:
        raise ValueError(f"{name} has {n_parameters} parameters, published are {published}")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    return net.eval()
