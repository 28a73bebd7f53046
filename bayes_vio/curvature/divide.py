"""Divide the modules of a model whose weights no submodule uses alone into linear parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.attention import DividedMultiheadAttention
from bayes_vio.curvature.parts import ConvPart, Divided
from bayes_vio.curvature.recurrent import (
    DividedGRU,
    DividedGRUCell,
    DividedLSTM,
    DividedLSTMCell,
    DividedRNN,
    DividedRNNCell,
)

# A convolution of more groups keeps one diagonal block: a block per group would cost a call each.
MAX_GROUPS = 32


class _DividedConv(Divided):
    """A grouped convolution as one convolution per group, the parts ``group0`` and so on."""

    def add_parts(self: Any) -> None:
        """Register a part per group."""
        size = self.out_channels // self.groups
        for i in range(self.groups):
            self.add_module(f"group{i}", ConvPart(self, slice(i * size, (i + 1) * size)))

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return what the grouped convolution does; its last axes are the pixels'."""
        channels = input.chunk(self.groups, -1 - len(self.stride))
        groups = [getattr(self, f"group{i}")(x) for i, x in enumerate(channels)]
        return torch.cat(groups, -1 - len(self.stride))


class DividedConv1d(_DividedConv, nn.Conv1d):
    """nn.Conv1d of several groups."""


class DividedConv2d(_DividedConv, nn.Conv2d):
    """nn.Conv2d of several groups."""


_DIVIDED: dict[type[nn.Module], type[Any]] = {
    nn.MultiheadAttention: DividedMultiheadAttention,
    nn.LSTM: DividedLSTM,
    nn.GRU: DividedGRU,
    nn.RNN: DividedRNN,
    nn.LSTMCell: DividedLSTMCell,
    nn.GRUCell: DividedGRUCell,
    nn.RNNCell: DividedRNNCell,
}
_DIVIDED_CONVS: dict[type[nn.Module], type[Any]] = {
    nn.Conv1d: DividedConv1d,
    nn.Conv2d: DividedConv2d,
}


def divide(model: nn.Module) -> nn.Module:
    """Let modules compute by their parts from now on, in place; return the model.

    Parameters, their names and the state dict stay as they are, results equal up to rounding.
    Subclasses of the modules known stay whole. Dividing twice does nothing more.
    """
    for module in list(model.modules()):
        kind = _divided(module)
        if kind is not None:
            module.__class__ = kind
            module.add_parts()  # pyright: ignore[reportCallIssue]
        # The fused path of torch's encoders, and nested tensors for it, would pass by the parts.
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
    return model


def _divided(module: nn.Module) -> type[Any] | None:
    if type(module) in _DIVIDED_CONVS:
        reparametrised = "weight" not in module._parameters
        several = 1 < module.groups <= MAX_GROUPS  # pyright: ignore
        return _DIVIDED_CONVS[type(module)] if several and not reparametrised else None
    return _DIVIDED.get(type(module))
