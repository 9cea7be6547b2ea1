"""Searching a folder of pictures by words: an index on disk (usearch), brought up to date instead of built anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write, cache_dir, write_json
from tenfold_shared.progress import progress

from mobileclip.data import IMAGE_EXTENSIONS
from mobileclip.predict import BATCH_SIZE, Pipeline
from mobileclip.preprocess import load_image

SAVE_EVERY_BATCHES = 50


@dataclass(frozen=True)
class Entry:
    """A picture in the index: its number there, and size and time of change by which an edit is noticed."""

    key: int
    size: int
    modified_ns: int


class SearchIndex:
    """Embeddings of a folder's pictures on disk.

    Args:
        folder: Where `index.usearch` and `files.json` are kept; made if missing.
        model: Name of the model and weights; an index of another model is refused.
        width: Of the embeddings.

    Raises:
        ImportError: The extra `search` is not installed.
        InputError: The index was made with another model, or is damaged.
    """

    def __init__(self, folder: str | Path, model: str, width: int) -> None:
        usearch = require_extra("usearch.index", "search", "mobileclip-torch")
        self.folder, self.model = Path(folder), model
        self.entries: dict[str, Entry] = {}
        self.next_key = 0
        self._index = usearch.Index(ndim=width, metric="cos", dtype="f32")
        if (self.folder / "files.json").is_file():
            self._load(width)

    def _load(self, width: int) -> None:
        try:
            fields = json.loads((self.folder / "files.json").read_text())
            if (fields["model"], fields["width"]) != (self.model, width):
                raise InputError(
                    f"{self.folder} indexes with {fields['model']}, not {self.model}; give another --index."
                )
            self.entries = {name: Entry(*values) for name, values in fields["files"].items()}
            self.next_key = fields["next_key"]
            self._index.load(str(self.folder / fields["index"]))
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.folder} is no whole index ({error}); delete it to build it again.") from error

    def __len__(self) -> int:
        return len(self.entries)

    def update(self, pipeline: Pipeline, root: Path, *, quiet: bool = False) -> dict[str, Any]:
        """Add new and changed pictures, remove those that are gone.

        What is done is saved every so often, so that a stopped run goes on where it was.

        Args:
            pipeline: Embeds pictures.
            root: Folder of pictures, with its sub-folders.
            quiet: No progress.

        Returns:
            `added`, `removed`, `unreadable` (how many) and `first_unreadable` (a sentence, or "").
        """
        there = {str(path.relative_to(root)): path for path in _pictures(root)}
        stale = [name for name, entry in self.entries.items() if name not in there or _differs(there[name], entry)]
        for name in stale:
            self._index.remove(self.entries.pop(name).key)
        new = [name for name in there if name not in self.entries]
        counts: dict[str, Any] = {"added": 0, "removed": len(stale), "unreadable": 0, "first_unreadable": ""}
        batches = [new[i : i + BATCH_SIZE] for i in range(0, len(new), BATCH_SIZE)]
        for number, batch in enumerate(progress(batches, description="index", unit="batches", quiet=quiet), start=1):
            self._add(pipeline, [(name, there[name]) for name in batch], counts)
            if number % SAVE_EVERY_BATCHES == 0:
                self.save()
        if new or stale:
            self.save()
        return counts

    def _add(self, pipeline: Pipeline, batch: list[tuple[str, Path]], counts: dict[str, Any]) -> None:
        images, names = [], []
        for name, path in batch:
            try:
                images.append(pipeline.preprocess(load_image(path)))
                names.append((name, path.stat()))
            except InputError as error:
                counts["unreadable"] += 1
                counts["first_unreadable"] = counts["first_unreadable"] or str(error)
        if not images:
            return
        embeddings = pipeline.embed_pixels(images).float().numpy()
        keys = np.arange(self.next_key, self.next_key + len(names), dtype=np.uint64)
        self._index.add(keys, embeddings)
        for key, (name, stat) in zip(keys.tolist(), names, strict=True):
            self.entries[name] = Entry(key, stat.st_size, stat.st_mtime_ns)
        self.next_key += len(names)
        counts["added"] += len(names)

    def save(self) -> None:
        """Write the index beside the old one, then the list that names it: a kill leaves one whole pair."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = bytes(self._index.save())
        name = f"index-{hashlib.sha256(content).hexdigest()[:12]}.usearch"
        with atomic_write(self.folder / name) as file:
            file.write(content)
        files = {path: [entry.key, entry.size, entry.modified_ns] for path, entry in self.entries.items()}
        fields = {"model": self.model, "width": self._index.ndim, "next_key": self.next_key, "index": name}
        write_json(self.folder / "files.json", {**fields, "files": files})
        for old in self.folder.glob("index-*.usearch"):
            if old.name != name:
                old.unlink()

    def search(self, query: np.ndarray, top: int = 10) -> list[tuple[str, float]]:
        """Return the pictures nearest to an embedding, nearest first, with their cosine similarity.

        Args:
            query: Unit length [dim].
            top: How many.
        """
        if not self.entries:
            return []
        names = {entry.key: name for name, entry in self.entries.items()}
        found = self._index.search(query, min(top, len(names)))
        pairs = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
        return [(names[key], 1 - distance) for key, distance in pairs if key in names]


def default_index(root: Path, model: str) -> Path:
    """Return where a folder's index is kept unless told otherwise: in the cache, by path and model."""
    digest = hashlib.sha256(f"{root.resolve()}\0{model}".encode()).hexdigest()[:16]
    return cache_dir("mobileclip", "search") / digest


def _pictures(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.suffix.lower()[1:] in IMAGE_EXTENSIONS and path.is_file())


def _differs(path: Path, entry: Entry) -> bool:
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns) != (entry.size, entry.modified_ns)
