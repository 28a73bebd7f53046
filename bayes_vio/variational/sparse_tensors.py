"""Tensors that are mostly zero, as their other entries and the gaps between them; equal bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_GAPS, _VALUES = "#gaps", "#values"
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Fewer numbers are not worth two entries in a file.
_FEW = 64


def encode(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return what is stored, and the shapes [of the sparse ones] by name.

    Sparse is what takes fewer bytes as values and gaps: a gap is how many zeros go before a value.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        found = _sparse(tensor)
        if found is None:
            stored[name] = tensor
            continue
        stored[name + _GAPS], stored[name + _VALUES] = found
        shapes[name] = list(tensor.shape)
    return stored, shapes


def decode(stored: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the tensors that ``encode`` was given.

    Raises ValueError where gaps and values do not fit the shape.
    """
    rest = dict(stored)
    tensors = {}
    for name, shape in shapes.items():
        gaps, values = rest.pop(name + _GAPS), rest.pop(name + _VALUES)
        tensors[name] = _dense(name, gaps, values, shape)
    return tensors | rest


def _sparse(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    if not tensor.is_floating_point() or tensor.numel() < _FEW:
        return None
    flat = tensor.detach().cpu().contiguous().flatten()
    # By its bits: a negative zero is a value.
    index = flat.view(_INTEGERS[flat.element_size()]).nonzero()[:, 0]
    gaps = index.diff(prepend=index.new_full((1,), -1)) - 1
    largest = int(gaps.max()) if len(gaps) else 0
    gaps = gaps.to(torch.int16 if largest < 2**15 else torch.int64)
    n_bytes = len(gaps) * (gaps.element_size() + flat.element_size())
    return (gaps, flat[index]) if n_bytes < flat.numel() * flat.element_size() else None


def _dense(name: str, gaps: Tensor, values: Tensor, shape: Sequence[Any]) -> Tensor:
    size = math.prod(shape)
    index = (gaps.long() + 1).cumsum(0) - 1
    fits = gaps.shape == values.shape and values.dim() == 1 and not bool((gaps < 0).any())
    if not fits or (len(index) and int(index[-1]) >= size):
        raise ValueError(f"{name} has values that do not fit its shape {list(shape)}")
    flat = values.new_zeros(size)
    flat[index] = values
    return flat.reshape(tuple(shape))
