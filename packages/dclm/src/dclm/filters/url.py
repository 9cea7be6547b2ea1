"""Rules on a page's URL, and removal of URLs from its text."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from tenfold_shared.commands import InputError

__all__ = ["url_reason", "without_urls"]

TAIL = r"[-a-zA-Z0-9()@:%_+.~#?&/=]*"
IPV4 = re.compile(r"\s{0,10}\b(?:(?:https?|ftp)://)?(?:[0-2]?[0-9]{1,2}\.){3}[0-2]?[0-9]{1,2}" + TAIL)
MAYBE_IPV4 = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
MAYBE_URL = re.compile(r"(?<!\S)[^\s.]*+\.\S+")
DOT_BEFORE_SMALL_LETTER = re.compile(r"\.[a-z]")
BLANKS = re.compile(r"\s{1,10}\Z")
MIN_SOFT_WORDS = 2


def _data_lines(name: str) -> list[str]:
    return resources.files("dclm").joinpath("data", name).read_text("utf-8").splitlines()


@lru_cache(maxsize=3)
def _word_pattern(name: str, whole_words: bool) -> re.Pattern[str]:
    words = trie_pattern(tuple(_data_lines(f"url_words_{name}.txt")))
    return re.compile(rf"\b(?:{words})\b" if whole_words else words)


@lru_cache(maxsize=4)
def _domains(path: str) -> frozenset[str]:
    try:
        return frozenset(Path(path).read_text("utf-8").lower().split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no list of domains at {path}: one domain per line, UTF-8.") from error


def url_reason(
    url: str, banned_domains: str | None = None, *, skip_domains: tuple[str, ...] = (), compat: bool = False
) -> str | None:
    """Judge a URL by RefinedWeb's lists (steps 2-5).

    The domain is compared without its leading "www."; with `compat` every "www" is deleted and the dot stays, so that
    "www.example.com" never matches "example.com". The word lists are the authors' reconstruction (MIT).

    Args:
        url: The page's address; "" passes.
        banned_domains: File with one domain per line.
        skip_domains: Further domains.
        compat: Compare domains as the reference does.

    Returns:
        `banned_domain`, `curated_domain`, `url_strict_word`, `url_hard_word`, `url_soft_words`, or None.
    """
    url = url.lower()
    domain = _domain(url, compat)
    if banned_domains is not None and domain in _domains(banned_domains):
        return "banned_domain"
    if domain in skip_domains:
        return "curated_domain"
    if _word_pattern("strict", False).search(url.replace("-", "").replace(".", "")):
        return "url_strict_word"
    if _word_pattern("hard", True).search(url):
        return "url_hard_word"
    if len(set(_word_pattern("soft", True).findall(url))) >= MIN_SOFT_WORDS:
        return "url_soft_words"
    return None


def _domain(url: str, compat: bool) -> str:
    try:
        parts = urlsplit(url)
        return parts.netloc.replace("www", "") if compat else (parts.hostname or "").removeprefix("www.")
    except ValueError:  # such as an address in broken brackets
        return ""


def trie_pattern(words: tuple[str, ...]) -> str:
    """Return a pattern that matches any of many words without trying each.

    Of several that fit at one place, the longest is tried first.
    """
    tree: dict = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branch(tree)


def _branch(node: dict) -> str:
    branches = [re.escape(character) + _branch(below) for character, below in sorted(node.items()) if character]
    joined = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})" if branches else ""
    return f"(?:{joined})?" if "" in node and joined else joined


@lru_cache(maxsize=1)
def _tlds() -> str:
    return trie_pattern(tuple(_data_lines("tlds.txt")))


@lru_cache(maxsize=1)
def _url() -> re.Pattern[str]:
    host = r"(?:(?:https?|ftp)://)?[-a-zA-Z0-9@:%._+~#=]{1,256}\."
    return re.compile(rf"{host}(?:{_tlds()})\b{TAIL}")


@lru_cache(maxsize=1)
def _starts_with_tld() -> re.Pattern[str]:
    return re.compile(_tlds(), re.IGNORECASE)


def without_urls(text: str, *, compat: bool = False) -> str:
    """Delete URLs and IPv4 addresses with up to ten blanks before them (step 6).

    The reference tests for a top-level domain at the very start of the text, so that URLs go only where a text happens
    to begin with letters such as "in" or "to"; `compat` repeats that.

    Args:
        text: Any text.
        compat: Repeat the reference's defect.

    Returns:
        The text without them.

    Example:
        >>> without_urls("See https://example.com/a?b=1 and 10.0.0.1 there")
        'See and there'
    """
    if not compat or _starts_with_tld().match(text):
        text = _cut_urls(text)
    return IPV4.sub("", text) if MAYBE_IPV4.search(text) else text


def _cut_urls(text: str) -> str:
    """Look for URLs in words with a dot only; a word that starts with one takes the blanks before it along."""
    pieces, last = [], 0
    for match in MAYBE_URL.finditer(text):
        word = match.group()
        rest = _url().sub("", word) if DOT_BEFORE_SMALL_LETTER.search(word) else word
        if rest == word:
            continue
        before = text[last : match.start()]
        pieces += [BLANKS.sub("", before) if _url().match(word) else before, rest]
        last = match.end()
    return "".join([*pieces, text[last:]]) if pieces else text
