"""Rows of hashes on disk, sorted in runs and read again in buckets: equal keys meet without all being in RAM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.files import atomic_write

__all__ = ["ROW", "Rows", "count_buckets", "make_rows", "read_bucket", "repeats", "write_runs"]

# Two independent hashes (128 bits: no chance meeting in any corpus), and where the thing stands.
ROW = np.dtype([("key", "<u8"), ("check", "<u8"), ("shard", "<u4"), ("document", "<u4"), ("position", "<u4")])
RUN_ROWS = 1 << 21
Rows = NDArray[Any]  # of ROW


def make_rows(keys: NDArray[np.uint64], checks: NDArray[np.uint64] | int, shard: int, document: int) -> Rows:
    """Return one row per key; the position is the place in the array.

    Args:
        keys: First hashes.
        checks: Second hashes, or one number.
        shard: Number of the shard.
        document: Number of the document in it.

    Returns:
        Rows of `ROW`.
    """
    rows: Rows = np.empty(len(keys), dtype=ROW)
    rows["key"], rows["check"], rows["shard"], rows["document"] = keys, checks, shard, document
    rows["position"] = np.arange(len(keys))
    return rows


def _sort(rows: Rows) -> Rows:
    return rows[np.lexsort([rows[name] for name in ("position", "document", "shard", "check", "key")])]


def write_runs(folder: Path, shard: int, batches: Iterable[Rows]) -> None:
    """Write the rows of one shard as sorted runs, each small enough for RAM.

    Args:
        folder: Gets `rows-SHARD-RUN.npy`; runs of an interrupted attempt are written over.
        shard: Number of the shard.
        batches: Rows in any order.
    """
    held: list[Rows] = []
    size = run = 0
    for rows in batches:
        held.append(rows)
        size += len(rows)
        if size >= RUN_ROWS:
            _write_run(folder, (shard, run), held)
            held, size, run = [], 0, run + 1
    _write_run(folder, (shard, run), held)


def _write_run(folder: Path, name: tuple[int, int], batches: list[Rows]) -> None:
    rows = _sort(np.concatenate(batches)) if batches else np.zeros(0, dtype=ROW)
    with atomic_write(folder / f"rows-{name[0]:06d}-{name[1]:06d}.npy") as file:
        np.save(file, rows)


def _runs(folder: Path) -> list[Rows]:
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob("rows-*.npy"))]


def count_buckets(folder: Path, max_bytes: int) -> int:
    """Return into how many buckets the rows must be cut so that one fits the budget (sorting takes three copies)."""
    total = sum(len(rows) for rows in _runs(folder)) * ROW.itemsize
    return max(1, -(-3 * total // max_bytes))


def read_bucket(folder: Path, bucket: int, num_buckets: int) -> Rows:
    """Return all rows whose key lies in one of equal slices of the 64-bit range, sorted.

    Args:
        folder: Where the runs are.
        bucket: Number of the slice.
        num_buckets: How many there are.

    Returns:
        Rows, by key, check, shard, document, position.
    """
    low, high = ((1 << 64) * edge // num_buckets for edge in (bucket, bucket + 1))
    parts: list[Rows] = []
    for rows in _runs(folder):
        start = np.searchsorted(rows["key"], np.uint64(low))
        end = len(rows) if high == 1 << 64 else np.searchsorted(rows["key"], np.uint64(high))
        parts.append(np.array(rows[start:end]))
    parts.append(np.zeros(0, dtype=ROW))
    return _sort(np.concatenate(parts))


def repeats(rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find rows that have an equal key and check before them.

    Args:
        rows: Sorted.

    Returns:
        Which rows are repeats, and for every row the index of the first with its key and check.
    """
    same = np.zeros(len(rows), dtype=bool)
    same[1:] = (rows["key"][1:] == rows["key"][:-1]) & (rows["check"][1:] == rows["check"][:-1])
    starts = np.where(same, 0, np.arange(len(rows)))
    return same, np.maximum.accumulate(starts) if len(rows) else starts
