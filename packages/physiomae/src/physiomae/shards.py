"""Windows on disk: tar shards keyed by subject for webdataset, an index, and the hashed split beside them.

A sample is `SUBJECT-PART-NUMBER` with `.json` (labels) and one `.MODALITY.npy` for each modality that is there; what is
missing in it is nan. A shard is one recording, so that a split by subjects is a list of shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from physiomae.batch import MultimodalBatch
from physiomae.config import PhysioMAEConfig
from physiomae.preprocess import Windows
from physiomae.splits import SPLITS, owner_of, seal

INDEX, SPLIT_FILE = "index.json", "splits.json"
SHUFFLE_WINDOWS = 1024
Sample = dict[str, Any]


def write_shard(folder: Path, windows: Windows, part: int = 0) -> dict[str, Any]:
    """Write the windows of a recording as one tar file, the same bytes for the same windows.

    Args:
        folder: Made if missing.
        windows: Of one recording.
        part: Number of the recording among its subject's.

    Returns:
        The shard's row of the index.
    """
    from webdataset.writer import TarWriter

    # webdataset takes a key to end at its first dot.
    key = f"{quote(windows.subject, safe='').replace('.', '%2E')}-{part}"
    name = f"{key}.tar"
    content = io.BytesIO()
    with TarWriter(content, mtime=0, user="", group="") as tar:
        for row in range(len(windows)):
            tar.write(_sample(windows, row, key))
    with atomic_write(folder / name) as file:
        file.write(content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    return {"file": name, "subject": windows.subject, "windows": len(windows), "sha256": digest}


def _sample(windows: Windows, row: int, key: str) -> Sample:
    labels = {name: _plain(values[row]) for name, values in windows.labels.items()}
    number = int(windows.numbers[row])
    sample: Sample = {"__key__": f"{key}-{number:06d}"}
    sample["json"] = json.dumps({"subject": windows.subject, "window": number, **labels}, sort_keys=True).encode()
    for name, array in windows.arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array[row].astype(np.float32), allow_pickle=False)
        sample[f"{name}.npy"] = buffer.getvalue()
    return sample


def _plain(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and math.isnan(number) else number


def write_index(folder: Path, config: PhysioMAEConfig, rows: list[dict[str, Any]], splits: Mapping[str, Any]) -> None:
    """Write the index last, so that a folder with an index is whole."""
    write_json(folder / SPLIT_FILE, splits)
    shards = [{**row, "split": owner_of(splits, row["subject"])} for row in rows]
    write_json(folder / INDEX, {"config": config.to_dict(), "shards": shards, "splits_sha256": splits["sha256"]})


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read an index and hold it against its split.

    Raises:
        FileNotFoundError: No index.
        InputError: A subject in two splits, or a split that is not the one of the index.
    """
    folder = Path(folder)
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"no {INDEX} in {folder}; `physiomae prepare` writes such a folder.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        splits = json.loads((folder / SPLIT_FILE).read_text(encoding="utf-8"))
        shards = index["shards"]
        PhysioMAEConfig.from_dict(index["config"])
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise InputError(f"{folder} holds no whole index ({error}); prepare it again.") from error
    seal({name: sorted({row["subject"] for row in shards if row["split"] == name}) for name in SPLITS})
    if seal(splits)["sha256"] != index["splits_sha256"]:
        raise InputError(
            f"{folder / SPLIT_FILE} is not the split that the shards were written with; prepare them again."
        )
    return index


class ShardSource:
    """Windows of one split, streamed from their shards in an order that seed and epoch decide.

    Shards are drawn in a new order each epoch and mixed in a buffer. Every process walks the same order and decodes its
    own rows only, so that several processes see the rows of the one batch; each of them reads all bytes.

    Args:
        folder: Of `physiomae prepare`.
        split: "train", "valid" or "test".
        buffer: Windows that are mixed.
    """

    def __init__(self, folder: str | Path, split: str = "train", *, buffer: int = SHUFFLE_WINDOWS) -> None:
        self.folder, self.split, self.buffer = Path(folder), split, buffer
        index = read_index(folder)
        self.config = PhysioMAEConfig.from_dict(index["config"])
        self.shards = [row for row in index["shards"] if row["split"] == split and row["windows"]]
        if not self.shards:
            raise InputError(f"{folder} has no windows in the split {split!r}; change seed or shares of the split.")

    @property
    def num_windows(self) -> int:
        """Windows of one epoch."""
        return sum(row["windows"] for row in self.shards)

    @property
    def subjects(self) -> list[str]:
        """Subjects of the split."""
        return sorted({row["subject"] for row in self.shards})

    def samples(self, order: np.ndarray | None = None) -> Iterator[Sample]:
        """Yield raw samples, shard by shard."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for place in range(len(self.shards)) if order is None else order:
            file = self.folder / self.shards[place]["file"]
            if not file.is_file():
                raise InputError(f"the shard {file} of the index is missing; prepare the folder again.")
            try:
                with file.open("rb") as stream:
                    yield from group_by_keys(tar_file_expander([{"url": str(file), "stream": stream}]))
            except tarfile.TarError as error:
                raise InputError(f"the shard {file} is damaged ({error}); prepare the folder again.") from error

    def batches(
        self, batch_size: int, seed: int, epoch: int, *, skip: int = 0, rows: slice = slice(None)
    ) -> Iterator[MultimodalBatch]:
        """Yield an epoch's whole batches after the first `skip`, of each only some rows."""
        draw = np.random.default_rng([seed, epoch])
        shuffled = _shuffle(self.samples(draw.permutation(len(self.shards))), self.buffer, draw)
        for number in range(self.num_windows // batch_size):
            samples = [next(shuffled) for _ in range(batch_size)]
            if number >= skip:
                yield self.collate(samples[rows], every=True)

    def collate(self, samples: list[Sample], *, every: bool = False) -> MultimodalBatch:
        """Decode samples into a batch; a modality that none of them has is left out, unless `every` is wanted.

        Training wants every one, so that all processes draw the same numbers whatever their rows lack.
        """
        decoded = [decode(sample) for sample in samples]
        arrays = {}
        for modality in self.config.modalities:
            if every or any(modality.name in arrays_ for arrays_, _ in decoded):
                shape = len(modality.channels), self.config.window_samples(modality)
                absent = np.full(shape, np.nan, np.float32)
                arrays[modality.name] = np.stack([arrays_.get(modality.name, absent) for arrays_, _ in decoded])
        return MultimodalBatch.from_arrays(self.config, arrays)

    def load(self) -> tuple[MultimodalBatch, dict[str, np.ndarray], np.ndarray]:
        """Return all windows of the split in order, their labels (unknown numbers nan) and their subjects."""
        samples = list(self.samples())
        rows = [decode(sample)[1] for sample in samples]
        names = [name for name in rows[0] if name not in ("subject", "window")]
        labels = {name: np.array([np.nan if row[name] is None else row[name] for row in rows]) for name in names}
        return self.collate(samples), labels, np.array([row["subject"] for row in rows])


def decode(sample: Sample) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return a sample's arrays by modality and its labels."""
    arrays = {
        key.removesuffix(".npy"): np.load(io.BytesIO(value), allow_pickle=False)
        for key, value in sample.items()
        if key.endswith(".npy")
    }
    return arrays, json.loads(sample["json"])


def _shuffle(samples: Iterator[Sample], size: int, draw: np.random.Generator) -> Iterator[Sample]:
    """Yield samples in random order, holding `size` of them."""
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        if len(held) >= size:
            place = int(draw.integers(len(held)))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
    draw.shuffle(held)
    yield from held
