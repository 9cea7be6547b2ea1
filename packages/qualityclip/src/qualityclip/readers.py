"""Pictures with several captions: webdataset tars, parquet, COCO's JSON, a folder with a CSV, JSON lines."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

MAX_CHARACTERS = 5_000
IMAGES = ("jpg", "jpeg", "png", "webp")
_REAL = ("caption", "captions", "text", "txt")
_SYNTHETIC = ("syn_text", "synthetic", "synthetic_captions")
_IDS = ("uid", "id", "key", "image_id")
_PATHS = ("path", "filepath", "image_path", "file_name", "image")


@dataclass(frozen=True)
class Span:
    """Bytes inside a file, such as a member of a tar archive."""

    file: Path
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Return the bytes."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Sample:
    """A picture and its captions.

    Args:
        uid: Key, unique in its set.
        real: Captions found with the picture.
        synthetic: Captions a model wrote.
        image: The picture's bytes, or where they lie; None where only text was given.
        objects: What is to be seen, where somebody knows; reference of noun coverage.
    """

    uid: str
    real: tuple[str, ...]
    synthetic: tuple[str, ...] = ()
    image: bytes | Path | Span | None = None
    objects: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, real ones first."""
        return (*self.real, *self.synthetic)

    def read_image(self) -> bytes:
        """Return the picture's bytes; an InputError where there are none."""
        if self.image is None:
            raise InputError(f"sample {self.uid!r} has no picture; this needs one for every sample.")
        if isinstance(self.image, Path) and not self.image.is_file():
            raise InputError(f"sample {self.uid!r}: no picture at {self.image}.")
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()


def read_captions(path: str | Path) -> Iterator[Sample]:
    """Read samples in the order of the file, without judging their captions; see `check_sample`.

    Args:
        path: A .tar, .parquet, .json (COCO), .jsonl or .csv file, or a folder with tars, parquet files or one CSV.

    Yields:
        Samples.

    Raises:
        InputError: A line that cannot be read, named; an unknown layout.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path}; check the path.")
    readers: dict[str, Callable[[Path], Iterator[Sample]]] = {
        ".tar": _read_tar, ".parquet": _read_parquet, ".json": _read_coco, ".jsonl": _read_lines, ".csv": _read_csv,
    }  # fmt: skip
    found = False
    for file in _files(path):
        if file.suffix not in readers:
            raise InputError(f"{file}: captions are read from {', '.join(readers)} files.")
        for sample in readers[file.suffix](file):
            found = True
            yield sample
    if not found:
        raise InputError(f"{path} holds no captions.")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for ending in ("tar", "parquet", "csv", "jsonl"):
        if files := sorted(path.glob(f"*.{ending}")):
            return files
    raise InputError(f"{path} holds no .tar, .parquet, .csv or .jsonl file with captions.")


def check_sample(sample: Sample, where: str | Path) -> Sample:
    """Return the sample if its captions can be used.

    Raises:
        InputError: No caption, an empty one, or one of over 5,000 characters.
    """
    if not sample.captions:
        raise InputError(
            f"{where}: sample {sample.uid!r} has no captions; `qualityclip filter` leaves such samples out."
        )
    for caption in sample.captions:
        if not caption.strip():
            raise InputError(f"{where}: sample {sample.uid!r} has an empty caption; `qualityclip filter` drops it.")
        if len(caption) > MAX_CHARACTERS:
            raise InputError(
                f"{where}: sample {sample.uid!r} has a caption of {len(caption)} characters, over {MAX_CHARACTERS}; "
                "`qualityclip filter` drops it."
            )
    return sample


def read_checked(path: str | Path) -> Iterator[Sample]:
    """Read samples whose captions can all be used; the first other one is an InputError."""
    return (check_sample(sample, path) for sample in read_captions(path))


def _read_tar(path: Path) -> Iterator[Sample]:
    try:
        with tarfile.open(path) as archive:
            key = ""
            parts: dict[str, Any] = {}
            for member in archive:
                if not member.isfile():
                    continue
                stem, _, ending = Path(member.name).name.partition(".")
                name = str(Path(member.name).parent / stem)
                if parts and name != key:
                    yield _from_parts(path, key, parts)
                    parts = {}
                key = name
                if ending.lower() in IMAGES:
                    parts[ending.lower()] = Span(path, member.offset_data, member.size)
                elif content := archive.extractfile(member):
                    parts[ending.lower()] = content.read()
            if parts:
                yield _from_parts(path, key, parts)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: not a whole tar archive ({error}); write or download it again.") from error


def _from_parts(path: Path, key: str, parts: dict[str, Any]) -> Sample:
    fields: dict[str, Any] = {}
    for ending in ("json", "syn.json"):
        if ending in parts:
            fields |= _parse(parts[ending], f"{path}: {key}.{ending}")
    real = _strings(parts["txt"].decode("utf-8", "replace")) if "txt" in parts else _pick(fields, _REAL)
    image = next((parts[ending] for ending in IMAGES if ending in parts), None)
    return Sample(key, real, _pick(fields, _SYNTHETIC), image, _pick(fields, ("objects",)))


def _read_parquet(path: Path) -> Iterator[Sample]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path}: not a parquet file ({error}).") from error
    row = 0
    for batch in file.iter_batches(batch_size=256):
        for record in batch.to_pylist():
            yield _from_record(record, path.parent, f"{path}: row {row}", str(row))
            row += 1


def _read_lines(path: Path) -> Iterator[Sample]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}: line {number}"
                yield _from_record(_parse(line, where), path.parent, where, str(number))


def _read_csv(path: Path) -> Iterator[Sample]:
    """Rows of one picture that follow each other are its captions."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            last: Sample | None = None
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{where} has another number of fields than the header.")
                sample = _from_record(dict(row), path.parent, where, str(row.get("path") or reader.line_num))
                if last and last.uid == sample.uid:
                    last = Sample(last.uid, last.real + sample.real, last.synthetic + sample.synthetic, last.image)
                    continue
                if last:
                    yield last
                last = sample
            if last:
                yield last
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: a line cannot be read ({error}).") from error


