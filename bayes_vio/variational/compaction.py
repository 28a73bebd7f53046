"""Pruned chains of layers made dense and small: units that nothing enters or leaves are removed.

A unit (a row of a linear layer, a filter of a convolution) whose weights are all zero gives a
constant, which the next layer's bias can hold; one whose outgoing weights are all zero is unused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from bayes_vio.variational.layers import KINDS, Weighted

# What acts on every number by itself, and what keeps channels apart.
_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
)
_POOLING = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class _Link:
    """A layer, what stands between it and the next layer, and that layer, by place."""

    before: int
    after: int


def compacted(network: nn.Module) -> nn.Sequential:
    """Return a chain without the units that its zeros make superfluous, in eval mode.

    Its outputs are the network's, up to rounding. The network must be an nn.Sequential of Linear
    and Conv layers (ungrouped), elementwise activations, max or adaptive pooling and Flatten.
    Raises ValueError for any other.
    """
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"only an nn.Sequential can be compacted, not {type(network).__name__}")
    chain = copy.deepcopy(network).eval().requires_grad_(False)
    modules = list(chain)
    links = _links(modules)
    changed = True
    # Again, since a unit that fed or read removed units only is itself superfluous.
    while changed:
        changed = any(_shrink(modules, link) for link in reversed(links))
    return nn.Sequential(*modules)


def _links(modules: Sequence[nn.Module]) -> list[_Link]:
    for module in modules:
        if not isinstance(module, (*KINDS, *_ELEMENTWISE, *_POOLING, nn.Flatten)):
            raise ValueError(f"a {type(module).__name__} cannot be compacted")
        if getattr(module, "groups", 1) != 1:
            raise ValueError("a grouped convolution cannot be compacted")
    places = [i for i, m in enumerate(modules) if isinstance(m, KINDS)]
    links = [_Link(a, b) for a, b in pairwise(places)]
    for link in links:
        _check(modules, link)
    return links


def _check(modules: Sequence[nn.Module], link: _Link) -> None:
    """Raise ValueError where a layer does not read the units of the one before, in order."""
    before, after = modules[link.before], modules[link.after]
    between = modules[link.before + 1 : link.after]
    flat = [m for m in between if isinstance(m, nn.Flatten)]
    n_units, n_inputs = before.weight.shape[0], after.weight.shape[1]  # pyright: ignore
    if isinstance(before, nn.Linear) or not isinstance(after, nn.Linear):
        fits = n_units == n_inputs and not flat and isinstance(before, type(after))
    else:
        fits = n_inputs % n_units == 0 and [(m.start_dim, m.end_dim) for m in flat] == [(1, -1)]
    if not fits:
        raise ValueError(
            f"the inputs of module {link.after} ({n_inputs}) are not the units of module "
            f"{link.before} ({n_units}) in their order: such a chain cannot be compacted"
        )


def _shrink(modules: list[nn.Module], link: _Link) -> bool:
    """Remove the superfluous units between two layers; tell whether there were any."""
    before: Weighted = modules[link.before]  # pyright: ignore[reportAssignmentType]
    after: Weighted = modules[link.after]  # pyright: ignore[reportAssignmentType]
    outgoing = after.weight.unflatten(1, (before.weight.shape[0], -1))
    unused = (outgoing == 0).movedim(1, 0).flatten(1).all(1)
    constant = (before.weight == 0).flatten(1).all(1)
    if not _holds_constants(after):
        constant = torch.zeros_like(constant)
    gone = unused | constant
    gone[gone.nonzero()[:, 0][:1]] &= not bool(gone.all())  # one unit always stays
    if not bool(gone.any()):
        return False
    values = _constants(modules, link)
    _absorb(after, outgoing, values, gone & constant)
    modules[link.after] = _with_inputs(after, outgoing[:, ~gone].flatten(1, 2))
    modules[link.before] = _with_outputs(before, ~gone)
    return True


def _holds_constants(layer: Weighted) -> bool:
    """Tell whether a constant channel adds a constant: zeros around an image would break it."""
    return isinstance(layer, nn.Linear) or not any(_sides(layer))


def _sides(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    padding = layer.padding
    if isinstance(padding, str):
        return [0] if padding == "valid" else [k - 1 for k in layer.kernel_size]
    return [int(side) for side in padding] if layer.padding_mode == "zeros" else [0]


def _constants(modules: Sequence[nn.Module], link: _Link) -> Tensor:
    """Return what each unit of a layer gives [units] to the next one if its weights are zero."""
    before = modules[link.before]
    weight = before.weight
    value = weight.new_zeros(len(weight)) if before.bias is None else before.bias  # pyright: ignore
    for module in modules[link.before + 1 : link.after]:
        if isinstance(module, _ELEMENTWISE):
            value = module(value)
    return value  # pyright: ignore[reportReturnType]


def _absorb(layer: Weighted, outgoing: Tensor, values: Tensor, constant: Tensor) -> None:
    """Add what constant units contribute to a layer's bias, in place."""
    per_unit = outgoing.flatten(2).sum(2) if outgoing.dim() > 2 else outgoing
    shift = per_unit[:, constant] @ values[constant]
    whole = shift if layer.bias is None else layer.bias + shift
    layer.bias = nn.Parameter(whole, requires_grad=False)


def _with_inputs(layer: Weighted, weight: Tensor) -> Weighted:
    if isinstance(layer, nn.Linear):
        layer.in_features = weight.shape[1]
    else:
        layer.in_channels = weight.shape[1]
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return layer


def _with_outputs(layer: Weighted, stays: Tensor) -> Weighted:
    if isinstance(layer, nn.Linear):
        layer.out_features = int(stays.sum())
    else:
        layer.out_channels = int(stays.sum())
    layer.weight = nn.Parameter(layer.weight[stays].contiguous(), requires_grad=False)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[stays].contiguous(), requires_grad=False)
    return layer
