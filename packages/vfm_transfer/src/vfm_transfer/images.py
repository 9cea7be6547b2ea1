"""Images and labels: arrays in memory or files on disk, read the same way."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from tenfold_shared.commands import InputError
from tenfold_shared.progress import progress
from torch import Tensor

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
IGNORED = 255
THREADS = 8
MEMORY_BYTES = 2 << 30  # decoded images that are kept


class Images(Protocol):
    """A numbered set of square images of one size."""

    def __len__(self) -> int: ...

    def fetch(self, ids: np.ndarray) -> Tensor:
        """Return bytes [batch, 3, side, side] (or masks [batch, side, side])."""
        ...

    def names(self) -> list[str]:
        """Return a name for each."""
        ...

    def digests(self) -> list[str]:
        """Return a digest of the content of each."""
        ...


class ArrayImages:
    """Images of one array, [num, side, side] or [num, side, side, 3], of bytes."""

    def __init__(self, array: np.ndarray, masks: bool = False) -> None:
        self.masks = masks
        self.array = array if masks or array.ndim == 4 else np.repeat(array[..., None], 3, axis=3)

    def __len__(self) -> int:
        return len(self.array)

    def fetch(self, ids: np.ndarray) -> Tensor:
        found = torch.from_numpy(self.array[ids])
        return found.long() if self.masks else found.permute(0, 3, 1, 2)

    def names(self) -> list[str]:
        return [str(number) for number in range(len(self))]

    def digests(self) -> list[str]:
        return [_digest(np.ascontiguousarray(image).tobytes()) for image in self.array]


class FileImages:
    """Image files, each brought to a square: the short side to `side`, then the middle. Kept once decoded."""

    def __init__(self, paths: Sequence[Path], side: int, masks: bool = False) -> None:
        self.paths, self.side, self.masks = list(paths), side, masks
        self.kept: dict[int, np.ndarray] = {}
        self.room = MEMORY_BYTES // (side * side * (1 if masks else 3))
        self.pool = ThreadPoolExecutor(THREADS)
        self.known: list[str] = []

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> list[str]:
        return [str(path) for path in self.paths]

    def digests(self) -> list[str]:
        """Read every file once; its bytes count, not its name or date, so that a folder can be moved or copied."""
        if not self.known:
            found = self.pool.map(lambda path: _digest(path.read_bytes()), self.paths)
            self.known = list(progress(found, total=len(self.paths), description="reading", unit="files"))
        return self.known

    def fetch(self, ids: np.ndarray) -> Tensor:
        found = torch.from_numpy(np.stack(list(self.pool.map(self._one, ids.tolist()))))
        return found.long() if self.masks else found.permute(0, 3, 1, 2)

    def _one(self, number: int) -> np.ndarray:
        if (kept := self.kept.get(number)) is not None:
            return kept
        found = read_square(self.paths[number], self.side, self.masks)
        if len(self.kept) < self.room:
            self.kept[number] = found
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_square(path: Path, side: int, mask: bool = False) -> np.ndarray:
    """Read an image as bytes [side, side, 3], or a mask of class numbers [side, side]."""
    try:
        with Image.open(path) as file:
            image = file.copy() if mask else file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a whole image; remove it or get it again.") from error
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    resized = image.resize(size, Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.uint8)


def check_images(paths: Sequence[Path]) -> None:
    """Decode every file once; the first that is damaged is an error, which says how many there are.

    Raises:
        InputError: Damaged or missing files.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = [path for path in progress(pool.map(_broken, paths), total=len(paths), description="checking") if path]
    if found:
        raise InputError(
            f"{found[0]}: not a whole image ({len(found)} of {len(paths)}); remove them or get them again."
        )


def _broken(path: Path) -> Path | None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return path
    return None


@dataclass(frozen=True)
class Labelled:
    """Images with what they show.

    Attributes:
        images: The images.
        labels: Class numbers [num], or masks as images of class numbers, where `IGNORED` counts for nothing.
        classes: Their names.
    """

    images: Images
    labels: np.ndarray | Images
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def target(self, ids: np.ndarray) -> Tensor:
        """Return labels [batch] or masks [batch, side, side]."""
        return torch.from_numpy(self.labels[ids]) if isinstance(self.labels, np.ndarray) else self.labels.fetch(ids)

    def take(self, ids: np.ndarray) -> Labelled:
        """Return some of them."""
        labels = self.labels[ids] if isinstance(self.labels, np.ndarray) else Subset(self.labels, ids)
        return Labelled(Subset(self.images, ids), labels, self.classes)


@dataclass(frozen=True)
class Subset:
    """Some images of a set."""

    images: Images
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, ids: np.ndarray) -> Tensor:
        return self.images.fetch(self.ids[ids])

    def names(self) -> list[str]:
        names = self.images.names()
        return [names[number] for number in self.ids]

    def digests(self) -> list[str]:
        digests = self.images.digests()
        return [digests[number] for number in self.ids]


