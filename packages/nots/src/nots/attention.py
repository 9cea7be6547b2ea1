"""Attention over groups of tokens: the group-causal mask, rotary positions that restart, and a transformer block."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from nots.config import MaskName

ROPE_BASE = 10_000.0


def group_causal_mask(
    groups: int, tokens_per_group: int, *, device: torch.device | str | None = None
) -> Bool[Tensor, "tokens tokens"]:
    """Return which token sees which: all of its own group and of earlier ones, none of later ones (section 3.2).

    M[i, j] is true where floor(j / N) <= floor(i / N). One token a group gives ordinary causal attention.

    Args:
        groups: Number of groups.
        tokens_per_group: N.
        device: Of the mask.

    Returns:
        True where query i may look at key j, as `scaled_dot_product_attention` wants it.

    Example:
        >>> group_causal_mask(2, 2).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 1],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    if groups < 1 or tokens_per_group < 1:
        raise ValueError(f"`groups` (={groups}) and `tokens_per_group` (={tokens_per_group}) must be at least 1.")
    group = torch.arange(groups * tokens_per_group, device=device) // tokens_per_group
    return group[None, :] <= group[:, None]


def group_mask(kind: MaskName, groups: int, tokens_per_group: int, device: torch.device | None = None) -> Tensor | None:
    """Return the mask between groups: "causal", none at all ("full"), or each group alone ("own")."""
    if kind == "full":
        return None
    if kind == "causal":
        return group_causal_mask(groups, tokens_per_group, device=device)
    group = torch.arange(groups * tokens_per_group, device=device) // tokens_per_group
    return group[None, :] == group[:, None]


def rotary_angles(positions: Tensor, head_dim: int) -> Float[Tensor, "tokens half"]:
    """Return the angle of each pair of a head's values at each position."""
    rates = ROPE_BASE ** (-torch.arange(0, head_dim, 2, device=positions.device) / head_dim)
    return positions[:, None] * rates


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of values [..., tokens, head_dim] by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Block(nn.Module):
    """Pre-norm attention and MLP; prompts are further keys and values.

    In deep prompt tuning (VPT-deep) the outputs at the prompts' places are thrown away before the next layer, so that
    only their keys and values matter, and the mask between groups stays whole.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None, prompts: Tensor | None = None) -> Tensor:
        """Apply the block to [batch, tokens, dim]; `mask` [tokens, tokens] is true where a query may look."""
        x = x + self.out(self.attend(self.norm1(x), angles, mask, prompts))
        return x + self.mlp(self.norm2(x))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [batch, heads, tokens, head_dim]."""
        batch, tokens, dim = x.shape
        parts = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def attend(self, x: Tensor, angles: Tensor, mask: Tensor | None, prompts: Tensor | None) -> Tensor:
        """Return attention's values, heads side by side."""
        query, key, value = self.heads(x)
        query, key = rotate(query, angles), rotate(key, angles)
        if prompts is not None:
            _, more_key, more_value = self.heads(self.norm1(prompts)[None])
            shape = (len(x), -1, -1, -1)
            key = torch.cat([more_key.expand(shape), key], dim=2)
            value = torch.cat([more_value.expand(shape), value], dim=2)
            if mask is not None:
                mask = functional.pad(mask, (len(prompts), 0), value=True)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return found.transpose(1, 2).flatten(2)
