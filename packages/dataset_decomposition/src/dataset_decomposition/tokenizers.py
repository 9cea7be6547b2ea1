"""Any tokenizer behind one face: text to ids, its vocabulary, its own end-of-text token and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra, unknown_name
from tenfold_shared.tokenizers import ByteTokenizer

from dataset_decomposition.readers import DIST


@dataclass(frozen=True)
class TokenizerSpec:
    """Names a tokenizer, so that a worker process can load it again.

    Args:
        name: "bytes", a `tokenizer.json`, or a folder or hub name of a transformers tokenizer.
        end_token: Name of the end-of-text token, where the tokenizer itself does not say which it is.
    """

    name: str = "bytes"
    end_token: str | None = None

    def load(self) -> Tokenizer:
        """Load the tokenizer.

        Raises:
            InputError: It cannot be found or read, or has no end-of-text token.
        """
        if self.name == "bytes":
            return Tokenizer(_ByteEncoder(), 259, ByteTokenizer.eos_token_id, "bytes")
        path = Path(self.name)
        if path.is_dir() and (path / "tokenizer.json").is_file():
            return _from_file(path / "tokenizer.json", self.end_token or _configured_end(path))
        if path.is_file():
            return _from_file(path, self.end_token or _configured_end(path.parent))
        if path.suffix == ".json":
            raise FileNotFoundError(f"no tokenizer at {path}; check the path.")
        return _from_transformers(self.name, self.end_token)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as the store needs it.

    Args:
        encoder: Object with `encode_batch_fast(texts, add_special_tokens=False)`.
        vocab_size: Ids are below this.
        end_token: Id that ends every document.
        sha256: Fingerprint of its definition.
    """

    encoder: Any
    vocab_size: int
    end_token: int
    sha256: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return token ids of each text, with the end token."""
        encodings = self.encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        code = "H" if self.vocab_size <= 2**16 else "I"
        arrays = []
        for encoding in encodings:
            ids = array(code, encoding.ids)  # several times as fast from a list as numpy
            ids.append(self.end_token)
            arrays.append(np.frombuffer(ids, dtype=code))
        return arrays


@dataclass(frozen=True)
class _Ids:
    ids: list[int]


class _ByteEncoder:
    """UTF-8 bytes behind the method of the `tokenizers` library."""

    def encode_batch_fast(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[_Ids]:
        return [_Ids(list(text.encode("utf-8"))) for text in texts]


def _from_file(path: Path, end_token: str | None) -> Tokenizer:
    library = require_extra("tokenizers", "hf", "tenfold-shared")
    content = path.read_bytes()
    try:
        backend = library.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path} is not a tokenizer.json of the tokenizers library: {error}") from error
    return _build(backend, end_token, hashlib.sha256(content).hexdigest(), str(path))


def _from_transformers(name: str, end_token: str | None) -> Tokenizer:
    transformers = require_extra("transformers", "hf", DIST)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        backend = tokenizer.backend_tokenizer
    except Exception as error:
        raise InputError(
            f"cannot load the tokenizer {name!r} ({type(error).__name__}); name a tokenizer.json, a folder, or a hub "
            "name that is in the cache."
        ) from error
    digest = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return _build(backend, end_token or tokenizer.eos_token, digest, name)


def _build(backend: Any, end_token: str | None, digest: str, name: str) -> Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    if end_token is None:
        special = sorted(token.content for token in backend.get_added_tokens_decoder().values() if token.special)
        if len(special) != 1:
            raise InputError(
                f"{name} does not say which token ends a text; name it with --end-token"
                f" (special tokens: {', '.join(map(repr, special)) or 'none'})."
            )
        end_token = special[0]
    index = backend.token_to_id(end_token)
    if index is None:
        special = [token.content for token in backend.get_added_tokens_decoder().values()]
        raise unknown_name(f"end token of {name}", end_token, special)
    return Tokenizer(backend, backend.get_vocab_size(), index, digest)


def _configured_end(folder: Path) -> str | None:
    """Return the end token that a transformers folder names, if it does."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        token = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    return token.get("content") if isinstance(token, dict) else token
