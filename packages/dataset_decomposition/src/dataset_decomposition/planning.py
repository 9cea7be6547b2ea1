"""How many sequences of each bucket a training run takes: the arithmetic of the authors' parameter script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset_decomposition.config import Curriculum
from dataset_decomposition.curriculum import bucket_odds


@dataclass(frozen=True)
class TrainingPlan:
    """What one cycle takes of each bucket, the shortest first.

    Args:
        lengths: Tokens of a row.
        sequences: Rows per cycle.
        batch_multipliers: Rows per step over those of the longest bucket.
        weights: Share of each bucket in the draw (its factor times the curriculum's odds).
        cycles: Number of cycles.
        tokens_per_cycle: Tokens that one cycle takes.
        exact: Whether `cycles * tokens_per_cycle` is what was asked for.
    """

    lengths: tuple[int, ...]
    sequences: tuple[int, ...]
    batch_multipliers: tuple[int, ...]
    weights: tuple[int, ...]
    cycles: int
    tokens_per_cycle: int
    exact: bool

    def flags(self) -> str:
        """Return the five flags of the authors' trainer."""
        words = {
            "--epochs": [self.cycles],
            "--train-num-samples": [self.tokens_per_cycle],
            "--dataset-batch-mult": self.batch_multipliers,
            "--source-num-seq-per-epoch": self.sequences,
            "--train-data-mix-weights": self.weights,
        }
        return " ".join(f"{name} {' '.join(map(str, values))}" for name, values in words.items())

    def rows(self) -> list[dict[str, Any]]:
        """Return the plan as a table."""
        columns = zip(self.lengths, self.sequences, self.batch_multipliers, self.weights, strict=True)
        names = ("length", "sequences_per_cycle", "batch_multiplier", "weight")
        return [dict(zip(names, row, strict=True)) for row in columns]


def plan_training(
    lengths: Sequence[int],
    available: Sequence[int],
    units: Sequence[int],
    *,
    tokens: int,
    cycles: int = 8,
    curriculum: Curriculum = "grow-p2",
) -> TrainingPlan:
    """Divide a budget of tokens over cycles and buckets in the proportions of the data.

    Gives the numbers of the authors' `get_dd_params.py`: sequences of a bucket per cycle are rounded to whole units,
    then units of the longest bucket, if need be of shorter ones, are added or taken away until the sum fits.

    Args:
        lengths: Tokens of a row of each bucket, the shortest first.
        available: Rows of each bucket.
        units: Rows that are taken together: for the authors' trainer rows per shard times processes, for our
            loader rows per step.
        tokens: Tokens to train on; more than there are means repetition.
        cycles: How often the curriculum runs.
        curriculum: Gives the odds.

    Returns:
        The plan.

    Raises:
        ValueError: Lists of different lengths, or numbers under 1.

    Example:
        >>> plan = plan_training([256, 512], [4096, 1024], [32, 16], tokens=2**20, cycles=2)
        >>> plan.sequences, plan.tokens_per_cycle
        ((1376, 336), 524288)
    """
    _check(lengths, available, units, (tokens, cycles))
    sizes = np.array(lengths, dtype=np.int64)
    per_unit = np.array(units, dtype=np.int64) * sizes
    stock = np.array(available, dtype=np.int64) * sizes
    wanted = tokens / cycles
    factors = np.round(tokens / stock.sum() * stock / cycles / sizes / np.array(units)).astype(np.int64)
    _fit(factors, per_unit, wanted)
    taken = factors * per_unit
    scale = taken / taken[0] * factors[0] if factors[0] else taken / per_unit[0]
    weights = (scale * bucket_odds(curriculum, len(sizes))).astype(np.int64)
    return TrainingPlan(
        lengths=tuple(sizes.tolist()),
        sequences=tuple((factors * np.array(units)).tolist()),
        batch_multipliers=tuple((sizes[-1] // sizes).tolist()),
        weights=tuple(weights.tolist()),
        cycles=cycles,
        tokens_per_cycle=int(taken.sum()),
        exact=int(taken.sum()) * cycles == tokens,
    )


def _fit(factors: np.ndarray, per_unit: np.ndarray, wanted: float) -> None:
    """Move factors by one unit at a time until their tokens are `wanted`, or nothing is left to try.

    After the shortest bucket the longest gets one last move, as in the authors' script.
    """
    index, tried = len(factors) - 1, set()
    while index >= 0 and (missing := wanted - float((factors * per_unit).sum())):
        if tuple(factors.tolist()) in tried:
            index -= 1
        tried.add(tuple(factors.tolist()))
        factors[index] += 1 if missing > 0 else -1


def _check(lengths: Sequence[int], available: Sequence[int], units: Sequence[int], counts: tuple[int, int]) -> None:
    if not len(lengths) == len(available) == len(units) > 0:
        raise ValueError(
            f"`lengths`, `available` and `units` must have one entry per bucket; they have {len(lengths)}, "
            f"{len(available)} and {len(units)}."
        )
    if min(*lengths, *units, *counts) < 1 or sum(available) < 1:
        raise ValueError("lengths, units, tokens and cycles must be at least 1, and some rows must be available.")
