"""A document on its way through the stages."""

from __future__ import annotations

import hashlib
from typing import Any

from dclm.words import Words

__all__ = ["Document"]


class Document:
    """A text with its fields; words are split once and shared by all stages until the text changes.

    Records are those of the DCLM pools: `text`, `url`, `metadata` and whatever stages add. Between a WARC and the
    extraction, `page` holds the raw bytes and `text` is empty.

    Args:
        text: Its text. Lone surrogates become U+FFFD, since no file could hold them.
        fields: All other fields of its record, in order.
        page: Raw page, where there is one.

    Example:
        >>> document = Document("To be, or not to be.", {"id": "hamlet"})
        >>> len(document.words)
        8
    """

    __slots__ = ("_spaced", "_text", "_words", "fields", "page")

    def __init__(self, text: str, fields: dict[str, Any] | None = None, page: bytes | None = None) -> None:
        self.fields = {} if fields is None else fields
        self.page = page
        self.text = text

    @property
    def text(self) -> str:
        """The text."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._text = text
        self._words: Words | None = None
        self._spaced: list[str] | None = None

    @property
    def words(self) -> Words:
        """UAX #29 words (punctuation among them)."""
        if self._words is None:
            self._words = Words.of(self._text)
        return self._words

    @property
    def spaced(self) -> list[str]:
        """Words between whitespace."""
        if self._spaced is None:
            self._spaced = self._text.split()
        return self._spaced

    @property
    def url(self) -> str:
        """Where it comes from; "" where nobody knows."""
        metadata = self.fields.get("metadata")
        own = metadata.get("WARC-Target-URI", "") if isinstance(metadata, dict) else ""
        return str(self.fields.get("url") or own or "")

    @property
    def name(self) -> str:
        """Its id, else its URL, else a hash of its text."""
        found = self.fields.get("id") or self.url
        return str(found or hashlib.blake2b(self._text.encode(), digest_size=8).hexdigest())

    def to_record(self) -> dict[str, Any]:
        """Return the text and all fields as one JSON object."""
        return {"text": self._text, **self.fields}
