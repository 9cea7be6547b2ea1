"""Gopher's quality and repetition rules with datatrove's definitions, on token hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dclm.config import Gopher, Repetition
from dclm.document import Document
from dclm.filters.repetition import covered_characters, is_among, most_common, ngram_lengths, repeated_grams
from dclm.words import ALPHA, PUNCTUATION, Hashes, Words, ngram_hashes

__all__ = ["gopher", "gopher_quality", "gopher_repetition"]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


def gopher(documents: Iterable[Document], config: Gopher = Gopher()) -> Iterator[tuple[Document, str | None]]:
    """Apply Gopher's quality rules, then its repetition rules, which take longer (Rae et al. 2021, Sec. A1.1).

    The definitions are those of datatrove, which FineWeb and others use; `refinedweb` has the paper's own. On equal
    words the decisions are datatrove's, but that we compare n-grams word by word where it compares their letters.

    Args:
        documents: Any documents.
        config: Thresholds.

    Yields:
        Each document with None, or the name of the first rule it failed.

    Example:
        >>> [reason for _, reason in gopher([Document("short")])]
        ['gopher_short_document']
    """
    for document in documents:
        reason = gopher_quality(document.text, document.words, config)
        yield document, reason or gopher_repetition(document.text, document.words, config.repetition)


def gopher_quality(text: str, words: Words, config: Gopher = Gopher()) -> str | None:
    """Return the first quality rule that a text fails, or None.

    Args:
        text: The text.
        words: Its words; those of punctuation only count in shares, not in the length.
        config: Thresholds.

    Returns:
        The rule's name, with `gopher_` before it.
    """
    lengths = words.lengths
    real = words.count(PUNCTUATION) < lengths
    count = int(np.count_nonzero(real))
    if count < max(config.min_words, 1):
        return "gopher_short_document"
    if count > config.max_words:
        return "gopher_long_document"
    mean = float(lengths[real].mean())
    if not config.min_word_length <= mean <= config.max_word_length:
        return "gopher_word_length"
    limit = config.max_symbol_ratio * len(words)
    if text.count("#") > limit:
        return "gopher_hashes"
    if text.count("...") + text.count("…") > limit:
        return "gopher_ellipses"
    return _line_rules(text.splitlines(), config) or _vocabulary_rules(words, config)


def _line_rules(lines: list[str], config: Gopher) -> str | None:
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) > config.max_bullet_lines * len(lines):
        return "gopher_bullet_lines"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "gopher_ellipsis_lines"
    return None


@lru_cache(maxsize=1)
def _stop_word_hashes() -> Hashes:
    return Words.of(" ".join(STOP_WORDS)).hashes


def _vocabulary_rules(words: Words, config: Gopher) -> str | None:
    if np.count_nonzero(words.count(ALPHA)) / len(words) < config.min_alphabetic:
        return "gopher_alphabetic_words"
    if sum(bool((words.hashes == stop).any()) for stop in _stop_word_hashes()) < config.min_stop_words:
        return "gopher_stop_words"
    return None


def gopher_repetition(text: str, words: Words, limits: Repetition = Repetition()) -> str | None:
    """Return the first repetition rule that a text fails, or None.

    Unlike `filters.repetition`, occurrences after the first count, and shares are of all characters of the text.

    Args:
        text: The text.
        words: Its words.
        limits: Thresholds.

    Returns:
        The rule's name, with `gopher_` before it.
    """
    if not text:
        return "gopher_empty"
    for kind, segments, share, characters in (
        ("paragraph", _paragraphs(text.strip()), limits.paragraphs, limits.paragraph_characters),
        ("line", _lines(text), limits.lines, limits.line_characters),
    ):
        count, length = duplicates(segments)
        if count / len(segments) > share:
            return f"gopher_repeated_{kind}s"
        if length / len(text) > characters:
            return f"gopher_repeated_{kind}_characters"
    return _ngram_rules(words.hashes, words.lengths, limits, len(text))


def _paragraphs(text: str) -> list[str]:
    """Split at two or more line breaks."""
    return [part for raw in text.split("\n\n") if (part := raw.lstrip("\n"))] or [""]


def _lines(text: str) -> list[str]:
    """Split at one or more line breaks; those at the text's ends leave an empty line each."""
    ends = [""] * (text.startswith("\n") + text.endswith("\n"))
    return [line for line in text.split("\n") if line] + ends


def duplicates(segments: list[str]) -> tuple[int, int]:
    """Return how many segments stood there before, and their characters."""
    unique = set(segments)
    return len(segments) - len(unique), sum(map(len, segments)) - sum(map(len, unique))


def _ngram_rules(hashes: Hashes, lengths: NDArray[np.int64], limits: Repetition, total: int) -> str | None:
    for size, limit in limits.top_ngrams:
        grams = ngram_hashes(hashes, size)
        count, common = most_common(grams)
        if not count:
            continue
        first = int(is_among(grams, common).argmax())  # of several equally common, the one that comes first
        spaces = size - 1
        if count * (int(lengths[first : first + size].sum()) + spaces) / total > limit:
            return f"gopher_top_{size}_gram"
    covered = float("inf")
    for size, limit in sorted(limits.ngrams):
        if covered <= limit * total:
            continue
        grams = ngram_hashes(hashes, size)
        repeated = repeated_grams(grams)
        # An upper bound of the count below, and itself falling with the size.
        covered = covered_characters(repeated, lengths, size)
        if covered > limit * total and _seen_characters(grams, repeated, lengths, size) / total > limit:
            return f"gopher_repeated_{size}_grams"
    return None


def _seen_characters(grams: Hashes, repeated: NDArray[np.bool_], lengths: NDArray[np.int64], size: int) -> int:
    """Characters of n-grams that were seen before, read from left to right without overlap."""
    places = np.flatnonzero(repeated)
    sizes = ngram_lengths(lengths, size)[places].tolist()
    seen: set[int] = set()
    total = free = 0
    for place, gram, length in zip(places.tolist(), grams[places].tolist(), sizes, strict=True):
        if place < free:
            continue
        if gram in seen:
            total += length
            free = place + size
        else:
            seen.add(gram)
    return total
