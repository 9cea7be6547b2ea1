"""Line rules of the RefinedWeb reproduction (steps 19-25): lines go, pages stay."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dclm.config import RefinedWeb
from dclm.words import DIGIT, SPACE, UPPER, Characters, span_sums

__all__ = ["clean_lines"]

NOUNS = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
NOUN = re.compile(NOUNS)
COUNTER = re.compile(rf"^\W*\d[,.\d]*[kmb]?\s+(?:{NOUNS})\W*$")
MAX_SUBSTRING_WORDS = 10
LINE_FEED = 10
Rule = Callable[[str, RefinedWeb], str]


def clean_lines(text: str, config: RefinedWeb = RefinedWeb()) -> tuple[str, str | None]:
    """Remove lines of menus, counters and headings, in the reference's order.

    Args:
        text: A page.
        config: Thresholds of the rules.

    Returns:
        What is left, and the name of the rule after which nothing was left, else None.
    """
    for name, rule in RULES:
        text = rule(text, config)
        if not text:
            return "", name
    return text, None


def _line_shares(text: str, flag: np.uint16) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many characters of each line have a property, and its length."""
    characters = Characters(text)
    ends = np.flatnonzero(characters.codes == LINE_FEED)
    starts, ends = np.append(0, ends + 1), np.append(ends, len(characters.codes))
    return span_sums(characters.flag(flag), starts, ends), ends - starts


def _drop(text: str, dropped: NDArray[np.bool_]) -> str:
    if not dropped.any():
        return text
    return "\n".join(line for line, gone in zip(text.split("\n"), dropped.tolist(), strict=True) if not gone)


def _drop_capitals(text: str, config: RefinedWeb) -> str:
    count, length = _line_shares(text, UPPER)
    return _drop(text, count > config.max_uppercase * length).strip()


def _drop_numbers(text: str, config: RefinedWeb) -> str:
    count, length = _line_shares(text, DIGIT)
    return _drop(text, count > config.max_digits * length).strip()


def _drop_counters(text: str, config: RefinedWeb) -> str:
    if not NOUN.search(text.lower()):
        return text.strip()
    return "\n".join(line for line in text.split("\n") if not COUNTER.search(line.lower())).strip()


def _drop_short(text: str, config: RefinedWeb) -> str:
    """Drop lines of too few words; empty lines stay."""
    characters = Characters(text)
    space = characters.flag(SPACE)
    word_starts = ~space & np.append(True, space[:-1])
    ends = np.flatnonzero(characters.codes == LINE_FEED)
    starts, ends = np.append(0, ends + 1), np.append(ends, len(space))
    return _drop(text, (span_sums(word_starts, starts, ends) < config.min_line_words) & (ends > starts))


def _cut(phrase: str, pattern: str, wildcard: str | None = None) -> Rule:
    """Return the rule that cuts a phrase out of short lines; a line that is blank then goes.

    Args:
        phrase: Lower case, for a quick look whether the text has it at all.
        pattern: What is cut.
        wildcard: What `compat` cuts instead, where the reference's pattern says more than it means.
    """
    exact = re.compile(pattern, re.IGNORECASE)
    loose = exact if wildcard is None else re.compile(wildcard, re.IGNORECASE)

    def rule(text: str, config: RefinedWeb) -> str:
        if phrase not in text.lower():
            return text.strip()
        cut = loose if config.compat else exact
        return "\n".join(kept for line in text.split("\n") if (kept := _cut_line(cut, line)) is not None).strip()

    return rule


def _cut_line(cut: re.Pattern[str], line: str) -> str | None:
    if len(line.split()) > MAX_SUBSTRING_WORDS:
        return line
    rest = cut.sub("", line)
    return None if line and not rest.strip() else rest


RULES: tuple[tuple[str, Rule], ...] = (
    ("uppercase_lines", _drop_capitals),
    ("numeric_lines", _drop_numbers),
    ("counter_lines", _drop_counters),
    ("short_lines", _drop_short),
    ("items_in_cart", _cut("items in cart", r"\s?items in cart")),
    # The reference's dots are wildcards: "Read more now" loses three letters too many.
    ("read_more", _cut("read more", r"\s?read more\.\.\.$", r"\s?read more...$")),
    ("sign_in", _cut("sign-in", r"^sign-in\s?")),
)