def _read_coco(path: Path) -> Iterator[Sample]:
    record = _parse(path.read_bytes(), str(path))
    if not {"images", "annotations"} <= set(record):
        raise InputError(f"{path}: COCO's captions have `images` and `annotations`.")
    captions: dict[Any, list[str]] = {}
    for annotation in record["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in record["images"]:
        file = path.parent / image["file_name"]
        yield Sample(str(image["id"]), tuple(captions.get(image["id"], ())), (), file if file.exists() else None)


def _parse(content: bytes | str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where} cannot be read as JSON ({error}).") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object, found {type(record).__name__}.")
    return record


def _from_record(record: dict[str, Any], folder: Path, where: str, place: str) -> Sample:
    if not any(name in record for name in (*_REAL, *_SYNTHETIC)):
        raise InputError(f"{where} has no captions: expected one of {', '.join((*_REAL, *_SYNTHETIC))}.")
    uid = next((str(record[name]) for name in _IDS if record.get(name) is not None), place)
    image = record.get("image")
    image = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(image, bytes):
        named = next((record[name] for name in _PATHS if isinstance(record.get(name), str) and record[name]), None)
        image = folder / named if named else None
    return Sample(uid, _pick(record, _REAL), _pick(record, _SYNTHETIC), image, _pick(record, ("objects",)))


def _pick(record: dict[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    return next((_strings(record[name]) for name in names if record.get(name) is not None), ())


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else (str(value),)


def to_record(sample: Sample, out: Path) -> dict[str, Any]:
    """Return a sample as a row of JSON lines that `read_captions` reads; pictures in memory are left out.

    Args:
        sample: The sample.
        out: Folder that the file will lie in; the picture's path is written relative to it where it lies below.
    """
    record: dict[str, Any] = {"uid": sample.uid, "captions": list(sample.real), "synthetic": list(sample.synthetic)}
    if isinstance(sample.image, Path):
        image, folder = sample.image.resolve(), out.resolve()
        record["path"] = str(image.relative_to(folder) if image.is_relative_to(folder) else image)
    if sample.objects:
        record["objects"] = list(sample.objects)
    return record


def write_captions(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write samples whole or not at all: .jsonl (paths of pictures), .parquet or .tar (pictures inside).

    Returns:
        How many.
    """
    path = Path(path)
    writers = {".jsonl": _write_lines, ".parquet": _write_parquet, ".tar": _write_tar}
    if path.suffix not in writers:
        raise InputError(f"{path}: captions are written to {', '.join(writers)} files.")
    made_folder = not path.parent.exists()
    try:
        return writers[path.suffix](path, samples)
    except BaseException:
        if made_folder:  # samples are read while they are written: bad ones must leave nothing behind
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        raise


def _write_lines(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with atomic_write(path, "w") as file:
        for sample in samples:
            if isinstance(sample.image, bytes | Span):
                raise InputError(f"{path}: JSON lines hold no pictures; write .parquet or .tar.")
            file.write(json.dumps(to_record(sample, path.parent), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, samples: Iterable[Sample]) -> int:
    import pyarrow
    import pyarrow.parquet

    fields = {"uid": pyarrow.string(), "captions": pyarrow.list_(pyarrow.string())}
    fields |= {"synthetic": fields["captions"], "objects": fields["captions"], "image": pyarrow.binary()}
    rows = [
        {
            "uid": sample.uid,
            "captions": list(sample.real),
            "synthetic": list(sample.synthetic),
            "objects": list(sample.objects),
            "image": None if sample.image is None else sample.read_image(),
        }
        for sample in samples
    ]
    with atomic_write(path) as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(fields)), file)
    return len(rows)


def _write_tar(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for sample in samples:
            key = sample.uid.replace("/", "_").replace(".", "_")
            parts = {"txt": sample.real[0].encode()} if len(sample.real) == 1 else {}
            fields = {
                "captions": list(sample.real),
                "syn_text": list(sample.synthetic),
                "objects": list(sample.objects),
            }
            parts["json"] = json.dumps({name: value for name, value in fields.items() if value}).encode()
            if sample.image is not None:
                parts["png" if sample.read_image()[:4] == b"\x89PNG" else "jpg"] = sample.read_image()
            for ending, content in parts.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            count += 1
    return count
