"""Tiny networks and data in float64: d_in != d_out everywhere, unsymmetric weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, its inputs and targets, and the noise covariance of the targets."""

    model: nn.Module
    x: Any
    y: Tensor
    noise_cov: Any = None
    likelihood: str = "gaussian"

    def loader(self, batch_size: int = 4, order: Tensor | None = None) -> list:
        from bayes_vio.curvature.inputs import map_tensors

        index = torch.arange(len(self.y)) if order is None else order
        return [
            (map_tensors(self.x, lambda t, i=i: t[i]), self.y[i]) for i in index.split(batch_size)
        ]


@dataclass(frozen=True)
class Pair:
    """An input of two tensors."""

    image: Tensor
    vector: Tensor


def randomise(model: nn.Module, seed: int = 1, scale: float = 0.6) -> nn.Module:
    """Give every parameter and running statistic unsymmetric values; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for p in model.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) + 0.1
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            spread = torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype)
            buffer.copy_(spread + 0.5 if "var" in name else spread)
    return model


def normal(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(n: int, seed: int = 3) -> Tensor:
    root = normal(n, n, seed=seed)
    return root @ root.mT + 0.5 * torch.eye(n, dtype=torch.float64)


class Attention(nn.Module):
    """One pre-norm attention block of nn.Linear over tokens, mean pooling, a linear head."""

    def __init__(self, d: int = 4, n_out: int = 3):
        super().__init__()
        self.embed = nn.Linear(3, d)
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.token = nn.Parameter(torch.zeros(1, 1, d))
        self.head = nn.Linear(d, n_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.head((h + self.out(weights @ v)).mean(1))


class TwoHeads(nn.Module):
    """A shared trunk, a mean head and a noise head that returns a Cholesky factor."""

    def __init__(self, n_out: int = 2):
        super().__init__()
        self.trunk = nn.Linear(3, 5)
        self.mean = nn.Linear(5, n_out)
        self.noise = nn.Linear(5, n_out)
        self.n_out = n_out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x))
        diagonal = torch.diag_embed(torch.nn.functional.softplus(self.noise(h)) + 0.1)
        return self.mean(h), diagonal + 0.2 * torch.ones_like(diagonal).tril(-1)


class ImageAndVector(nn.Module):
    """A convolution and a linear branch; reads a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.line = nn.Conv1d(3, 2, 3, padding="same", padding_mode="reflect")
        self.vector = nn.Linear(3, 4)
        self.head = nn.Linear(2 + 4, 2)

    def forward(self, x: Pair) -> Tensor:
        image = torch.tanh(self.line(torch.relu(self.conv(x.image)).mean(3))).sum(2)
        return self.head(torch.cat([image, torch.tanh(self.vector(x.vector))], 1))


class Norms(nn.Module):
    """A convolution with group and batch norm in eval mode, flattened into a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2)
        self.group = nn.GroupNorm(2, 4)
        self.batch = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.group(self.conv(x)))
        h = self.batch(h)
        h += 0.5
        return self.head(torch.relu_(h).flatten(1))


def terms_of(J: Tensor) -> Any:
    """Return the terms of a layer whose Jacobian is J [batch, outputs, d_out, d_in]."""
    from bayes_vio.curvature.layers import LinearLayer
    from bayes_vio.posterior.linearisation import LayerTerms

    one_hot = torch.eye(J.shape[3], dtype=J.dtype).expand(len(J), -1, -1)
    return LayerTerms(LinearLayer("layer", None), one_hot, J.mT)


def linear_chain() -> Case:
    """A deep linear network."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5, bias=False), nn.Linear(5, 2))
    return Case(randomise(net), normal(12, 4), normal(12, 2, seed=5), spd(2))


def mlp() -> Case:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))
    return Case(randomise(net), normal(11, 3), normal(11, 2, seed=5), 0.3)


def classifier() -> Case:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    labels = torch.arange(11) % 4
    return Case(randomise(net), normal(11, 3), labels, None, "categorical")


def attention() -> Case:
    return Case(randomise(Attention()), normal(9, 6, 3), normal(9, 3, seed=5), torch.ones(3))


def two_heads() -> Case:
    return Case(randomise(TwoHeads()), normal(10, 3), normal(10, 2, seed=5))


def image_and_vector() -> Case:
    x = Pair(normal(8, 2, 5, 6), normal(8, 3, seed=7))
    return Case(randomise(ImageAndVector()), x, normal(8, 2, seed=5), 0.5)


def norms() -> Case:
    return Case(randomise(Norms()), normal(8, 1, 3, 4), normal(8, 2, seed=5), 0.5)


CASES: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (
        linear_chain,
        mlp,
        classifier,
        attention,
        two_heads,
        image_and_vector,
        norms,
    )
}
