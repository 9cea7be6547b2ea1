"""C4's rules on lines and pages (Raffel et al. 2020, Sec. 2.2, and the authors' published code)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from tenfold_shared.commands import InputError

from dclm.config import C4
from dclm.document import Document
from dclm.filters.url import trie_pattern
from dclm.sentences import count_sentences

__all__ = ["c4"]

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
TERMINAL = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def c4(documents: Iterable[Document], config: C4 = C4()) -> Iterator[tuple[Document, str | None]]:
    """Keep lines that look like sentences, and pages that keep enough of them.

    Kept documents hold the kept lines only, without citation marks.

    Args:
        documents: Any documents.
        config: Thresholds.

    Yields:
        Each document with None, or the reason: `c4_page_length`, `c4_lorem_ipsum`, `c4_curly_bracket`,
        `c4_sentences`, `c4_bad_words`.

    Example:
        >>> [reason for _, reason in c4([Document("Lorem ipsum dolor sit amet, consectetur elit.")])]
        ['c4_lorem_ipsum']
    """
    for document in documents:
        yield document, _judge(document, config)


def _judge(document: Document, config: C4) -> str | None:
    if config.max_characters is not None and len(document.text) > config.max_characters:
        return "c4_page_length"
    kept: list[str] = []
    for raw in document.text.splitlines():
        line = raw.strip()
        if not _is_sentence_like(line, config):
            continue
        line = CITATION.sub("", line)
        lower = line.lower()
        if "lorem ipsum" in lower:
            return "c4_lorem_ipsum"
        if "javascript" in lower:
            continue
        if "{" in line:
            return "c4_curly_bracket"
        if not any(policy in lower for policy in POLICIES):
            kept.append(line)
    if sum(map(count_sentences, kept)) < config.min_sentences:
        return "c4_sentences"
    document.text = "\n".join(kept).strip()
    if config.bad_words is not None and _bad_words(config.bad_words).search(document.text.lower()):
        return "c4_bad_words"
    return None


def _is_sentence_like(line: str, config: C4) -> bool:
    """Whether a line ends as a sentence does and has enough words, none of them endless."""
    words = line.split()
    if any(len(word) > config.max_word_length for word in words):
        return False
    if config.terminal_punctuation:
        end = CITATION.sub("", line)
        if not end.endswith(TERMINAL) or end.endswith("..."):
            return False
    return len(words) >= config.min_line_words


@lru_cache(maxsize=4)
def _bad_words(path: str) -> re.Pattern[str]:
    try:
        words = [word.strip().lower() for word in Path(path).read_text("utf-8").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no list of words at {path}: one word or phrase per line, UTF-8.") from error
    return re.compile(rf"(?:\W|^)(?:{trie_pattern(tuple(words))})(?:\W|$)")
