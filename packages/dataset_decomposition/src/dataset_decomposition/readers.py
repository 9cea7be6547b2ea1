"""Documents out of files: JSON lines, parquet, text folders, webdataset shards, token arrays; or any iterable."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

DIST = "dataset-decomposition"
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.zstd", ".json.gz", ".json.zst", ".ndjson")
FORMATS = ".jsonl[.gz|.zst], .parquet, .tar, .txt, .npy, or a folder of .txt files"
Document = str | np.ndarray  # text, or token ids


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files of a corpus in the order in which they are read: folders are walked, sorted by name.

    Raises:
        FileNotFoundError: Nothing is there.
        InputError: A folder without text files, or a format that is not read.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and _format(p) is not None)
            if not found:
                raise InputError(f"{path} holds no file that can be read; expected {FORMATS}.")
            files += found
        elif not path.is_file():
            raise FileNotFoundError(f"no input at {path}; check the path.")
        elif _format(path) is None:
            raise InputError(f"{path} is of no format that can be read; expected {FORMATS}.")
        else:
            files.append(path)
    return files


def read_documents(source: Path | Iterable[Any], key: str, *, end_token: int = -1) -> Iterator[Document]:
    """Yield the documents of one file, or of an iterable such as a data set of the `datasets` library.

    Args:
        source: A file; or rows, each a text, token ids, or a mapping that has one of them under `key`.
        key: Field or column that holds the text or the token ids.
        end_token: Id after which a flat `.npy` array is cut into documents.

    Yields:
        Text, or token ids as an int64 array.

    Raises:
        InputError: Damaged, not UTF-8, or without the field; file and line are named.
    """
    if not isinstance(source, Path):
        yield from (_document(row, key, f"row {index}") for index, row in enumerate(source))
        return
    kind = _format(source)
    if kind == "json":
        yield from _read_json_lines(source, key)
    elif kind == "parquet":
        yield from _read_parquet(source, key)
    elif kind == "tar":
        yield from _read_tar(source, key)
    elif kind == "npy":
        yield from _read_npy(source, end_token)
    else:
        yield _decode(source.read_bytes(), str(source))


def _format(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(JSON_SUFFIXES):
        return "json"
    return {".parquet": "parquet", ".tar": "tar", ".npy": "npy", ".txt": "text", ".md": "text"}.get(path.suffix.lower())


def _document(row: Any, key: str, where: str) -> Document:
    """Take text or token ids out of a row."""
    if isinstance(row, Mapping):
        if key not in row:
            raise InputError(f"{where}: no field {key!r}; it has {', '.join(map(repr, sorted(row))) or 'none'}.")
        row = row[key]
    if isinstance(row, str):
        return row
    try:
        ids = np.asarray(row)
    except ValueError as error:
        raise InputError(f"{where}: neither text nor a list of token ids ({error}).") from error
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"{where}: {key!r} is neither text nor a list of token ids.")
    return ids.astype(np.int64)


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: invalid UTF-8 at byte {error.start} ({error.reason}); convert it first.") from error


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix in (".zst", ".zstd"):
        decoder = require_extra("zstandard", "data", DIST).ZstdDecompressor()
        return io.BufferedReader(decoder.stream_reader(open(path, "rb"), read_across_frames=True))
    return open(path, "rb")


def _read_json_lines(path: Path, key: str) -> Iterator[Document]:
    with _open(path) as file:
        number = 0
        while line := _read_line(file, path, number + 1):
            number += 1
            if line.isspace():
                continue
            where = f"{path}, line {number}"
            text = _decode(line, where)
            try:
                row = json.loads(text)
            except ValueError as error:
                raise InputError(f"{where}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected an object with the field {key!r}, found {type(row).__name__}.")
            yield _document(row, key, where)


def _read_line(file: io.BufferedIOBase, path: Path, number: int) -> bytes:
    """Read a line; a compressed file that ends early is the input's fault, and says so.

    A zstd frame cut at a block's end reads as a shorter file, so the last line has to end like one.
    """
    try:
        line = file.readline()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: damaged or cut off at line {number} ({error}); download it again.") from error
    if not line.endswith(b"\n") and path.suffix in (".zst", ".zstd") and not _zstd_is_whole(path):
        raise InputError(f"{path}: cut off after line {number - 1}; download it again.")
    return line


def _zstd_is_whole(path: Path) -> bool:
    """Whether the last frame ends: the high-level reader takes a missing end for the end of the file."""
    zstandard = require_extra("zstandard", "data", DIST)
    decoder, ended = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False), True
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            while block:
                decoder.decompress(block)
                ended, block = decoder.eof, decoder.unused_data
                if ended:
                    decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)
    return ended


def _read_parquet(path: Path, key: str) -> Iterator[Document]:
    parquet = require_extra("pyarrow.parquet", "data", DIST)
    arrow = require_extra("pyarrow", "data", DIST)
    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path} is damaged or no parquet file: {error}") from error
    if key not in file.schema_arrow.names:
        raise InputError(f"{path}: no column {key!r}; it has {', '.join(map(repr, file.schema_arrow.names))}.")
    with file:
        for batch in file.iter_batches(columns=[key], batch_size=1024):
            for value in batch.column(0):
                row = value.as_py()
                yield "" if row is None else _document(row, key, str(path))


def _read_tar(path: Path, key: str) -> Iterator[Document]:
    """Yield members of a webdataset shard: `.txt`, `.json` with the field, or token ids in `.npy`."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                suffix = Path(member.name).suffix
                file = archive.extractfile(member) if member.isfile() else None
                if file is None or suffix not in (".txt", ".json", ".npy"):
                    continue
                where, content = f"{path}:{member.name}", file.read()
                if suffix == ".npy":
                    yield _document(_load_npy(io.BytesIO(content), where), key, where)
                    continue
                text = _decode(content, where)
                yield text if suffix == ".txt" else _document(json.loads(text), key, where)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged tar archive ({error}); download it again.") from error


def _read_npy(path: Path, end_token: int) -> Iterator[np.ndarray]:
    """Yield the documents of a flat array of token ids, cut after each end token."""
    ids = _load_npy(path, str(path))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"{path}: expected one row of integers, found shape {ids.shape} of {ids.dtype}.")
    start = 0
    for end in (np.flatnonzero(ids == end_token) + 1).tolist():
        yield ids[start:end].astype(np.int64)
        start = end
    if start < len(ids):
        yield ids[start:].astype(np.int64)


def _load_npy(file: Path | io.BytesIO, where: str) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False, mmap_mode="r" if isinstance(file, os.PathLike) else None)
    except (ValueError, EOFError) as error:
        raise InputError(f"{where}: not a whole .npy array ({error}).") from error
