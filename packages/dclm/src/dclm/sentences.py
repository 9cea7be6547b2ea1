"""Where sentences end, by punctuation: enough to count them and to find a question's last one."""

from __future__ import annotations

import re

__all__ = ["count_sentences", "split_sentences"]

# A full stop after one capital or one of these words ends no sentence.
ABBREVIATIONS = "mr|mrs|ms|dr|prof|st|vs|e\\.g|i\\.e|cf|etc|al|fig|no|vol|pp|inc|ltd|jr|sr|approx|dept|est"
END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\sa-z])")
NO_END_INITIAL = re.compile(r"(?:^|\s)[A-Z]\.$")
NO_END_WORD = re.compile(rf"\b(?:{ABBREVIATIONS})\.$", re.IGNORECASE)


def split_sentences(text: str) -> list[str]:
    """Split a text after closing punctuation that is followed by something other than a small letter.

    Args:
        text: Any text.

    Returns:
        Sentences without surrounding blanks.

    Example:
        >>> split_sentences("Dr. Smith came. He saw! Did he win?")
        ['Dr. Smith came.', 'He saw!', 'Did he win?']
    """
    sentences, start = [], 0
    for match in END.finditer(text):
        before = text[max(start, match.start() - 12) : match.start()]
        if NO_END_INITIAL.search(before) or NO_END_WORD.search(before):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def count_sentences(text: str) -> int:
    """Return how many sentences a text has."""
    return len(split_sentences(text))
