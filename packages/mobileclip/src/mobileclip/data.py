"""Images and captions from webdataset tars, parquet files, or a folder with a CSV: good samples kept, bad ones counted.

A source is cut into units (one tar; so many rows of a table), each of which any worker can read on its own.
"""

from __future__ import annotations

import collections
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from tenfold_shared.commands import InputError

from mobileclip.preprocess import to_rgb

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# Names of columns, by what users and img2dataset call them.
IMAGE_COLUMNS = ("image", "jpg", "png", "bytes", "file", "filepath", "path", "filename")
CAPTION_COLUMNS = ("caption", "text", "txt", "title")
UID_COLUMNS = ("uid", "key", "id")
TAR_BLOCK = 512

Span = tuple[int, int]


@dataclass
class Tally:
    """How many samples were good, and how many were dropped for which reason, with the first of each.

    Args:
        kept: Good samples.
        dropped: Reason -> number.
        first: Reason -> the sentence about the first sample dropped for it.
    """

    kept: int = 0
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, sentence: str) -> None:
        """Count a bad sample."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, sentence)

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.first = {**other.first, **self.first}

    def sentence(self) -> str:
        """Return one sentence: what was kept, and what was dropped why, with the first of each kind."""
        reasons = "; ".join(f"{count} dropped: {name} ({self.first[name]})" for name, count in self.dropped.items())
        return f"{self.kept} samples kept" + (f"; {reasons}" if reasons else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"kept": self.kept, "dropped": dict(self.dropped), "first": dict(self.first)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Tally:
        """Read what `to_dict` returned."""
        return cls(fields["kept"], collections.Counter(fields["dropped"]), dict(fields["first"]))


@dataclass(frozen=True)
class Example:
    """One image with its caption, undecoded.

    Args:
        uid: Unique name; the key of the sample in a tar.
        image: File content, JPEG, PNG or WebP.
        caption: Non-empty text.
        url: Where the image came from; may be empty.
    """

    uid: str
    image: bytes
    caption: str
    url: str = ""

    def open(self) -> Image.Image:
        """Decode the image to RGB.

        Raises:
            InputError: The bytes are no readable picture.
        """
        return decode_image(self.image, self.uid)


@dataclass(frozen=True)
class Unit:
    """A part of a source that one worker reads at a time.

    Args:
        name: Name of the shard made from it.
        path: The tar, parquet or CSV file.
        start: First row (tables only).
        stop: One past the last row (tables only).
    """

    name: str
    path: Path
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class TarSample:
    """Where the members of one sample lie in a tar.

    Args:
        key: What their names share, up to the first dot.
        spans: Extension -> (offset, size) in bytes.
    """

    key: str
    spans: dict[str, Span]

    def read(self, file: io.BufferedIOBase, extension: str) -> bytes:
        """Return the content of one member."""
        offset, size = self.spans[extension]
        file.seek(offset)
        return file.read(size)


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode a picture to RGB.

    Args:
        content: A file's bytes.
        name: What the error message calls it.

    Raises:
        InputError: It is damaged or no picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return to_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"the image of {name} cannot be read ({error}).") from error


def list_units(source: str | Path, rows_per_unit: int = 1000) -> list[Unit]:
    """Cut a source into units.

    Args:
        source: A `.tar`, `.parquet` or `.csv` file, or a folder of tars, of parquet files, or with one CSV.
        rows_per_unit: Rows of a table per unit; a tar is one unit.

    Raises:
        FileNotFoundError: Nothing is there.
        InputError: The folder holds none of the three.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no data at {source}; check the path.")
    for suffix, count in ((".tar", None), (".parquet", _count_parquet), (".csv", _count_csv)):
        files = [source] if source.suffix == suffix else sorted(source.glob(f"*{suffix}")) if source.is_dir() else []
        if files and count is None:
            return [Unit(file.stem, file) for file in files]
        if files and count is not None:
            return list(_cut(files, count, rows_per_unit))
    raise InputError(f"{source} holds no .tar, .parquet or .csv file.")


def read_unit(unit: Unit, tally: Tally) -> Iterator[Example]:
    """Yield the good samples of a unit and count the bad ones; the caller counts what it keeps.

    Args:
        unit: One of `list_units`.
        tally: Gets what is dropped.
    """
    readers: dict[str, Callable[[Unit, Tally], Iterator[Example]]] = {
        ".tar": _read_tar,
        ".parquet": _read_parquet,
        ".csv": _read_csv,
    }
    return readers[unit.path.suffix](unit, tally)


def scan_tar(path: Path, tally: Tally) -> list[TarSample]:
    """Find the samples of a webdataset tar without reading their content.

    A damaged header is skipped up to the next whole one; names that would leave a folder, links and devices are
    dropped. Nothing is ever extracted to disk.

    Args:
        path: The tar, not compressed.
        tally: Gets what is dropped.
    """
    groups: dict[str, dict[str, Span]] = {}
    for member in _members(path, tally):
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
            tally.drop("unsafe name", f"{path.name}: member {member.name!r} would leave the folder or is a link")
        elif member.isfile() and "." in name.name:
            stem, _, extension = name.name.partition(".")
            key = str(name.with_name(stem)) if stem else str(name)
            groups.setdefault(key, {})[extension.lower()] = (member.offset_data, member.size)
    return [TarSample(key, spans) for key, spans in groups.items()]


