"""Text encoders: a plain transformer and MCt (Sec. 3.1), token ids to one embedding per caption."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobileclip.blocks import RepMixerBlock
from mobileclip.config import TextConfig
from mobileclip.transformer import LayerNorm, PositionalEmbedding, TransformerLayer

# Sec. 3.1: kernel 11 is the best trade between accuracy and latency.
TEXT_KERNEL = (1, 11)


class TextRepMixerBlock(RepMixerBlock):
    """RepMixer block over a row of tokens: 11 neighbours are mixed, padding positions included.

    Args:
        dim: Width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 4 * dim, mixer_kernel=TEXT_KERNEL, ffn_kernel=TEXT_KERNEL)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Return the block's output."""
        rows = x.transpose(1, 2).unsqueeze(2)
        return super().forward(rows).squeeze(2).transpose(1, 2)


class TextEncoder(nn.Module):
    """Embedding, transformer layers (MCt: a convolutional block at both ends) and projection at the end token.

    Args:
        config: Kind, depth and widths.
        embed_dim: Width of the embedding.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.embedding_layer = nn.Embedding(config.vocab_size, dim)
        self.positional_embedding = PositionalEmbedding(config.context_length, dim)
        layers: list[nn.Module] = [
            TransformerLayer(dim, config.num_heads, causal=config.causal) for _ in range(config.num_layers)
        ]
        if config.kind == "mct":
            layers = [TextRepMixerBlock(dim), *layers, TextRepMixerBlock(dim)]
        self.transformer = nn.ModuleList(layers)
        self.final_layer_norm = LayerNorm(dim)
        self.projection_layer = nn.Parameter(torch.randn(dim, embed_dim) * dim**-0.5)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings, not normalised, read at each row's end token (its largest id)."""
        x = self.embedding_layer(tokens) + self.positional_embedding(tokens.shape[1])
        for layer in self.transformer:
            x = layer(x)
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        end = x[rows, tokens.argmax(dim=-1)]
        return self.final_layer_norm(end) @ self.projection_layer
