"""The data of a fit: looked through once for what no network can learn from, then read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bayes_vio.curvature.inputs import batch_size, map_tensors, tensors
from bayes_vio.curvature.passes import onto
from bayes_vio.curvature.recorder import ordinary
from bayes_vio.models.likelihood import Categorical, Likelihood


@dataclass(frozen=True)
class FitData:
    """A re-iterable loader of (x, target), where its batches go, and how much it holds."""

    loader: Iterable
    device: torch.device
    n_data: int
    n_batches: int

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """Yield (x, target) on the device."""
        for x, target in self.loader:
            yield ordinary(onto(x, self.device)), onto(target, self.device)


def first_inputs(loader: Iterable, device: torch.device, n: int = 8) -> Any:
    """Return the first few inputs. Raises ValueError for what is empty or cannot be read twice."""
    # A DataLoader may keep its workers, and so its iterator, which then starts anew.
    if not isinstance(loader, DataLoader) and iter(loader) is iter(loader):
        raise ValueError("the loader is an iterator, but is read often: give a DataLoader or list")
    for x, _ in loader:
        check_inputs(x, "the first batch")
        return ordinary(onto(map_tensors(x, lambda t: t[:n]), device))
    raise ValueError("the loader is empty: there is nothing to fit")


def survey(
    loader: Iterable, device: torch.device, likelihood: Likelihood, n_outputs: int
) -> FitData:
    """Look through all data and count them.

    Raises ValueError for NaN or infinity in inputs or targets, for labels that are no class
    indices below n_outputs, for targets of a wrong shape, and where there are no data.
    """
    n_data, n_batches = 0, 0
    for i, (x, target) in enumerate(loader):
        where = f"batch {i}"
        check_inputs(x, where)
        n_data, n_batches = n_data + batch_size(x), n_batches + 1
        if len(target) != batch_size(x):
            raise ValueError(f"{where} has {batch_size(x)} inputs and {len(target)} targets")
        if isinstance(likelihood, Categorical):
            _check_labels(target, n_outputs, where)
        else:
            _check_targets(target, n_outputs, where)
    if not n_data:
        raise ValueError("the loader is empty: there is nothing to fit")
    return FitData(loader, device, n_data, n_batches)


def check_inputs(x: Any, where: str) -> None:
    """Raise ValueError for an input that is empty, or holds NaN or infinity."""
    if batch_size(x) == 0:
        raise ValueError(f"{where} is empty")
    for t in tensors(x):
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise ValueError(f"the inputs of {where} hold NaN or infinity: leave those data out")


def _check_labels(target: Tensor, n_classes: int, where: str) -> None:
    if target.dim() != 1 or target.dtype != torch.int64:
        raise ValueError(
            f"the labels of {where} must be class indices [batch] in int64, they are "
            f"{tuple(target.shape)} in {target.dtype}"
        )
    least, largest = int(target.min()), int(target.max())
    if least < 0 or largest >= n_classes:
        raise ValueError(
            f"the labels of {where} reach from {least} to {largest}, the model's {n_classes} "
            f"outputs are classes 0 to {n_classes - 1}"
        )


def _check_targets(target: Tensor, n_outputs: int, where: str) -> None:
    if target.dim() != 2 or target.shape[1] != n_outputs:
        raise ValueError(
            f"the targets of {where} have shape {tuple(target.shape)}, the model's mean is "
            f"[batch, {n_outputs}]"
        )
    if not bool(torch.isfinite(target).all()):
        raise ValueError(f"the targets of {where} hold NaN or infinity: leave those data out")
