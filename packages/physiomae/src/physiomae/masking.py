"""Which tokens the encoder sees, and which the loss asks for.

Random numbers are drawn for the whole batch of all processes from seed and step alone, so that a resumed run and one on
several processes hide the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physiomae.config import ObjectiveConfig


@dataclass(frozen=True)
class Draws:
    """Random numbers of one step, uniform in 0 to 1: order of tokens [B, M, N], of modalities [B, M], drops [B, 2]."""

    tokens: Tensor
    modalities: Tensor
    drops: Tensor

    def rows(self, rows: slice) -> Draws:
        """Return those of some windows."""
        return Draws(self.tokens[rows], self.modalities[rows], self.drops[rows])


def draw(shape: tuple[int, int, int], seed: int, step: int) -> Draws:
    """Draw the numbers of one step for a batch of [windows, modalities, patches]."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    batch, num_modalities, _ = shape
    return Draws(
        torch.rand(shape, generator=generator),
        torch.rand(batch, num_modalities, generator=generator),
        torch.rand(batch, 2, generator=generator),
    )


def drop_modalities(available: Tensor, draws: Draws, probability: float) -> Tensor:
    """Return which modalities each window loses [B, M].

    With `probability` a window loses a subset whose size is uniform from 1 to one less than it has (modality dropout in
    input space); one with a single modality loses none.

    Args:
        available: Tokens that exist [B, M, N].
        draws: Random numbers.
        probability: Of losing anything.
    """
    there = available.any(-1)
    count = there.sum(1)
    size = 1 + (draws.drops[:, 1] * (count - 1).clamp(min=0)).long().clamp(max=(count - 2).clamp(min=0))
    size = torch.where((count > 1) & (draws.drops[:, 0] < probability), size, 0)
    return _lowest(draws.modalities, there, size)


def hide_tokens(available: Tensor, objective: ObjectiveConfig, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return what the encoder sees and what the loss asks for, both [B, M, N].

    Args:
        available: Tokens that exist.
        objective: Ratio of the mask, dropout, and what is reconstructed.
        draws: Random numbers.

    Returns:
        Visible tokens (at least one in each window that has any) and targets; a token is never both.
    """
    dropped = drop_modalities(available, draws, objective.drop_prob)[..., None] & available
    left = available & ~dropped
    shape = left.shape
    by = (shape[0] * shape[1], shape[2]) if objective.reconstruct == "own" else (shape[0], shape[1] * shape[2])
    flat = left.reshape(by)
    keep = (flat.sum(1) * (1 - objective.mask_ratio)).round().long().clamp(min=1)
    visible = _lowest(draws.tokens.reshape(by), flat, keep).reshape(shape)
    target = dropped if objective.reconstruct == "hidden" else available & ~visible
    return visible, target


def _lowest(scores: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """Mark the `count` [rows] lowest scores [rows, columns] among the allowed ones."""
    ranks = scores.masked_fill(~allowed, 2.0).argsort(1).argsort(1)
    return (ranks < count[:, None]) & allowed
