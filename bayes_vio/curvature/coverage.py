"""Which layers a posterior can cover, found by one look at the model at work.

A layer is covered when it is of a known kind, owns its parameters alone, sees the batch as an axis
of its input and reaches the mean. It may be called several times: its uses are positions that
share weights. Everything else keeps its MAP value and is named with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.layers import Layer, as_layer
from bayes_vio.curvature.parts import Part, own_parameters, owner_name
from bayes_vio.curvature.recorder import (
    Recording,
    module_input,
    ordinary,
    recording_gradients,
    run,
    split_output,
)


@dataclass(frozen=True)
class Uncovered:
    """Parameters that stay at the MAP: the module's name, why, and which they are."""

    name: str
    reason: str
    parameters: tuple[str, ...]
    n_parameters: int


@dataclass(frozen=True)
class Coverage:
    """The layers covered, in the order of the forward pass, and what is not.

    ``copied`` and ``can_batch`` are the recorder's: layers overwritten in place, and whether the
    backward pass may be vectorised over columns.
    """

    layers: tuple[Layer, ...]
    uncovered: tuple[Uncovered, ...]
    copied: tuple[str, ...]
    can_batch: bool
    n_outputs: int


def cover(model: nn.Module, x: Any, layers: str | Sequence[str] | None = None) -> Coverage:
    """Decide what is covered, by running a frozen model on one batch and on its first datum.

    ``layers``: None for all that can be, "last" for the last linear layer or convolution, or names
    and fnmatch patterns.
    Raises ValueError where a pattern matches nothing that can be covered, or nothing is covered.
    """
    able, reasons = _candidates(model)
    look = _Look(model, able)
    # Two batch sizes tell the batch axis from an axis that only happens to be as long.
    n_copies = 3 if batch_size(x) != 3 else 2
    with recording_gradients():
        reasons |= look.at(map_tensors(x, lambda t: torch.cat([t[:1]] * n_copies)))
        reasons |= look.at(x)
    look.close()
    axes = {name: look.batch_axis(name) for name in look.outputs}
    no_batch = "no axis of its input is the batch, or not one that its kind may have"
    reasons |= {name: no_batch for name, axis in axes.items() if axis is None}
    order = [
        replace(able[name], batch_axis=axis)
        for name, axis in axes.items()
        if name not in reasons and axis is not None
    ]
    chosen = _select(order, reasons, layers)
    reasons |= {c.name: f"not among layers={layers!r}" for c in order if c not in chosen}
    copied = tuple(c.name for c in chosen if c.name in look.overwritten)
    uncovered = _uncovered(model, chosen, reasons)
    return Coverage(tuple(chosen), uncovered, copied, look.can_batch, look.n_outputs)


def _candidates(model: nn.Module) -> tuple[dict[str, Layer], dict[str, str]]:
    owners = _owners(model)
    able: dict[str, Layer] = {}
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        if not own_parameters(module):
            continue
        layer = as_layer(name, module)
        holder = owner_name(name, module)
        sharers = {o for p in _held(module) for o in owners[id(p)] if o != holder}
        if sharers:
            reasons[name] = f"its parameters are tied to those of {', '.join(sorted(sharers))}"
        elif isinstance(layer, str):
            reasons[name] = layer
        else:
            able[name] = layer
    return able, reasons


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of the modules that hold each parameter, by its id."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(name)
    return owners


def _held(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, Part):
        return module.parameters_used()
    return list(module.parameters(recurse=False))


