"""Documents from and to files: JSON lines, parquet, WARC and WET."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from tenfold_shared.commands import InputError

from dclm.document import Document
from dclm.storage import bare_suffix, lines_of, open_compressed, open_for_reading, write_whole

__all__ = ["open_writer", "read_documents", "write_documents"]

PARQUET_ROWS = 1000
SCHEMA = pa.schema([("text", pa.string()), ("id", pa.string()), ("url", pa.string()), ("fields", pa.string())])


def read_documents(path: str) -> Iterator[Document]:
    """Read documents from one file.

    Args:
        path: `.jsonl`, `.ndjson`, `.json` (lines), `.parquet`, `.warc` or `.wet`, the text kinds also with `.gz` or
            `.zst`; local or any address that fsspec knows.

    Yields:
        Documents in the file's order. Pages of a WARC come as bytes (`page`), with an empty text.

    Raises:
        InputError: The file is damaged, or a line is no object with a string `text`; with the line's number.
    """
    kind = bare_suffix(path)
    if kind == ".parquet":
        return _read_parquet(path)
    return _read_warc(path) if kind in (".warc", ".wet") else _read_lines(path)


def _read_lines(path: str) -> Iterator[Document]:
    with open_for_reading(path) as stream:
        for number, line in enumerate(lines_of(stream), start=1):
            if line.strip():
                yield _from_line(path, number, line)


def _from_line(path: str, number: int, line: bytes) -> Document:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is not JSON ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise InputError(f"{path}: line {number} is no object with a string `text`.")
    return Document(record.pop("text"), record)


def _read_parquet(path: str) -> Iterator[Document]:
    with fsspec.open(path, "rb") as raw:
        try:
            file = pq.ParquetFile(raw)
            if "text" not in file.schema_arrow.names:
                raise InputError(f"{path}: no column `text`; found {', '.join(file.schema_arrow.names)}.")
            for batch in file.iter_batches(PARQUET_ROWS):
                yield from map(_from_row, batch.to_pylist())
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged ({error}).") from error


def _from_row(row: dict[str, Any]) -> Document:
    text = row.pop("text") or ""
    packed = row.pop("fields", None)
    fields = {name: value for name, value in row.items() if value is not None}
    return Document(text, fields | (json.loads(packed) if isinstance(packed, str) else {}))


def _read_warc(path: str) -> Iterator[Document]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.warcinfo
    with fsspec.open(path, "rb") as raw:
        info = None
        try:
            for record in ArchiveIterator(raw, record_types=wanted, parse_http=False):
                block = _whole_block(path, record)
                if record.record_type == WarcRecordType.warcinfo:
                    info = block.decode("utf-8", "replace")
                else:
                    yield _from_warc(record, block, info)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is no whole WARC file ({error}); download it again.") from error


def _whole_block(path: str, record: Any) -> bytes:
    """Read a record, refusing one that is shorter than it says or swallows the next."""
    block = record.reader.read()
    stated = record.headers.get("Content-Length")
    if stated is None or not stated.isdigit() or int(stated) != len(block):
        name = record.headers.get("WARC-Record-ID", "?")
        raise InputError(
            f"{path}: record {name} holds {len(block)} bytes, its Content-Length says {stated}; the file is cut short "
            "or damaged."
        )
    if b"\r\n\r\nWARC/1." in block:
        raise InputError(f"{path}: a record's Content-Length ({stated}) reaches into the next record.")
    return block


def _from_warc(record: Any, block: bytes, info: str | None) -> Document:
    metadata = {str(name): str(value) for name, value in record.headers.items()}
    fields: dict[str, Any] = {"id": metadata.get("WARC-Record-ID", ""), "url": metadata.get("WARC-Target-URI", "")}
    fields["metadata"] = metadata
    if info is not None:
        fields["warcinfo"] = info
    if metadata.get("WARC-Type") == "conversion":
        return Document(block.decode("utf-8", "replace"), fields)
    headers, _, body = block.partition(b"\r\n\r\n") if block.startswith(b"HTTP/") else (b"", b"", block)
    for line in headers.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            metadata["HTTP-Content-Type"] = value.strip()
    if body.startswith(b"\x1f\x8b"):  # a crawler that kept the transfer's compression
        with suppress(OSError, EOFError, zlib.error):
            body = gzip.decompress(body)
    return Document("", fields, page=body)


@contextmanager
def open_writer(path: str) -> Generator[Callable[[Document], None]]:
    """Open a file for documents; it appears under its name only when the block ends well.

    Equal documents give equal bytes.

    Args:
        path: `.jsonl` (also `.gz`, `.zst`) or `.parquet` (columns `text`, `id`, `url`; the rest as JSON in `fields`).

    Yields:
        A function that takes the next document.
    """
    with write_whole(path) as file:
        if path.endswith(".parquet"):
            with _ParquetRows(file) as rows:
                yield rows.write
            return
        with open_compressed(path, file) as stream:
            yield lambda document: _write_line(stream, document)


def write_documents(path: str, documents: Iterable[Document]) -> int:
    """Write documents to one file, whole or not at all.

    Args:
        path: As for `open_writer`.
        documents: What to write.

    Returns:
        How many were written.
    """
    count = 0
    with open_writer(path) as write:
        for document in documents:
            write(document)
            count += 1
    return count


def _write_line(stream: Any, document: Document) -> None:
    line = json.dumps(document.to_record(), ensure_ascii=False)
    stream.write(line.encode("utf-8", "replace") + b"\n")


class _ParquetRows:
    """Collects rows into groups of one size."""

    def __init__(self, file: Any) -> None:
        self.writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def write(self, document: Document) -> None:
        rest = dict(document.fields)
        named = {name: rest.pop(name) for name in ("id", "url") if isinstance(rest.get(name), str)}
        self.rows.append({"text": document.text, **named, "fields": json.dumps(rest, ensure_ascii=False)})
        if len(self.rows) == PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, SCHEMA))
        self.rows = []

    def __enter__(self) -> _ParquetRows:
        return self

    def __exit__(self, kind: object, *reason: object) -> None:
        if kind is None:
            self._flush()
        self.writer.close()
