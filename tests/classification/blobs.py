"""Small labelled data: Gaussian blobs, and a network that was trained on them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from bayes_vio.classification import BayesianClassifier, TrainingSettings
from bayes_vio.classification.networks import mlp

N_CLASSES = 3
LAPLACE = ("diagonal", "kfac", "efb", "inf", "full", "subnetwork", "last_layer", "ella")
VARIATIONAL = ("mc_dropout", "mean_field", "sparse_dropout", "ensemble")
POST_HOC = ("map", "temperature", *LAPLACE)
METHODS = (*POST_HOC, *VARIATIONAL)
OPTIONS = {
    "subnetwork": {"subset_size": 20},
    "inf": {"rank": 8},
    "ella": {"n_eigen": 6},
    "ensemble": {"members": 3},
}


def blobs(n: int, seed: int, spread: float = 1.2) -> tuple[Tensor, Tensor]:
    """Return x [n, 4] float32 and y [n]: overlapping blobs, one per class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[2.0, 0, 1, 0], [-1.0, 2, 0, 1], [0.0, -2, -1, 0.5]])
    y = torch.arange(n) % N_CLASSES
    return centres[y] + spread * torch.randn(n, 4, generator=generator), y


@cache
def trained() -> nn.Module:
    """Return an MLP fitted to blobs of seed 0."""
    settings = TrainingSettings(epochs=80, batch_size=16, learning_rate=1e-2)
    start = mlp(4, N_CLASSES, (7,))
    return BayesianClassifier(start, "map", True, training=settings).fit(blobs(90, 0)).network


@cache
def fitted(method: str) -> BayesianClassifier:
    """Return a method fitted, or trained from, ``trained``."""
    training = TrainingSettings(epochs=30, batch_size=16, learning_rate=1e-2)
    options = OPTIONS.get(method, {}) | {"training": training}
    return BayesianClassifier(trained(), method, **options).fit(blobs(90, 0), blobs(45, 1))
