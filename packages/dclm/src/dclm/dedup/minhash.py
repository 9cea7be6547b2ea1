"""Near-duplicates by MinHash signatures and banding (Broder 1997; Leskovec et al., ch. 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dclm.config import MinHash
from dclm.dedup.spill import Rows, make_rows, repeats
from dclm.document import Document
from dclm.words import BASE, Hashes, Words, mix, ngram_hashes

__all__ = ["Clusters", "band_hashes", "bands_and_rows", "minhash", "signature"]

SHINGLES_AT_ONCE = 2048  # keeps the matrix of hashes in the processor's cache
STEPS = 200  # of the sums that stand for the areas under the curve


@lru_cache(maxsize=16)
def bands_and_rows(threshold: float, num_hashes: int) -> tuple[int, int]:
    """Choose the banding whose curve 1 - (1 - s^rows)^bands errs least around a threshold.

    The error is the area of false positives below the threshold plus that of false negatives above it.

    Args:
        threshold: Jaccard similarity.
        num_hashes: Budget; bands times rows stays within it.

    Returns:
        Bands and rows.

    Example:
        >>> bands_and_rows(0.75, 112)
        (11, 10)
    """
    similarity = (np.arange(STEPS) + 0.5) / STEPS
    below = similarity < threshold
    best = (float("inf"), 1, 1)
    for rows in range(1, num_hashes + 1):
        missed = 1 - similarity**rows
        for bands in range(1, num_hashes // rows + 1):
            found = 1 - missed**bands
            best = min(best, (float(found[below].sum() + (1 - found[~below]).sum()), bands, rows))
    return best[1], best[2]


def _banding(config: MinHash) -> tuple[int, int]:
    if config.bands is not None and config.rows is not None:
        return config.bands, config.rows
    return bands_and_rows(config.threshold, config.num_hashes)


@lru_cache(maxsize=4)
def _permutations(count: int, seed: int) -> tuple[Hashes, Hashes]:
    numbers = mix(np.arange(2 * count, dtype=np.uint64) + np.uint64(BASE) * np.uint64(seed + 1))
    return numbers[:count, None] | np.uint64(1), numbers[count:, None]


def shingles(text: str, ngram_size: int) -> Hashes:
    """Return hashes of a text's word n-grams, lower case and without punctuation; a shorter text is one n-gram."""
    words = Words.of(text.lower())
    hashes = words.hashes[words.alphanumeric]
    return ngram_hashes(hashes, max(1, min(ngram_size, len(hashes))))


def signature(text: str, config: MinHash = MinHash()) -> Hashes:
    """Return the least value of each hash function over a text's n-grams.

    Args:
        text: Any text.
        config: Size of n-grams, banding, seed.

    Returns:
        `bands * rows` numbers; the share of equal ones between two texts estimates their Jaccard similarity. None at
        all for a text without words.
    """
    grams = shingles(text, config.ngram_size)
    bands, rows = _banding(config)
    factors, offsets = _permutations(bands * rows, config.seed)
    if not len(grams):
        return np.zeros(0, dtype=np.uint64)
    parts = [
        (grams[start : start + SHINGLES_AT_ONCE] * factors + offsets).min(axis=1)
        for start in range(0, len(grams), SHINGLES_AT_ONCE)
    ]
    return np.minimum.reduce(parts)


def band_hashes(signature: Hashes, config: MinHash) -> Hashes:
    """Return one hash per band; two texts are candidates where one of them is equal.

    Args:
        signature: Of a text.
        config: Banding.

    Returns:
        As many numbers as bands, none for an empty signature.
    """
    bands, rows = _banding(config)
    if not len(signature):
        return signature
    table = mix(signature).reshape(bands, rows)
    total = np.arange(bands, dtype=np.uint64)
    for column in range(rows):
        total = total * np.uint64(BASE) + table[:, column]
    return mix(total)


class Clusters:
    """Union-find over document numbers; the least of each cluster is its root.

    Example:
        >>> clusters = Clusters()
        >>> clusters.join(3, 5); clusters.join(5, 9)
        >>> clusters.root(9)
        3
    """

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}

    def root(self, number: int) -> int:
        """Return the least number of a cluster."""
        parents = self.parents
        while (parent := parents.get(number, number)) != number:
            parents[number] = parents.get(parent, parent)  # path halving
            number = parent
        return number

    def join(self, first: int, second: int) -> None:
        """Make two clusters one."""
        low, high = sorted((self.root(first), self.root(second)))
        self.parents[high] = low


def edges(rows: Rows) -> NDArray[np.uint64]:
    """Return pairs of documents with an equal band: each with the first of its group.

    Args:
        rows: Sorted rows, key the band's hash.

    Returns:
        [pairs, 2], a document as shard * 2**32 + number.
    """
    repeated, first = repeats(rows)
    names = (rows["shard"].astype(np.uint64) << np.uint64(32)) | rows["document"]
    pairs = np.stack([names[first[repeated]], names[repeated]], axis=1)
    return np.unique(pairs, axis=0) if len(pairs) else pairs


def duplicates_of(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return all documents but the first of each cluster, in order."""
    clusters = Clusters()
    for first, second in pairs.tolist():
        clusters.join(first, second)
    found = [number for number in clusters.parents if clusters.root(number) != number]
    return np.sort(np.array(found, dtype=np.uint64))


def minhash(documents: Iterable[Document], config: MinHash = MinHash()) -> Iterator[tuple[Document, str | None]]:
    """Keep the first document of every cluster of near-duplicates.

    All documents are held in memory; `dclm dedup minhash` does the same over shards of any size.

    Args:
        documents: In order.
        config: Threshold or banding, n-grams, seed.

    Yields:
        Each document with None, or `near_duplicate`.

    Example:
        >>> text = " ".join(map(str, range(100)))
        >>> [reason for _, reason in minhash([Document(text), Document(text + " end")])]
        [None, 'near_duplicate']
    """
    documents = list(documents)
    rows = [
        make_rows(band_hashes(signature(document.text, config), config), 0, 0, number)
        for number, document in enumerate(documents)
    ]
    table = np.concatenate(rows) if rows else make_rows(np.zeros(0, dtype=np.uint64), 0, 0, 0)
    table = table[np.lexsort([table["document"], table["key"]])]
    dropped = set(duplicates_of(edges(table)).tolist())
    for number, document in enumerate(documents):
        yield document, "near_duplicate" if number in dropped else None
