"""Attention from plain linear layers over tokens, so that each weight has a Kronecker block."""

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention of queries [batch, q, width] over tokens [batch, t, width].

    Source: Vaswani et al. (2017), section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width {width} is not a multiple of heads {heads}; choose one that is"
            )
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the attended values [batch, q, width]."""
        q, k, v = self.query(queries), self.key(tokens), self.value(tokens)
        mixed = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v))
        return self.output(mixed.transpose(1, 2).flatten(-2))


class FusionBlock(nn.Module):
    """Latents [batch, n, width] read the tokens [batch, t, width], then transform what they read.

    A few latents instead of all tokens attend, so time grows with t, not with its square.
    Source: Jaegle et al. (2021), "Perceiver: general perception with iterative attention".
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_latents = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.reduce = nn.Linear(2 * width, width)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return latents of the same shape [batch, n, width]; tokens come normalised."""
        latents = latents + self.attention(self.norm_latents(latents), tokens)
        return latents + self.reduce(F.gelu(self.expand(self.norm_mlp(latents))))
