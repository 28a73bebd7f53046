"""What a network makes of data: its logits, its device and dtype, and the shapes it was shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.classification.batches import Batches
from bayes_vio.classification.training import moved
from bayes_vio.curvature.inputs import map_tensors, tensors


def parameter_device(model: nn.Module) -> torch.device:
    """Return where a model is; raise ValueError for one without parameters."""
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError("the model has no parameters: there is nothing to be uncertain about")
    return first.device


def parameter_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's parameters."""
    return next(model.parameters()).dtype


def input_shapes(x: Any) -> list[tuple[int, ...]]:
    """Return the shape of every tensor of one datum."""
    return [tuple(t.shape[1:]) for t in tensors(x)]


def probe(model: nn.Module, batches: Batches) -> tuple[int, list[tuple[int, ...]]]:
    """Return the number of classes and the shapes of one datum's inputs.

    Raises ValueError where the data are empty or the network does not give logits of them.
    """
    x = next((x for x, _ in batches), None)
    if x is None:
        raise ValueError("the training data are empty: give at least one datum")
    two = moved(map_tensors(x, lambda t: t[:2]), parameter_device(model))
    return checked_logits(model.eval(), two).shape[1], input_shapes(x)


@torch.no_grad()
def checked_logits(model: nn.Module, x: Any) -> Tensor:
    """Return a model's logits [batch, classes]; raise ValueError where it gives none of x."""
    try:
        logits = model(x)
    except (RuntimeError, TypeError, IndexError) as error:
        shapes = ", ".join(str([*t.shape]) for t in tensors(x))
        raise ValueError(f"the network cannot take inputs {shapes}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network must return logits [batch, 2 or more classes], not {found}")
    return logits
