"""Model inputs: a tensor, or a frozen dataclass, tuple or dict of tensors with a batch axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def map_tensors(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of an input, keeping its structure.

    Raises TypeError for a structure that is none of the above.
    """
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {key: map_tensors(value, function) for key, value in x.items()}
    if isinstance(x, tuple | list):
        values = [map_tensors(value, function) for value in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    if is_dataclass(x) and not isinstance(x, type):
        changed = {f.name: map_tensors(getattr(x, f.name), function) for f in fields(x)}
        return replace(x, **changed)
    raise TypeError(
        f"an input holds a {type(x).__name__}: use tensors, dataclasses, tuples, dicts"
    )


def tensors(x: Any) -> Iterator[Tensor]:
    """Yield every tensor of an input, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(x, lambda t: found.append(t) or t)
    yield from found


def batch_size(x: Any) -> int:
    """Return the length of the batch axis; raise ValueError where tensors disagree."""
    sizes = {t.shape[0] if t.dim() else 0 for t in tensors(x)}
    if len(sizes) != 1:
        raise ValueError(f"the tensors of an input have different batch sizes: {sorted(sizes)}")
    return sizes.pop()
