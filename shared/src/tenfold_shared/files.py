"""Files that are whole at every moment, rows that survive a kill, and archives that stay in their folder."""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import os
import secrets
import shutil
import sys
import tarfile
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

__all__ = [
    "append_jsonl", "atomic_write", "cache_dir", "extract_tar", "plain_json", "read_jsonl", "write_json",
]  # fmt: skip


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: Literal["wb", "w"] = "wb") -> Generator[IO[Any]]:
    """Open a file for writing that takes its place only when the block ends well.

    Written beside the target, synced to disk, then renamed over it: a reader, a crash or a kill sees
    the old file or the new one. On an error the temporary file goes; a kill can leave it
    (`.NAME.*.tmp`). A link is followed, and an existing file keeps its permissions.

    The folder is made if need be. `"w"` is UTF-8 text.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_write(target, "w") as file:
        ...     _ = file.write("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"`mode` (={mode!r}) must be 'wb' or 'w'.")
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        with _create(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _create(path: Path, mode: str) -> IO[Any]:
    return open(path, "xb") if mode == "wb" else open(path, "x", encoding="utf-8", newline="\n")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be synced."""
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)


def plain_json(value: Any) -> Any:
    """Return a copy that JSON can hold: tuples as lists, nan and infinities as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain_json(item) for key, item in value.items()}
    return [plain_json(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: str | Path, obj: Any) -> None:
    """Write indented JSON atomically; nan, which JSON lacks, is a ValueError and touches nothing."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one row to a JSON-lines file; nan is a ValueError and touches nothing.

    A row that a kill tore (no newline at its end, not JSON) is dropped first, so that the file never
    holds a broken line in its middle. One writer at a time.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        _end_last_line(file)
        file.write(line.encode())


def _end_last_line(file: IO[bytes]) -> None:
    """Leave the file empty or ending in a newline: a torn tail goes, a whole row gets its newline."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    if _is_row(content[start:]):
        file.write(b"\n")
    else:
        file.truncate(start)


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file, without a last one that a kill tore.

    A broken line elsewhere is a ValueError with the line's number.
    """
    lines = Path(path).read_bytes().split(b"\n")
    if not _is_row(lines[-1]):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not _is_row(line):
            raise ValueError(f"{path}: line {number} is not a JSON object: {line[:60]!r}.")
    return [json.loads(line) for line in lines]


def cache_dir(*parts: str) -> Path:
    """Return a folder of the one cache of all Tenfold packages, made if need be.

    `TENFOLD_CACHE`, else `tenfold` in the user's cache folder (`XDG_CACHE_HOME`, `~/.cache`,
    `~/Library/Caches` on macOS). `parts` are folder names below it; one that would leave it is a
    ValueError.
    """
    for part in parts:
        if Path(part).is_absolute() or ".." in Path(part).parts:
            raise ValueError(f"cache folder {part!r} must be a plain relative name.")
    own = os.environ.get("TENFOLD_CACHE")
    user = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    root = Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME") or user) / "tenfold"
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def extract_tar(path: str | Path, dest: str | Path) -> None:
    """Extract plain files and folders of a tar archive, compressed or not, below a folder.

    All members are looked at before anything is written: an archive with a link, a device or a path
    that leaves the folder is refused whole. Python's "data" filter then drops owners and odd modes.

    Args:
        path: The archive.
        dest: Target folder, made if need be.

    Raises:
        ValueError: A hostile or damaged archive, in one sentence.
    """
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for member in members:
                _check_member(path, member)
            Path(dest).mkdir(parents=True, exist_ok=True)
            archive.extractall(dest, members, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # no such file, a full disk: not the archive's fault
        raise ValueError(f"{path}: not a whole tar archive ({error}); download it again.") from error


def _check_member(path: str | Path, member: tarfile.TarInfo) -> None:
    name = Path(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{path}: member {member.name!r} would leave the folder; nothing was extracted.")
    if not (member.isfile() or member.isdir()):
        raise ValueError(f"{path}: member {member.name!r} is a link or a device; nothing was extracted.")
