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


class Grouped(nn.Module):
    """A convolution of two groups, one of more groups than are worth a block each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 0), groups=2)
        self.mix = nn.Linear(6, 36, bias=False)
        self.many = nn.Conv1d(36, 72, 2, padding=1, groups=36)
        self.head = nn.Linear(72, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.pairs(x)).flatten(2)
        h = self.mix(h.mT[:, :4]).mT
        return self.head(torch.tanh(self.many(h)).mean(2))


class Heads(nn.Module):
    """Attention of torch: to itself, then of a query from elsewhere to keys of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(4, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(4, 1, kdim=3, vdim=2, bias=False, add_bias_kv=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Pair) -> Tensor:
        tokens = x.image
        h = tokens + self.own(tokens, tokens, tokens, need_weights=False)[0]
        keys, values = (x.vector[..., s].transpose(0, 1) for s in (slice(3), slice(3, 5)))
        h, weights = self.cross(h.transpose(0, 1), keys, values)
        return self.head(torch.cat([h[-1], weights[:, 0, :1]], 1))


class Encoder(nn.Module):
    """torch's transformer encoder, with time as the first axis, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(0, 1)
        causal = torch.ones(len(h), len(h), dtype=torch.bool, device=h.device).triu(1)
        return self.head(self.encoder(h, mask=causal)).mean(0)


class Recurrent(nn.Module):
    """An LSTM in both directions read at its end, a GRU with time first, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(4, 3, bias=False)
        self.cell = nn.RNNCell(4, 2)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)
        _, last = self.gru(h.transpose(0, 1))
        state = self.cell(h[:, 1], self.cell(h[:, 0]))
        return self.head(torch.cat([last[0], state], 1))


class Tokens(nn.Module):
    """An embedding with padding, norms of tokens, time as the first axis, and a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.norm = nn.RMSNorm(4)
        self.inner = nn.Linear(4, 3)
        self.outer = nn.LayerNorm(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(self.norm(self.embedding(x)).transpose(0, 1)))
        return self.head(self.outer(h).mean(0))


class Shared(nn.Module):
    """An encoder applied to two images, and a layer applied to its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.norm = nn.InstanceNorm2d(3, affine=True)
        self.step = nn.Linear(3, 3)
        self.same = self.step
        self.head = nn.Linear(6, 2)

    def forward(self, x: Pair) -> Tensor:
        a, b = (self.encode(t) for t in (x.image, x.vector))
        return self.head(torch.cat([torch.tanh(self.step(a)), self.same(self.step(b))], 1))

    def encode(self, image: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(image)))
        return (h * torch.arange(1, h.shape[3] + 1)).mean((2, 3))


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


def grouped() -> Case:
    return Case(randomise(Grouped()), normal(7, 4, 3, 5), normal(7, 2, seed=5), 0.4)


def heads() -> Case:
    x = Pair(normal(8, 5, 4), normal(8, 3, 5, seed=7))
    return Case(randomise(Heads()), x, normal(8, 2, seed=5), spd(2))


def encoder() -> Case:
    return Case(randomise(Encoder()), normal(7, 5, 3), normal(7, 2, seed=5), 0.4)


def recurrent() -> Case:
    return Case(randomise(Recurrent()), normal(7, 4, 3), normal(7, 2, seed=5), spd(2))


def tokens() -> Case:
    x = (normal(9, 5).abs() * 4).long().clamp(max=6)
    return Case(randomise(Tokens()), x, torch.arange(9) % 2, None, "categorical")


def shared() -> Case:
    x = Pair(normal(8, 1, 4, 3), normal(8, 1, 4, 3, seed=7))
    return Case(randomise(Shared()), x, normal(8, 2, seed=5), 0.4)


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
        grouped,
        heads,
        encoder,
        recurrent,
        tokens,
        shared,
    )
}
