"""Modules divided into linear parts: their weights are used, but no submodule holds them alone.

A ``Part`` is a submodule without parameters of its own: it multiplies with rows of its owner's
parameters. So hooks see its input and output, while the parameters keep their names (L1).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

# A parameter's name in its owner, and which rows of it; None for all.
Piece = tuple[str, slice | None]


class Part(nn.Module):
    """Something that multiplies with rows of the owner's weight and adds those of its bias."""

    def __init__(self, owner: nn.Module, weight: Piece, bias: Piece | None):
        super().__init__()
        self._owner = (owner,)  # a tuple: an attribute would make the owner its own submodule
        self._pieces = (weight,) if bias is None else (weight, bias)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return which rows of which parameters of the owner it uses, the weight first."""
        return self._pieces

    @property
    def weight(self) -> Tensor:
        """Return the rows of the owner's weight, a view."""
        return self._take(*self._pieces[0])

    @property
    def bias(self) -> Tensor | None:
        """Return the rows of the owner's bias, a view."""
        return self._take(*self._pieces[1]) if len(self._pieces) > 1 else None

    def parameters_used(self) -> list[nn.Parameter]:
        """Return the owner's parameters that it takes rows of."""
        return [getattr(self._owner[0], name) for name, _ in self._pieces]

    def _take(self, name: str, rows: slice | None) -> Tensor:
        parameter = getattr(self._owner[0], name)
        return parameter if rows is None else parameter[rows]


class LinearPart(Part):
    """A part that is a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        return functional.linear(x, self.weight, self.bias)


class ConvPart(Part):
    """One group of a grouped convolution, a convolution by itself."""

    def __init__(self, owner: Any, rows: slice):
        bias = None if owner.bias is None else ("bias", rows)
        super().__init__(owner, ("weight", rows), bias)
        self.kernel_size, self.stride, self.dilation = (
            owner.kernel_size,
            owner.stride,
            owner.dilation,
        )
        self.padding, self.padding_mode = owner.padding, owner.padding_mode
        self._convolve = functional.conv1d if len(self.stride) == 1 else functional.conv2d

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the group's channels [batch, channels / groups, *pixels]."""
        return self._convolve(
            padded(self, x), self.weight, self.bias, self.stride, 0, self.dilation
        )


class Divided:
    """Mixed into a module that computes by its parts what its torch class computes at once."""

    def add_parts(self) -> None:
        """Register the parts; the module already has its parameters."""
        raise NotImplementedError


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a module, or a part, answers for, by local name.

    A part's are named with their rows, like ``in_proj_weight[4:8]``, in its owner; what parts
    take is no longer the owner's own.
    """
    if isinstance(module, Part):
        values = (module.weight, module.bias)
        return {piece_name(*p): v for p, v in zip(module.pieces, values, strict=False)}  # pyright: ignore
    parts = [m for m in module.children() if isinstance(m, Part)]
    taken = {name for part in parts for name, _ in part.pieces}
    return {n: p for n, p in module.named_parameters(recurse=False) if n not in taken}


def owner_name(name: str, module: nn.Module) -> str:
    """Return the name of the module that holds the parameters: for a part, its owner's."""
    return name.rpartition(".")[0] if isinstance(module, Part) else name


def piece_name(name: str, rows: slice | None) -> str:
    """Return ``in_proj_weight[4:8]``, or the name alone for a whole parameter."""
    return name if rows is None else f"{name}[{rows.start}:{rows.stop}]"


def padded(conv: Any, x: Tensor) -> Tensor:
    """Return a convolution's input with its padding around it."""
    if conv.padding == "valid":
        return x
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    else:
        pads = [(int(p), int(p)) for p in conv.padding]
    flat = [side for pair in reversed(pads) for side in pair]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(x, flat, mode=mode) if any(flat) else x
