"""Layers as matrices: what a covered layer multiplies its weights with, and where gradients land.

The weights of a layer form a matrix W [d_out, d_in], the bias its last column (of inputs that are
ones). For one datum with inputs a_s [d_in] at shared positions s and output gradients g_s [d_out],
the gradient of W is ``sum_s g_s a_s^T``: a linear layer over tokens and a convolution differ only
in how a_s is cut out. The affine of a norm layer, ``weight * x + bias``, is the matrix
[features, 2] whose gradient is ``sum_s g_s * (x_s, 1)``, feature by feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Layer:
    """A module whose parameters are one matrix [d_out, d_in]; the base of the three kinds."""

    name: str
    module: Any
    kind: ClassVar[str]
    is_kronecker: ClassVar[bool] = True

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names in ``model.named_parameters()`` of the matrix' parts, weight first."""
        prefix = f"{self.name}." if self.name else ""
        return tuple(prefix + n for n in ("weight", "bias") if getattr(self.module, n) is not None)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in), the bias counted as a column."""
        rows, columns = self.matrix().shape
        return rows, columns

    def matrix(self) -> Tensor:
        """Return the weights as W [d_out, d_in]."""
        weight, bias = self.module.weight, self.module.bias
        rows = self._rows(weight)
        return rows if bias is None else torch.cat([rows, bias.reshape(-1, 1)], 1)

    def split(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return a matrix [d_out, d_in] as tensors shaped like the parameters, by their names."""
        weight = self.module.weight
        n_columns = matrix.shape[1] - (self.module.bias is not None)
        parts = [matrix[:, :n_columns].reshape(weight.shape)]
        if self.module.bias is not None:
            parts.append(matrix[:, n_columns].reshape(self.module.bias.shape))
        return dict(zip(self.parameter_names, parts, strict=True))

    def features(self, x: Tensor) -> Tensor:
        """Return what W multiplies, from the module's input: [batch, positions, d_in]."""
        raise NotImplementedError

    def gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from gradients [columns, batch, ...]."""
        raise NotImplementedError

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s a_s^T [batch, columns, d_out, d_in].

        features [batch, positions, d_in], gradients [batch, columns, positions, d_out].
        """
        stacked = gradients.mT.flatten(1, 2) @ features  # [batch, columns * d_out, d_in]
        return stacked.unflatten(1, (gradients.shape[1], gradients.shape[3]))

    @property
    def resolution(self) -> float:
        """Return the machine epsilon of the weights' dtype."""
        return torch.finfo(self.module.weight.dtype).eps

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros to add up in: float64, or float32 on a device that lacks it."""
        device = self.module.weight.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.zeros(shape, device=device, dtype=dtype)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)


class LinearLayer(Layer):
    """nn.Linear on [batch, ..., d_in]; the axes between are positions that share the weights."""

    kind = "linear"

    def features(self, x: Tensor) -> Tensor:
        """Return [batch, positions, d_in]."""
        features = x.reshape(len(x), -1, x.shape[-1])
        if self.module.bias is None:
            return features
        return torch.cat([features, torch.ones_like(features[..., :1])], -1)

    def gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from [columns, batch, ..., d_out]."""
        return g.reshape(*g.shape[:2], -1, g.shape[-1]).transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s a_s^T [batch, columns, d_out, d_in], gradients as they lie."""
        return gradients.mT @ features[:, None]


class ConvLayer(Layer):
    """nn.Conv1d or nn.Conv2d, groups = 1; the output's pixels are positions."""

    kind = "conv"

    def features(self, x: Tensor) -> Tensor:
        """Return patches [batch, positions, channels * kernel], cut out with the padding."""
        conv = self.module
        sizes = (conv.kernel_size, conv.stride, conv.dilation)
        x = _padded(conv, x)
        if x.dim() == 3:
            x, sizes = x[:, :, None], tuple((1, *size) for size in sizes)
        kernel, stride, dilation = sizes
        # [batch, channels, kernel, kernel, rows, columns]: pixels last, as a patch is copied.
        windows = _windows(_windows(x, 2, kernel, stride, dilation), 3, kernel, stride, dilation)
        windows = windows.permute(0, 1, 4, 5, 2, 3)
        n_batch, d_in, n_pixels = (
            len(x),
            windows[0, ..., 0, 0].numel(),
            windows[0, 0, 0, 0].numel(),
        )
        patches = x.new_ones(n_batch, d_in + (self.module.bias is not None), n_pixels)
        patches[:, :d_in].view(windows.shape).copy_(windows)
        return patches.mT

    def gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from [columns, batch, d_out, *pixels]."""
        return g.flatten(3).mT.transpose(0, 1)


class NormLayer(Layer):
    """The affine of LayerNorm, GroupNorm or BatchNorm (eval mode): a diagonal block."""

    kind = "norm"
    is_kronecker = False

    def features(self, x: Tensor) -> Tensor:
        """Return the normalised input [batch, positions, features]; the ones go without saying."""
        return self._positions_features(self._normalised(x))

    def gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, features] from [columns, batch, ...]."""
        flat = self._positions_features(g.flatten(0, 1))
        return flat.unflatten(0, g.shape[:2]).transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s * (x_s, 1) [batch, columns, features, d_in]."""
        weight = (gradients * features[:, None]).sum(2)
        if self.module.bias is None:
            return weight[..., None]
        return torch.stack([weight, gradients.sum(2)], -1)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1)

    def _positions_features(self, x: Tensor) -> Tensor:
        if isinstance(self.module, nn.LayerNorm):
            return x.reshape(len(x), -1, self.module.weight.numel())
        return x.flatten(2).mT if x.dim() > 2 else x[:, None]

    def _normalised(self, x: Tensor) -> Tensor:
        norm = self.module
        if isinstance(norm, nn.LayerNorm):
            return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)
        if isinstance(norm, nn.GroupNorm):
            return functional.group_norm(x, norm.num_groups, eps=norm.eps)
        return functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


def _windows(
    x: Tensor, axis: int, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return a view of what a kernel sees along an axis (2 or 3), its extent as the last axis."""
    size, step, gap = kernel[axis - 2], stride[axis - 2], dilation[axis - 2]
    return x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]


def _padded(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
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


_KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.LayerNorm: NormLayer,
    nn.GroupNorm: NormLayer,
    nn.BatchNorm1d: NormLayer,
    nn.BatchNorm2d: NormLayer,
}


def as_layer(name: str, module: nn.Module) -> Layer | str:
    """Return the module as a layer, or the reason why it cannot be one.

    A subclass counts when it computes exactly what its base class does.
    """
    for base, kind in _KINDS.items():
        if isinstance(module, base) and type(module).forward is base.forward:
            return _refusal(module) or kind(name, module)
    known = ", ".join(base.__name__ for base in _KINDS)
    return f"parameter of a {type(module).__name__}, which is none of {known}"


def _refusal(module: nn.Module) -> str | None:
    if "weight" not in module._parameters:
        return "its weight is reparametrised"
    if getattr(module, "groups", 1) != 1:
        return "its convolution is grouped"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return "its batch norm keeps no running statistics"
    return None
