"""Documents of any length into pieces whose lengths are powers of two (Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer, UInt64
from numpy.typing import ArrayLike

from dataset_decomposition.config import BucketConfig, Policy, Tail
from dataset_decomposition.packing import pack_best_fit

Array = np.ndarray
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: SplitMix64's increment (Steele et al. 2014)
FIRST_BLOCK = 16  # draws per long document in the first round; doubles


@dataclass(frozen=True)
class Plan:
    """Pieces of documents, in the order of documents and positions.

    A piece of `length` predicted tokens is stored with `length + 1` tokens: inputs are all but the last, targets all
    but the first. Tails that were kept hold fewer (`tokens`); packed tails share a row.

    Args:
        doc: Document of each piece [pieces].
        start: First token of the piece in its document [pieces].
        length: Length of the piece's bucket, a power of two [pieces].
        tokens: Stored tokens of the piece, `length + 1` but for kept tails [pieces].
        row: Row of the piece within its bucket [pieces]; pieces with equal row and length are packed together.
        total_tokens: Tokens of all documents.
        dropped_tokens: Tokens in no piece.
    """

    doc: Integer[Array, " pieces"]
    start: Integer[Array, " pieces"]
    length: Integer[Array, " pieces"]
    tokens: Integer[Array, " pieces"]
    row: Integer[Array, " pieces"]
    total_tokens: int
    dropped_tokens: int

    def __len__(self) -> int:
        return len(self.doc)


def decompose(
    lengths: ArrayLike,
    *,
    min_length: int = 256,
    max_length: int = 8192,
    policy: Policy = "random",
    tail: Tail = "drop",
    overlap: int = 0,
    seed: int = 0,
    keys: ArrayLike | None = None,
) -> Plan:
    """Cut documents into pieces of 2^k + 1 tokens, none of which crosses documents.

    From left to right the largest power of two that fits is taken (Sec. 3.1; the authors' `get_binary`). Documents
    over `2 * max_length` give pieces of drawn length until they are shorter: "random" draws bucket k with probability
    proportional to 2^(max - k), so that over-long documents give every bucket equally many tokens; "equal" walks
    through the same proportions without chance; "greedy" takes `max_length`.
    Unlike the authors' code, draws depend on seed and document only, not on workers or order.

    Args:
        lengths: Tokens per document, end token included [documents].
        min_length: Shortest bucket, a power of two.
        max_length: Longest bucket, a power of two.
        policy: Treatment of over-long documents.
        tail: Leftovers under `min_length + 1` tokens: "drop" counts them as dropped; "pad" gives each a row of
            `min_length`; "pack" shares rows among them (best fit), to be trained with a document mask.
        overlap: Tokens that neighbouring pieces share: 0 as in the paper, or 1, with which each token but a
            document's first is a target.
        seed: Of the draws.
        keys: One number per document that its draws depend on; by default its position [documents].

    Returns:
        The plan.

    Raises:
        ValueError: A length is negative or not an integer, or an option is out of range.

    Example:
        >>> plan = decompose([1000, 300, 40], min_length=256, max_length=512)
        >>> plan.doc.tolist(), plan.start.tolist(), plan.length.tolist()
        ([0, 0, 1], [0, 513, 0], [512, 256, 256])
        >>> plan.dropped_tokens
        313
    """
    config = BucketConfig(min_length, max_length, policy, tail, overlap, seed)
    sizes = _check_lengths(lengths)
    names = np.arange(len(sizes), dtype=np.uint64) if keys is None else np.asarray(keys).astype(np.uint64)
    if names.shape != sizes.shape:
        raise ValueError(f"`keys` has shape {names.shape}, `lengths` {sizes.shape}; give one key per document.")
    doc, start, exponent, position = _cut_long(sizes, names, config)
    parts = [(doc, start, exponent)]
    smallest = config.min_length.bit_length() - 1
    for k in range(config.max_length.bit_length() - 1, smallest - 1, -1):
        found = np.flatnonzero(sizes - position > 1 << k)
        parts.append((found, position[found], np.full(len(found), k, dtype=np.int8)))
        position[found] += (1 << k) + 1 - overlap
    pieces = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return _finish(sizes, position, pieces, config)


def _check_lengths(lengths: ArrayLike) -> Int[Array, " documents"]:
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or (sizes.size and sizes.dtype.kind not in "iu"):
        raise ValueError(f"`lengths` must be one row of integers, found shape {sizes.shape} of {sizes.dtype}.")
    if sizes.size and int(sizes.min()) < 0:
        raise ValueError(f"`lengths` holds {int(sizes.min())}; a document has at least 0 tokens.")
    return sizes.astype(np.int64)


def _cut_long(sizes: Array, keys: Array, config: BucketConfig) -> tuple[Array, Array, Array, Array]:
    """Cut the prefixes of documents with more than `2 * max_length` tokens; also return what each has used."""
    position = np.zeros(len(sizes), dtype=np.int64)
    if config.policy == "greedy":
        return _cut_greedy(sizes, position, config)
    parts: list[tuple[Array, Array, Array]] = []
    active, drawn, block = np.flatnonzero(sizes > 2 * config.max_length), 0, FIRST_BLOCK
    while len(active):
        exponents = _draw(keys[active], np.arange(drawn, drawn + block, dtype=np.uint64), config)
        steps = np.left_shift(1, exponents.astype(np.int64)) + 1 - config.overlap
        starts = position[active][:, None] + np.cumsum(steps, axis=1) - steps
        kept = sizes[active][:, None] - starts > 2 * config.max_length
        which, column = np.nonzero(kept)
        parts.append((active[which], starts[which, column], exponents[which, column]))
        position[active] += np.where(kept, steps, 0).sum(axis=1)
        active = active[sizes[active] - position[active] > 2 * config.max_length]
        drawn, block = drawn + block, min(2 * block, 1024)
    empty = np.zeros(0, dtype=np.int64)
    parts = parts or [(empty, empty, empty.astype(np.int8))]
    doc, start, exponent = (np.concatenate(column) for column in zip(*parts, strict=True))
    return doc, start, exponent, position


def _cut_greedy(sizes: Array, position: Array, config: BucketConfig) -> tuple[Array, Array, Array, Array]:
    step = config.max_length + 1 - config.overlap
    counts = np.maximum(0, -(-(sizes - 2 * config.max_length) // step))
    doc = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(doc)) - first) * step
    position += counts * step
    return doc, start, np.full(len(doc), config.max_length.bit_length() - 1, dtype=np.int8), position


def _draw(keys: UInt64[Array, " documents"], index: UInt64[Array, " draws"], config: BucketConfig) -> Array:
    """Return exponents [documents, draws]: max - j with probability 2^j over 2^n - 1."""
    num_buckets = len(config.bucket_lengths)
    outcomes = (1 << num_buckets) - 1
    names = mix(keys ^ mix(np.array([config.seed % 2**64], dtype=np.uint64)))
    if config.policy == "random":
        value = mix(names[:, None] + (index[None, :] + np.uint64(1)) * np.uint64(GOLDEN)) % np.uint64(outcomes)
    else:
        # A stride without common factor with the period meets every outcome once per period.
        stride = next(s for s in range(round(outcomes * 0.618) or 1, 2 * outcomes + 2) if np.gcd(s, outcomes) == 1)
        value = (names[:, None] % np.uint64(outcomes) + index[None, :] * np.uint64(stride)) % np.uint64(outcomes)
    shift = np.frexp(value.astype(np.float64) + 1)[1] - 1
    return (config.max_length.bit_length() - 1 - shift).astype(np.int8)


def mix(values: UInt64[Array, ...]) -> UInt64[Array, ...]:
    """Return SplitMix64's finaliser of 64-bit numbers: a fixed, well spread pseudo-random function."""
    x = values + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _finish(sizes: Array, position: Array, pieces: tuple[Array, ...], config: BucketConfig) -> Plan:
    """Add the tails, number the rows of each bucket, and bring everything into order."""
    doc, start, exponent = pieces
    left = sizes - position
    tails = np.flatnonzero(left > 1) if config.tail != "drop" else np.zeros(0, dtype=np.int64)
    # With overlap the first of a tail's tokens is already in the piece before it.
    shared = np.where(position > 0, config.overlap, 0)
    dropped = int((left - shared).sum() - (left - shared)[tails].sum())
    num_full = len(doc)
    smallest = np.full(len(tails), config.min_length.bit_length() - 1, dtype=np.int8)
    doc, start = np.concatenate([doc, tails]), np.concatenate([start, position[tails]])
    exponent = np.concatenate([exponent, smallest])
    length = np.left_shift(1, exponent.astype(np.int64))
    tokens = length + 1
    tokens[num_full:] = left[tails]
    bins = pack_best_fit(left[tails], config.min_length + 1) if config.tail == "pack" else np.arange(len(tails))
    row = _number_rows(length, num_full, bins, (doc, start), config)
    first = np.cumsum(sizes) - sizes
    order = np.argsort(first[doc] + start, kind="stable")
    columns = (column[order] for column in (doc, start, length, tokens, row))
    return Plan(*columns, total_tokens=int(sizes.sum()), dropped_tokens=dropped)


def _number_rows(length: Array, num_full: int, bins: Array, place: tuple[Array, Array], config: BucketConfig) -> Array:
    """Number the whole pieces of each bucket by document and position; rows of tails follow in the shortest."""
    row = np.zeros(len(length), dtype=np.int64)
    doc, start = place
    for bucket in config.bucket_lengths:
        found = np.flatnonzero(length[:num_full] == bucket)
        order = np.lexsort((start[found], doc[found]))
        row[found[order]] = np.arange(len(found))
        if bucket == config.min_length:
            row[num_full:] = len(found) + bins
    return row
