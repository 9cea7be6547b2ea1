"""Real pages to try things on: the pool inside this package, and larger ones from documentation packages."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

__all__ = ["build_pool", "sample_pool"]

MARKS = (b"<html", b"<!doctype html")
DATE = "2026-11-20T00:00:00Z"
MAX_PAGE_BYTES = 2_000_000


def sample_pool() -> list[str]:
    """Return the WARC files inside this package: about 4 MB of real documentation pages in many languages.

    Real pages, but not a crawl: `data/pool/SOURCES.md` says where they come from and under which licences.

    Returns:
        Paths, one per shard.
    """
    folder = resources.files("dclm").joinpath("data", "pool")
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith(".warc.gz"))


def find_pages(folder: Path) -> list[Path]:
    """Return the HTML files below a folder, whatever follows `.html` in their names, but not their links."""
    return sorted(
        path for path in folder.rglob("*.htm*") if path.is_file() and not path.is_symlink() and path.suffix != ".gz"
    )


def build_pool(
    folders: Sequence[Path],
    out: Path,
    *,
    num_shards: int = 5,
    pages_per_folder: int = 2000,
    max_bytes: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write WARC files of the HTML pages in some folders, such as unpacked documentation packages.

    Equal folders give equal bytes: pages are drawn by the seed, record ids are hashes, the date is fixed.

    Args:
        folders: Each is one site, named as the folder.
        out: Gets `pool-00000.warc.gz` and so on.
        num_shards: Number of files.
        pages_per_folder: Most pages of one folder.
        max_bytes: Of all files together; the same share for each folder.
        seed: Of the draw.

    Returns:
        Paths of the files.

    Raises:
        InputError: A folder without pages.
    """
    pages: list[tuple[str, bytes]] = []
    for folder in folders:
        budget = None if max_bytes is None else max_bytes // len(folders)
        pages += _draw(folder, pages_per_folder, budget, seed)
    random.Random(seed).shuffle(pages)
    paths = [out / f"pool-{shard:05d}.warc.gz" for shard in range(num_shards)]
    for shard, path in enumerate(paths):
        with atomic_write(path) as file:
            file.writelines(_records(pages[shard::num_shards]))
    return paths


def _draw(folder: Path, count: int, max_bytes: int | None, seed: int) -> list[tuple[str, bytes]]:
    """Return addresses and contents of pages drawn without replacement, as far as the budget of packed bytes goes."""
    found = find_pages(folder)
    if not found:
        raise InputError(f"no HTML pages below {folder}.")
    random.Random(f"{seed} {folder.name}").shuffle(found)
    drawn: list[tuple[str, bytes]] = []
    size = 0
    for path in found:
        content = path.read_bytes()
        if len(content) > MAX_PAGE_BYTES or not any(mark in content[:2000].lower() for mark in MARKS):
            continue
        packed = len(gzip.compress(content, mtime=0)) + 500  # headers
        if max_bytes is not None and (packed > max_bytes // 25 or size + packed > max_bytes):
            continue
        size += packed
        drawn.append((f"https://{folder.name}.docs.example/{path.relative_to(folder).as_posix()}", content))
        if len(drawn) == count:
            break
    return drawn


def _records(pages: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    info = b"software: dclm sample pool\r\nformat: WARC File Format 1.1\r\n"
    yield _record("warcinfo", None, info, "application/warc-fields")
    for url, content in pages:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(content)
        yield _record("response", url, head + content, "application/http; msgtype=response")


def _record(kind: str, url: str | None, block: bytes, content_type: str) -> bytes:
    digest = hashlib.sha256(f"{kind} {url} ".encode() + block).hexdigest()
    name = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    lines = ["WARC/1.1", f"WARC-Type: {kind}", f"WARC-Record-ID: <urn:uuid:{name}>", f"WARC-Date: {DATE}"]
    lines += [f"WARC-Target-URI: {url}"] if url else []
    lines += [f"Content-Type: {content_type}", f"Content-Length: {len(block)}", "", ""]
    return gzip.compress("\r\n".join(lines).encode() + block + b"\r\n\r\n", mtime=0)
