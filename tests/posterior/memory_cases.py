"""Nets that are large enough for memory to be measured, and the measurement of a fit's peak."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bayes_vio.memory import InsufficientMemoryError
from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.memory import needed_bytes
from tests.cli_process import SERVER
from tests.peak_memory import peak_bytes, return_freed_memory


class Tokens(nn.Module):
    """A transformer layer over tokens, whose mean is read out."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.first = nn.Linear(16, width)
        self.encoder = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(self.first(x)).mean(1))


def wide() -> tuple[nn.Module, Tensor, int]:
    net = nn.Sequential(
        nn.Linear(600, 1500), nn.Tanh(), nn.Linear(1500, 1200), nn.Tanh(), nn.Linear(1200, 4)
    )
    return net, torch.randn(64, 600), 32


def pixels() -> tuple[nn.Module, Tensor, int]:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip
    return net, torch.randn(64, 3, 32, 32), 64


def tokens() -> tuple[nn.Module, Tensor, int]:
    return Tokens(), torch.randn(96, 24, 16), 96


def many() -> tuple[nn.Module, Tensor, int]:
    """Return more data than the layers have inputs: square eigenbases."""
    net = nn.Sequential(nn.Linear(700, 900), nn.Tanh(), nn.Linear(900, 4))
    return net, torch.randn(1200, 700), 100


def small() -> tuple[nn.Module, Tensor, int]:
    net = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 40), nn.Tanh())
    return nn.Sequential(net, nn.Linear(40, 3)), torch.randn(64, 40), 32


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor, int]]] = {
    net.__name__: net for net in (wide, many, pixels, tokens, small)
}


def prepared(name: str) -> tuple[nn.Module, list]:
    torch.manual_seed(0)
    model, x, batch = NETS[name]()
    with torch.no_grad():
        y = model.eval()(x[:1]).new_zeros(len(x), model(x[:1]).shape[1])
    return model, [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]


def estimated(name: str, options: dict) -> float:
    """Return the bytes that a fit counts, by refusing it any."""
    found: list[float] = []

    def record(size: Any, structure: Any, settings: Any, available: float) -> None:
        found.append(needed_bytes(size, structure, settings))
        raise InsufficientMemoryError

    with mock.patch("bayes_vio.posterior.fit.check_memory", record), suppress(ValueError):
        fit_posterior(*prepared(name), noise_cov=0.1, **options)
    return found[0]


def measured(name: str, options: dict) -> tuple[float, float]:
    """Return estimate and measured peak of a fit, in a process of its own."""
    ours, theirs = SERVER.Pipe()
    process = SERVER.Process(target=_measure, args=(theirs, name, options))
    process.start()
    theirs.close()
    result = ours.recv()
    process.join(60)
    return result


def _measure(pipe: Any, name: str, options: dict) -> None:
    torch.set_num_threads(1)
    return_freed_memory()
    tiny = options | {"rank": 3, "subset_size": 9, "n_points": 5, "n_eigen": 2}
    if options["structure"] != "full":  # what a first fit loads is not what it needs
        fit_posterior(*prepared("small"), noise_cov=0.1, **tiny)
    estimate = estimated(name, options)
    model, loader = prepared(name)
    peak = peak_bytes(lambda: fit_posterior(model, loader, noise_cov=0.1, **options))
    pipe.send((estimate, peak))