class _Look:
    """Forward passes that watch how the candidates are used."""

    def __init__(self, model: nn.Module, candidates: dict[str, Layer]):
        self.model = model
        self.candidates = candidates
        self.overwritten: set[str] = set()
        self.can_batch = False
        self.n_outputs = 0
        self.outputs: dict[str, list[Tensor]] = {}
        self._shapes: list[tuple[int, dict[str, list[torch.Size]]]] = []
        self._versions: list[tuple[str, Tensor, int]] = []
        self._handles = [
            c.module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, c in candidates.items()
        ]

    def at(self, x: Any) -> dict[str, str]:
        """Run the model once; return the reasons against candidates that it shows."""
        self.outputs, self._versions = {}, []
        self._shapes.append((batch_size(x), {}))
        mean, noise_cholesky = split_output(run(self.model, ordinary(x)))
        self.n_outputs = mean.shape[1]
        self.overwritten |= {n for n, tensor, seen in self._versions if tensor._version != seen}
        if len(mean) != batch_size(x):
            raise ValueError(f"the model gave {len(mean)} means for {batch_size(x)} inputs")
        if not mean.requires_grad:
            return dict.fromkeys(self.candidates, "the mean does not depend on it")
        axes = dict.fromkeys(self.outputs, 0)
        recording = Recording(mean, noise_cholesky, {}, self.outputs, axes)
        reached = recording.reached()
        used = {name: uses for name, uses in self.outputs.items() if reached[name]}
        self.can_batch = _can_batch(replace(recording, outputs=used))
        return self._misuse(reached)

    def batch_axis(self, name: str) -> int | None:
        """Return the one axis of a layer's inputs that is as long as the batch was, if any."""
        (n_first, first), (n_second, second) = self._shapes
        pairs = zip(first.get(name, []), second[name], strict=False)
        axes = {_changed_axis(a, b, n_first, n_second) for a, b in pairs}
        axis = axes.pop() if len(axes) == 1 else None
        return axis if axis == 0 or self.candidates[name].any_batch_axis else None

    def close(self) -> None:
        """Take the hooks off the model and let go of the tensors seen."""
        for handle in self._handles:
            handle.remove()
        self._versions = []

    def _hook(self, name: str):
        def watch(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            x = module_input(args, kwargs)
            if not output.requires_grad:
                output.requires_grad_()
            given = output.clone()
            self.outputs.setdefault(name, []).append(output)
            self._shapes[-1][1].setdefault(name, []).append(x.shape)
            self._versions += [(name, t, t._version) for t in (x, given)]
            return given

        return watch

    def _misuse(self, reached: dict[str, bool]) -> dict[str, str]:
        reasons = {}
        for name, layer in self.candidates.items():
            if name not in self.outputs:
                whole = " (or gives its owner packed or nested sequences, or lone data)"
                is_part = isinstance(layer.module, Part)
                reasons[name] = f"the forward pass does not call it{whole if is_part else ''}"
            elif not reached[name]:
                reasons[name] = "the mean does not depend on it"
        return reasons


def _changed_axis(a: torch.Size, b: torch.Size, n_a: int, n_b: int) -> int | None:
    """Return the one axis in which two shapes differ, where it is n_a and n_b long."""
    if len(a) != len(b):
        return None
    changed = [i for i, (p, q) in enumerate(zip(a, b, strict=True)) if p != q]
    if len(changed) != 1 or (a[changed[0]], b[changed[0]]) != (n_a, n_b):
        return None
    return changed[0]


def _can_batch(recording: Recording) -> bool:
    """Tell whether one vectorised backward pass works for every operation of the model."""
    columns = torch.ones_like(recording.mean)[None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recording.output_gradients(columns, batched=True)
    except (RuntimeError, UserWarning):
        return False
    return True


def _select(
    order: list[Layer], reasons: dict[str, str], layers: str | Sequence[str] | None
) -> list[Layer]:
    if not order:
        raise ValueError(f"no layer can be covered: {reasons or 'the model has no parameters'}")
    if layers is None:
        return order
    if layers == "last":
        return [max(order, key=lambda c: (c.is_kronecker, order.index(c)))]
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(c.name, pattern) for c in order):
            why = reasons.get(pattern, f"the model's layers are {[c.name for c in order]}")
            raise ValueError(f"layers={pattern!r} names nothing that can be covered: {why}")
    return [c for c in order if any(fnmatchcase(c.name, p) for p in patterns)]


def _uncovered(
    model: nn.Module, chosen: Sequence[Layer], reasons: dict[str, str]
) -> tuple[Uncovered, ...]:
    covered = {c.name for c in chosen}
    found = []
    for name, module in model.named_modules():
        own = own_parameters(module)
        if not own or name in covered:
            continue
        owner = owner_name(name, module)
        parameters = tuple(f"{owner}.{n}" if owner else n for n in own)
        found.append(
            Uncovered(name, reasons[name], parameters, sum(p.numel() for p in own.values()))
        )
    return tuple(found)
