"""Which layers a posterior can cover, found by one look at the model at work.

A layer is covered when it is of a known kind, called once per forward pass with the batch as its
input's first axis, owns its parameters alone, and reaches the mean. Everything else keeps its MAP
value and is named with the reason.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.layers import Layer, as_layer
from bayes_vio.curvature.recorder import (
    Recording,
    module_input,
    ordinary,
    recording_gradients,
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
    order = [able[name] for name in look.calls if name not in reasons]
    chosen = _select(order, reasons, layers)
    reasons |= {c.name: f"not among layers={layers!r}" for c in order if c not in chosen}
    copied = tuple(c.name for c in chosen if c.name in look.overwritten)
    uncovered = _uncovered(model, chosen, reasons)
    return Coverage(tuple(chosen), uncovered, copied, look.can_batch, look.n_outputs)


def _candidates(model: nn.Module) -> tuple[dict[str, Layer], dict[str, str]]:
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    able: dict[str, Layer] = {}
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        layer = as_layer(name, module)
        if any(owners[id(p)] > 1 for p in own):
            reasons[name] = "its parameters are tied to another module's"
        elif isinstance(layer, str):
            reasons[name] = layer
        else:
            able[name] = layer
    return able, reasons


class _Look:
    """Forward passes that watch how the candidates are used."""

    def __init__(self, model: nn.Module, candidates: dict[str, Layer]):
        self.model = model
        self.candidates = candidates
        self.calls: Counter[str] = Counter()
        self.overwritten: set[str] = set()
        self.can_batch = False
        self.n_outputs = 0
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._versions: dict[str, list[tuple[Tensor, int]]] = {}
        self._handles = [
            c.module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, c in candidates.items()
        ]

    def at(self, x: Any) -> dict[str, str]:
        """Run the model once; return the reasons against candidates that it shows."""
        self.calls.clear()
        mean, noise_cholesky = split_output(self.model(ordinary(x)))
        self.n_outputs = mean.shape[1]
        for name, seen in self._versions.items():
            if any(tensor._version != version for tensor, version in seen):
                self.overwritten.add(name)
        if len(mean) != batch_size(x):
            raise ValueError(f"the model gave {len(mean)} means for {batch_size(x)} inputs")
        if not mean.requires_grad:
            return dict.fromkeys(self.candidates, "the mean does not depend on it")
        recording = Recording(mean, noise_cholesky, self._inputs, self._outputs)
        reached = recording.reached()
        self.can_batch = _can_batch(
            replace(
                recording, outputs={n: recording.outputs[n] for n, yes in reached.items() if yes}
            )
        )
        return self._misuse(recording, reached)

    def close(self) -> None:
        """Take the hooks off the model and let go of what was seen."""
        for handle in self._handles:
            handle.remove()
        self._versions, self._inputs, self._outputs = {}, {}, {}

    def _hook(self, name: str):
        def watch(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            x = module_input(args, kwargs)
            if not output.requires_grad:
                output.requires_grad_()
            given = output.clone()
            self.calls[name] += 1
            self._inputs[name], self._outputs[name] = x, output
            self._versions[name] = [(x, x._version), (given, given._version)]
            return given

        return watch

    def _misuse(self, recording: Recording, reached: dict[str, bool]) -> dict[str, str]:
        reasons = {}
        for name in self.candidates:
            if name not in self.calls:
                reasons[name] = "the forward pass does not call it"
            elif self.calls[name] > 1:
                reasons[name] = f"used {self.calls[name]} times in one forward pass"
            elif not reached[name]:
                reasons[name] = "the mean does not depend on it"
            elif recording.inputs[name].shape[0] != len(recording.mean):
                reasons[name] = "the first axis of its input is not the batch"
        return reasons


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
        own = dict(module.named_parameters(recurse=False))
        if not own or name in covered:
            continue
        prefix = f"{name}." if name else ""
        parameters = tuple(prefix + n for n in own)
        found.append(
            Uncovered(name, reasons[name], parameters, sum(p.numel() for p in own.values()))
        )
    return tuple(found)
