"""FineWeb's own quality rules (Penedo et al. 2024, Sec. 3.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dclm.config import FineWeb
from dclm.document import Document
from dclm.filters.gopher import duplicates
from dclm.words import TERMINAL, Characters

__all__ = ["fineweb"]


def fineweb(documents: Iterable[Document], config: FineWeb = FineWeb()) -> Iterator[tuple[Document, str | None]]:
    r"""Drop lists, menus and pages of repeated lines.

    Args:
        documents: Any documents.
        config: Thresholds.

    Yields:
        Each document with None, or the reason: `fineweb_empty`, `fineweb_line_punctuation`, `fineweb_short_lines`,
        `fineweb_repeated_lines`, `fineweb_lists`.

    Example:
        >>> [reason for _, reason in fineweb([Document("Home\nAbout\nContact")])]
        ['fineweb_line_punctuation']
    """
    for document in documents:
        yield document, _judge(document, config)


def _judge(document: Document, config: FineWeb) -> str | None:
    text = document.text
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "fineweb_empty"
    ends = Characters("".join(line[-1] for line in lines)).flag(TERMINAL)
    if ends.sum() / len(lines) < config.min_punctuated_lines:
        return "fineweb_line_punctuation"
    if sum(len(line) <= config.short_line_characters for line in lines) / len(lines) > config.max_short_lines:
        return "fineweb_short_lines"
    breaks = text.count("\n")
    if duplicates(lines)[1] / (len(text) - breaks) > config.max_duplicate_characters:
        return "fineweb_repeated_lines"
    if breaks / len(document.words) > config.max_newlines_per_word:
        return "fineweb_lists"
    return None
