"""Layers whose blocks have the Kronecker structure: linear maps and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.parts import padded


class LinearLayer(Layer):
    """nn.Linear on [batch, ..., d_in]; the axes between are positions that share the weights."""

    kind = "linear"
    any_batch_axis = True

    def use_features(self, x: Tensor) -> Tensor:
        """Return [batch, positions, d_in]."""
        features = x.reshape(len(x), -1, x.shape[-1])
        if self.module.bias is None:
            return features
        return torch.cat([features, torch.ones_like(features[..., :1])], -1)

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from [columns, batch, ..., d_out]."""
        return g.reshape(*g.shape[:2], -1, g.shape[-1]).transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s a_s^T [batch, columns, d_out, d_in].

        Gradients lie with d_out last: columns side by side are whole rows to copy.
        """
        n_columns, _, d_out = gradients.shape[1:]
        stacked = gradients.transpose(1, 2).flatten(2).mT @ features
        return stacked.unflatten(1, (n_columns, d_out))


class ConvLayer(Layer):
    """nn.Conv1d or nn.Conv2d, or one group of them; the output's pixels are positions."""

    kind = "conv"

    def use_features(self, x: Tensor) -> Tensor:
        """Return patches [batch, positions, channels * kernel], cut out with the padding."""
        windows = patches(self.module, x)
        n_batch, n_pixels = len(x), windows[0, 0, 0, 0].numel()
        d_in = windows[0, ..., 0, 0].numel()
        features = x.new_ones(n_batch, d_in + (self.module.bias is not None), n_pixels)
        features[:, :d_in].view(windows.shape).copy_(windows)
        return features.mT

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from [columns, batch, d_out, *pixels]."""
        return g.flatten(3).mT.transpose(0, 1)


def patches(conv, x: Tensor) -> Tensor:
    """Return a view of what the kernel sees: [batch, channels, *kernel, rows, columns].

    Pixels come last, as a patch is copied. A 1-dimensional convolution has a first axis of one.
    """
    sizes = (conv.kernel_size, conv.stride, conv.dilation)
    x = padded(conv, x)
    if x.dim() == 3:
        x, sizes = x[:, :, None], tuple((1, *size) for size in sizes)
    windows = _windows(_windows(x, 2, *sizes), 3, *sizes)
    return windows.permute(0, 1, 4, 5, 2, 3)


def _windows(
    x: Tensor, axis: int, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return a view of what a kernel sees along an axis (2 or 3), its extent as the last axis."""
    size, step, gap = kernel[axis - 2], stride[axis - 2], dilation[axis - 2]
    return x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
