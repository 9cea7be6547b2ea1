"""HTML pages to text: resiliparse's main content, with the encoding detected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib.metadata import version

from tenfold_shared.commands import require_extra

from dclm.config import Extract
from dclm.document import Document

__all__ = ["decode_page", "extract"]

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
META_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
HEAD_BYTES = 4096
DETECTION_BYTES = 65536
MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def extract(documents: Iterable[Document], config: Extract = Extract()) -> Iterator[tuple[Document, str | None]]:
    """Turn raw pages into text.

    Documents that come with a text (JSON lines, parquet, WET) pass unchanged. The extractor and its version go into
    the field `extractor`, because another version gives another text.

    Args:
        documents: With `page` set where they come from a WARC.
        config: Which extractor, and what happens to pages that are not UTF-8.

    Yields:
        Each document and None, or the reason to drop it: `page_too_large`, `not_utf8` (compat only), `empty`.
    """
    to_text, name = _extractor(config.extractor)
    for document in documents:
        if document.page is None:
            too_large = len(document.text) > config.max_bytes
            yield document, "page_too_large" if too_large else None if document.text else "empty"
            continue
        reason = _extract_page(document, config, to_text)
        document.page = None
        document.fields["extractor"] = name
        yield document, reason


def _extract_page(document: Document, config: Extract, to_text: Callable[[str], str]) -> str | None:
    page = document.page or b""
    if len(page) > config.max_bytes:
        return "page_too_large"
    metadata = document.fields.get("metadata") or {}
    try:
        html = page.decode() if config.compat else decode_page(page, metadata.get("HTTP-Content-Type", ""))
    except UnicodeDecodeError:
        return "not_utf8"
    document.text = to_text(html)
    return None if document.text else "empty"


@lru_cache(maxsize=4)
def _extractor(name: str) -> tuple[Callable[[str], str], str]:
    """Return the extractor as a function, and its name with its version."""
    if name == "trafilatura":
        trafilatura = require_extra("trafilatura", "trafilatura", "dclm")
        return lambda html: trafilatura.extract(html) or "", f"trafilatura {version('trafilatura')}"
    from resiliparse.extract.html2text import extract_plain_text

    return lambda html: extract_plain_text(html, main_content=True), f"resiliparse {version('resiliparse')} main"


def decode_page(page: bytes, content_type: str = "") -> str:
    """Decode a page of any encoding.

    In this order: byte order mark, strict UTF-8, the charset of the HTTP header, that of the page itself, then
    resiliparse's detection. The reference drops every page that is not strict UTF-8.

    Args:
        page: Raw bytes.
        content_type: The HTTP header's value, such as "text/html; charset=windows-1251".

    Returns:
        Its text; bytes that fit no encoding become U+FFFD.

    Example:
        >>> decode_page("naïve".encode("latin-1"), "text/html; charset=iso-8859-1")
        'naïve'
    """
    for mark, encoding in MARKS:
        if page.startswith(mark):
            return page[len(mark) :].decode(encoding, "replace")
    try:
        return page.decode()
    except UnicodeDecodeError:
        pass
    for encoding in _stated_encodings(page, content_type):
        try:
            return page.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return bytes_to_str(page, detect_encoding(page[:DETECTION_BYTES]) or "windows-1252", "replace")


def _stated_encodings(page: bytes, content_type: str) -> Iterator[str]:
    if match := CHARSET.search(content_type):
        yield _web_name(match.group(1))
    if match := META_CHARSET.search(page[:HEAD_BYTES]):
        yield _web_name(match.group(1).decode("ascii", "replace"))


def _web_name(name: str) -> str:
    """What browsers read a label as: Latin-1 and ASCII mean Windows-1252 (WHATWG Encoding, Sec. 4.2)."""
    return "windows-1252" if name.lower() in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii") else name
