"""The authors' files: webdataset shards of token lists with a manifest per bucket; and parquet."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from dataset_decomposition.readers import DIST
from dataset_decomposition.store import MANIFEST, TokenStore, check_ids, write_store

SHARD_TOKENS = 2**20  # the authors' shards hold 2^20 tokens, and at most 65,536 sequences
MAX_SEQUENCES = 65_536
EXPORT = "export.json"
Format = Literal["webdataset", "parquet"]


def sequences_per_shard(length: int) -> int:
    """Return how many sequences of `length` the authors put into a shard."""
    return max(1, min(SHARD_TOKENS // length, MAX_SEQUENCES))


def export_store(
    store: TokenStore,
    out: str | Path,
    *,
    layout: Format = "webdataset",
    partial: bool = False,
    seed: int = 0,
    quiet: bool = True,
) -> list[dict[str, Any]]:
    """Write the buckets as files that other trainers read.

    "webdataset" is the authors' layout: `D_<k>/shard-<n>.tar` with members `<i>.txt`, each the list of 2^k + 1 ids as
    text, and `D_<k>/manifest.jsonl`. "parquet" has one file per bucket with a list column `input_ids`. Rows are
    shuffled once. A file that is there is whole, so that a killed export goes on where it was.

    Args:
        store: With buckets; padded or packed tails cannot be written.
        out: Folder, made if need be.
        layout: Which files.
        partial: Whether the last, smaller shard of a bucket is written too; the authors' trainer wants equal shards.
        seed: Of the shuffle.
        quiet: Show no progress.

    Returns:
        Per bucket `length`, `shards`, `sequences`, `tokens` (predicted, as the authors count) and
        `left_out` sequences.

    Raises:
        InputError: The buckets hold tails, or `out` holds an export of other buckets.
    """
    if store.config.tail != "drop":
        raise InputError('padded or packed tails have no place in these files; run decompose with --tail "drop".')
    _claim(Path(out), {"store": store.fingerprint, "layout": layout, "partial": partial, "seed": seed})
    rows = []
    for length in progress(list(store.num_rows), description="export", unit="buckets", quiet=quiet):
        order = np.random.default_rng([seed, length]).permutation(store.num_rows[length])
        write = _export_shards if layout == "webdataset" else _export_parquet
        shards, written = write(store, Path(out), length, order, partial)
        counts = {"sequences": written, "tokens": written * length, "left_out": len(order) - written}
        rows.append({"length": length, "shards": shards, **counts})
    return rows


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Note whose files these are: those of other buckets must not pass for a part of this export."""
    path = out / EXPORT
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found != identity and (found or list(out.glob("D_*"))):
        raise InputError(f"{out} holds an export of other buckets or with other options; choose another --out.")
    write_json(path, identity)


def _blocks(store: TokenStore, length: int, order: Int[np.ndarray, " rows"]) -> np.ndarray:
    """Return whole stored rows [rows, length + 1]."""
    batch = store.rows(length, order)
    return np.concatenate([batch["input_ids"], batch["labels"][:, -1:]], axis=1)


