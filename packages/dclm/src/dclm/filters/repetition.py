"""How repetitive a text is: duplicated lines, and n-grams that come again, on hashes instead of strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dclm.config import Repetition
from dclm.words import Hashes, Words, ngram_hashes

__all__ = ["repetition"]

FEW_KEYS = 4  # compared one by one, which is faster than a search


def repetition(text: str, words: Words, limits: Repetition = Repetition()) -> str | None:
    """Apply Gopher's repetition rules as the paper's code defines them (massive_web_repetition_filters).

    A duplicated line or n-gram counts with all its occurrences, the first among them; shares are of the characters of
    words, so whitespace and punctuation count on neither side. The first rule that fails is the reason.

    Args:
        text: The document.
        words: Its words.
        limits: Thresholds; equality passes.

    Returns:
        `repeated_lines`, `repeated_paragraphs`, `repeated_line_characters`, `repeated_paragraph_characters`,
        `top_N_gram`, `repeated_N_grams`, or None.
    """
    segments = {"line": _segments(text, "\n"), "paragraph": _segments(text, "\n\n")}
    for kind, limit in (("line", limits.lines), ("paragraph", limits.paragraphs)):
        if not segments[kind] or _duplicated_share(segments[kind], by_characters=False) > limit:
            return f"repeated_{kind}s"
    for kind, limit in (("line", limits.line_characters), ("paragraph", limits.paragraph_characters)):
        if _duplicated_share(segments[kind], by_characters=True) > limit:
            return f"repeated_{kind}_characters"
    kept = words.alphanumeric
    return _ngram_rules(words.hashes[kept], words.lengths[kept], limits)


def _segments(text: str, separator: str) -> list[str]:
    return [stripped for part in text.split(separator) if (stripped := part.strip())]


def _duplicated_share(segments: list[str], *, by_characters: bool) -> float:
    """Share of segments (or of their characters) that stand there more than once; one alone is no repetition."""
    if len(segments) == 1 or len(set(segments)) == len(segments):
        return 0.0
    repeated = [(segment, count) for segment, count in Counter(segments).items() if count > 1]
    if by_characters:
        return sum(len(segment) * count for segment, count in repeated) / sum(map(len, segments))
    return sum(count for _, count in repeated) / len(segments)


def _ngram_rules(hashes: Hashes, lengths: NDArray[np.int64], limits: Repetition) -> str | None:
    total = int(lengths.sum())
    for size, limit in limits.top_ngrams:
        grams = ngram_hashes(hashes, size)
        count, common = most_common(grams)
        if count <= 1:
            break
        longest = int(ngram_lengths(lengths, size)[is_among(grams, common)].max())
        if count * longest / total > limit:
            return f"top_{size}_gram"
    return _covered_rules(hashes, lengths, limits.ngrams, total)


def _covered_rules(
    hashes: Hashes, lengths: NDArray[np.int64], limits: Sequence[tuple[int, float]], total: int
) -> str | None:
    """Check repeated n-grams; what longer ones cover lies within what shorter ones cover, which saves most work."""
    covered = float("inf")
    for size, limit in sorted(limits):
        if covered <= limit:
            continue
        repeated = repeated_grams(ngram_hashes(hashes, size))
        covered = covered_characters(repeated, lengths, size) / max(total, 1)
        if covered > limit:
            return f"repeated_{size}_grams"
    return None


def most_common(grams: Hashes) -> tuple[int, Hashes]:
    """Return the greatest count of any value, and all values with that count."""
    if not len(grams):
        return 0, grams
    ordered = np.sort(grams)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(starts, len(ordered)))
    count = int(counts.max())
    return count, ordered[starts[counts == count]]


def ngram_lengths(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the characters of every `size` neighbouring words."""
    running = np.concatenate(([0], np.cumsum(lengths)))
    return running[size:] - running[:-size]


def is_among(values: Hashes, keys: Hashes) -> NDArray[np.bool_]:
    """Return which values are among some sorted keys."""
    if not len(keys):
        return np.zeros(len(values), dtype=bool)
    if len(keys) <= FEW_KEYS:
        return np.logical_or.reduce([values == key for key in keys])
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return keys.take(at) == values


def repeated_grams(grams: Hashes) -> NDArray[np.bool_]:
    """Return which n-grams have more than one occurrence."""
    ordered = np.sort(grams)
    return is_among(grams, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))


def covered_characters(starts: NDArray[np.bool_], lengths: NDArray[np.int64], size: int) -> int:
    """Return the characters of words that lie in an n-gram with more than one occurrence."""
    if not starts.any():
        return 0
    change = np.zeros(len(lengths) + 1, dtype=np.int64)
    change[: len(starts)] += starts
    change[size : size + len(starts)] -= starts
    return int(lengths[np.cumsum(change[:-1]) > 0].sum())
