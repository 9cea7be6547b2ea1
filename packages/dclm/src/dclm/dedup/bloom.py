"""Deduplication with a Bloom filter of n-grams, as DCLM-Baseline was made (the authors' BFF).

A document is cut into paragraphs; each n-gram of a paragraph is looked up, the paragraph goes where more than 80 % of
them are known, and the document where more than 80 % of all are. What stays is put into the filter. The reference
sizes its filter by a number that the user guesses; too small a guess fills it, and nearly everything goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dclm.config import Bloom
from dclm.dedup.bloom_filter import BloomFilter
from dclm.document import Document
from dclm.words import Hashes, Words, ngram_hashes

__all__ = ["bloom", "count_ngrams", "deduplicate", "make_filter"]

CHECKS_PER_FILTER = 8  # looks at the filter's fill while the expected n-grams come in
COUNT_FIELD = "bff_contained_ngram_count_before_dedupe"  # the reference's name
SPANS_FIELD = "bloom_removed_spans"


@dataclass(frozen=True)
class Units:
    """Paragraphs of a text and their n-grams.

    Attributes:
        starts: First character of each paragraph; a line break belongs to the paragraph after it.
        grams: Hashes of all n-grams.
        owners: Paragraph of each n-gram, ascending.
        tokens: First token of each n-gram.
    """

    starts: NDArray[np.int64]
    grams: Hashes
    owners: NDArray[np.int64]
    tokens: NDArray[np.int64]


def cut_units(text: str, words: Words, config: Bloom) -> Units:
    """Cut a text into the units of the mode and hash their n-grams.

    Args:
        text: The text.
        words: Its words; a token never crosses a line break.
        config: Mode and sizes.

    Returns:
        Paragraphs (one for "document") with their n-grams.
    """
    if config.mode == "document":
        starts = np.zeros(1, dtype=np.int64)
    else:
        breaks = np.flatnonzero(words.characters.codes == ord("\n"))
        starts = np.r_[0, breaks[breaks > 0]]
    paragraph = np.searchsorted(starts, words.starts, side="right") - 1
    size = config.ngram_size
    grams = ngram_hashes(words.hashes, size)
    whole = paragraph[: len(grams)] == paragraph[size - 1 :]
    tokens = np.flatnonzero(whole)
    grams, owners = grams[tokens], paragraph[tokens]
    if config.min_ngram_size < size:
        grams, owners, tokens = _with_short(words.hashes, paragraph, config, (grams, owners, tokens))
    return Units(starts, grams, owners, tokens)


def _with_short(
    hashes: Hashes, paragraph: NDArray[np.int64], config: Bloom, found: tuple[Hashes, NDArray, NDArray]
) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """Add one n-gram for each paragraph that is too short for a full one but not too short for any."""
    counts = np.bincount(paragraph) if len(paragraph) else np.zeros(0, dtype=np.int64)
    short = np.flatnonzero((counts >= config.min_ngram_size) & (counts < config.ngram_size))
    first = np.searchsorted(paragraph, short)
    more = [
        ngram_hashes(hashes[at : at + counts[unit]], counts[unit])[0] for at, unit in zip(first, short, strict=True)
    ]
    grams, owners, tokens = found
    owners = np.r_[owners, short]
    order = np.argsort(owners, kind="stable")
    return np.r_[grams, np.array(more, dtype=np.uint64)][order], owners[order], np.r_[tokens, first][order]


def count_ngrams(documents: Iterable[Document], config: Bloom = Bloom()) -> int:
    """Return the number of n-grams in documents, repetitions included: what a filter must be sized for.

    Args:
        documents: Any documents.
        config: Mode and sizes.

    Returns:
        An upper bound of the different n-grams.
    """
    return sum(len(cut_units(document.text, document.words, config).grams) for document in documents)


def make_filter(config: Bloom, count: int) -> BloomFilter:
    """Return the filter that a stage starts with.

    Args:
        config: Rate, budget, seed, or a saved filter.
        count: n-grams to expect where `config.expected_ngrams` does not say.

    Raises:
        InputError: The budget is too small, or no saved filter is where it should be.
    """
    if config.saved_filter is not None:
        return BloomFilter.load(config.saved_filter)[0]
    expected = count if config.expected_ngrams is None else config.expected_ngrams
    return BloomFilter.for_count(expected, config.false_positive_rate, seed=config.seed, max_bytes=config.max_bytes)


def bloom(
    documents: Iterable[Document], config: Bloom = Bloom(), *, filter: BloomFilter | None = None
) -> Iterator[tuple[Document, str | None]]:
    """Remove what was seen before, in order.

    Without a filter the documents are kept in memory and counted first; over shards, `dclm dedup bloom` does the same
    in two passes. Kept documents gain `bff_contained_ngram_count_before_dedupe`; where something went, also
    `bloom_removed_spans`: start and end in the old text, and the share of known n-grams.

    Args:
        documents: Any documents.
        config: Mode and thresholds.
        filter: Goes on from here.

    Yields:
        Each document with None, or the reason: `bloom_document` (too much of it is known) or `bloom_empty` (all its
        paragraphs went). A dropped document keeps its text.

    Raises:
        SaturatedFilterError: More n-grams came than the filter was made for.

    Example:
        >>> text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        >>> [reason for _, reason in bloom([Document(text), Document(text)])]
        [None, 'bloom_document']
    """
    if filter is None:
        documents = list(documents)
        filter = make_filter(config, 0 if config.expected_ngrams else count_ngrams(documents, config))
    added, next_check = 0, _check_interval(filter)
    for document in documents:
        reason, new = deduplicate(document, filter, config)
        added += new
        if added >= next_check:
            filter.check()
            next_check = added + _check_interval(filter)
        yield document, reason
    filter.check()


def _check_interval(filter: BloomFilter) -> int:
    return max(1, int(filter.num_bits / filter.num_hashes / CHECKS_PER_FILTER))


def deduplicate(document: Document, filter: BloomFilter, config: Bloom) -> tuple[str | None, int]:
    """Judge one document against a filter and put what stays into it.

    Args:
        document: Its text and fields change where something goes.
        filter: Changes unless `config.update` is False.
        config: Mode and thresholds.

    Returns:
        The reason to drop it or None, and the number of n-grams that were put in.
    """
    units = cut_units(document.text, document.words, config)
    known, gone = _judge_units(units, filter, config)
    kept = units.grams if config.mode == "ngram" else units.grams[~gone[units.owners]]
    if config.update:
        filter.add(kept)
    contained = int(known.sum())
    document.fields[COUNT_FIELD] = contained
    spans = _spans(document, units, known, gone, config)
    if spans:
        document.fields[SPANS_FIELD] = spans
    if config.mode == "old-both" and contained > config.threshold * len(known):
        return "bloom_document", len(kept)
    if not spans:
        return None, len(kept)
    rest = cut_spans(document.text, spans)
    if not rest.strip():
        return "bloom_document" if config.mode == "document" else "bloom_empty", len(kept)
    document.text = rest
    return None, len(kept)


def _judge_units(units: Units, filter: BloomFilter, config: Bloom) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which n-grams are known, and which paragraphs go.

    Paragraphs are judged one after the other, and those that stay count as known for the ones after them. Only
    n-grams that come twice in the document can differ by that, so the loop runs only where there are some.
    """
    known = filter.contains(units.grams)
    num_units = len(units.starts)
    totals = np.bincount(units.owners, minlength=num_units)
    unique, identity = np.unique(units.grams, return_inverse=True)
    if len(unique) < len(units.grams) and config.update:
        _know_own(units.owners, identity, known, totals, config)
    hits = np.bincount(units.owners, weights=known, minlength=num_units)
    return known, hits > config.threshold * totals


