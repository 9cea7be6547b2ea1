"""In which order the lengths come (Sec. 3.3): odds per bucket, drawn until a bucket is used up."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from dataset_decomposition.config import Curriculum

Array = np.ndarray


def bucket_odds(curriculum: Curriculum, num_buckets: int) -> Float[Array, " buckets"]:
    """Return how much likelier a batch of each bucket is, the shortest bucket first.

    grow-p2 is 32:16:8:4:2:1 for six buckets, grow-linear 6:5:4:3:2:1, grow-p100 steps by 100, shrink-p100 the other
    way round; uniform and natural are 1.

    Args:
        curriculum: Name of the curriculum.
        num_buckets: Number of buckets.
    """
    rank = np.arange(num_buckets, dtype=np.float64)
    return {
        "uniform": np.ones(num_buckets),
        "natural": np.ones(num_buckets),
        "grow-linear": num_buckets - rank,
        "grow-p2": 2.0 ** (num_buckets - 1 - rank),
        "grow-p100": 100.0 ** (num_buckets - 1 - rank),
        "shrink-p100": 100.0**rank,
    }[curriculum]


def draw_cycle(
    batches: Int[Array, " buckets"], curriculum: Curriculum, generator: np.random.Generator
) -> Int[Array, " steps"]:
    """Draw the order of one cycle: which bucket each step takes.

    At each step bucket i is drawn with probability proportional to odds_i times its batches at the cycle's start; an
    exhausted bucket leaves the draw (the authors' mixer). Lengths grow because short buckets run out, not by a
    schedule. "natural" is a plain shuffle of all batches.

    Draws are made in bulk up to the next exhaustion, which gives the same distribution as one at a time.

    Args:
        batches: Batches of each bucket in this cycle, the shortest bucket first [buckets].
        curriculum: Name of the curriculum.
        generator: Source of chance.

    Returns:
        Index of the bucket of each step; bucket i occurs `batches[i]` times [steps].
    """
    if curriculum == "natural":
        return generator.permutation(np.repeat(np.arange(len(batches)), batches))
    weights = bucket_odds(curriculum, len(batches)) * batches
    left = batches.astype(np.int64)
    parts = [np.zeros(0, dtype=np.int64)]
    while left.any():
        edges = np.cumsum(np.where(left > 0, weights, 0.0))
        drawn = np.searchsorted(edges, generator.random(int(left.sum())) * edges[-1], side="right")
        # The first draw that takes the last batch of some bucket ends this stretch.
        ends = [np.flatnonzero(drawn == i)[left[i] - 1 : left[i]] for i in np.flatnonzero(left)]
        stop = min((int(end[0]) + 1 for end in ends if len(end)), default=len(drawn))
        parts.append(drawn[:stop])
        left -= np.bincount(drawn[:stop], minlength=len(left))
    return np.concatenate(parts)
