"""The reference decoder: the shapes of the authors' OpenLM models, and nothing about training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dataset_decomposition.config import ModelConfig

INIT_STD = 0.02


class Decoder(nn.Module):
    """A causal transformer over rows of one document each.

    Args:
        config: Its shape.

    Example:
        >>> from dataset_decomposition import PRESETS
        >>> Decoder(PRESETS["tiny"].model)(torch.zeros(1, 8, dtype=torch.long)).shape
        torch.Size([1, 8, 512])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Small weights; what adds to the residual stream is smaller the deeper the model."""
        if isinstance(module, nn.Embedding | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if isinstance(module, Block):
            with torch.no_grad():
                for layer in (module.out, module.down):
                    layer.weight.div_((2 * self.config.num_layers) ** 0.5)

    def forward(
        self, input_ids: Int[Tensor, "rows length"], segments: Int[Tensor, "rows length"] | None = None
    ) -> Float[Tensor, "rows length vocab"]:
        """Return logits of the next token.

        Args:
            input_ids: Token ids.
            segments: Number of the document of each position, where a row holds several: attention stays inside, and
                positions start anew.
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mask = None
        if segments is not None:
            mask = document_mask(segments)
            positions = restart_positions(segments)
        rotation = rotary_angles(positions, self.config.dim // self.config.num_heads, self.config.rope_base)
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, rotation, mask)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention with normed queries and keys, then SwiGLU, each behind a gain-only layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        head_dim = config.dim // config.num_heads
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.dim, bias=False)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.query_norm = nn.LayerNorm(head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = nn.LayerNorm(config.dim, bias=False)
        self.up = nn.Linear(config.dim, 2 * config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Return [rows, length, dim]."""
        x = x + self.out(self._attend(self.attention_norm(x), rotation, mask))
        gate, value = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value)

    def _attend(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        rows, length, dim = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.num_heads, -1).unbind(2)
        q, k = (rotate(part, rotation).transpose(1, 2) for part in (self.query_norm(q), self.key_norm(k)))
        mixed = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), attn_mask=mask, is_causal=mask is None)
        return mixed.transpose(1, 2).reshape(rows, length, dim)


def document_mask(segments: Int[Tensor, "rows length"]) -> Tensor:
    """Return [rows, 1, length, length], true where a position may look: earlier, and in the same document."""
    same = segments[:, :, None] == segments[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]


def restart_positions(segments: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Return positions that count from zero in every run of equal numbers."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.zeros_like(index)
    starts[:, 1:] = torch.where(segments[:, 1:] != segments[:, :-1], index[:, 1:], 0)
    return index - starts.cummax(dim=1).values


def rotary_angles(positions: Int[Tensor, "rows length"], head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [rows, length, 1, head_dim / 2] (Su et al. 2021)."""
    steps = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None, None] * base ** (-steps / head_dim)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "rows length heads head_dim"], rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (i, i + half) of a head by its angle."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
