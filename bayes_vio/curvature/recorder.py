"""Record the inputs of layers and the gradients of the mean at their outputs, by hooks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from bayes_vio.curvature.divide import divide
from bayes_vio.curvature.inputs import map_tensors, tensors
from bayes_vio.curvature.layer import Layer


@dataclass(frozen=True)
class Recording:
    """One forward pass: mean [batch, outputs], the model's own noise_cholesky or None, and what
    every layer saw and gave, by layer name: a tensor per use.

    ``inputs`` have the batch as their first axis, ``outputs`` as that of ``batch_axes``.
    """

    mean: Tensor
    noise_cholesky: Tensor | None
    inputs: Mapping[str, Sequence[Tensor]]
    outputs: Mapping[str, Sequence[Tensor]]
    batch_axes: Mapping[str, int]

    def output_gradients(self, cotangents: Tensor, batched: bool) -> dict[str, tuple[Tensor, ...]]:
        """Pull cotangents [columns, batch, outputs] back: {layer: [columns, batch, ...] per use}.

        ``batched`` runs one vectorised backward pass instead of one per column; the graph stays,
        so it may be called again.
        """
        targets = [output for uses in self.outputs.values() for output in uses]

        def pull(columns: Tensor) -> tuple[Tensor, ...]:
            # Of a layer's uses some may not reach the mean: their gradients are zero.
            return torch.autograd.grad(
                self.mean, targets, columns, retain_graph=True, materialize_grads=True
            )

        if batched:
            with _without_fallback_warning():
                found = iter(torch.vmap(pull)(cotangents))
        else:
            rows = [pull(c) for c in cotangents]
            found = iter([torch.stack(column) for column in zip(*rows, strict=True)])
        return {
            name: tuple(_batch_first(next(found), self.batch_axes[name], 1) for _ in uses)
            for name, uses in self.outputs.items()
        }

    def reached(self) -> dict[str, bool]:
        """Tell of every layer whether the mean depends on its output."""
        owners = [name for name, uses in self.outputs.items() for _ in uses]
        targets = [output for uses in self.outputs.values() for output in uses]
        found = torch.autograd.grad(self.mean.sum(), targets, retain_graph=True, allow_unused=True)
        reached = dict.fromkeys(self.outputs, False)
        for name, gradient in zip(owners, found, strict=True):
            reached[name] |= gradient is not None
        return reached


class Recorder:
    """A frozen model (see ``frozen_copy``) with hooks on some layers; not for several threads.

    ``copied`` names layers whose input or output the model later overwrites in place.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], copied: Iterable[str] = ()):
        self.model = model
        self.copied = frozenset(copied)
        self.layers = {layer.name: layer for layer in layers}
        self._inputs: dict[str, list[Tensor]] = {}
        self._outputs: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        self._add_hooks()

    def forward(self, x: Any) -> Recording:
        """Run the model; every layer's output becomes a node that gradients can be taken at.

        Call it inside ``recording_gradients``.
        """
        self._inputs, self._outputs = {}, {}
        mean, noise_cholesky = split_output(run(self.model, x))
        if len(self._outputs) != len(self.layers):
            missing = sorted(set(self.layers) - set(self._outputs))
            raise ValueError(
                f"this input does not use layers {missing}: leave them out by layers="
            )
        axes = {name: layer.batch_axis for name, layer in self.layers.items()}
        return Recording(mean, noise_cholesky, self._inputs, self._outputs, axes)

    def to(self, device: torch.device | str) -> Recorder:
        """Return the same recorder with its own copy of the model, on another device."""
        for handle in self._handles:
            handle.remove()
        model = frozen_copy(self.model, device)
        self._add_hooks()
        layers = [replace(c, module=model.get_submodule(n)) for n, c in self.layers.items()]
        return Recorder(model, layers, self.copied)

    def _add_hooks(self) -> None:
        self._handles = [
            layer.module.register_forward_hook(self._hook(name, layer), with_kwargs=True)
            for name, layer in self.layers.items()
        ]

    def _hook(self, name: str, layer: Layer):
        copied = name in self.copied

        def record(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            x = module_input(args, kwargs).detach()
            # The weights are constants here: the first layer's output starts the graph.
            if not output.requires_grad:
                output.requires_grad_()
            x = _batch_first(x, layer.batch_axis, 0)
            self._inputs.setdefault(name, []).append(x.clone() if copied else x)
            self._outputs.setdefault(name, []).append(output)
            return output.clone() if copied else output

        return record


def run(model: nn.Module, x: Any) -> Any:
    """Return what a model makes of an input.

    Raises ValueError where the two differ in dtype or device and the model does not cope.
    """
    try:
        return model(x)
    except RuntimeError as error:
        parameter = next(model.parameters())
        for t in tensors(x):
            if t.device != parameter.device:
                raise ValueError(
                    f"an input lies on {t.device}, the model on {parameter.device}: move one of "
                    "them"
                ) from error
            if t.is_floating_point() and t.dtype != parameter.dtype:
                raise ValueError(
                    f"an input is {t.dtype}, the model's parameters are {parameter.dtype}: "
                    "convert one of them"
                ) from error
        raise


def _batch_first(t: Tensor, batch_axis: int, to: int) -> Tensor:
    return t.movedim(batch_axis + to, to) if batch_axis else t


def module_input(args: tuple, kwargs: dict[str, Tensor]) -> Tensor:
    """Return the tensor that a layer was called with."""
    return args[0] if args else kwargs["input"]


def split_output(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return (mean [batch, outputs], noise_cholesky or None) of what a model returned."""
    mean, noise_cholesky = output if isinstance(output, tuple) else (output, None)
    if mean.dim() != 2:
        raise ValueError(f"the model's mean must be [batch, outputs], it is {tuple(mean.shape)}")
    return mean, noise_cholesky


def frozen_copy(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Return a deep copy in eval mode, its parameters constants, that computes by linear parts.

    Attention, recurrent networks and grouped convolutions are divided; names of parameters stay.
    """
    with torch.inference_mode(False):
        return divide(copy.deepcopy(model).to(device).eval().requires_grad_(False))


@contextmanager
def recording_gradients() -> Iterator[None]:
    """Let gradients be recorded, also inside a caller's no_grad or inference_mode."""
    # Fused attention has no vectorised backward: torch would loop over outputs and copy.
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _without_fallback_warning() -> Iterator[None]:
    """Be silent where vmap runs one operation (CPU's fused attention) column by column."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def ordinary(x: Any) -> Any:
    """Return an input whose tensors autograd may save: inference tensors are cloned."""
    return map_tensors(x, lambda t: t.clone() if t.is_inference() else t)
