"""Layers whose blocks are diagonal: affines of norms, many-grouped convolutions, embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from bayes_vio.curvature.kronecker_layers import patches
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.parts import Piece


class NormLayer(Layer):
    """The affine ``weight * x + bias`` of a norm, over running statistics or the datum's own.

    As a matrix it is [features, 2], whose gradient is ``sum_s g_s * (x_s, 1)`` feature by feature.
    """

    kind = "norm"
    is_kronecker = False

    def use_features(self, x: Tensor) -> Tensor:
        """Return the normalised input [batch, positions, features]; the ones go without saying."""
        return self._positions_features(self._normalised(x))

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, features] from [columns, batch, ...]."""
        flat = self._positions_features(g.flatten(0, 1))
        return flat.unflatten(0, g.shape[:2]).transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s * (x_s, 1) [batch, columns, features, d_in]."""
        weight = (gradients * features[:, None]).sum(2)
        if self._own("bias") is None:
            return weight[..., None]
        return torch.stack([weight, gradients.sum(2)], -1)

    def jacobian_rows(self, features: Tensor, gradients: Tensor, rows: slice | Tensor) -> Tensor:
        """Return some features' rows of the jacobian."""
        return self.jacobian(features[:, :, rows], gradients[..., rows])

    def width(self, features: Tensor) -> int:  # noqa: ARG002
        """Return d_in, at most."""
        return 2

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1)

    def _positions_features(self, x: Tensor) -> Tensor:
        if isinstance(self.module, nn.LayerNorm | nn.RMSNorm):
            return x.reshape(len(x), -1, self.module.weight.numel())
        return x.flatten(2).mT if x.dim() > 2 else x[:, None]

    def _normalised(self, x: Tensor) -> Tensor:
        norm = self.module
        if isinstance(norm, nn.LayerNorm):
            return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)
        if isinstance(norm, nn.RMSNorm):
            return functional.rms_norm(x, norm.normalized_shape, eps=norm.eps)
        if isinstance(norm, nn.GroupNorm):
            return functional.group_norm(x, norm.num_groups, eps=norm.eps)
        if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
            mean, var = norm.running_mean, norm.running_var
            return functional.instance_norm(
                x, mean, var, use_input_stats=mean is None, eps=norm.eps
            )
        return functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


class TokenNormLayer(NormLayer):
    """LayerNorm and RMSNorm: over the last axes, whatever stands before them."""

    any_batch_axis = True


class GroupedConvLayer(Layer):
    """A convolution of many groups: every row of W sees the channels of its own group."""

    kind = "grouped"
    is_kronecker = False

    def use_features(self, x: Tensor) -> Tensor:
        """Return patches [batch, positions, d_out, d_in], each row's own."""
        conv = self.module
        windows = patches(conv, x).flatten(4)  # [batch, channels, *kernel, pixels]
        groups = windows.unflatten(1, (conv.groups, -1)).flatten(2, 4)
        features = groups.permute(0, 3, 1, 2)  # [batch, pixels, groups, d_in]
        features = features.repeat_interleave(conv.out_channels // conv.groups, 2)
        if conv.bias is None:
            return features
        return torch.cat([features, torch.ones_like(features[..., :1])], -1)

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_out] from [columns, batch, d_out, *pixels]."""
        return g.flatten(3).mT.transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s a_s^T [batch, columns, d_out, d_in], row by row."""
        by_row = gradients.permute(0, 3, 1, 2) @ features.transpose(1, 2)
        return by_row.transpose(1, 2)

    def jacobian_rows(self, features: Tensor, gradients: Tensor, rows: slice | Tensor) -> Tensor:
        """Return some rows of the jacobian."""
        return self.jacobian(features[:, :, rows], gradients[..., rows])

    def numbers_per_datum(self, n_gradients: int, n_columns: int) -> int:
        """Return how large one datum's largest array is: its features, column by column."""
        return n_columns * n_gradients * self.shape[1]


class EmbeddingLayer(Layer):
    """nn.Embedding: a row of W per token but the padding, which training leaves alone (L3).

    Features are the tokens' rows of W [batch, positions], -1 for the padding.
    """

    kind = "embedding"
    is_kronecker = False
    any_batch_axis = True

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return the weight, or its rows before and after the padding."""
        ((name, _),) = super().pieces
        padding, n_rows = self.module.padding_idx, len(self.module.weight)
        if padding is None:
            return ((name, None),)
        parts = (slice(0, padding), slice(padding + 1, n_rows))
        return tuple((name, rows) for rows in parts if rows.stop > rows.start)

    def split(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the rows of the matrix by ``parameter_names``."""
        sizes = [len(self.module.weight[rows]) for _, rows in self.pieces if rows is not None]
        parts = matrix.split(sizes) if sizes else (matrix,)
        return dict(zip(self.parameter_names, parts, strict=True))

    def use_features(self, x: Tensor) -> Tensor:
        """Return rows [batch, positions]."""
        tokens, padding = x.reshape(len(x), -1), self.module.padding_idx
        if padding is None:
            return tokens
        return torch.where(tokens == padding, -1, tokens - (tokens > padding).to(tokens.dtype))

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return [batch, columns, positions, d_in] from [columns, batch, ..., d_in]."""
        return g.reshape(*g.shape[:2], -1, g.shape[-1]).transpose(0, 1)

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s one-hot_s g_s^T [batch, columns, d_out, d_in]."""
        return self.jacobian_rows(features, gradients, slice(None))

    def jacobian_rows(self, features: Tensor, gradients: Tensor, rows: slice | Tensor) -> Tensor:
        """Return some tokens' rows of the jacobian."""
        tokens = torch.arange(self.shape[0], device=features.device)[rows]
        occurs = (features[:, None] == tokens[:, None]).to(gradients.dtype)
        return occurs[:, None] @ gradients  # [batch, 1, rows, positions] @ [..., d_in]

    def jacobian_blocks(
        self, features: Tensor, gradients: Tensor, numbers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, their jacobian) of the tokens that occur."""
        found = features[features >= 0].unique()
        n_batch, n_columns, _, d_in = gradients.shape
        for rows in found.split(max(1, numbers // (n_batch * n_columns * d_in))):
            yield rows, self.jacobian_rows(features, gradients, rows)

    def add_squares(self, total: Tensor, features: Tensor, gradients: Tensor) -> None:
        """Add the sum over data and columns of jacobian^2, over the tokens that occur."""
        d_out = len(total)
        datum = torch.arange(len(features), device=features.device)[:, None]
        keys, places = (datum * d_out + features)[features >= 0].unique(return_inverse=True)
        by_position = gradients.transpose(1, 2)[features >= 0]  # [tokens, columns, d_in]
        sums = by_position.new_zeros(len(keys), *by_position.shape[1:])
        sums.index_add_(0, places, by_position)
        total.index_add_(0, keys % d_out, sums.square().sum(1).to(total.dtype))

    def numbers_per_datum(self, n_gradients: int, n_columns: int) -> int:
        """Return how large one datum's largest array is: its gradients."""
        return n_columns * n_gradients

    def _rows(self, weight: Tensor) -> Tensor:
        padding = self.module.padding_idx
        if padding is None:
            return weight
        return torch.cat([weight[:padding], weight[padding + 1 :]])
