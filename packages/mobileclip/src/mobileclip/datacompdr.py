"""The DataCompDR format: stored augmentations, synthetic captions and teacher embeddings of a sample.

Per sample and under its uid a tar holds `url.txt`, `syn.json`, `paug.json`, `npz` (float32) or `pth.gz` (bfloat16) and
`json`; sets that carry their images also `jpg` (or `png`, `webp`) and `txt`. The released sets leave those out: `join`
puts them back from the images one has downloaded.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import pickle
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress
from torch import Tensor

from mobileclip.augment import Parameters
from mobileclip.data import Tally, TarSample, image_extension, read_uid, scan_tar

Storage = Literal["fp32", "bf16"]
_DAMAGE = (
    ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError,
)  # fmt: skip
NUM_REAL = 1  # rows of `text_emb` that belong to real captions


class BadSample(InputError):
    """A sample that cannot be used; `reason` is its kind."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Reinforcement:
    """What is stored with a sample beside its image and its caption.

    Args:
        uid: Key of the sample.
        augmentations: Parameters of the stored augmentations.
        captions: Synthetic captions.
        image_emb: Teachers' image embeddings, one row per augmentation, float32; members side by side.
        text_emb: Teachers' text embeddings, float32: the real caption's row, then one per synthetic caption.
        url: Where the image came from.
    """

    uid: str
    augmentations: tuple[Parameters, ...]
    captions: tuple[str, ...]
    image_emb: Tensor
    text_emb: Tensor
    url: str = ""


@dataclass(frozen=True)
class Shape:
    """What every sample of a set must have; None accepts anything.

    Args:
        num_augmentations: Stored augmentations.
        num_captions: Synthetic captions.
        width: Sum of the teachers' widths.
    """

    num_augmentations: int | None = None
    num_captions: int | None = None
    width: int | None = None

    @classmethod
    def of_folder(cls, folder: str | Path) -> Shape:
        """Return what the set's config.json states, as far as it does."""
        config = read_config(folder)
        dims = config.get("teacher_dims")
        return cls(config.get("num_samples"), config.get("num_captions"), sum(dims) if dims else None)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return a set's config.json; the released sets' has `num_samples` and `reinforcement_key`; {} without one.

    Raises:
        InputError: The file is not a JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object.")
    return content


def encode(sample: Reinforcement, storage: Storage = "fp32") -> dict[str, bytes]:
    """Return a sample's members by extension; equal samples give equal bytes.

    Args:
        sample: What to store.
        storage: "fp32" writes `npz`, "bf16" writes `pth.gz` of half the size, as the released bf16 sets do.
    """
    augmentations = {"param_aug": [parameters.to_json() for parameters in sample.augmentations]}
    members = {
        "url.txt": sample.url.encode(),
        "syn.json": json.dumps({"syn_text": list(sample.captions)}, ensure_ascii=False).encode(),
        "paug.json": json.dumps(augmentations).encode(),
        "json": json.dumps({"uid": sample.uid}).encode(),
    }
    buffer = io.BytesIO()
    if storage == "fp32":
        np.savez(buffer, image_emb=sample.image_emb.numpy(), text_emb=sample.text_emb.numpy())
        return members | {"npz": buffer.getvalue()}
    halves = {"image_emb": sample.image_emb.bfloat16(), "text_emb": sample.text_emb.bfloat16()}
    torch.save(halves, buffer)
    return members | {"pth.gz": gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)}


def decode(uid: str, members: dict[str, bytes], shape: Shape = Shape()) -> Reinforcement:
    """Read a sample's members and check them.

    Args:
        uid: Key of the sample.
        members: Content by extension.
        shape: What the sample must have.

    Raises:
        BadSample: Something is missing, damaged, not finite or of another size; `reason` says which.
    """
    with _naming(uid):
        augmentations, captions = read_parameters(uid, members), read_captions(uid, members)
        image, text = _embeddings(members)
    url = members.get("url.txt", b"").decode("utf-8", "replace")
    sample = Reinforcement(uid, augmentations, captions, image, text, url)
    check(sample, shape)
    return sample


