"""Files anywhere fsspec reaches: listing, decompression by suffix, and writes that are whole or absent."""

from __future__ import annotations

import gzip
import secrets
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

__all__ = ["exists", "find_inputs", "is_local", "join", "open_compressed", "open_for_reading", "write_whole"]

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".warc", ".wet")
GZIP_LEVEL = 6


def bare_suffix(path: str) -> str:
    """Return the suffix that says what a file holds, without the one of its compression."""
    name = path.lower()
    for packed in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(packed)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def find_inputs(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Expand folders and patterns into files, in order of their names.

    Args:
        paths: Local paths or any address that fsspec knows (`s3://...`, `gs://...`).

    Returns:
        Full addresses of files; a folder gives those in it whose suffix is known.

    Raises:
        InputError: Nothing there, or a file of an unknown kind.
    """
    found: list[str] = []
    for path in paths:
        system, inner = url_to_fs(path)
        if system.isdir(inner):
            files = [name for name in sorted(system.find(inner)) if bare_suffix(name)]
        else:
            files = sorted(system.glob(inner)) if "*" in inner else [inner] if system.exists(inner) else []
        if not files:
            raise InputError(f"no documents at {path}; give files or folders of {', '.join(SUFFIXES)}.")
        if unknown := [name for name in files if not bare_suffix(name)]:
            raise InputError(f"{unknown[0]} is none of {', '.join(SUFFIXES)} (.gz and .zst may follow).")
        found += [system.unstrip_protocol(name) if not is_local(path) else name for name in files]
    return tuple(found)


def is_local(path: str) -> bool:
    """Return whether a path lies on this machine's own file system."""
    return isinstance(url_to_fs(path)[0], LocalFileSystem)


def exists(path: str) -> bool:
    """Return whether a file is there."""
    system, inner = url_to_fs(path)
    return system.exists(inner)


def join(folder: str, *names: str) -> str:
    """Return the address of something below a folder."""
    return "/".join([folder.rstrip("/"), *names])


@contextmanager
def open_for_reading(path: str) -> Generator[IO[bytes]]:
    """Open a file for reading, decompressed by its suffix; damage becomes one sentence."""
    try:
        with fsspec.open(path, "rb") as raw, _decompressed(path, raw) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); download it again.") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged ({error}); download it again.") from error
    except OSError as error:
        if "ZSTD" in str(error) or "zstd" in str(error):
            raise InputError(f"{path} is cut short or damaged ({error}); download it again.") from error
        raise


def _decompressed(path: str, raw: Any) -> Any:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if path.endswith((".zst", ".zstd")):
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return _Unclosed(raw)


class _Unclosed:
    """Lets a `with` block use a stream that its owner closes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __enter__(self) -> Any:
        return self.stream

    def __exit__(self, *reason: object) -> None:
        return None


def lines_of(stream: Any) -> Iterator[bytes]:
    """Yield lines of a stream, also of one that only knows `read`."""
    if hasattr(stream, "readline") and not isinstance(stream, pa.NativeFile):
        yield from stream
        return
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


@contextmanager
def write_whole(path: str) -> Generator[IO[bytes]]:
    """Open a file for writing that appears under its name only when the block ends well."""
    if is_local(path):
        with atomic_write(path) as file:
            yield file
        return
    system, inner = url_to_fs(path)
    system.makedirs(system._parent(inner), exist_ok=True)
    temporary = f"{inner}.{secrets.token_hex(4)}.tmp"
    try:
        with system.open(temporary, "wb") as file:
            yield file
        system.mv(temporary, inner)
    except BaseException:
        if system.exists(temporary):
            system.rm(temporary)
        raise


@contextmanager
def open_compressed(path: str, file: IO[bytes]) -> Generator[Any]:
    """Compress what is written to an open file by its suffix; equal content gives equal bytes."""
    if path.endswith(".gz"):
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as stream:
            yield stream
    elif path.endswith((".zst", ".zstd")):
        with pa.CompressedOutputStream(pa.PythonFile(_Kept(file), mode="w"), "zstd") as stream:
            yield stream
    else:
        yield file


class _Kept:
    """A file that Arrow may write to but not close: its owner still has to sync it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write
        self.flush = file.flush
        self.tell = file.tell

    def close(self) -> None:
        return None
