"""nn.MultiheadAttention computed by its projections, linear layers over tokens, one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayes_vio.curvature.parts import Divided, LinearPart


class DividedMultiheadAttention(Divided, nn.MultiheadAttention):
    """Attention whose input projections are the parts ``q``, ``k`` and ``v``.

    ``out_proj`` is a linear layer anyway. Source: Vaswani et al. (2017), section 3.2.
    """

    def add_parts(self) -> None:
        """Register q, k and v: a third of in_proj_weight each, or weights of their own."""
        for i, letter in enumerate("qkv"):
            rows = slice(i * self.embed_dim, (i + 1) * self.embed_dim)
            stacked = self.in_proj_weight is not None
            weight = ("in_proj_weight", rows) if stacked else (f"{letter}_proj_weight", None)
            bias = None if self.in_proj_bias is None else ("in_proj_bias", rows)
            self.add_module(letter, LinearPart(self, weight, bias))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what nn.MultiheadAttention does; inputs without a batch axis go to it."""
        if query.dim() != 3 or query.is_nested:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        axis = 0 if self.batch_first else 1
        inputs = (x.transpose(0, axis) for x in (query, key, value))
        parts = (self.get_submodule(letter) for letter in "qkv")
        q, k, v = (part(x) for part, x in zip(parts, inputs, strict=True))
        heads = (x.unflatten(2, (self.num_heads, -1)) for x in (q, *self._extended(k, v)))
        q, k, v = (x.transpose(1, 2) for x in heads)  # [batch, heads, tokens, d]
        scores = q @ k.mT / self.head_dim**0.5  # [batch, heads, queries, keys]
        if is_causal and key_padding_mask is None and not need_weights:
            # Here torch goes by the hint, not the mask: appended keys are masked like others.
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        for mask in self._masks(key_padding_mask, attn_mask, scores):
            scores = scores + mask
        weights = scores.softmax(-1)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2)).transpose(0, axis)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the learned key and value, then zeros, where the module has them."""
        extra_k, extra_v = [k], [v]
        if self.bias_k is not None and self.bias_v is not None:
            extra_k.append(self.bias_k.expand(len(k), -1, -1))
            extra_v.append(self.bias_v.expand(len(v), -1, -1))
        if self.add_zero_attn:
            extra_k.append(torch.zeros_like(k[:, :1]))
            extra_v.append(torch.zeros_like(v[:, :1]))
        return torch.cat(extra_k, 1), torch.cat(extra_v, 1)

    def _masks(
        self, key_padding_mask: Tensor | None, attn_mask: Tensor | None, scores: Tensor
    ) -> list[Tensor]:
        """Return what is added to the scores [batch, heads, queries, keys]."""
        masks = []
        if key_padding_mask is not None:
            masks.append(_additive(key_padding_mask, scores)[:, None, None])
        if attn_mask is not None:
            mask = _additive(attn_mask, scores)
            masks.append(mask if mask.dim() == 2 else mask.unflatten(0, scores.shape[:2]))
        return masks


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    """Return a mask over all keys that is added: bool says what is left out."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(mask, float("-inf"))
    n_appended = scores.shape[-1] - mask.shape[-1]
    return nn.functional.pad(mask.to(scores.dtype), (0, n_appended))
