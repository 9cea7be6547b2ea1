"""Text to token ids: CLIP's byte-pair encoding, plain bytes, and files of the `tokenizers` library."""

from __future__ import annotations

import functools
import gzip
import heapq
import html
import itertools
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from tenfold_shared.commands import require_extra

__all__ = ["ByteTokenizer", "ClipTokenizer", "FileTokenizer"]

_DIST = "tenfold-shared"
_SPECIAL = {"<start_of_text>": 49406, "<end_of_text>": 49407}
_NUM_SYMBOLS = 512  # every byte inside a word, then every byte that ends one
# CLIP's split into words (clip/simple_tokenizer.py), with open_clip's spelling of the special tokens.
_WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MAX_CACHED_CHARACTERS = 64


class ClipTokenizer:
    """CLIP's tokenizer: lower-cased byte-pair encoding with 49,408 tokens (Radford et al. 2021, 2.4).

    Gives open_clip's ids. Needs the extra `clip`.

    Example:
        >>> tokenizer = ClipTokenizer()
        >>> tokenizer.encode("A diagram")
        [320, 22697]
        >>> tokenizer(["a dog", "a cat"]).shape
        (2, 77)
    """

    vocab_size = 49408
    sot_token_id = _SPECIAL["<start_of_text>"]
    eot_token_id = _SPECIAL["<end_of_text>"]

    def __init__(self, context_length: int = 77) -> None:
        """Make a tokenizer whose rows are `context_length` ids long, at least 2."""
        self.context_length = _checked_length(context_length)
        self._fix_text = require_extra("ftfy", "clip", _DIST).fix_text
        regex = require_extra("regex", "clip", _DIST)
        self._words = regex.compile(_WORDS, regex.IGNORECASE)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end."""
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a string, found {type(text).__name__}.")
        clean = html.unescape(html.unescape(self._fix_text(text)))
        clean = " ".join(clean.split()).lower()
        ids: list[int] = []
        for word in self._words.findall(clean):
            encode = _encode_word if len(word) <= _MAX_CACHED_CHARACTERS else _encode_word.__wrapped__
            ids.extend(encode(word))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the cleaned text of ids up to the first end token; start tokens are skipped."""
        pieces = _pieces()
        found = []
        for index in map(int, ids):
            if index == self.eot_token_id:
                break
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"token id {index} must be at least 0 and below {self.vocab_size}.")
            found.append(b"" if index == self.sot_token_id else pieces[index])
        return b"".join(found).decode("utf-8", errors="replace").rstrip()

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> np.ndarray:
        """Return one row per text: start, ids, end, zeros; a longer text loses its tail, never its end.

        Returns:
            int64 [texts, context_length]; `context_length` is the tokenizer's own unless told.
        """
        length = self.context_length if context_length is None else _checked_length(context_length)
        texts = [texts] if isinstance(texts, str) else texts
        rows = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.sot_token_id, *self.encode(text)[: length - 2], self.eot_token_id]
            row[: len(ids)] = ids
        return rows


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, then begin (256), end (257) and padding (258).

    Example:
        >>> ByteTokenizer().encode("hé")
        [104, 195, 169]
    """

    bos_token_id, eos_token_id, pad_token_id = 256, 257, 258
    vocab_size = 259

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; special ids are left out, broken UTF-8 becomes U+FFFD."""
        return bytes(i for i in map(int, ids) if i < self.bos_token_id).decode("utf-8", errors="replace")


class FileTokenizer:
    """A `tokenizer.json` of the `tokenizers` library. Needs the extra `hf`."""

    def __init__(self, path: str | Path) -> None:
        """Read the file; a ValueError says that it is no tokenizer file."""
        library = require_extra("tokenizers", "hf", _DIST)
        text = Path(path).read_bytes()
        try:
            self._tokenizer = library.Tokenizer.from_buffer(text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer.json of the tokenizers library ({error}).") from error
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids])


def _checked_length(context_length: int) -> int:
    if context_length < 2:
        raise ValueError(f"`context_length` (={context_length}) must be at least 2, for start and end.")
    return context_length


@functools.lru_cache(maxsize=2**16)
def _encode_word(word: str) -> tuple[int, ...]:
    if word in _SPECIAL:
        return (_SPECIAL[word],)
    symbols = _symbol_of_byte()
    ids = [symbols[byte] for byte in word.encode("utf-8")]
    ids[-1] += _NUM_SYMBOLS // 2
    return _merge_pairs(ids)


def _merge_pairs(ids: list[int]) -> tuple[int, ...]:
    """Merge neighbours, the earliest learned pair first and from left to right.

    A linked list and a heap, so that a hostile word of a megabyte costs n log n and not n squared.
    """
    merges, size = _merges(), len(ids)
    ids = [*ids, -1]  # -1 is no symbol: the end, and the right half of a merged pair
    before, after = list(range(-1, size)), list(range(1, size + 2))
    heap = [(merges[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in merges]
    heapq.heapify(heap)
    while heap:
        merged, i = heapq.heappop(heap)
        j = after[i]
        if merges.get((ids[i], ids[j])) != merged:
            continue  # one of the two has been merged since
        ids[i], ids[j] = merged, -1
        after[i], before[after[j]] = after[j], i
        for k in (before[i], i):
            if k >= 0 and (pair := (ids[k], ids[after[k]])) in merges:
                heapq.heappush(heap, (merges[pair], k))
    return tuple(index for index in ids if index >= 0)


@functools.cache
def _symbol_of_byte() -> dict[int, int]:
    """CLIP numbers the printable Latin-1 bytes first, then the others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    return {byte: symbol for symbol, byte in enumerate(order)}


@functools.cache
def _merges() -> dict[tuple[int, int], int]:
    """The merged token of every pair; tokens are numbered in the order in which they were learned."""
    return {pair: _NUM_SYMBOLS + rank for rank, pair in enumerate(_learned_pairs())}


def _learned_pairs() -> list[tuple[int, int]]:
    """Read the vocabulary file, whose lines spell pairs with one printable character per byte."""
    data = resources.files("tenfold_shared").joinpath("data", "clip_merges.txt.gz").read_bytes()
    token = {_printable(byte): symbol for byte, symbol in _symbol_of_byte().items()}
    token |= {character + "</w>": symbol + _NUM_SYMBOLS // 2 for character, symbol in token.items()}
    pairs = []
    for line in gzip.decompress(data).decode("utf-8").splitlines():
        left, right = line.split(" ")
        pairs.append((token[left], token[right]))
        token[left + right] = len(token)
    return pairs


def _printable(byte: int) -> str:
    """The character that stands for a byte in the file: itself, or the next free one from U+0100."""
    symbol, num_printable = _symbol_of_byte()[byte], 188
    return chr(byte) if symbol < num_printable else chr(256 + symbol - num_printable)


@functools.cache
def _pieces() -> list[bytes]:
    """The bytes of every token but the special ones; a token that ends a word ends in a space."""
    pieces = [bytes([byte]) for byte in _symbol_of_byte()]
    pieces += [piece + b" " for piece in pieces]
    for left, right in _merges():
        pieces.append(pieces[left] + pieces[right])
    return pieces