def list_images(source: Path, root: Path | None = None) -> list[Path]:
    """Return the images of a folder (all below it, sorted), or those that a text file names, one a line.

    Args:
        source: Folder or list; a list's lines may go on with a comma and a class.
        root: Folder of a list's names; the list's own folder unless told.
    """
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    elif source.is_file():
        found = [(root or source.parent) / name for name, _ in read_list(source)]
    else:
        raise InputError(f"{source}: no such folder or list of images.")
    if not found:
        raise InputError(f"{source}: no images ({', '.join(sorted(SUFFIXES))}) in it.")
    return found


def read_list(path: Path) -> list[tuple[str, str]]:
    """Read lines `filename[,class]`, the form of the paper's split files; the class is "" where there is none."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and row[0].strip()]
    if rows and rows[0][0].strip().lower() in ("filename", "file", "path", "image"):
        rows = rows[1:]
    return [(row[0].strip(), row[1].strip() if len(row) > 1 else "") for row in rows]


def read_classes(source: Path, root: Path | None = None) -> tuple[list[Path], list[str], tuple[str, ...]]:
    """Read labelled images: a folder with one folder a class, or a list with classes.

    Returns:
        Paths, class of each, names of all classes (sorted).

    Raises:
        InputError: One class, a class without images, a line without class, or no images.
    """
    if source.is_dir():
        classes = tuple(sorted(path.name for path in source.iterdir() if path.is_dir()))
        pairs = [(path, name) for name in classes for path in _images_of(source / name)]
    else:
        rows = [(path, name) for path, (_, name) in zip(list_images(source, root), read_list(source), strict=True)]
        if unnamed := [path for path, name in rows if not name]:
            raise InputError(f"{source}: no class for {unnamed[0].name}; lines are filename,class.")
        pairs, classes = rows, tuple(sorted({name for _, name in rows}))
    if len(classes) < 2:
        raise InputError(f"{source}: one class ({', '.join(classes) or 'none'}); a task needs at least two.")
    return [path for path, _ in pairs], [name for _, name in pairs], classes


def _images_of(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder}: a class without images; add some or remove the folder.")
    return found


def open_labelled(
    source: Path, side: int, root: Path | None = None, classes: tuple[str, ...] | None = None
) -> Labelled:
    """Open labelled images for classification, every file looked at once.

    Args:
        source: Folder with one folder a class, or a list of `filename,class`.
        side: Pixels of a side in memory.
        root: Folder of a list's names.
        classes: Names in the order of their numbers, for a test set; its own unless told.
    """
    paths, labels, own = read_classes(source, root)
    names = classes or own
    if unknown := sorted(set(own) - set(names)):
        raise InputError(f"{source}: class {unknown[0]!r} is none of the training classes: {', '.join(names)}.")
    check_images(paths)
    numbers = np.array([names.index(label) for label in labels])
    return Labelled(FileImages(paths, side), numbers, names)


def open_segmentation(
    images: Path, masks: Path, side: int, num_classes: int, *, names: Path | None = None, first: int = 0
) -> Labelled:
    """Open images with masks of class numbers, paired by file name without suffix (the layout of ADE20K).

    Args:
        images: Folder of images.
        masks: Folder of masks, one byte a pixel; 255 counts for nothing.
        side: Pixels of a side in memory.
        num_classes: How many classes there are.
        names: A list of the images to use.
        first: Number of the first class in the masks; smaller numbers count for nothing (1 for ADE20K).
    """
    paths = list_images(names, images) if names else list_images(images)
    by_stem = {path.stem: path for path in list_images(masks)}
    if missing := [path for path in paths if path.stem not in by_stem]:
        raise InputError(f"{missing[0]}: no mask {missing[0].stem}.png in {masks} ({len(missing)} of {len(paths)}).")
    if num_classes < 2:
        raise InputError(f"{masks}: one class; a task needs at least two.")
    found = [by_stem[path.stem] for path in paths]
    check_images([*paths, *found])
    classes = tuple(str(number) for number in range(num_classes))
    return Labelled(FileImages(paths, side), _Masks(found, side, num_classes, first), classes)


class _Masks(FileImages):
    def __init__(self, paths: Sequence[Path], side: int, num_classes: int, first: int) -> None:
        super().__init__(paths, side, masks=True)
        self.num_classes, self.first = num_classes, first

    def fetch(self, ids: np.ndarray) -> Tensor:
        found = super().fetch(ids) - self.first
        return torch.where((found < 0) | (found >= self.num_classes), IGNORED, found)

    def digests(self) -> list[str]:
        return [f"{self.first}-{digest}" for digest in super().digests()]
