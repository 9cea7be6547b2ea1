"""Writing an index: steps from timestamps, held-out items with their near-duplicates on one side."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
from PIL import Image
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from ticclip.index import SCHEMA, SPLITS, TimeIndex, step_order
from ticclip.readers import Sample, date_steps, read_samples, step_namer
from ticclip.uids import check_disjoint, read_evaluation, read_step_lists, to_structured, to_uid

THUMBNAIL, LEVELS = 32, 16  # pictures equal at this size and depth count as one
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class BuildConfig:
    """How a stream is cut.

    Args:
        by: Steps by `year`, `month`, `day`, `major`, `value`, or dates that part them.
        held_out: Share of the items for testing.
        validation: Share for choosing rates and weights.
        time_column: Field with the timestamp; by default the first of the usual names.
        uids: Folder of published `{step}.npy` lists, which then say the steps instead of timestamps.
        evaluation: Published evaluation pickle; its items are the test items, and `held_out` does not apply.
        seed: Of the split.
    """

    by: str = "year"
    held_out: float = 0.1
    validation: float = 0.05
    time_column: str | None = None
    uids: Path | None = None
    evaluation: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.held_out and 0 <= self.validation and self.held_out + self.validation < 1):
            raise InputError(
                f"`held_out` (={self.held_out}) and `validation` (={self.validation}) must be shares that leave data."
            )


def build_index(sources: Sequence[str | Path], out: str | Path, config: BuildConfig | None = None) -> TimeIndex:
    """Read sources once and write their index.

    Items without a timestamp or caption, or with a picture that does not decode, are left out, counted by reason in
    `index.json` and listed in `dropped.jsonl`.

    Args:
        sources: Tars, parquet files, CSVs beside their pictures, or folders of them.
        out: Folder to write.
        config: How to cut.

    Returns:
        The index, opened.

    Raises:
        InputError: A uid twice, a step without training data, evaluation items in training, or nothing to read.
    """
    config, out = config or BuildConfig(), Path(out)
    if (out / "index.json").exists():
        raise InputError(f"{out} holds an index already; choose another folder.")
    named = _name_steps(config)
    rows: dict[bytes, dict[str, Any]] = {}
    files: dict[str, int] = {}
    dropped: list[dict[str, str]] = []
    with atomic_write(out / "images.bin") as pack:
        for source in sources:
            for sample in read_samples(Path(source), config.time_column):
                row, reason = _row(sample, named)
                if row is None:
                    dropped.append({"name": sample.name, "reason": reason, "time": str(sample.time)})
                    continue
                _check_new(rows, row)
                row["file"], row["offset"] = _place(sample, pack, files, out)
                rows[row["uid"]] = row
        if not rows:
            reasons = dict(Counter(entry["reason"] for entry in dropped))
            raise InputError(f"no usable item in {', '.join(map(str, sources))} (left out: {reasons}).")
        splits = _split(list(rows.values()), config)
    return _write(out, list(rows.values()), splits, (files, dropped, config))


def _name_steps(config: BuildConfig) -> Any:
    """Return sample -> name of its step or None, by timestamp or by published lists."""
    if config.uids is None:
        namer = step_namer(config.by)
        return lambda sample: namer(sample.time) if sample.time else None
    lists = read_step_lists(config.uids)
    held: dict[bytes, str] = {}
    if config.evaluation is not None:
        evaluation = read_evaluation(config.evaluation)
        check_disjoint(lists, evaluation, config.evaluation)
        held = {to_uid(uid): str(step) for step, uid in _evaluation_items(evaluation)}

    def name(sample: Sample) -> str | None:
        uid = to_uid(sample.name)
        if uid in held:
            return held[uid]
        key = to_structured([uid])[0]
        for step, uids in lists.items():
            place = int(np.searchsorted(uids, key))
            if place < len(uids) and uids[place] == key:
                return step
        return None

    return name


def _evaluation_items(evaluation: dict[Any, Any]) -> Iterator[tuple[Any, str]]:
    for step, items in evaluation.items():
        parts = items.values() if isinstance(items, dict) else [items]
        yield from ((step, str(uid)) for part in parts for uid in part)


def _row(sample: Sample, named: Any) -> tuple[dict[str, Any] | None, str]:
    """Return the row of a sample, or None and why it is left out."""
    step = named(sample)
    if step is None:
        return None, "no timestamp" if sample.time is None else "timestamp or step unknown"
    if not sample.caption.strip():
        return None, "no caption"
    thumbnail = hash_picture(sample.image)
    if thumbnail is None:
        return None, "corrupt picture" if sample.image else "no picture"
    row = {"uid": to_uid(sample.name), "name": sample.name, "time": sample.time or step, "step_name": step}
    row |= {"caption": sample.caption, "label": sample.label, "group": sample.group}
    return row | {"pixels": thumbnail, "size": len(sample.image)}, ""


def hash_picture(content: bytes) -> bytes | None:
    """Hash what a picture looks like at 32 pixels and 16 levels; None where it does not decode."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            small = image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    except Exception:  # Pillow raises many kinds for a file that is none
        return None
    levels = np.asarray(small) // (256 // LEVELS)
    return hashlib.blake2b(levels.tobytes(), digest_size=8).digest()


