"""Pre-norm transformer layers shared by the text encoders and ViT-B/16, with the official parameter names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 whatever the input's dtype."""

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the normalised input in its own dtype."""
        y = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


class _Attention(nn.Module):
    """Multi-head self-attention with packed query, key and value projections."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv_proj(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, dim))


class TransformerLayer(nn.Module):
    """Pre-norm attention and a GELU perceptron of four times the width, each with a residual.

    Args:
        dim: Width, a multiple of `num_heads`.
        num_heads: Attention heads.
        causal: Whether a token sees only itself and the tokens before it.
    """

    def __init__(self, dim: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.pre_norm_mha = nn.ModuleList([LayerNorm(dim), _Attention(dim, num_heads)])
        # Positions 3 and 5 of the official sequence are dropout layers of rate 0.
        self.pre_norm_ffn = nn.Sequential(
            LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Return the layer's output."""
        norm, attention = self.pre_norm_mha
        x = x + attention(norm(x), causal=self.causal)
        return x + self.pre_norm_ffn(x)


class _LearnedPositions(nn.Module):
    """Holds the table; a level of its own for its checkpoint name."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 1, length, dim) * dim**-0.5)


class PositionalEmbedding(nn.Module):
    """Learned positions, interpolated along the sequence when another length is asked for.

    Args:
        length: Positions in the table.
        dim: Width.
    """

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.pos_embed = _LearnedPositions(length, dim)

    def forward(self, length: int) -> Float[Tensor, "1 length dim"]:
        """Return `length` positions (bilinear in the sequence axis, as the authors do)."""
        table = self.pos_embed.pos_embed
        if length != table.shape[2]:
            table = F.interpolate(table, size=(length, table.shape[3]), mode="bilinear")
        return table[0]
