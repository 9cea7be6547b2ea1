"""Token shards in the official layout: `%08d.tar` of `{name}.json.gz`, each a list of ids, and `manifest.jsonl`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

__all__ = ["TokenShards", "read_manifest", "write_manifest", "write_shard"]

MEMBER = ".json.gz"
MANIFEST = "manifest.jsonl"
BLOCK = 512
GZIP_LEVEL = 1  # digits and commas: higher levels take thrice the time for a tenth of the bytes


def write_shard(path: Path, rows: Iterable[NDArray[np.integer]], first: int, seed: int) -> int:
    """Write one tar, whole or not at all; equal rows give equal bytes.

    Args:
        path: `%08d.tar`.
        rows: Contexts.
        first: Number of the first one in the data set; names are hashes of it and the seed.
        seed: Of the data set.

    Returns:
        How many were written.
    """
    count = 0
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for count, row in enumerate(rows, start=1):
            content = gzip.compress(json.dumps(row.tolist()).encode(), GZIP_LEVEL, mtime=0)
            name = hashlib.blake2b(f"{seed} {first + count - 1}".encode(), digest_size=16).hexdigest()
            member = tarfile.TarInfo(name + MEMBER)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return count


def write_manifest(folder: Path, counts: dict[str, int]) -> Path:
    """Write `manifest.jsonl`: `shard` (a tar's name without suffix) and `num_sequences` per line."""
    path = folder / MANIFEST
    with atomic_write(path, "w") as file:
        for shard, count in sorted(counts.items()):
            file.write(json.dumps({"shard": shard, "num_sequences": count}) + "\n")
    return path


def make_manifest(folder: Path) -> Path:
    """Count the members of every tar of a folder and write its manifest."""
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise InputError(f"no .tar in {folder}.")
    return write_manifest(folder, {path.stem: len(_offsets(path)) for path in tars})


def read_manifest(folder: Path) -> dict[str, int]:
    """Return the number of sequences of every shard, in the manifest's order.

    Raises:
        InputError: No manifest, a line without the two keys, or no sequences.
    """
    path = folder / MANIFEST if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"no {MANIFEST} in {folder}; make one with: dclm manifest {folder}")
    counts: dict[str, int] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            counts[record["shard"]] = int(record.get("num_sequences", record.get("num_chunks")))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} lacks `shard` or `num_sequences` ({error}).") from error
    if not sum(counts.values()):
        raise InputError(f"{path} names no sequences.")
    return counts


class TokenShards:
    """Sequences of a folder of token shards by number; a tar is listed at its first use.

    Args:
        folder: With tars and `manifest.jsonl`, or the manifest itself.

    Raises:
        InputError: No manifest, or a tar it names is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.folder = folder if folder.is_dir() else folder.parent
        self.counts = read_manifest(folder)
        self.names = list(self.counts)
        self.ends = np.cumsum([self.counts[name] for name in self.names])
        self._members: dict[int, list[tuple[int, int]]] = {}
        for name in self.names:
            if not self.path(name).is_file():
                raise InputError(f"the manifest names {self.path(name)}, which is missing.")

    def path(self, name: str) -> Path:
        """Where a shard lies."""
        return self.folder / f"{name}.tar"

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def length(self) -> int:
        """Ids of a sequence, from the first one."""
        return len(self.read(0))

    def read(self, number: int) -> NDArray[np.int32]:
        """Return one sequence.

        Raises:
            InputError: A tar holds another number of members than the manifest says, or a damaged one.
        """
        shard = int(np.searchsorted(self.ends, number, side="right"))
        place = number - (int(self.ends[shard - 1]) if shard else 0)
        path = self.path(self.names[shard])
        offset, size = self._listing(shard)[place]
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        try:
            row = np.array(json.loads(gzip.decompress(content)), dtype=np.int64)
            if row.ndim != 1:
                raise ValueError("no list of ids")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{path}: member {place} is damaged ({error}); copy the shard again.") from error
        return row.astype(np.int32)

    def check(self, length: int, vocab_size: int) -> None:
        """Refuse shards whose first sequence has another length, or ids that the model does not know."""
        if self.length != length:
            raise InputError(
                f"sequences in {self.folder} have {self.length} ids; the model's context length asks for {length}."
            )
        check_ids(self.read(0), vocab_size, str(self.folder))

    def _listing(self, shard: int) -> list[tuple[int, int]]:
        if shard not in self._members:
            name = self.names[shard]
            found = _offsets(self.path(name))
            if len(found) != self.counts[name]:
                raise InputError(
                    f"{self.path(name)} holds {len(found)} sequences; the manifest says {self.counts[name]}. "
                    f"Make it anew with: dclm manifest {self.folder}"
                )
            self._members[shard] = found
        return self._members[shard]


def check_ids(rows: NDArray[np.int32], vocab_size: int, name: str) -> None:
    """Refuse an id that the model has no row for."""
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"{name} holds the token id {high if high >= vocab_size else low}; the model's vocabulary has {vocab_size}."
        )


def _offsets(path: Path) -> list[tuple[int, int]]:
    """Return where every sequence of a tar starts, and its bytes."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = [(m.offset_data, m.size) for m in archive if m.isfile() and m.name.endswith(MEMBER)]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is no whole tar archive ({error}); copy it again.") from error
    end = path.stat().st_size
    if members and members[-1][0] + members[-1][1] > end - BLOCK:
        raise InputError(f"{path} is cut short; copy it again.")
    return members


def iterate(shards: TokenShards) -> Iterator[NDArray[np.int32]]:
    """Yield all sequences in order."""
    return (shards.read(number) for number in range(len(shards)))
