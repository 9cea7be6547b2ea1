"""One word splitter for every filter: UAX #29 word boundaries by array operations, run once per document.

A document's characters are looked up in one table (Word_Break class and a few properties, built from Unicode's data by
`tests/scripts/build_characters.py`), boundaries are found for all of them at once, and every token gets a 64-bit hash.
Filters count, compare and hash numbers; strings of tokens are only made where somebody asks for them.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

__all__ = ["Characters", "Words", "mix", "ngram_hashes", "split_words"]

CLASS_MASK = 31
ALPHA, ALNUM, SPACE, UPPER, DIGIT, PICTURE, PUNCTUATION, TERMINAL = (np.uint16(1 << bit) for bit in range(5, 13))
# The order of the classes in the table; the words are Unicode's.
(
    OTHER, CR, LF, NEWLINE, EXTEND, ZWJ, FORMAT, KATAKANA, HEBREW, LETTER, SINGLE_QUOTE, DOUBLE_QUOTE, MID_NUM_LET,
    MID_LETTER, MID_NUM, NUMERIC, EXTEND_NUM_LET, REGIONAL, SPACES,
) = range(19)  # fmt: skip
NUM_CLASSES = 32
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
POWERS_KEPT = 1 << 20

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]


@lru_cache(maxsize=1)
def _properties() -> NDArray[np.uint16]:
    packed = resources.files("dclm").joinpath("data", "characters.bin.xz").read_bytes()
    return np.frombuffer(lzma.decompress(packed), dtype="<u2")


@lru_cache(maxsize=1)
def _joined_pairs() -> NDArray[np.bool_]:
    """Return, for class of the left times 32 plus class of the right, whether there is no boundary between."""
    joined = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=bool)
    letters, bodies = (LETTER, HEBREW), (LETTER, HEBREW, NUMERIC, KATAKANA)
    joined[CR, LF] = True  # WB3
    joined[KATAKANA, KATAKANA] = joined[NUMERIC, NUMERIC] = True  # WB13, WB8
    joined[HEBREW, SINGLE_QUOTE] = joined[EXTEND_NUM_LET, EXTEND_NUM_LET] = True  # WB7a, WB13a
    for left in letters:
        joined[left, NUMERIC] = joined[NUMERIC, left] = True  # WB9, WB10
        joined[left, letters] = True  # WB5
    for body in bodies:
        joined[body, EXTEND_NUM_LET] = joined[EXTEND_NUM_LET, body] = True  # WB13a, WB13b
    return joined.ravel()


def _class_sets(*groups: tuple[int, ...]) -> tuple[NDArray[np.bool_], ...]:
    return tuple(np.isin(np.arange(NUM_CLASSES), group) for group in groups)


_MIDDLE, _IS_LETTER, _MID_OF_LETTERS, _MID_OF_NUMBERS, _IGNORED, _ENDS_LINE = _class_sets(
    (MID_LETTER, MID_NUM_LET, SINGLE_QUOTE, MID_NUM, DOUBLE_QUOTE),
    (LETTER, HEBREW),
    (MID_LETTER, MID_NUM_LET, SINGLE_QUOTE),
    (MID_NUM, MID_NUM_LET, SINGLE_QUOTE),
    (EXTEND, FORMAT, ZWJ),
    (CR, LF, NEWLINE),
)


@lru_cache(maxsize=2)
def _powers(inverse: bool) -> Hashes:
    base = pow(BASE, -1, 1 << 64) if inverse else BASE
    factors = np.full(POWERS_KEPT, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def mix(values: Hashes) -> Hashes:
    """Spread 64-bit values over all bits (the finalizer of splitmix64); a new array.

    Example:
        >>> int(mix(np.array([1], dtype=np.uint64))[0])
        6238072747940578789
    """
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


class Characters:
    """A text as an array of code points with their properties.

    Args:
        text: Any string; lone surrogates count as characters without properties.

    Attributes:
        codes: Code points.
        properties: Word_Break class (low five bits) and flags per code point.
    """

    def __init__(self, text: str) -> None:
        if text.isascii():
            self.codes = np.frombuffer(text.encode(), dtype=np.uint8)
        else:
            self.codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        self.properties = _properties().take(self.codes)

    def flag(self, flag: np.uint16) -> NDArray[np.bool_]:
        """Return where a property (`ALPHA`, `SPACE`, ...) holds."""
        return (self.properties & flag) != 0

    @cached_property
    def boundaries(self) -> NDArray[np.int64]:
        """Starts of all UAX #29 segments, whitespace among them; the first is 0."""
        classes = (self.properties & np.uint16(CLASS_MASK)).astype(np.uint16)
        if _IGNORED.take(classes).any():
            return _boundaries_with_ignored(classes, self.flag(PICTURE))
        breaks = _breaks(classes)
        breaks[1:] &= ~((classes[1:] == SPACES) & (classes[:-1] == SPACES))  # WB3d
        return np.flatnonzero(breaks)


