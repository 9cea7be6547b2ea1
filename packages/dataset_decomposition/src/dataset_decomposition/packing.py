"""The two ways of filling rows that decomposition is compared with: concat-and-chunk and best-fit packing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

Array = np.ndarray


def pack_best_fit(lengths: Int[Array, " items"], capacity: int) -> Int[Array, " items"]:
    """Put items into bins, each into the fullest bin that still has room, the longest item first.

    Best-fit decreasing (Ding et al. 2024, arXiv 2404.10830). Open bins are kept by free room, and the rooms that exist
    as the bits of one integer, so that the best bin is one shift away.

    Args:
        lengths: Sizes, from 1 to `capacity` [items].
        capacity: Size of a bin.

    Returns:
        Bin of each item [items]; bins are numbered in the order in which they were opened.

    Raises:
        ValueError: An item is empty or larger than a bin.

    Example:
        >>> pack_best_fit(np.array([3, 5, 2, 6]), 8).tolist()
        [1, 1, 0, 0]
    """
    if len(lengths) and not (lengths.min() >= 1 and lengths.max() <= capacity):
        raise ValueError(f"`lengths` {lengths.min()}..{lengths.max()} must be from 1 to the capacity {capacity}.")
    bins = np.zeros(len(lengths), dtype=np.int64)
    open_bins: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms, num_bins = 0, 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                rooms ^= 1 << room
        else:
            room, chosen, num_bins = capacity, num_bins, num_bins + 1
        bins[item] = chosen
        if left := room - size:
            open_bins[left].append(chosen)
            rooms |= 1 << left
    return bins


def split_at(lengths: Int[Array, " documents"], limit: int) -> tuple[Int[Array, " parts"], Int[Array, " parts"]]:
    """Cut documents into parts of at most `limit` tokens.

    Args:
        lengths: Tokens per document [documents].
        limit: Tokens of a part at most.

    Returns:
        The first token of each part in the concatenated documents, and its tokens [parts] each.
    """
    counts = -(-lengths // limit)
    doc = np.repeat(np.arange(len(lengths)), counts)
    index = np.arange(len(doc)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.minimum(limit, lengths[doc] - index * limit)
    return (np.cumsum(lengths) - lengths)[doc] + index * limit, size


def chunk_segments(lengths: Int[Array, " documents"], length: int) -> Int[Array, " segments"]:
    """Return the runs of one document inside one chunk when documents are joined and chunked.

    Args:
        lengths: Tokens per document [documents].
        length: Tokens of a chunk.

    Returns:
        Tokens of each run, in order [segments].
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    edges = np.union1d(ends, np.arange(length, total, length))
    return np.diff(edges[edges <= total], prepend=0).astype(np.int64)