def _check_new(rows: dict[bytes, dict[str, Any]], row: dict[str, Any]) -> None:
    before = rows.get(row["uid"])
    if before is not None:
        where = f"steps {before['step_name']} and {row['step_name']}"
        where = f"step {row['step_name']} twice" if before["step_name"] == row["step_name"] else where
        raise InputError(f"uid {row['name']} is in {where}; an item belongs to one step, once.")


def _place(sample: Sample, pack: IO[bytes], files: dict[str, int], out: Path) -> tuple[int, int]:
    """Return file and offset of a picture; one that lies in no file of its own is copied into the pack."""
    if sample.file is None:
        offset = pack.tell()
        pack.write(sample.image)
        return files.setdefault("images.bin", len(files)), offset
    name = os.path.relpath(sample.file.resolve(), out.resolve())
    return files.setdefault(name, len(files)), sample.offset


def _split(rows: list[dict[str, Any]], config: BuildConfig) -> list[int]:
    """Return every row's place in `SPLITS`; a step that is left without training data is refused."""
    held = None
    if config.evaluation is not None:
        held = {to_uid(uid) for _, uid in _evaluation_items(read_evaluation(config.evaluation))}
    splits = split_rows(rows, config, held)
    training = Counter(row["step_name"] for row, split in zip(rows, splits, strict=True) if split == 0)
    asked = date_steps(config.by)[1:] if config.uids is None else list(read_step_lists(config.uids))
    for step in sorted({*asked, *(row["step_name"] for row in rows)}, key=step_order):
        if not training[step]:
            raise InputError(f"step {step} has no training data; merge it with another, or hold out less.")
    return splits


def _write(
    out: Path,
    rows: list[dict[str, Any]],
    splits: list[int],
    rest: tuple[dict[str, int], list[dict[str, str]], BuildConfig],
) -> TimeIndex:
    files, dropped, config = rest
    steps = sorted({row["step_name"] for row in rows}, key=step_order)
    halves = np.frombuffer(b"".join(row["uid"] for row in rows), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    number = {step: place for place, step in enumerate(steps)}
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("name", "time", "caption", "label")}
    columns |= {"high": halves[:, 0], "low": halves[:, 1]}
    columns["step"] = np.array([number[row["step_name"]] for row in rows], np.int32)
    columns["split"] = np.array(splits, np.int8)
    columns |= {name: np.array([row[name] for row in rows], np.int64) for name in ("file", "offset", "size")}
    table = pyarrow.table(columns)
    with atomic_write(out / "index.arrow") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with atomic_write(out / "dropped.jsonl", "w") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in dropped)
    meta = {"schema": SCHEMA, "steps": steps, "files": list(files), "by": config.by, "seed": config.seed}
    counts = {name: int((columns["split"] == place).sum()) for place, name in enumerate(SPLITS)}
    reasons = dict(Counter(entry["reason"] for entry in dropped))
    write_json(out / "index.json", {**meta, "counts": counts, "dropped": reasons})
    return TimeIndex(out)


def split_rows(rows: Sequence[dict[str, Any]], config: BuildConfig, held: set[bytes] | None = None) -> list[int]:
    """Return each row's place in `SPLITS`; rows that share a group or look alike get the same.

    Components of what shares a base name or pixels are drawn as one, by a hash of their smallest uid, so that adding
    data moves no item that it does not touch.

    Args:
        rows: `uid`, `group` and `pixels` of each.
        config: Shares and seed.
        held: Uids that are test items in any case; then no other component is drawn for testing.
    """
    parents = list(range(len(rows)))

    def find(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    seen: dict[Any, int] = {}
    for place, row in enumerate(rows):
        for key in (("group", row["group"]) if row["group"] else None, ("pixels", row["pixels"])):
            if key is not None:
                parents[find(place)] = find(seen.setdefault(key, place))
    smallest: dict[int, bytes] = {}
    test_roots = set()
    for place, row in enumerate(rows):
        root = find(place)
        smallest[root] = min(smallest.get(root, row["uid"]), row["uid"])
        if held and row["uid"] in held:
            test_roots.add(root)
    share = 0.0 if held is not None else config.held_out
    drawn = {root: _draw(uid, config.seed) for root, uid in smallest.items()}

    def side(root: int) -> int:
        if root in test_roots or drawn[root] < share:
            return 2
        return 1 if drawn[root] < share + config.validation else 0

    return [side(find(place)) for place in range(len(rows))]


def _draw(uid: bytes, seed: int) -> float:
    digest = hashlib.blake2b(uid, digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") / 2**64
