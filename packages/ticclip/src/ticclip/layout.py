"""A stream in the layouts others read: published uid lists, training shards, clip_benchmark's evaluation sets."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from ticclip.evaluate import TEMPLATE, classes_of
from ticclip.index import TimeIndex
from ticclip.uids import to_hex, to_structured, write_lists

SHARD_ITEMS = 1000


def write_split(index: TimeIndex, out: Path, *, name: str = "stream", shards: bool = False) -> dict[str, Any]:
    """Write an index as the authors' scripts would.

    `lists/{step}.npy`, `lists/sizes.json`, `lists/retrieval.pkl`; `eval/retrieval/{step}` and, where there are labels,
    `eval/classification/{step}` in clip_benchmark's webdataset layout; with `shards` also `train/{step}/*.tar`.

    Args:
        index: The data.
        out: Folder to write; it must not hold a split yet.
        name: First folder of the evaluation tasks' names.
        shards: Write training pictures as well.

    Returns:
        Counts of what was written.
    """
    if (out / "tasks.json").exists():
        raise InputError(f"{out} holds a split already; choose another folder.")
    steps = {folder_name(step): place for place, step in enumerate(index.steps)}
    training = {step: index.uids[np.sort(index.rows(place))] for step, place in steps.items()}
    lists = {step: to_structured([_bytes(uid) for uid in uids]) for step, uids in training.items()}
    held = {step: to_hex(index.uids[index.rows(place, "test")]) for step, place in steps.items()}
    write_lists(out / "lists", lists, held)
    classes = classes_of(index)
    tasks = []
    for step, place in steps.items():
        rows = index.rows(place, "test")
        _write_evaluation(index, rows, out / "eval" / "retrieval" / step, None)
        tasks.append(f"tic/{name}/retrieval/{step}")
        labelled = rows[[label in classes for label in index.texts(rows, "label")]]
        if len(classes) > 1 and len(labelled):
            _write_evaluation(index, labelled, out / "eval" / "classification" / step, classes)
            tasks.append(f"tic/{name}/classification/{step}")
        if shards:
            write_shards(index, index.rows(place), out / "train" / step)
    write_json(out / "tasks.json", tasks)
    return {"steps": len(steps), "training": sum(map(len, lists.values())), "test": sum(map(len, held.values()))}


def folder_name(step: str) -> str:
    """Return a step's name without what a path cannot hold."""
    return re.sub(r"[^\w.-]+", "-", step).strip("-")


def _bytes(uid: Any) -> bytes:
    return int(uid["f0"]).to_bytes(8, "big") + int(uid["f1"]).to_bytes(8, "big")


def write_shards(index: TimeIndex, rows: np.ndarray, folder: Path, classes: Sequence[str] | None = None) -> list[str]:
    """Write rows as `00000000.tar` and on, with `sizes.json`; returns the shards' names."""
    sizes: dict[str, int] = {}
    for start in range(0, len(rows), SHARD_ITEMS):
        part = rows[start : start + SHARD_ITEMS]
        name = f"{start // SHARD_ITEMS:08d}.tar"
        _write_tar(index, part, folder / name, classes)
        sizes[name] = len(part)
    write_json(folder / "sizes.json", sizes)
    return list(sizes)


def _write_tar(index: TimeIndex, rows: np.ndarray, path: Path, classes: Sequence[str] | None) -> None:
    texts = {name: index.texts(rows, name) for name in ("caption", "label", "time", "name")}
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for place, (row, uid) in enumerate(zip(rows, to_hex(index.uids[rows]), strict=True)):
            image = index.image(int(row))
            fields = {"uid": uid, **{name: values[place] for name, values in texts.items()}}
            parts = {picture_ending(image): image, "txt": texts["caption"][place].encode()}
            parts["json"] = json.dumps(fields, ensure_ascii=False).encode()
            if classes is not None:
                parts["cls"] = str(classes.index(texts["label"][place])).encode()
            for end, content in parts.items():
                member = tarfile.TarInfo(f"{uid}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def picture_ending(content: bytes) -> str:
    """Return the file name's ending for an encoded picture."""
    if content.startswith(b"\x89PNG"):
        return "png"
    return "webp" if content[8:12] == b"WEBP" else "jpg"


def _write_evaluation(index: TimeIndex, rows: np.ndarray, folder: Path, classes: Sequence[str] | None) -> None:
    """Write one set in clip_benchmark's layout: `test/0.tar`, `test/nshards.txt` and what describes it."""
    kind = "retrieval" if classes is None else "classification"
    _write_tar(index, rows, folder / "test" / "0.tar", classes)
    words = {"test/nshards.txt": "1", "test/count.txt": str(len(rows)), "dataset_type.txt": kind}
    if classes is not None:
        words |= {"classnames.txt": "\n".join(classes)}
        words |= {"zeroshot_classification_templates.txt": TEMPLATE.format("{c}")}
    for name, text in words.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text + "\n")
