"""Repeated runs of tokens, cut out of all places but the first (the paper's "substring" deduplication, 50 tokens).

Every window of 50 tokens is hashed to 128 bits; a window that stood earlier in the corpus is cut. That finds what a
suffix array finds, in one sort of fixed-size rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dclm.config import Substring
from dclm.dedup.bloom import covered_spans, cut_spans
from dclm.document import Document
from dclm.words import Hashes, mix, ngram_hashes

__all__ = ["cut_windows", "substring", "window_hashes"]

SPANS_FIELD = "substring_removed_spans"


def window_hashes(document: Document, config: Substring) -> tuple[Hashes, Hashes]:
    """Return two independent hashes of every window of tokens.

    Args:
        document: Any document; one with fewer tokens than a window has none.
        config: Tokens per window.

    Returns:
        Keys and checks, one each per window.
    """
    hashes = document.words.hashes
    other = mix(hashes ^ np.uint64(0x5851F42D4C957F2D))
    return ngram_hashes(hashes, config.num_tokens), ngram_hashes(other, config.num_tokens)


def cut_windows(document: Document, windows: NDArray[np.int64], config: Substring) -> str | None:
    """Cut windows out of a document's text.

    Args:
        document: Its text changes; the field `substring_removed_spans` says what went.
        windows: Numbers of the windows' first tokens.
        config: Tokens per window.

    Returns:
        `substring_empty` where nothing is left, else None.
    """
    if not len(windows):
        return None
    change = np.zeros(len(document.words) + 1, dtype=np.int64)
    np.add.at(change, windows, 1)
    np.add.at(change, windows + config.num_tokens, -1)
    spans = covered_spans(document.words, np.cumsum(change[:-1]) > 0)
    document.fields[SPANS_FIELD] = [span[:2] for span in spans]
    rest = cut_spans(document.text, spans)
    if not rest.strip():
        return "substring_empty"
    document.text = rest
    return None


def substring(documents: Iterable[Document], config: Substring = Substring()) -> Iterator[tuple[Document, str | None]]:
    """Cut every run of at least `num_tokens` tokens that came before, in the same document or an earlier one.

    Args:
        documents: In order.
        config: Length of a run.

    Yields:
        Each document with None, or `substring_empty` (its text is then what it was).

    Example:
        >>> documents = [Document("a b c d e"), Document("x b c d y")]
        >>> [document.text for document, _ in substring(documents, Substring(num_tokens=3))]
        ['a b c d e', 'x  y']
    """
    seen: set[tuple[int, int]] = set()
    for document in documents:
        keys, checks = window_hashes(document, config)
        repeated = []
        for at, pair in enumerate(zip(keys.tolist(), checks.tolist(), strict=True)):
            if pair in seen:
                repeated.append(at)
            seen.add(pair)
        yield document, cut_windows(document, np.array(repeated, dtype=np.int64), config)
