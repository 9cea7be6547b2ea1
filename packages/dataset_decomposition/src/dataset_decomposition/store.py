"""A corpus on disk: its tokens once, its buckets as indices into them, and a manifest that accounts for both.

tokens.bin              all documents one after the other, uint16 or uint32, little endian
documents-<hash>.npy    int64 [documents + 1]: first token of each document, then the end
D_<k>-<hash>.npy        int64 [pieces, 3]: row, first token, tokens
manifest.json           written last: what belongs together, with checksums
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from dataset_decomposition.config import IGNORED_LABEL, BucketConfig
from dataset_decomposition.decomposition import Plan, decompose

Array = np.ndarray
MANIFEST, TOKENS = "manifest.json", "tokens.bin"
SCHEMA = 1


@dataclass(frozen=True)
class Bucket:
    """The rows of one length.

    Args:
        length: Predicted tokens of a row.
        pieces: Row, first token and number of tokens of each piece, rows ascending [pieces, 3].
        num_rows: Rows; each has one piece unless tails were packed.
    """

    length: int
    pieces: Int[Array, "pieces 3"]
    num_rows: int


class TokenStore:
    """A tokenised corpus, and the buckets that were last made of it.

    Re-bucketing rewrites indices only; tokens stay. Every file but the manifest never changes once written, and the
    manifest is swapped in one step, so that a kill at any moment leaves the old buckets or the new ones.

    Args:
        path: Folder of `tokenize`, `import` or `write_store`.

    Raises:
        FileNotFoundError: There is no store.
        InputError: Manifest and files do not belong together.

    Example:
        >>> import tempfile
        >>> store = write_store(Path(tempfile.mkdtemp()), [np.arange(600)], vocab_size=600)
        >>> store.decompose(min_length=64, max_length=256).num_rows
        {64: 1, 128: 0, 256: 2}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self._check_sizes()

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        """Another process opens the store anew: tokens are never sent."""
        return TokenStore, (self.path,)

    @cached_property
    def tokens(self) -> Int[Array, " tokens"]:
        """All tokens, mapped from disk."""
        if not self.manifest["tokens"]:
            return np.zeros(0, dtype=self.dtype)
        # A plain array over the same pages: every slice of a memmap would cost a microsecond more.
        return np.memmap(self.path / TOKENS, dtype=self.dtype, mode="r").view(np.ndarray)

    @cached_property
    def offsets(self) -> Int[Array, " documents_and_end"]:
        """First token of each document, then the number of tokens."""
        return np.load(self.path / self.manifest["files"]["documents"]["name"], mmap_mode="r", allow_pickle=False)

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored token."""
        return np.dtype(self.manifest["dtype"])

    @property
    def lengths(self) -> Int[Array, " documents"]:
        """Tokens of each document, end token included."""
        return np.diff(self.offsets)

    @property
    def config(self) -> BucketConfig:
        """How the buckets were made.

        Raises:
            InputError: No buckets were made yet.
        """
        return BucketConfig(**self._decomposition["config"])

    @property
    def num_rows(self) -> dict[int, int]:
        """Rows of each bucket by length."""
        return {int(length): entry["rows"] for length, entry in self._decomposition["buckets"].items()}

    @property
    def _decomposition(self) -> dict[str, Any]:
        found = self.manifest["decomposition"]
        if found is None:
            raise InputError(f"{self.path} has no buckets yet; run: dataset-decomposition decompose {self.path}")
        return found

    def bucket(self, length: int) -> Bucket:
        """Return the bucket of rows of `length` tokens."""
        entry = self._decomposition["buckets"].get(str(length))
        if entry is None:
            raise InputError(f"{self.path} has no bucket of length {length}; it has {list(self.num_rows)}.")
        pieces = np.load(self.path / entry["name"], mmap_mode="r", allow_pickle=False)
        return Bucket(length, pieces.view(np.ndarray), entry["rows"])

    def decompose(self, **options: Any) -> TokenStore:
        """Cut the documents into buckets, replacing earlier ones; see `decompose` for the options."""
        config = BucketConfig(**options)
        plan = decompose(self.lengths, **dataclasses.asdict(config))
        self._write_buckets(plan, config)
        return self

    def _write_buckets(self, plan: Plan, config: BucketConfig) -> None:
        start = self.offsets[plan.doc] + plan.start if len(plan) else plan.start
        buckets = {}
        for length in config.bucket_lengths:
            found = np.flatnonzero(plan.length == length)
            found = found[np.argsort(plan.row[found], kind="stable")]
            pieces = np.stack([plan.row[found], start[found], plan.tokens[found]], axis=1)
            entry = _write_array(self.path, f"D_{length.bit_length() - 1}", pieces)
            rows = int(pieces[-1, 0]) + 1 if len(pieces) else 0
            buckets[str(length)] = {**entry, "rows": rows, "pieces": len(pieces), "tokens": int(pieces[:, 2].sum())}
        old = self.manifest["decomposition"]
        record = {"config": dataclasses.asdict(config), "dropped_tokens": plan.dropped_tokens, "buckets": buckets}
        self.manifest = {**self.manifest, "decomposition": record}
        write_json(self.path / MANIFEST, self.manifest)
        kept = {entry["name"] for entry in buckets.values()}
        for entry in (old or {"buckets": {}})["buckets"].values():
            if entry["name"] not in kept:
                (self.path / entry["name"]).unlink(missing_ok=True)

    def _check_sizes(self) -> None:
        """Compare sizes with the manifest: cheap, and finds files that were cut or exchanged."""
        for entry in self._entries():
            file = self.path / entry["name"]
            size = file.stat().st_size if file.is_file() else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise InputError(f"{file} {found}, the manifest says {entry['bytes']}; make the store again.")

    def _entries(self) -> list[dict[str, Any]]:
        found = self.manifest["decomposition"] or {"buckets": {}}
        return [*self.manifest["files"].values(), *found["buckets"].values()]

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and buckets, from the checksums of the manifest."""
        parts = [self.manifest["files"]["tokens"]["sha256"], self.manifest["decomposition"]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def verify(self) -> dict[str, int]:
        """Read everything and compare it with the manifest: checksums, ids, borders of documents, every token counted.

        Returns:
            What was counted: files, documents, tokens, pieces, dropped tokens.

        Raises:
            InputError: The first thing that does not hold.
        """
        for entry in self._entries():
            if _hash_file(self.path / entry["name"]) != entry["sha256"]:
                raise InputError(f"{self.path / entry['name']} differs from its checksum; make the store again.")
        self._check_ids()
        counts = {"files": len(self._entries()), "documents": len(self.lengths), "tokens": len(self.tokens)}
        if self.manifest["decomposition"] is None:
            return counts
        covered, pieces = self._check_pieces()
        dropped = len(self.tokens) - covered
        if dropped != self._decomposition["dropped_tokens"]:
            said = self._decomposition["dropped_tokens"]
            raise InputError(f"{self.path}: {dropped} tokens are in no piece, the manifest says {said}.")
        return {**counts, "pieces": pieces, "dropped_tokens": dropped}

    def _check_ids(self) -> None:
        vocab_size = self.manifest["tokenizer"]["vocab_size"]
        for start in range(0, len(self.tokens), 1 << 24):
            largest = int(self.tokens[start : start + (1 << 24)].max())
            if largest >= vocab_size:
                raise InputError(f"{self.path}: token id {largest} is not below the vocabulary's {vocab_size}.")

    def _check_pieces(self) -> tuple[int, int]:
        """Return covered tokens and pieces, after checking that no piece crosses a document or another piece."""
        all_pieces = np.concatenate([self.bucket(length).pieces for length in self.num_rows])
        order = np.argsort(all_pieces[:, 1], kind="stable")
        start, end = all_pieces[order, 1], all_pieces[order, 1:].sum(axis=1)
        doc = np.searchsorted(self.offsets, start, side="right") - 1
        if len(doc) and (end > self.offsets[doc + 1]).any():
            raise InputError(f"{self.path}: a piece crosses the end of its document; run decompose again.")
        shared = np.maximum(0, end[:-1] - start[1:])
        if len(shared) and shared.max() > self.config.overlap:
            raise InputError(f"{self.path}: pieces overlap by {shared.max()} tokens; run decompose again.")
        return int((end - start).sum() - shared.sum()), len(all_pieces)

    def rows(self, length: int, rows: Int[Array, " rows"]) -> dict[str, Array]:
        """Gather rows of one bucket.

        Args:
            length: The bucket.
            rows: Numbers of the rows [rows].

        Returns:
            `input_ids` and `labels` int64 [rows, length], labels being the next token (-100 where there is none);
            where tails were packed or padded (the shortest bucket) also `segments` [rows, length], equal within a
            document.
        """
        ragged = self.config.tail != "drop" and length == self.config.min_length
        return gather_rows(self.tokens, self.bucket(length), rows, ragged=ragged)


def gather_rows(
    tokens: Int[Array, " tokens"], bucket: Bucket, rows: Int[Array, " rows"], *, ragged: bool
) -> dict[str, Array]:
    """Gather rows of a bucket out of flat tokens; see `TokenStore.rows`."""
    if not ragged:  # one whole piece per row: row i is piece i
        starts = bucket.pieces[rows, 1]
        block = np.empty((len(rows), bucket.length + 1), dtype=np.int64)
        for target, start in zip(block, starts.tolist(), strict=True):
            target[:] = tokens[start : start + bucket.length + 1]
        return {"input_ids": block[:, :-1], "labels": block[:, 1:]}
    block = np.zeros((len(rows), bucket.length + 1), dtype=np.int64)
    segments = np.full(block.shape, -1, dtype=np.int64)
    first = np.searchsorted(bucket.pieces[:, 0], rows, side="left")
    last = np.searchsorted(bucket.pieces[:, 0], rows, side="right")
    for index in range(len(rows)):
        place = 0
        for number, (_, start, count) in enumerate(bucket.pieces[first[index] : last[index]].tolist()):
            block[index, place : place + count] = tokens[start : start + count]
            segments[index, place : place + count] = number
            place += count
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
    labels = np.where(same, block[:, 1:], IGNORED_LABEL)
    return {"input_ids": block[:, :-1], "labels": labels, "segments": segments[:, :-1]}


def write_store(
    path: str | Path, documents: Iterable[np.ndarray], *, vocab_size: int, tokenizer: dict[str, Any] | None = None
) -> TokenStore:
    """Write documents of token ids as a store, one after the other: memory holds one document and all lengths.

    Args:
        path: Folder, made if need be.
        documents: Token ids of each document, end token included.
        vocab_size: Ids must be below this.
        tokenizer: What the manifest says of the tokenizer.

    Raises:
        InputError: A token id is negative or not below `vocab_size`; nothing is left behind.
    """
    path, dtype, lengths = Path(path), np.dtype("<u2" if vocab_size <= 2**16 else "<u4"), []
    found = path.exists()
    try:
        with atomic_write(path / TOKENS) as file:
            for index, document in enumerate(documents):
                check_ids(document, vocab_size, f"document {index}")
                file.write(document.astype(dtype).tobytes())
                lengths.append(len(document))
    except BaseException:
        if not found and path.exists():
            path.rmdir()
        raise
    record = {"name": "none", "sha256": "", "end_token": None, **(tokenizer or {}), "vocab_size": vocab_size}
    return finish_store(path, np.array(lengths, dtype=np.int64), record, dtype)


def check_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
    """Refuse token ids outside the vocabulary with an InputError."""
    if ids.size and (int(ids.max()) >= vocab_size or int(ids.min()) < 0):
        bad = int(ids.max()) if int(ids.max()) >= vocab_size else int(ids.min())
        raise InputError(f"{where}: token id {bad} is outside the vocabulary of {vocab_size}; is it another tokenizer?")


def finish_store(
    path: Path, lengths: Array, tokenizer: dict[str, Any], dtype: np.dtype, *, empty: int = 0
) -> TokenStore:
    """Write index and manifest beside a whole `tokens.bin`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    histogram = np.bincount(np.frexp(np.maximum(lengths, 1).astype(np.float64))[1] - 1)
    manifest = {
        "schema": SCHEMA,
        "dtype": dtype.str,
        "documents": len(lengths),
        "empty_documents": empty,
        "tokens": int(lengths.sum()),
        "tokenizer": tokenizer,
        "length_histogram": {str(1 << k): int(count) for k, count in enumerate(histogram) if count},
        "files": {
            "tokens": {
                "name": TOKENS,
                "bytes": (path / TOKENS).stat().st_size,
                "sha256": _hash_file(path / TOKENS),
            },
            "documents": _write_array(path, "documents", offsets),
        },
        "decomposition": None,
    }
    write_json(path / MANIFEST, manifest)
    return TokenStore(path)


def _write_array(path: Path, stem: str, array: np.ndarray) -> dict[str, Any]:
    """Write an array under a name that holds its hash, so that it never has to be overwritten."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    name = f"{stem}-{digest[:12]}.npy"
    with atomic_write(path / name) as file:
        file.write(content)
    return {"name": name, "bytes": len(content), "sha256": digest}


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"no store at {path}; make one: dataset-decomposition tokenize INPUT --out {path}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise InputError(f"{file} is of schema {manifest['schema']}; this version reads {SCHEMA}.")
        names = [entry["name"] for entry in manifest["files"].values()]
        names += [entry["name"] for entry in (manifest["decomposition"] or {"buckets": {}})["buckets"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not the manifest of a store ({error}).") from error
    if any(Path(name).name != name for name in names):
        raise InputError(f"{file} names a file outside the store.")
    return manifest
