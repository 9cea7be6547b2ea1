"""Embeddings with the model they come from: in memory, in one file, or in several that do not fit into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from vfm_transfer.images import Images
from vfm_transfer.views import apply_views

if TYPE_CHECKING:
    from vfm_transfer.networks import Network

__all__ = ["Embeddings", "embed", "fingerprint", "open_embeddings", "save_embeddings"]

BLOCK_ROWS = 8192
UNIT_TOLERANCE = 1e-6
CHUNK = 64


@dataclass(frozen=True)
class Embeddings:
    """Vectors of images, and where they come from.

    Attributes:
        parts: Arrays [num, dim], usually memory-mapped, one after the other.
        fingerprint: Of the model; "" is unknown and goes with any.
        labels: Class of each, for queries that are balanced by class.
        names: Of the images.

    Example:
        >>> len(Embeddings.of(np.eye(3, dtype=np.float32)))
        3
    """

    parts: tuple[np.ndarray, ...]
    fingerprint: str = ""
    labels: tuple[Any, ...] | None = None
    names: tuple[str, ...] | None = field(default=None, repr=False)
    _lengths: list[np.ndarray] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, vectors: Any, **rest: Any) -> Embeddings:
        """Take an array, a list of arrays, or embeddings as they are.

        Raises:
            ValueError: Not two-dimensional, or parts of different widths.
        """
        if isinstance(vectors, Embeddings):
            return vectors
        parts = tuple(vectors) if isinstance(vectors, list | tuple) and np.ndim(vectors[0]) == 2 else (vectors,)
        arrays = tuple(part if isinstance(part, np.ndarray) else np.asarray(part) for part in parts)
        shapes = [array.shape for array in arrays]
        if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) != 1:
            raise ValueError(f"embeddings of shapes {shapes} must be [num, dim] with one dim.")
        return cls(arrays, **rest)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.parts[0].shape[1]

    def raw_blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row's number and the vectors as they are, in float32, a block at a time."""
        first = 0
        for part in self.parts:
            for start in range(0, len(part), rows):
                yield first + start, np.asarray(part[start : start + rows], dtype=np.float32)
            first += len(part)

    def lengths(self) -> np.ndarray:
        """Return the length of every vector [num] in float32; all are read and checked once, and the lengths kept.

        Raises:
            ValueError: A value that is not finite, or a vector of length zero.
        """
        if not self._lengths:
            found = np.empty(len(self), np.float32)
            for first, block in self.raw_blocks():
                found[first : first + len(block)] = _lengths_of(block, first)
            self._lengths.append(found)
        return self._lengths[0]

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row's number and unit vectors in float32, a block at a time.

        Raises:
            ValueError: A value that is not finite, or a vector of length zero.
        """
        lengths = self.lengths()
        for first, block in self.raw_blocks(rows):
            length = lengths[first : first + len(block)]
            yield first, block if are_units(length) else block / length[:, None]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return unit vectors of some rows, in the order asked for."""
        starts = np.cumsum([0, *(len(part) for part in self.parts)])
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        for number, part in enumerate(self.parts):
            rows = np.flatnonzero((ids >= starts[number]) & (ids < starts[number + 1]))
            if len(rows):
                out[rows] = unit_vectors(np.asarray(part[ids[rows] - starts[number]]), 0)
        return out


def unit_vectors(values: np.ndarray, first: int) -> np.ndarray:
    """Return rows of length one in float32; `first` is the number of the first one, for messages."""
    found = np.asarray(values, dtype=np.float32)
    return found / _lengths_of(found, first)[:, None]


def are_units(lengths: np.ndarray) -> bool:
    """Whether lengths are one to float32's rounding, so that vectors can be used as they are."""
    return bool((np.abs(lengths - 1) < UNIT_TOLERANCE).all())


def _lengths_of(block: np.ndarray, first: int) -> np.ndarray:
    """Lengths of rows in float32, which are also the check that every value is finite."""
    length = np.sqrt(np.einsum("nd,nd->n", block, block))
    if not (np.isfinite(length) & (length > 0)).all():  # squares may have left the range of float32
        length = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64)).astype(np.float32)
    if not np.isfinite(length).all():
        raise ValueError(
            f"row {first + int(np.argmin(np.isfinite(length)))} of the embeddings is not finite (nan or inf)."
        )
    if (length == 0).any():
        raise ValueError(f"row {first + int(np.argmin(length))} of the embeddings is zero; it has no direction.")
    return length


def fingerprint(network: Network) -> str:
    """Return a name for a network's features: backbone, input and weights, without the head."""
    config = network.config
    digest = hashlib.sha256(json.dumps([config.image_size, config.mean, config.std, config.stride]).encode())
    digest.update(str(getattr(network.backbone, "digest", "")).encode())
    for name, value in sorted(network.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def embed(network: Network, images: Images) -> np.ndarray:
    """Return pooled features [num, dim] of the plain images, in float32."""
    device, found = next(network.parameters()).device, []
    network.eval()
    with torch.no_grad():
        for start in progress(range(0, len(images), CHUNK), description="embedding", unit="chunks"):
            ids = np.arange(start, min(start + CHUNK, len(images)))
            found.append(network.features(apply_views(images.fetch(ids).to(device), None))[0].cpu().numpy())
    return np.concatenate(found)


def save_embeddings(
    path: Path, vectors: np.ndarray, *, fingerprint: str, names: Sequence[str], labels: Sequence[str] = ()
) -> None:
    """Write `path` (.npy) and a file of the same name in .json that says where they come from."""
    if len(names) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors and {len(names)} names.")
    with atomic_write(path) as file:
        np.save(file, vectors)
    facts = {"fingerprint": fingerprint, "names": list(names)}
    write_json(path.with_suffix(".json"), facts | ({"labels": list(labels)} if labels else {}))


def open_embeddings(path: Path) -> Embeddings:
    """Open a .npy file, or a folder of them as one set, without reading it into memory.

    Raises:
        InputError: Nothing there, a damaged file, or parts of different models.
    """
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: no embeddings (.npy); make them with `vfm-transfer embed`.")
    parts, facts = [], []
    for file in files:
        try:
            parts.append(np.load(file, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{file}: not a .npy file of vectors; make it with `vfm-transfer embed`.") from error
        side = file.with_suffix(".json")
        facts.append(json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {})
    prints = {fact.get("fingerprint", "") for fact in facts}
    if len(prints) > 1:
        raise InputError(f"{path}: its parts come from different models ({', '.join(sorted(prints))}).")
    names = [name for fact in facts for name in fact.get("names", [])]
    labels = [label for fact in facts for label in fact.get("labels", [])]
    found = Embeddings.of(parts)
    return Embeddings(
        found.parts, prints.pop(), tuple(labels) or None, tuple(names) if len(names) == len(found) else None
    )
