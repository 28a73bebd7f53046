"""Which modules are layers that a posterior can cover, and of which kind."""

from __future__ import annotations

from torch import nn

from bayes_vio.curvature.diagonal_layers import (
    EmbeddingLayer,
    GroupedConvLayer,
    NormLayer,
    TokenNormLayer,
)
from bayes_vio.curvature.kronecker_layers import ConvLayer, LinearLayer
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.parts import ConvPart, LinearPart, Part, own_parameters

__all__ = ["DIAGONAL_KINDS", "ConvLayer", "Layer", "LinearLayer", "NormLayer", "as_layer"]

_KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.LayerNorm: TokenNormLayer,
    nn.RMSNorm: TokenNormLayer,
    nn.GroupNorm: NormLayer,
    nn.BatchNorm1d: NormLayer,
    nn.BatchNorm2d: NormLayer,
    nn.InstanceNorm1d: NormLayer,
    nn.InstanceNorm2d: NormLayer,
    nn.Embedding: EmbeddingLayer,
}
_PARTS: dict[type[Part], type[Layer]] = {LinearPart: LinearLayer, ConvPart: ConvLayer}
# Kinds whose block is diagonal under every structure that has blocks.
DIAGONAL_KINDS = frozenset(k.kind for k in _KINDS.values() if not k.is_kronecker) | {
    GroupedConvLayer.kind
}


def as_layer(name: str, module: nn.Module) -> Layer | str:
    """Return the module as a layer, or the reason why it cannot be one.

    A subclass counts when it computes exactly what its base class does.
    """
    if isinstance(module, Part):
        if not all(isinstance(p, nn.Parameter) for p in module.parameters_used()):
            return "its weight is reparametrised"
        return _PARTS[type(module)](name, module)
    for base, kind in _KINDS.items():
        if isinstance(module, base) and type(module).forward is base.forward:
            grouped = getattr(module, "groups", 1) > 1
            return _refusal(module) or (GroupedConvLayer if grouped else kind)(name, module)
    known = ", ".join(base.__name__ for base in _KINDS)
    own = " and ".join(own_parameters(module))
    return (
        f"{own} of a {_torch_name(module)}, which is none of {known}, nor a part of attention, "
        "LSTM, GRU or RNN"
    )


def _torch_name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Divided")


def _refusal(module: nn.Module) -> str | None:
    if "weight" not in module._parameters:
        return "its weight is reparametrised"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return "its batch norm keeps no running statistics"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "its embedding changes its weights as it is used (max_norm)"
    return None
