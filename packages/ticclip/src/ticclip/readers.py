"""Timestamped image-text data as a row of samples: webdataset tars without torch, parquet, and folders with a CSV."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

TIME_NAMES = ("time", "timestamp", "date", "datetime", "created", "taken", "year")
CAPTION_NAMES = ("caption", "text", "title")
IMAGE_NAMES = ("path", "image", "file", "filename")
IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_MILLISECONDS = 1e11  # epoch numbers above this are milliseconds


@dataclass(frozen=True)
class Sample:
    """One pair as its source has it.

    Args:
        name: uid or key.
        time: Timestamp as found; None where there is none.
        caption: Text.
        group: Items that must stay on one side of a split share it; empty for none.
        label: Class for zero-shot evaluation; empty for none.
        image: Encoded picture.
        file: File the picture lies in as a run of bytes, None for parquet, whose pictures are copied.
        offset: Where in that file.
    """

    name: str
    time: str | None
    caption: str
    group: str
    label: str
    image: bytes
    file: Path | None
    offset: int


def read_samples(source: Path, time_column: str | None = None) -> Iterator[Sample]:
    """Yield the samples of a tar, a parquet file, a CSV, or of every such file in a folder.

    Args:
        source: The file or folder.
        time_column: Field with the timestamp; by default the first of `TIME_NAMES` that there is.

    Raises:
        InputError: No such path, nothing to read in it, or a file without captions.
    """
    if not source.exists():
        raise InputError(f"no data at {source}; check the path.")
    files = sorted(p for p in source.rglob("*") if p.suffix in READERS) if source.is_dir() else [source]
    if not files or files[0].suffix not in READERS:
        raise InputError(f"{source}: expected {', '.join(READERS)} files, or a folder of them.")
    for file in files:
        yield from READERS[file.suffix](file, time_column)


def _read_tar(path: Path, time_column: str | None) -> Iterator[Sample]:
    """Members that share a name up to the first dot are one sample; pictures stay where they are."""
    try:
        with tarfile.open(path, "r:") as archive:
            group: dict[str, tarfile.TarInfo] = {}
            key = ""
            for member in archive:
                stem, _, end = member.name.rpartition("/")[2].partition(".")
                if not member.isfile() or not end:
                    continue
                if stem != key and group:
                    yield from _tar_sample(path, archive, key, group, time_column)
                    group = {}
                key = stem
                group["." + end.lower()] = member
            if group:
                yield from _tar_sample(path, archive, key, group, time_column)
    except tarfile.TarError as error:
        raise InputError(f"{path}: not a whole tar archive ({error}); download it again.") from error


def _tar_sample(
    path: Path, archive: tarfile.TarFile, key: str, group: Mapping[str, tarfile.TarInfo], time_column: str | None
) -> Iterator[Sample]:
    def content(end: str) -> bytes:
        file = archive.extractfile(group[end]) if end in group else None
        return file.read() if file else b""

    image = next((end for end in IMAGE_ENDS if end in group), None)
    if image is None:
        return
    try:
        fields = json.loads(content(".json") or b"{}")
    except ValueError:
        fields = {}
    fields = fields if isinstance(fields, dict) else {}
    caption = content(".txt").decode("utf-8", "replace") or str(_first(fields, CAPTION_NAMES) or "")
    yield Sample(
        name=str(fields.get("uid") or key),
        time=_time(fields, time_column),
        caption=caption,
        group=str(fields.get("group") or ""),
        label=content(".cls").decode() or str(fields.get("label") or ""),
        image=content(image),
        file=path,
        offset=group[image].offset_data,
    )


def _read_parquet(path: Path, time_column: str | None) -> Iterator[Sample]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: no parquet file ({error}).") from error
    _check_columns(path, table.schema_arrow.names)
    row = 0
    for batch in table.iter_batches(1024):
        for fields in batch.to_pylist():
            image = fields.get("image")
            image = image.get("bytes") if isinstance(image, dict) else image
            yield _sample(fields, f"{path.stem}-{row}", time_column, image or b"", None)
            row += 1


def _read_csv(path: Path, time_column: str | None) -> Iterator[Sample]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or [])
        for fields in reader:
            picture = path.parent / str(_first(fields, IMAGE_NAMES) or "")
            image = picture.read_bytes() if picture.is_file() else b""
            yield _sample(fields, picture.name, time_column, image, picture)


def _check_columns(path: Path, names: Any) -> None:
    for kind, known in (("captions", CAPTION_NAMES), ("pictures", IMAGE_NAMES)):
        if not set(known) & set(names):
            raise InputError(f"{path}: no column with {kind} ({', '.join(known)}); it has {', '.join(names)}.")


def _sample(fields: Mapping[str, Any], name: str, time_column: str | None, image: bytes, file: Path | None) -> Sample:
    return Sample(
        name=str(fields.get("uid") or name),
        time=_time(fields, time_column),
        caption=str(_first(fields, CAPTION_NAMES) or ""),
        group=str(fields.get("group") or ""),
        label=str(fields.get("label") or fields.get("family") or ""),
        image=image,
        file=file,
        offset=0,
    )


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def _time(fields: Mapping[str, Any], time_column: str | None) -> str | None:
    value = _first(fields, (time_column,) if time_column else TIME_NAMES)
    return None if value is None else str(value).strip()


READERS = {".tar": _read_tar, ".parquet": _read_parquet, ".csv": _read_csv}


def parse_date(text: str) -> datetime | None:
    """Read ISO 8601, YYYY, YYYYMM, YYYYMMDD, or seconds or milliseconds since 1970; None for anything else."""
    for pattern, form in ((r"\d{4}", "%Y"), (r"\d{6}", "%Y%m"), (r"\d{8}", "%Y%m%d"), (r"\d{4}-\d{2}", "%Y-%m")):
        if re.fullmatch(pattern, text):
            try:
                return datetime.strptime(text, form).replace(tzinfo=UTC)
            except ValueError:
                return None
    try:
        if re.fullmatch(r"\d{9,}(\.\d+)?", text):
            number = float(text)
            return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def step_namer(by: str) -> Any:
    """Return a function from a timestamp to the name of its step, or None where it cannot be parsed.

    Args:
        by: `year`, `month`, `day`; `major` (first number of a version); `value` (every value is a step); or dates
            that part the steps, separated by commas, as `2017-01-01,2018-01-01`.

    Raises:
        InputError: `by` is none of these.

    Example:
        >>> step_namer("month")("2014-03-09T10:00:00")
        '2014-03'
        >>> step_namer("2017-01-01,2018-01-01")("2017-05-01")
        '1 (from 2017-01-01)'
    """
    if by == "value":
        return lambda text: text or None
    if by == "major":
        return lambda text: match[0] if (match := re.match(r"\d+", text)) else None
    forms = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}
    if by in forms:
        return lambda text: found.strftime(forms[by]) if (found := parse_date(text)) else None
    bounds = [parse_date(part) for part in by.split(",")]
    if any(bound is None for bound in bounds) or bounds != sorted(bounds, key=lambda bound: bound or 0):
        raise InputError(f"`by` (={by!r}) must be year, month, day, major, value, or dates in rising order.")

    names = date_steps(by)

    def name(text: str) -> str | None:
        found = parse_date(text)
        return None if found is None else names[sum(bound <= found for bound in bounds if bound)]

    return name


def date_steps(by: str) -> list[str]:
    """Return the names of the steps that dates part, the one before the first date included; none for other cuts."""
    bounds = [found for part in by.split(",") if (found := parse_date(part))]
    if not bounds:
        return []
    return [f"0 (before {bounds[0]:%Y-%m-%d})", *(f"{n} (from {b:%Y-%m-%d})" for n, b in enumerate(bounds, start=1))]