def _export_shards(store: TokenStore, out: Path, length: int, order: np.ndarray, partial: bool) -> tuple[int, int]:
    folder, size = out / f"D_{length.bit_length() - 1}", sequences_per_shard(length)
    count = -(-len(order) // size) if partial else len(order) // size
    lines = []
    for shard in range(count):
        part = order[shard * size : (shard + 1) * size]
        name = f"shard-{shard:07d}"
        if not (folder / f"{name}.tar").is_file():
            with atomic_write(folder / f"{name}.tar") as file:
                _write_tar(file, _blocks(store, length, part))
        lines.append(json.dumps({"shard": name, "num_sequences": len(part)}))
    if count:
        with atomic_write(folder / "manifest.jsonl", "w") as file:
            file.write("\n".join(lines) + "\n")
    return count, min(count * size, len(order))


def _write_tar(file: Any, rows: np.ndarray) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for index, row in enumerate(rows.tolist()):
            content = str(row).encode()
            member = tarfile.TarInfo(f"{index:012d}.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _export_parquet(store: TokenStore, out: Path, length: int, order: np.ndarray, partial: bool) -> tuple[int, int]:
    arrow, parquet = require_extra("pyarrow", "data", DIST), require_extra("pyarrow.parquet", "data", DIST)
    path, size = out / f"D_{length.bit_length() - 1}.parquet", sequences_per_shard(length)
    if len(order) and not path.is_file():
        kind = arrow.uint16() if store.dtype.itemsize == 2 else arrow.uint32()
        schema = arrow.schema([("input_ids", arrow.list_(kind))])
        with atomic_write(path) as file, parquet.ParquetWriter(file, schema) as writer:
            for start in range(0, len(order), size):
                block = _blocks(store, length, order[start : start + size]).astype(store.dtype)
                ends = np.arange(len(block) + 1, dtype=np.int32) * block.shape[1]
                column = arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(block.reshape(-1)))
                writer.write_table(arrow.table([column.cast(schema.field(0).type)], schema=schema))
    return int(len(order) > 0), len(order)


def import_store(source: str | Path, out: str | Path, *, vocab_size: int = 50432, end_token: int = 0) -> TokenStore:
    """Read the authors' layout into a store, each sequence as a document, in buckets as they were.

    Shards are read one sequence at a time: memory holds the lengths, not the tokens.

    The authors write the end of a text as a string, which their reader turns into id 0; so does this one, or into
    `end_token`. Nothing is evaluated: members are parsed as lists of numbers.

    Args:
        source: Folder with `D_<k>/shard-*.tar`.
        out: Folder of the store, not yet there.
        vocab_size: Ids must be below this.
        end_token: Id for the end-of-text string.

    Returns:
        The store, with buckets of the lengths that were found.

    Raises:
        FileNotFoundError: No such folder.
        InputError: No shards, a damaged one, a sequence of the wrong length, an id over the vocabulary, or `out` is
            taken.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise FileNotFoundError(f"no folder at {source}; check the path.")
    if (out / MANIFEST).exists():
        raise InputError(f"{out} already holds a store; choose another --out.")
    folders = sorted(
        (int(match.group(1)), path) for path in source.iterdir() if (match := re.fullmatch(r"D_(\d+)", path.name))
    )
    shards = [(k, shard) for k, folder in folders for shard in sorted(folder.glob("shard-*.tar"))]
    if not shards:
        raise InputError(f"{source} holds no D_<k>/shard-*.tar; is it the output of the authors' script?")
    documents = (row for k, shard in shards for row in _read_shard(shard, (1 << k) + 1, vocab_size, end_token))
    record = {"name": "imported", "end_token": end_token}
    store = write_store(out, documents, vocab_size=vocab_size, tokenizer=record)
    return store.decompose(min_length=1 << shards[0][0], max_length=1 << shards[-1][0], policy="greedy")


def _read_shard(path: Path, size: int, vocab_size: int, end_token: int) -> Iterator[np.ndarray]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() and member.name.endswith(".txt") else None
                if file is None:
                    continue
                where = f"{path}{os.sep}{member.name}"
                ids = _parse(file.read(), end_token, where)
                if len(ids) != size:
                    raise InputError(f"{where} has {len(ids)} tokens; its bucket has {size}.")
                check_ids(ids, vocab_size, where)
                yield ids
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: damaged tar archive ({error}); copy it again.") from error


def _parse(content: bytes, end_token: int, where: str) -> np.ndarray:
    text = content.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, OverflowError):  # plain numbers, the usual case, three times as fast
        ids = np.array(json.loads(text))
        if ids.ndim == 1 and ids.dtype == np.int64:
            return ids
    words = text[1:-1].split(",") if text[:1] == "[" and text[-1:] == "]" else ["?"]
    try:
        return np.array([end_token if word.strip()[:1] in ("'", '"') else int(word) for word in words], dtype=np.int64)
    except ValueError as error:
        raise InputError(f"{where}: not a list of token ids.") from error
