"""Small networks of the field: a perceptron, an MLP, LeNet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


def mlp(n_inputs: int, n_classes: int, hidden: Sequence[int] = (), seed: int = 0) -> nn.Module:
    """Return a network of linear layers and tanh, [batch, n_inputs] to logits.

    Without hidden layers it is a perceptron. The seed is that of its weights.
    """
    widths = [n_inputs, *hidden, n_classes]
    layers: list[nn.Module] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for d_in, d_out in itertools.pairwise(widths):
            layers += [nn.Linear(d_in, d_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def lenet(n_channels: int = 1, n_classes: int = 10, seed: int = 0) -> nn.Module:
    """Return LeNet-5 with ReLU and max pooling, [batch, channels, 28, 28] to logits.

    Source: LeCun et al. (1998), "Gradient-based learning applied to document recognition".
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(n_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, n_classes),
        )  # fmt: skip
