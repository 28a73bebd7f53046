"""Train a classifier's weights to their maximum a posteriori under a Gaussian prior."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.classification.batches import Batches, shuffled
from bayes_vio.curvature.inputs import map_tensors

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train: Adam, its rate falling to zero along a cosine.

    ``prior_precision`` is that of the Gaussian prior around zero, which the loss of all data is
    weighed against. ``batch_size`` is for data in memory; a loader keeps its own.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    prior_precision: float = 1.0


def train_map(
    model: nn.Module,
    train: Batches,
    validation: Batches | None,
    n_data: int,
    settings: TrainingSettings,
    seed: int,
    on_progress: OnProgress | None = None,
) -> nn.Module:
    """Train a model in place and return it, in eval mode.

    Parameters that need no gradient stay. With validation data the epoch of lowest validation NLL
    is kept. Raises ValueError where nothing can be trained or a loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter of the model needs a gradient: nothing can be trained")
    if settings.epochs < 1:
        raise ValueError(f"training takes at least one epoch, not {settings.epochs}")
    batches = shuffled(train, settings.batch_size, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(
        parameters, lr=settings.learning_rate, weight_decay=settings.prior_precision / n_data
    )
    best, lowest = None, math.inf
    with seeded(seed, parameters[0].device):
        for epoch in range(settings.epochs):
            for group in optimizer.param_groups:
                group["lr"] = _rate(settings, epoch)
            _epoch(model.train(), batches, optimizer)
            if validation is not None:
                nll = mean_nll(model.eval(), validation)
                if nll < lowest:
                    best, lowest = copy.deepcopy(model.state_dict()), nll
            if on_progress:
                on_progress("training", epoch + 1, settings.epochs)
    if best is not None:
        model.load_state_dict(best)
    return model.eval()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a block draws from torch's global generators, and put them back behind it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def logits_of(model: nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return logits [n, classes] in float64 and labels [n] of all data, on the model's device."""
    device = next(model.parameters()).device
    found = [(model(moved(x, device)).double(), y.to(device)) for x, y in batches]
    return torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])


def mean_nll(model: nn.Module, batches: Batches) -> float:
    """Return the mean negative log-likelihood (nats) of a model in eval mode."""
    logits, target = logits_of(model, batches)
    return float(nn.functional.cross_entropy(logits, target))


def moved(x: Any, device: torch.device) -> Any:
    """Return an input on the device that works."""
    return map_tensors(x, lambda t: t.to(device))


def _rate(settings: TrainingSettings, epoch: int) -> float:
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))


def _epoch(model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
    device = next(model.parameters()).device
    for i, (x, y) in enumerate(batches):
        loss = nn.functional.cross_entropy(model(moved(x, device)), y.to(device))
        if not math.isfinite(float(loss.detach())):
            raise ValueError(
                f"the loss of batch {i} is not finite: lower the learning rate or scale the inputs"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