def check(sample: Reinforcement, shape: Shape = Shape()) -> None:
    """Refuse a sample whose parts do not fit together or do not have the set's shape.

    Raises:
        BadSample: See `decode`.
    """
    num, image, text = len(sample.augmentations), sample.image_emb, sample.text_emb
    expected = num if shape.num_augmentations is None else shape.num_augmentations
    if num == 0 or num != expected or len(image) != num:
        raise BadSample(
            "wrong number of augmentations",
            f"{sample.uid} has {num} augmentations and {len(image)} image embeddings, expected {expected or 'some'}",
        )
    if shape.num_captions is not None and len(sample.captions) != shape.num_captions:
        raise BadSample(
            "missing captions", f"{sample.uid} has {len(sample.captions)} captions, expected {shape.num_captions}"
        )
    if len(text) != NUM_REAL + len(sample.captions):
        raise BadSample(
            "missing captions", f"{sample.uid} has {len(text)} text embeddings for 1 + {len(sample.captions)} captions"
        )
    width = shape.width or image.shape[1]
    if image.shape[1] != width or text.shape[1] != width:
        raise BadSample(
            "teacher of another width",
            f"{sample.uid} has embeddings of width {image.shape[1]} and {text.shape[1]}, expected {width}",
        )
    # Sums take a fifth of the time and are finite wherever every number is, but for an overflow.
    if not math.isfinite(float(image.sum() + text.sum())) and not (image.isfinite().all() and text.isfinite().all()):
        raise BadSample("NaN embeddings", f"{sample.uid} has embeddings that are not finite")


def read_parameters(uid: str, members: dict[str, bytes]) -> tuple[Parameters, ...]:
    """Return a sample's stored augmentations: a list in the tars, a JSON string in the hub's tables.

    Raises:
        BadSample: They are missing or damaged.
    """
    with _naming(uid):
        entries = json.loads(members["paug.json"])["param_aug"]
        entries = json.loads(entries) if isinstance(entries, str) else entries
        return tuple(Parameters.from_json(entry) for entry in entries)


def read_captions(uid: str, members: dict[str, bytes]) -> tuple[str, ...]:
    """Return a sample's synthetic captions.

    Raises:
        BadSample: They are missing or damaged.
    """
    with _naming(uid):
        return tuple(str(text) for text in json.loads(members["syn.json"])["syn_text"])


@contextlib.contextmanager
def _naming(uid: str) -> Generator[None]:
    """Turn whatever reading damaged content raises into a bad sample with its name."""
    try:
        yield
    except BadSample:
        raise
    except KeyError as error:
        raise BadSample("damaged entry", f"{uid} has no {error.args[0]}") from error
    except _DAMAGE as error:
        raise BadSample("damaged entry", f"{uid}: {type(error).__name__}: {error}") from error


def _embeddings(members: dict[str, bytes]) -> tuple[Tensor, Tensor]:
    if "npz" in members:
        with zipfile.ZipFile(io.BytesIO(members["npz"])) as archive:
            pair = [_read_array(archive.read(f"{name}.npy")) for name in ("image_emb", "text_emb")]
    else:
        content = gzip.decompress(members["pth.gz"])
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        pair = [loaded[name] for name in ("image_emb", "text_emb")]
    if any(array.ndim != 2 for array in pair):
        raise ValueError("embeddings are not tables")
    return pair[0].float(), pair[1].float()


def _read_array(content: bytes) -> Tensor:
    """Read a .npy file: as numpy does, but that equal headers are parsed once; they take longer than the numbers."""
    end = 10 + int.from_bytes(content[8:10], "little")
    shape, fortran, dtype = _read_header(content[:end])
    array = np.frombuffer(bytearray(content), dtype, math.prod(shape), end)
    return torch.from_numpy(array.reshape(shape, order="F" if fortran else "C"))


@lru_cache(maxsize=64)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a .npy file of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind != "f":
        raise ValueError(f"embeddings are {dtype}, not numbers")
    return shape, fortran, dtype


def read_members(found: TarSample, file: io.BufferedIOBase, *, image: bool = True) -> dict[str, bytes]:
    """Return the content of a sample's members, with or without its image."""
    skipped = None if image else image_extension(found)
    return {name: found.read(file, name) for name in found.spans if name != skipped}