def _breaks(classes: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return whether a segment starts at each character, all of which count (WB4 has been applied)."""
    breaks = np.ones(len(classes), dtype=bool)
    pairs = classes[:-1] * np.uint16(NUM_CLASSES) + classes[1:]
    np.logical_not(_joined_pairs().take(pairs), out=breaks[1:])
    _join_across_middles(classes, breaks)
    _join_flags(classes, breaks)
    return breaks


def _join_across_middles(classes: NDArray[np.uint16], breaks: NDArray[np.bool_]) -> None:
    """WB6, WB7, WB7b, WB7c, WB11, WB12: one sign between two letters or two digits joins them."""
    at = np.flatnonzero(_MIDDLE.take(classes))
    at = at[(at > 0) & (at < len(classes) - 1)]
    if not len(at):
        return
    left, sign, right = classes[at - 1], classes[at], classes[at + 1]
    joins = _IS_LETTER.take(left) & _IS_LETTER.take(right) & _MID_OF_LETTERS.take(sign)
    joins |= (left == NUMERIC) & (right == NUMERIC) & _MID_OF_NUMBERS.take(sign)
    joins |= (left == HEBREW) & (right == HEBREW) & (sign == DOUBLE_QUOTE)
    breaks[at[joins]] = False
    breaks[at[joins] + 1] = False


def _join_flags(classes: NDArray[np.uint16], breaks: NDArray[np.bool_]) -> None:
    """WB15, WB16: regional indicators go in pairs, counted from the start of their run."""
    at = np.flatnonzero(classes == REGIONAL)
    if not len(at):
        return
    starts = np.flatnonzero(np.r_[True, np.diff(at) != 1])
    place = np.arange(len(at)) - np.repeat(starts, np.diff(np.r_[starts, len(at)]))
    breaks[at[place % 2 == 1]] = False


def _boundaries_with_ignored(classes: NDArray[np.uint16], picture: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Apply WB4 first: signs that extend a character go with it, wherever there is one."""
    previous = np.r_[np.uint16(LF), classes[:-1]]
    ignored = _IGNORED.take(classes)
    # A sign extends whatever stands before it, but not the start of the text or a line's end.
    run_start = ignored & ~np.r_[False, ignored[:-1]]
    at_line_start = run_start & _ENDS_LINE.take(previous)
    bases = np.flatnonzero(~ignored | at_line_start)
    base_classes = classes[bases]
    base_classes[_IGNORED.take(base_classes)] = OTHER
    breaks = _breaks(base_classes)
    before = previous[bases]
    breaks &= ~((before == ZWJ) & picture[bases])  # WB3c
    breaks[1:] &= ~((base_classes[1:] == SPACES) & (before[1:] == SPACES))  # WB3d
    return bases[breaks]


@dataclass(frozen=True)
class Words:
    """Tokens of one text: UAX #29 segments that are not whitespace.

    Attributes:
        text: The text they were cut from.
        characters: Its characters.
        starts: First character of each token.
        ends: One past its last.
    """

    text: str
    characters: Characters
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text."""
        characters = Characters(text)
        starts = characters.boundaries
        ends = np.append(starts[1:], len(characters.codes)) if len(starts) else starts
        tokens = ~characters.flag(SPACE).take(starts) if len(starts) else np.zeros(0, dtype=bool)
        return cls(text, characters, starts[tokens], ends[tokens])

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Characters of each token."""
        return self.ends - self.starts

    @cached_property
    def hashes(self) -> Hashes:
        """A 64-bit hash of each token's characters, the same on every machine."""
        return _hash_spans(self.characters.codes, self.starts, self.ends)

    @cached_property
    def alphanumeric(self) -> NDArray[np.bool_]:
        """Whether each token's first character is a letter or a digit (the reference's "word")."""
        return self.characters.flag(ALNUM).take(self.starts)

    def count(self, flag: np.uint16) -> NDArray[np.int64]:
        """Return how many characters of each token have a property."""
        return span_sums(self.characters.flag(flag), self.starts, self.ends)

    def strings(self) -> list[str]:
        """Return the tokens themselves."""
        return [self.text[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


def span_sums(values: NDArray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of `values` over each span, by one running sum."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=running[1:])
    return running.take(ends) - running.take(starts)


def _hash_spans(codes: Codes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """Hash spans of characters: a polynomial in an odd base modulo 2**64, by running sums, then mixed.

    Long texts are hashed in blocks, so that the table of powers stays small; the offset inside the block cancels.
    """
    if not len(starts):
        return np.zeros(0, dtype=np.uint64)
    hashes = np.empty(len(starts), dtype=np.uint64)
    first = 0
    while first < len(starts):
        offset = int(starts[first])
        last = int(np.searchsorted(ends, offset + POWERS_KEPT - 1, side="right"))
        last = max(last, first + 1)
        stop = min(int(ends[last - 1]), offset + POWERS_KEPT - 1)
        block = codes[offset:stop].astype(np.uint64)
        block += np.uint64(1)
        block *= _powers(False)[: len(block)]
        running = np.zeros(len(block) + 1, dtype=np.uint64)
        np.cumsum(block, out=running[1:])
        begin, end = starts[first:last] - offset, np.minimum(ends[first:last], stop) - offset
        hashes[first:last] = (running.take(end) - running.take(begin)) * _powers(True).take(begin)
        first = last
    return mix(hashes)


def ngram_hashes(hashes: Hashes, size: int) -> Hashes:
    """Return a 64-bit hash of every `size` neighbouring tokens.

    Args:
        hashes: Hashes of the tokens in order.
        size: Tokens per n-gram, at least 1.

    Returns:
        One value per n-gram, `len(hashes) - size + 1` of them, none for fewer tokens.

    Example:
        >>> len(ngram_hashes(Words.of("to be or not to be").hashes, 2))
        5
    """
    count = len(hashes) - size + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    total = hashes[:count].copy()
    for offset in range(1, size):
        total *= np.uint64(BASE)
        total += hashes[offset : offset + count]
    return mix(total)


def split_words(text: str) -> list[str]:
    """Split a text at UAX #29 word boundaries and leave out whitespace; punctuation counts as words.

    The default rules of Unicode Standard Annex #29, revision 43, as the reference's `uniseg` and Bloom filter use
    them. Without dictionaries: Thai, Lao and Chinese come out character by character.

    Args:
        text: Any text.

    Returns:
        The words in order.

    Example:
        >>> split_words("Can't stop: 3.14, e.g.")
        ["Can't", 'stop', ':', '3.14', ',', 'e.g', '.']
    """
    return Words.of(text).strings()
