"""The index of a stream: every item's step and split, and where its picture lies; random access to all of it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
from tenfold_shared.commands import InputError, unknown_name

from ticclip.uids import UID

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCHEMA = 1


class TimeIndex:
    """Timestamped image-text data, opened for training and evaluation.

    Rows lie in an Arrow file that is mapped, not read: opening takes no longer for more data, and a row costs the
    same wherever it is. Pictures stay in their tars and folders.

    Example:
        >>> import tempfile
        >>> from ticclip.icons import build_stream
        >>> index = TimeIndex(build_stream("material", tempfile.mkdtemp()))
        >>> index.steps
        ('1', '2', '3', '4', '5', '6', '7')
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a folder that `ticclip build` wrote.

        Args:
            folder: It holds `index.json` and `index.arrow`.

        Raises:
            InputError: No index there, or one of another version.
        """
        self.folder = Path(folder)
        path = self.folder / "index.json"
        if not path.is_file():
            raise InputError(f"no index at {folder}; make one with: ticclip build SOURCE --out {folder}")
        self.meta: dict[str, Any] = json.loads(path.read_text())
        if self.meta.get("schema") != SCHEMA:
            raise InputError(f"{path}: `schema` is {self.meta.get('schema')!r}; this version reads {SCHEMA}.")
        self._table = pyarrow.ipc.open_file(pyarrow.memory_map(str(self.folder / "index.arrow"))).read_all()
        self.steps: tuple[str, ...] = tuple(self.meta["steps"])
        self._files = [self.folder / name for name in self.meta["files"]]

    def __len__(self) -> int:
        return self._table.num_rows

    @functools.cached_property
    def step_of(self) -> np.ndarray:
        """Step of every row, from 0 [rows]."""
        return self._column("step").astype(np.int64)

    @functools.cached_property
    def split_of(self) -> np.ndarray:
        """Place in `SPLITS` of every row [rows]."""
        return self._column("split")

    @functools.cached_property
    def uids(self) -> np.ndarray:
        """Structured uid (high, low) of every row [rows]."""
        found: Any = np.empty(len(self), UID)
        found["f0"], found["f1"] = self._column("high"), self._column("low")
        return found

    def _column(self, name: str) -> np.ndarray:
        return self._table[name].to_numpy()

    @functools.cache  # noqa: B019 - as many entries as steps, for as long as the index
    def rows(self, step: int, split: Split = "train") -> np.ndarray:
        """Return the rows of one step in the order of a hash of their uids.

        A buffer is the first rows of a step in this order, so that a smaller buffer is part of a larger one.

        Args:
            step: From 0.
            split: "train", "validation" or "test".
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        found = np.flatnonzero((self.step_of == step) & (self.split_of == SPLITS.index(split)))
        return found[np.argsort(mix(self.uids["f0"][found] ^ self.uids["f1"][found]), kind="stable")]

    def sizes(self, split: Split = "train") -> list[int]:
        """Return the number of items of every step."""
        mine = self.split_of == SPLITS.index(split)
        return np.bincount(self.step_of[mine], minlength=len(self.steps)).tolist()

    def texts(self, rows: Sequence[int] | np.ndarray, column: str = "caption") -> list[str]:
        """Return captions (or `label`, `name`, `time`) of rows."""
        return self._table[column].take(pyarrow.array(np.asarray(rows))).to_pylist()

    def image(self, row: int) -> bytes:
        """Return the encoded picture of a row."""
        file, offset, size = (int(values[row]) for values in self._places)
        with open(self._files[file], "rb", buffering=0) as opened:
            opened.seek(offset)
            return opened.read(size)

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """File, offset and size of every picture."""
        return self._column("file"), self._column("offset"), self._column("size")


def mix(values: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers (the finaliser of splitmix64) [any shape]."""
    z = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def step_order(name: str) -> tuple[Any, ...]:
    """Sort names of steps as people do: 9 before 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)