def list_shards(folder: str | Path) -> list[Path]:
    """Return a set's tars in the order of their names.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = Path(folder)
    shards = [folder] if folder.suffix == ".tar" else sorted(folder.rglob("*.tar"))
    if not shards or not shards[0].exists():
        raise FileNotFoundError(f"no .tar shards in {folder}; `mobileclip reinforce` writes such a folder.")
    return shards


def read_set(folder: str | Path, tally: Tally) -> Iterator[tuple[Reinforcement, dict[str, bytes]]]:
    """Yield the good samples of a reinforced set with the content of all their members; bad ones are counted.

    Args:
        folder: Released or own shards; its config.json, where there is one, says what every sample must have.
        tally: Gets what is kept and what is dropped.
    """
    shape = Shape.of_folder(folder)
    for shard in list_shards(folder):
        with open(shard, "rb") as file:
            for found in scan_tar(shard, tally):
                members = read_members(found, file)
                try:
                    sample = decode(found.key, members, shape)
                except BadSample as bad:
                    tally.drop(bad.reason, f"{shard.name}: {bad}")
                    continue
                tally.kept += 1
                yield sample, members


def validate(folder: str | Path) -> Tally:
    """Read a whole set and count what is good and what is bad, naming the first bad sample of each kind.

    Embeddings of a width other than the first good sample's are bad too, where no config.json states the width;
    so are images that are there and cannot be decoded.

    Args:
        folder: Released or own shards.
    """
    from mobileclip.data import decode_image

    tally, width = Tally(), None
    for sample, members in read_set(folder, tally):
        width = width or sample.image_emb.shape[1]
        extension = next((name for name in ("jpg", "jpeg", "png", "webp") if name in members), None)
        try:
            check(sample, Shape(width=width))
            if extension:
                decode_image(members[extension], sample.uid)
        except InputError as bad:
            tally.kept -= 1
            tally.drop(getattr(bad, "reason", "unreadable image"), str(bad))
    return tally


def join(folder: str | Path, images: str | Path, out: str | Path, *, quiet: bool = False) -> Tally:
    """Put images and captions into a set that was released without them.

    Args:
        folder: Shards of the reinforced set.
        images: Folder of tars with the same names.
        out: Folder for the joined shards; those of an earlier run are left as they are.
        quiet: No progress.

    Returns:
        Samples joined, and those that could not be.
    """
    folder, images, out = Path(folder), Path(images), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if config := read_config(folder):
        write_json(out / "config.json", config)
    total = Tally()
    for shard in progress(list_shards(folder), description="join", unit="shards", quiet=quiet):
        # Shards of DataCompDR-1B lie in numbered sub-folders.
        name = shard.relative_to(folder) if shard.is_relative_to(folder) and shard != folder else Path(shard.name)
        record = out / "tallies" / name.with_suffix(".json")
        if not record.is_file():
            write_json(record, join_shard(shard, images / name, out / name).to_dict())
        total.merge(Tally.from_dict(json.loads(record.read_text())))
    return total


def join_shard(shard: Path, images: Path, out: Path) -> Tally:
    """Write a shard that holds reinforcements and images, joined by uid.

    Args:
        shard: Tar of the reinforced set, without images.
        images: Tar of the same name with images and captions (img2dataset's layout: the uid is in `json`).
        out: Tar to write.

    Returns:
        What was joined, and what could not be.
    """
    tally = Tally()
    if not images.is_file():
        for found in scan_tar(shard, tally):
            tally.drop("image not joined", f"{shard.name}: {found.key} has no image, there is no {images}")
        return tally
    with open(shard, "rb") as first, open(images, "rb") as second, atomic_write(out) as target:
        known = {read_uid(found, second): found for found in scan_tar(images, tally)}
        write_tar(target, _joined(shard, first, second, known, tally))
    return tally


def write_tar(target: IO[bytes], samples: Iterable[tuple[str, dict[str, bytes]]]) -> None:
    """Write samples (key, content by extension) as a webdataset tar; equal samples give equal bytes."""
    from webdataset.writer import TarWriter

    # The writer closes what it is given; the caller's file has yet to be synced and renamed.
    with TarWriter(_KeptOpen(target), encoder=False, mtime=0, user="", group="") as writer:
        for key, members in samples:
            writer.write({"__key__": key, **members})


class _KeptOpen:
    """A file whose `close` does nothing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.tell, self.flush = file.write, file.tell, file.flush

    def close(self) -> None:
        """Leave the file open."""


def _joined(
    shard: Path, first: io.BufferedIOBase, second: io.BufferedIOBase, known: dict[str, TarSample], tally: Tally
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for found in scan_tar(shard, tally):
        partner = known.get(found.key)
        extension = None if partner is None else image_extension(partner)
        if partner is None or extension is None or "txt" not in partner.spans:
            tally.drop("image not joined", f"{shard.name}: {found.key} has no image with a caption in the other tar")
            continue
        tally.kept += 1
        content = {extension: partner.read(second, extension), "txt": partner.read(second, "txt")}
        yield found.key, content | read_members(found, first)
