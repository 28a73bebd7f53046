"""Which layers of a network may carry a distribution over weights, found by one look at it.

Linear layers and convolutions do that are called as modules, own their parameters alone and reach
the mean; every other parameter stays deterministic and is named with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.curvature.inputs import batch_size, tensors
from bayes_vio.curvature.recorder import module_input, recording_gradients, run, split_output

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d
KINDS: tuple[type[Weighted], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Layers:
    """What one look at a network showed.

    ``stochastic``: layers by name, in the order of their first use; ``first``: those of them that
    read the data directly; ``numbers_per_datum``: activations that a forward pass makes.
    """

    stochastic: tuple[str, ...]
    first: frozenset[str]
    deterministic: tuple[Uncovered, ...]
    n_outputs: int
    has_noise: bool
    numbers_per_datum: int


def find_layers(model: nn.Module, x: Any, layers: str | Sequence[str] | None = None) -> Layers:
    """Run the model on one batch in eval mode and tell which layers can be stochastic.

    ``layers``: None for all that can be, "last" for the last one, or names and fnmatch patterns.
    The model's parameters must require gradients. Raises ValueError where a pattern matches
    nothing, or no layer can be stochastic.
    """
    able, reasons = _candidates(model)
    look = _Look(model, able)
    training = model.training
    with recording_gradients():
        mean, noise_cholesky = split_output(run(model.eval(), x))
        reasons |= look.misuse(mean)
    model.train(training)
    look.close()
    order = [name for name in look.order if name not in reasons]
    chosen = _select(order, reasons, layers)
    reasons |= {name: f"not among layers={layers!r}" for name in order if name not in chosen}
    return Layers(
        stochastic=tuple(chosen),
        first=frozenset(look.first & set(chosen)),
        deterministic=deterministic(model, chosen, reasons),
        n_outputs=mean.shape[1],
        has_noise=noise_cholesky is not None,
        numbers_per_datum=max(1, look.numbers // max(1, batch_size(x))),
    )


def deterministic(
    model: nn.Module, stochastic: Sequence[str], reasons: dict[str, str]
) -> tuple[Uncovered, ...]:
    """Return every module with parameters that is not stochastic, with the reason why."""
    found = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own and name not in stochastic:
            parameters = tuple(f"{name}.{n}" if name else n for n in own)
            n_parameters = sum(p.numel() for p in own.values())
            found.append(Uncovered(name, reasons[name], parameters, n_parameters))
    return tuple(found)


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, each once where it has several names."""
    kept = model.state_dict()
    own = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in own if name in kept}


def weighted(model: nn.Module, name: str) -> Weighted:
    """Return a stochastic layer by name. Raises ValueError where it is none."""
    layer = model.get_submodule(name)
    if not isinstance(layer, KINDS):
        raise ValueError(f"layer {name!r} is a {type(layer).__name__}, no Linear or convolution")
    return layer


def _candidates(model: nn.Module) -> tuple[dict[str, Weighted], dict[str, str]]:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(name)
    able: dict[str, Weighted] = {}
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        sharers = {o for p in own for o in owners[id(p)] if o != name}
        if not own:
            continue
        if sharers:
            reasons[name] = f"its parameters are tied to those of {', '.join(sorted(sharers))}"
        elif not _computes_as_its_kind(module):
            reasons[name] = f"a {type(module).__name__} is no Linear, Conv1d or Conv2d"
        elif "weight" not in module._parameters:
            reasons[name] = "its weight is reparametrised"
        else:
            able[name] = module  # pyright: ignore[reportArgumentType]
    return able, reasons


def _computes_as_its_kind(module: nn.Module) -> bool:
    return any(isinstance(module, k) and type(module).forward is k.forward for k in KINDS)


class _Look:
    """A forward pass that watches which candidates are called, and what they read."""

    def __init__(self, model: nn.Module, candidates: dict[str, Weighted]):
        self.candidates = candidates
        self.order: list[str] = []
        self.first: set[str] = set()
        self.numbers = 0
        hooks = [
            c.register_forward_hook(self._watch(n), with_kwargs=True)
            for n, c in candidates.items()
        ]
        leaves = [m for m in model.modules() if not list(m.children())]
        self._handles = hooks + [m.register_forward_hook(self._count) for m in leaves]

    def misuse(self, mean: Tensor) -> dict[str, str]:
        """Return the reasons against candidates, by name."""
        called = {n: self.candidates[n].weight for n in self.order}
        found: Sequence[Tensor | None] = [None] * len(called)
        if mean.requires_grad and called:
            found = torch.autograd.grad(mean.sum(), list(called.values()), allow_unused=True)
        unreached = [n for n, g in zip(called, found, strict=True) if g is None]
        uncalled = [n for n in self.candidates if n not in called]
        return dict.fromkeys(unreached, "the mean does not depend on it") | dict.fromkeys(
            uncalled, "the forward pass does not call it"
        )

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str):
        def watch(_module: nn.Module, args: tuple, kwargs: dict, _output: Tensor) -> None:
            if name not in self.order:
                self.order.append(name)
            if not module_input(args, kwargs).requires_grad:
                self.first.add(name)

        return watch

    def _count(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        if isinstance(output, Tensor | tuple):
            self.numbers += sum(t.numel() for t in tensors(output))


def _select(
    order: list[str], reasons: dict[str, str], layers: str | Sequence[str] | None
) -> list[str]:
    if not order:
        raise ValueError(f"no layer can be stochastic: {reasons or 'the model has no parameters'}")
    if layers is None or layers == "last":
        return order if layers is None else order[-1:]
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in order):
            why = reasons.get(pattern, f"those that can be are {order}")
            raise ValueError(f"layers={pattern!r} names no layer that can be stochastic: {why}")
    return [name for name in order if any(fnmatchcase(name, p) for p in patterns)]
