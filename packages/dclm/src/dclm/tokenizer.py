"""Tokenizers by name or file: GPT-NeoX where a hub or a file has it, GPT-2's byte pairs from this package, bytes."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError, require_extra

__all__ = ["Tokenizer", "load_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
NUM_BYTES = 256
# The ids of GPT-2's bytes: printable ones first, in their order, then all others.
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
HUB_HINT = "give a tokenizer.json, a folder with one, a name that the hub or its cache has, `gpt2` or `bytes`"


class Tokenizer:
    """Text to ids and back, with the id that ends a document.

    Args:
        name: As it was asked for.
        engine: A `tokenizers.Tokenizer`; None for plain bytes.
        end: Id after each document.
    """

    def __init__(self, name: str, engine: Any, end: int) -> None:
        self.name, self.engine, self.end_id = name, engine, end
        self.vocab_size: int = NUM_BYTES + 1 if engine is None else engine.get_vocab_size()
        if engine is not None:
            engine.encode_special_tokens = True  # a document that spells a special token does not get its id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special ones."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, on as many threads as the library takes."""
        if self.engine is None:
            return [list(text.encode("utf-8", "replace")) for text in texts]
        return [found.ids for found in self.engine.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ones are left out."""
        if self.engine is None:
            return bytes(value for value in map(int, ids) if value < NUM_BYTES).decode("utf-8", "replace")
        return self.engine.decode([int(value) for value in ids])

    @property
    def fingerprint(self) -> str:
        """Hash of its vocabulary and merges."""
        text = "bytes" if self.engine is None else self.engine.to_str()
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def load_tokenizer(name: str = "gpt2") -> Tokenizer:
    """Return a tokenizer.

    Args:
        name: `EleutherAI/gpt-neox-20b` (the paper's) or any name of the hub; a `tokenizer.json` or a folder with one;
            `gpt2`, which comes with this package and stands in for GPT-NeoX where there is no network; or `bytes`.

    Raises:
        InputError: There is none of that name, or it has no token that ends a document.

    Example:
        >>> load_tokenizer("gpt2").encode("Hello world")
        [15496, 995]
    """
    if name == "bytes":
        return Tokenizer(name, None, NUM_BYTES)
    library = require_extra("tokenizers", "train", "dclm")
    if name == "gpt2":
        return Tokenizer(name, _gpt2(library), 50_256)
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        if path.suffix == ".json":
            engine = library.Tokenizer.from_buffer(path.read_bytes())
        else:
            engine = library.Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"no tokenizer {name!r} ({str(error).splitlines()[0][:100]}); {HUB_HINT}.") from error
    end = engine.token_to_id(END_OF_TEXT)
    if end is None:
        raise InputError(f"the tokenizer {name!r} has no token {END_OF_TEXT}, which ends a document.")
    return Tokenizer(name, engine, end)


def _gpt2(library: Any) -> Any:
    """Build GPT-2's tokenizer from its merges: ids are bytes, then merges in order, then the end of a text."""
    packed = resources.files("dclm").joinpath("data", "gpt2.bpe.xz").read_bytes()
    lines = lzma.decompress(packed).decode("utf-8").split("\n")[1:]
    merges = [(pair[0], pair[1]) for line in lines if len(pair := line.split(" ")) == 2]
    rest = [byte for byte in range(NUM_BYTES) if byte not in PRINTABLE]
    symbols = [chr(byte) for byte in PRINTABLE] + [chr(NUM_BYTES + place) for place in range(len(rest))]
    words = symbols + [first + second for first, second in merges] + [END_OF_TEXT]
    vocabulary = {word: number for number, word in enumerate(words)}
    engine = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = library.decoders.ByteLevel()
    engine.add_special_tokens([END_OF_TEXT])
    return engine