def _members(path: Path, tally: Tally) -> Iterator[tarfile.TarInfo]:
    """Yield whole members; holes between them and a torn end are counted as damage."""
    size, start, expected = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while start < size:
            file.seek(start)
            try:
                with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as archive:
                    for member in archive:
                        if member.offset > expected:
                            _drop_damaged(path, expected, tally)
                        if member.offset_data + member.size > size:
                            _drop_damaged(path, member.offset, tally)
                            return
                        yield member
                        expected = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
                break
            except tarfile.TarError:
                # What `tarfile` cannot step over: look for the next header a block further on.
                start = max(start, expected) + TAR_BLOCK
        file.seek(expected)
        tail = file.read()
    # A whole archive ends in two blocks of zeros.
    if len(tail) < 2 * TAR_BLOCK or tail.strip(b"\0"):
        _drop_damaged(path, expected, tally)


def _drop_damaged(path: Path, offset: int, tally: Tally) -> None:
    tally.drop("damaged tar", f"{path.name} is damaged at byte {offset}")


def _read_tar(unit: Unit, tally: Tally) -> Iterator[Example]:
    with open(unit.path, "rb") as file:
        for found in scan_tar(unit.path, tally):
            extension = image_extension(found)
            where = f"{unit.path.name}: {found.key}"
            if extension is None:
                tally.drop("no image", f"{where} has no image")
            elif not (caption := _text(found, file, "txt")):
                tally.drop("no caption", f"{where} has no caption")
            else:
                yield Example(
                    read_uid(found, file), found.read(file, extension), caption, _text(found, file, "url.txt")
                )


def image_extension(found: TarSample) -> str | None:
    """Return the extension of a sample's image, None where it has none."""
    return next((name for name in IMAGE_EXTENSIONS if name in found.spans), None)


def read_uid(found: TarSample, file: io.BufferedIOBase) -> str:
    """Return a sample's uid: that of its metadata (img2dataset's `json`), else its key."""
    try:
        uid = str(json.loads(found.read(file, "json"))["uid"])
    except (KeyError, ValueError, TypeError):
        uid = ""
    return uid if is_safe(uid) else PurePosixPath(found.key).name


def is_safe(uid: str) -> bool:
    """Return whether a uid can name a member of a tar: no dot, no slash."""
    return bool(uid) and not set(uid) & set("./\\\0")


def _text(found: TarSample, file: io.BufferedIOBase, extension: str) -> str:
    return found.read(file, extension).decode("utf-8", "replace").strip() if extension in found.spans else ""


def _cut(files: list[Path], count: Callable[[Path], int], rows: int) -> Iterator[Unit]:
    """Name units by number over all files, as DataCompDR's shards are."""
    number = 0
    for file in files:
        total = count(file)
        for start in range(0, total, rows):
            yield Unit(f"{number:08d}", file, start, min(start + rows, total))
            number += 1


def _count_parquet(path: Path) -> int:
    return _open_parquet(path).metadata.num_rows


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a whole parquet file ({error}); download it again.") from error


def _read_parquet(unit: Unit, tally: Tally) -> Iterator[Example]:
    file = _open_parquet(unit.path)
    first = 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if first < unit.stop and last > unit.start:
            table = file.read_row_group(group).slice(max(0, unit.start - first), unit.stop - max(first, unit.start))
            for index, row in enumerate(table.to_pylist(), start=max(first, unit.start)):
                yield from _row_example(row, index, unit, tally)
        first = last


def _count_csv(path: Path) -> int:
    return len(_csv_rows(path))


@cache
def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}).") from error


def _read_csv(unit: Unit, tally: Tally) -> Iterator[Example]:
    for index, row in enumerate(_csv_rows(unit.path)[unit.start : unit.stop], start=unit.start):
        yield from _row_example(dict(row), index, unit, tally)


def _row_example(row: dict[str, Any], index: int, unit: Unit, tally: Tally) -> Iterator[Example]:
    """Yield the example of a table's row, or count why there is none."""
    where = f"{unit.path.name}: row {index}"
    caption = str(_first(row, CAPTION_COLUMNS) or "").strip()
    image = _first(row, IMAGE_COLUMNS)
    content = _image_bytes(image, unit.path.parent)
    uid = str(_first(row, UID_COLUMNS) or f"{unit.path.stem}-{index:08d}")
    if content is None:
        tally.drop("no image", f"{where} has no image{f' ({image})' if isinstance(image, str) else ''}")
    elif not caption:
        tally.drop("no caption", f"{where} has no caption")
    elif not is_safe(uid):
        tally.drop("unsafe name", f"{where}: uid {uid!r} cannot name a member of a tar")
    else:
        yield Example(uid, content, caption, str(row.get("url") or ""))


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _image_bytes(value: Any, folder: Path) -> bytes | None:
    """Return an image's content: bytes, the hub's {"bytes": ...}, or a file below `folder`."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None
    path = (folder / value).resolve()
    return path.read_bytes() if path.is_relative_to(folder.resolve()) and path.is_file() else None
