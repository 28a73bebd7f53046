"""A recorder's network as a function of its parameters, for forward-mode and vectorised calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.recorder import (
    Recorder,
    ordinary,
    recording_gradients,
    split_output,
)

_BARE: WeakKeyDictionary[Recorder, nn.Module] = WeakKeyDictionary()


def restricted(recorder: Recorder, layers: list[str]) -> Recorder:
    """Return a recorder of some of the layers, with its own copy of the model."""
    copy = recorder.to(next(recorder.model.parameters()).device)
    for handle in copy._handles:
        handle.remove()
    kept = [copy.layers[name] for name in recorder.layers if name in layers]
    return Recorder(copy.model, kept, copy.copied & set(layers))


def bare_model(recorder: Recorder) -> nn.Module:
    """Return a copy of the recorder's frozen model without hooks, made once."""
    if recorder not in _BARE:
        _BARE[recorder] = restricted(recorder, []).model
    return _BARE[recorder]


def at_map(recorder: Recorder) -> dict[str, Tensor]:
    """Return all parameters by name, at the MAP."""
    return {name: p.detach() for name, p in recorder.model.named_parameters()}


def stacked(
    recorder: Recorder, matrices: Mapping[str, Tensor], rest: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return matrices {layer: [n, d_out, d_in]} as {parameter: [n, *its shape]}.

    Rows that no matrix sets come from ``rest``, parameters by name; those that none touches are
    left out.
    """
    found: dict[str, Tensor] = {}
    for layer, matrix in matrices.items():
        values = torch.vmap(recorder.layers[layer].split)(matrix).values()
        for (name, rows), value in zip(recorder.layers[layer].pieces, values, strict=True):
            if rows is None:
                found[name] = value
                continue
            if name not in found:
                found[name] = rest[name].expand(len(matrix), *rest[name].shape).clone()
            found[name][:, rows] = value
    return found


def evaluate(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Any
) -> tuple[Tensor, Tensor | None]:
    """Return (mean, noise_cholesky or None) of a model under other parameters."""
    # Covered parameters are tied to no others; with tie_weights torch leaves a module that has two
    # names changed after the call.
    return split_output(functional_call(model, dict(parameters), (x,), tie_weights=False))


def activation_numbers(recorder: Recorder, x: Any) -> int:
    """Return how many numbers the covered layers' inputs and outputs hold, per datum."""
    one = ordinary(map_tensors(x, lambda t: t[:1]))
    with recording_gradients():
        recording = recorder.forward(one)
    uses = [*recording.inputs.values(), *recording.outputs.values()]
    return sum(t.numel() for seen in uses for t in seen)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Use operations that have forward-mode and vectorised rules, also within inference_mode."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with recording_gradients(), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
