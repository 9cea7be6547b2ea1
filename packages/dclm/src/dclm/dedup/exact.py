"""Exact duplicates, by text or by URL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np

from dclm.config import Exact
from dclm.document import Document

__all__ = ["document_key", "exact", "normalize_url"]

SCHEME = re.compile(r"^https?://(?:www\.)?", re.IGNORECASE)
TRACKING = re.compile(r"\?(?:utm_|ref|feed).*")


def normalize_url(url: str) -> str:
    """Return a URL without scheme, www, tracking parameters and a last slash.

    Example:
        >>> normalize_url("https://www.example.com/a/?utm_source=x")
        'example.com/a'
    """
    return TRACKING.sub("", SCHEME.sub("", url)).rstrip("/")


def document_key(document: Document, config: Exact) -> tuple[int, int] | None:
    """Return 128 bits of a document's text or URL; None for a document without a URL.

    Args:
        document: Any document.
        config: Which of the two.

    Returns:
        Two 64-bit numbers.
    """
    value = document.text if config.key == "text" else normalize_url(document.url)
    if config.key == "url" and not value:
        return None
    low, high = np.frombuffer(hashlib.blake2b(value.encode(), digest_size=16).digest(), dtype="<u8").tolist()
    return low, high


def exact(documents: Iterable[Document], config: Exact = Exact()) -> Iterator[tuple[Document, str | None]]:
    """Keep the first document of each text, or of each URL.

    Args:
        documents: In order; documents without a URL pass where URLs are compared.
        config: Text or URL.

    Yields:
        Each document with None, or `duplicate_text` or `duplicate_url`.

    Example:
        >>> [reason for _, reason in exact([Document("twice"), Document("twice")])]
        [None, 'duplicate_text']
    """
    seen: set[tuple[int, int]] = set()
    for document in documents:
        key = document_key(document, config)
        yield document, f"duplicate_{config.key}" if key in seen else None
        if key is not None:
            seen.add(key)
