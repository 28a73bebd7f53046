"""Data as a classifier takes it: tensors, arrays or a loader, brought to one form and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bayes_vio.curvature.inputs import batch_size, map_tensors, tensors


@dataclass(frozen=True)
class ArrayBatches:
    """Inputs and class indices [n] in memory, as batches; in another order each time if shuffled.

    ``order`` is the generator of the orders, None to keep the data's own.
    """

    x: Any
    y: Tensor
    size: int
    order: torch.Generator | None = None

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        n = len(self.y)
        rows = torch.arange(n) if self.order is None else torch.randperm(n, generator=self.order)
        for part in rows.split(self.size):
            yield map_tensors(self.x, lambda t, part=part: t[part]), self.y[part]

    def __len__(self) -> int:
        return -(-len(self.y) // self.size)


@dataclass(frozen=True)
class LoaderBatches:
    """A re-iterable loader of (x, y), each batch brought to the network's dtype."""

    loader: Iterable
    dtype: torch.dtype

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for batch in self.loader:
            yield _pair(batch, self.dtype)


Batches = ArrayBatches | LoaderBatches


@dataclass(frozen=True)
class Survey:
    """What one reading of labelled data told: how many data, and which classes occur."""

    n_data: int
    classes: tuple[int, ...]


def as_batches(data: Any, dtype: torch.dtype, size: int) -> Batches:
    """Return data as re-iterable batches of (x, class indices [batch]).

    data: a tuple (x, y) of tensors or arrays, or a re-iterable loader of such tuples. Floating
    inputs are brought to ``dtype``, the network's. Raises ValueError for anything else.
    """
    if isinstance(data, tuple) and len(data) == 2 and _is_labels(data[1]):
        x, y = _pair(data, dtype)
        return ArrayBatches(x, y, size)
    if not isinstance(data, Iterable):
        raise ValueError(f"data must be (x, y) or a loader of (x, y), not {type(data).__name__}")
    if not isinstance(data, DataLoader) and iter(data) is data:
        raise ValueError("the loader is an iterator, but is read often: give a DataLoader or list")
    return LoaderBatches(data, dtype)


def shuffled(batches: Batches, size: int, generator: torch.Generator) -> Batches:
    """Return the batches in new orders, of another size; a loader's order stays its own."""
    if isinstance(batches, LoaderBatches):
        return batches
    return ArrayBatches(batches.x, batches.y, size, generator)


def as_inputs(x: Any, dtype: torch.dtype) -> Any:
    """Return inputs as tensors, the floating ones in ``dtype``; arrays and lists are converted.

    Raises ValueError where there are none, or they are not finite.
    """
    try:
        if isinstance(x, np.ndarray) or _is_plain(x):
            x = torch.as_tensor(np.asarray(x))
        x = map_tensors(x, lambda t: t.to(dtype) if t.is_floating_point() else t)
        n = batch_size(x)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if n == 0:
        raise ValueError("the inputs are empty: give at least one datum")
    if not all(bool(torch.isfinite(t).all()) for t in tensors(x)):
        raise ValueError("an input holds NaN or infinity: mend or leave out such data")
    return x


def as_labels(y: Any) -> Tensor:
    """Return class indices [n] as int64; raise ValueError for what is none."""
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim != 1:
        raise ValueError(f"labels must be class indices [n], their shape is {list(values.shape)}")
    if values.dtype.kind not in "iub" and values.size:
        raise ValueError(f"labels must be integers (class indices), they are {values.dtype}")
    return torch.from_numpy(values.astype(np.int64))


def survey(batches: Batches, n_classes: int, purpose: str) -> Survey:
    """Read all data once and return what is there.

    Raises ValueError where there is none, or a label is not below ``n_classes``.
    """
    seen = torch.zeros(n_classes, dtype=torch.bool)
    n_data = 0
    for _, y in batches:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= n_classes:
            raise ValueError(
                f"the {purpose} labels run from {low} to {high}, but the network has {n_classes} "
                f"outputs: labels must be 0 to {n_classes - 1}"
            )
        seen[y.cpu()] = True
        n_data += len(y)
    if not n_data:
        raise ValueError(f"the {purpose} data are empty: give at least one datum")
    return Survey(n_data, tuple(seen.nonzero()[:, 0].tolist()))


def _pair(batch: Any, dtype: torch.dtype) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"a loader must yield (x, y), it gave a {type(batch).__name__}")
    x, y = as_inputs(batch[0], dtype), as_labels(batch[1])
    if batch_size(x) != len(y):
        raise ValueError(f"there are {batch_size(x)} inputs but {len(y)} labels")
    return x, y


def _is_labels(y: Any) -> bool:
    return isinstance(y, Tensor | np.ndarray) or _is_plain(y)


def _is_plain(values: Any) -> bool:
    """Tell a list of numbers, or of lists of them, from a list of tensors or of pairs."""
    return isinstance(values, list) and not any(isinstance(v, Tensor | tuple) for v in values)