def _know_own(
    owners: NDArray[np.int64],
    identity: NDArray[np.int64],
    known: NDArray[np.bool_],
    totals: NDArray[np.int64],
    config: Bloom,
) -> None:
    """Mark n-grams that a paragraph before, if it stayed, has in the same document."""
    inserted = np.zeros(len(identity), dtype=bool)
    ends = np.cumsum(totals)
    for unit in np.unique(owners):
        span = slice(ends[unit] - totals[unit], ends[unit])
        known[span] |= inserted[identity[span]]
        if config.mode == "ngram" or known[span].sum() <= config.threshold * totals[unit]:
            inserted[identity[span]] = True


def _spans(
    document: Document, units: Units, known: NDArray[np.bool_], gone: NDArray[np.bool_], config: Bloom
) -> list[list[float]]:
    """Return start, end and share of known n-grams of everything that goes."""
    if config.mode == "ngram":
        return _known_spans(document.words, units, known, ngram_size=config.ngram_size)
    ends = np.r_[units.starts[1:], len(document.text)]
    hits = np.bincount(units.owners, weights=known, minlength=len(gone))
    totals = np.bincount(units.owners, minlength=len(gone))
    return [
        [int(units.starts[unit]), int(ends[unit]), round(float(hits[unit] / totals[unit]), 4)]
        for unit in np.flatnonzero(gone)
    ]


def _known_spans(words: Words, units: Units, known: NDArray[np.bool_], *, ngram_size: int) -> list[list[float]]:
    """Return the spans of tokens that known n-grams cover, neighbouring ones joined."""
    if not known.any():
        return []
    size = np.zeros(len(words) + 1, dtype=np.int64)
    first = units.tokens[known]
    last_token = np.searchsorted(words.starts, np.r_[units.starts[1:], len(words.text)])[units.owners[known]]
    length = np.minimum(ngram_size, last_token - first)
    np.add.at(size, first, 1)
    np.add.at(size, first + length, -1)
    return covered_spans(words, np.cumsum(size[:-1]) > 0)


def covered_spans(words: Words, covered: NDArray[np.bool_]) -> list[list[float]]:
    """Turn covered tokens into spans of characters, with the share 1 that says all of it is known."""
    edges = np.diff(np.r_[0, covered.astype(np.int8), 0])
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    starts, ends = words.starts[first].tolist(), words.ends[last].tolist()
    return [[start, end, 1.0] for start, end in zip(starts, ends, strict=True)]


def cut_spans(text: str, spans: list[list[float]]) -> str:
    """Return a text without some spans.

    Example:
        >>> cut_spans("to be or not", [[2, 5, 1.0]])
        'to or not'
    """
    pieces, last = [], 0
    for start, end, _ in spans:
        pieces.append(text[last : int(start)])
        last = int(end)
    return "".join([*pieces, text[last:]])
