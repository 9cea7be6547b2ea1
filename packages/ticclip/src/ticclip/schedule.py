"""The learning rate over a stream: one rule for what happens where a step begins."""

from __future__ import annotations

import math

from ticclip.config import TrainConfig

MAX_WARMUP_SHARE = 0.2


def learning_rate(config: TrainConfig, step: int, update: int, num_updates: int) -> float:
    """Return the rate of one update.

    `rewarm`: warm-up and cosine to zero in every step of the stream (the paper's default). `no-warmup`: warm-up in the
    first step only. `decay-max`: as `rewarm`, its maximum times `max_decay` from step to step. `constant-cooldown`:
    warm-up in the first step only, constant, and linear to zero over the last `cooldown` of each step.

    Args:
        config: Maximum, warm-up and rule.
        step: Step of the stream, from 0.
        update: Update within it, from 0.
        num_updates: Updates of that step.

    Example:
        >>> config = TrainConfig(learning_rate=1.0, warmup_steps=2)
        >>> [round(learning_rate(config, 0, update, 10), 2) for update in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    highest = config.learning_rate * (config.max_decay**step if config.boundary == "decay-max" else 1.0)
    warmup = min(config.warmup_steps, int(MAX_WARMUP_SHARE * num_updates))
    if step and config.boundary in ("no-warmup", "constant-cooldown"):
        warmup = 0
    if update < warmup:
        return highest * (update + 1) / warmup
    if config.boundary == "constant-cooldown":
        cooling = max(1, round(config.cooldown * num_updates))
        return highest * min(1.0, (num_updates - update) / cooling)
    done = (update - warmup) / max(1, num_updates - warmup)
    return highest * (1 + math.cos(math.pi * done)) / 2
