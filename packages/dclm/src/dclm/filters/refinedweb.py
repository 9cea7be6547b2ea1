"""The paper's reproduction of RefinedWeb's rules: 26 steps in order, the first that fails is the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from dclm.config import RefinedWeb
from dclm.document import Document
from dclm.filters.lines import clean_lines
from dclm.filters.repetition import repetition
from dclm.filters.url import url_reason, without_urls
from dclm.language import FIELD, detect_language
from dclm.words import ALNUM, Characters

__all__ = ["refinedweb"]

NEWLINES = re.compile(r"\n{3,}")
LETTER = re.compile(r"[^\W\d_]")
SYMBOLS = ("#", "...", ". . .", "…")
BULLETS = ("●", "•", "*", "-")
ELLIPSES = ("...", ". . .", "…")
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
FASTTEXT_SPACE = np.isin(np.arange(128), [ord(character) for character in " \n\r\t\v\f\0"])


def refinedweb(
    documents: Iterable[Document], config: RefinedWeb = RefinedWeb()
) -> Iterator[tuple[Document, str | None]]:
    """Apply the 26 steps of the reference's `dclm_baseline_refinedweb.yaml` in its order.

    Kept documents lose URLs, runs of blank lines and the lines of steps 19-25, and gain `url`,
    `language_id_whole_page_fasttext` and `previous_word_count`. A dropped document is as it was when it failed.

    Differences with `compat=False`: URLs are removed wherever they stand (6), line breaks become blanks before the
    language is detected (8), "www." is a prefix (2), "Read more..." means three dots (24).

    Args:
        documents: With `text`; `url` or `metadata["WARC-Target-URI"]` for the rules on addresses.
        config: Thresholds; `skip_domains=CURATED_DOMAINS` gives `refinedweb.yaml`.

    Yields:
        Each document with None, or the name of the rule it failed.

    Example:
        >>> [reason for _, reason in refinedweb([Document("Zu kurz, und nicht auf Englisch geschrieben.")])]
        ['language']
    """
    for document in documents:
        yield document, _first_failure(document, config)


def _first_failure(document: Document, config: RefinedWeb) -> str | None:
    if url := document.url:
        document.fields["url"] = url
    reason = url_reason(url, config.banned_domains, skip_domains=config.skip_domains, compat=config.compat)  # steps 1-5
    return reason or _clean_text(document, config) or _quality(document, config) or _clean_page(document, config)


def _clean_text(document: Document, config: RefinedWeb) -> str | None:
    """Steps 6-9: URLs, blank lines, language."""
    text = NEWLINES.sub("\n\n", without_urls(document.text, compat=config.compat))
    if text != document.text:
        document.text = text
    if not text:
        return "only_urls"
    found = detect_language(text, model=config.language_model, compat=config.compat)
    document.fields[FIELD] = found
    return None if found.get(config.language, 0.0) > config.min_language_probability else "language"


def _quality(document: Document, config: RefinedWeb) -> str | None:
    """Steps 10-17: length, words, symbols, repetition."""
    count = count_words(document.text)
    if not config.min_words <= count <= config.max_words:
        return "page_length"
    document.fields["previous_word_count"] = count  # step 18; nothing changes the text until then
    return (
        _word_rules(document, config)
        or _line_rules(document.text, config)
        or _vocabulary_rules(document.spaced, config)
        or repetition(document.text, document.words, config.repetition)
    )


def count_words(text: str) -> int:
    """Return the number of words that start with a letter or digit, split as fastText splits."""
    characters = Characters(text)
    low = np.minimum(characters.codes, 127)
    space = FASTTEXT_SPACE.take(low)
    starts = ~space & np.append(True, space[:-1])
    return int(np.count_nonzero(starts & characters.flag(ALNUM)))


def _word_rules(document: Document, config: RefinedWeb) -> str | None:
    words, text = document.spaced, document.text
    mean = sum(map(len, words)) / len(words)
    if not config.min_word_length <= mean <= config.max_word_length:
        return "word_length"
    if sum(map(text.count, SYMBOLS)) / len(words) > config.max_symbol_ratio:
        return "symbol_ratio"
    return None


def _line_rules(text: str, config: RefinedWeb) -> str | None:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if sum(line.startswith(BULLETS) for line in lines) > config.max_bullet_lines * len(lines):
        return "bullet_lines"
    if sum(line.endswith(ELLIPSES) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "ellipsis_lines"
    return None


def _vocabulary_rules(words: list[str], config: RefinedWeb) -> str | None:
    without_letters = sum(1 for word in words if not word.isalpha() and not LETTER.search(word))
    if without_letters / len(words) > config.max_non_alphabetic:
        return "alphabetic_words"
    found = 0
    for word in words:
        found += word.lower() in STOP_WORDS
        if found >= config.min_stop_words:
            return None
    return "stop_words"


def _clean_page(document: Document, config: RefinedWeb) -> str | None:
    """Steps 19-26: lines go; the page goes too where that took too many words."""
    before = document.fields["previous_word_count"]
    text, emptied_by = clean_lines(document.text, config)
    if emptied_by:
        return emptied_by
    if text == document.text:
        return None
    removed = (before - count_words(text)) / before
    if removed > config.max_removed_words:
        return "removed_words"
    document.text = text
    return None
