"""Composed scenes: OpenMoji pictures pasted on textured backgrounds, with class, depth and boxes exact for every pixel.

The pictures are real drawings by many hands; how they lie beside each other is made up, so results on them are said to
be "composed". A nearer object is larger and covers what is behind it; its picture's own transparency is its mask.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

FAR = 1.0  # depth of the background
NEAREST, FARTHEST = 0.2, 0.9
LARGE, SMALL = 0.60, 0.36  # side of the nearest and the farthest object, as a share of the picture's
MIN_VISIBLE = 0.4  # share of its pixels that an object keeps
OPAQUE = 0.5  # alpha from which a pixel belongs to an object
NUM_HELD_OUT = 2  # concepts of each family, the first of its list, that no caption ever names
TRIES = 20
COLOURS = {
    "red": (210, 50, 50), "orange": (240, 150, 50), "yellow": (245, 215, 70), "green": (90, 170, 80),
    "blue": (90, 150, 220), "purple": (140, 90, 170), "pink": (250, 170, 200), "brown": (140, 95, 60),
    "white": (240, 240, 240), "grey": (150, 150, 150), "black": (50, 50, 50),
}  # fmt: skip


class Thing(NamedTuple):
    """One object: what it is, its visible box (left, top, right, bottom), depth, side as a share, colour's name."""

    concept: str
    box: tuple[int, int, int, int]
    depth: float
    share: float
    colour: str


@dataclass(frozen=True)
class Scenes:
    """Pictures with their truth.

    Args:
        images: uint8 [scenes, size, size, 3].
        labels: uint8 [scenes, size, size]; 0 is background, else the concept's place in `concepts` plus one.
        depth: float32 [scenes, size, size], from 0.2 (near) to 1 (background).
        things: Objects of each scene, the nearest first.
        concepts: Names of the labels.
    """

    images: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    things: tuple[tuple[Thing, ...], ...]
    concepts: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray | slice) -> Scenes:
        """Return some of the scenes."""
        chosen = np.arange(len(self))[rows]
        things = tuple(self.things[row] for row in chosen)
        return Scenes(self.images[chosen], self.labels[chosen], self.depth[chosen], things, self.concepts)


@functools.cache
def _table() -> list[dict[str, Any]]:
    import pyarrow.parquet

    data = resources.files("qualityclip").joinpath("icons", "openmoji.parquet").read_bytes()
    return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()


def concepts(role: str, *, per_family: int) -> tuple[str, ...]:
    """Return names of one role, `per_family` of each of the twelve families.

    Args:
        role: "held out" (never named in a caption; at most two a family) or "named".
        per_family: How many.

    Raises:
        ValueError: An unknown role, or a family with fewer.
    """
    if role not in ("held out", "named"):
        raise ValueError(f"`role` (={role!r}) must be 'held out' or 'named'.")
    first = 0 if role == "held out" else NUM_HELD_OUT
    found: dict[str, list[str]] = {}
    for row in sorted(_table(), key=lambda row: row["place"]):
        found.setdefault(str(row["family"]), []).append(str(row["concept"]))
    chosen = []
    for family, names in found.items():
        usable = names[:NUM_HELD_OUT] if role == "held out" else names[first:]
        if len(usable) < per_family:
            raise ValueError(
                f"`per_family` (={per_family}): the family {family} has only {len(usable)} {role} concepts."
            )
        chosen += usable[:per_family]
    return tuple(chosen)


def siblings(name: str) -> tuple[str, ...]:
    """Return the other concepts of a concept's family."""
    family = {str(row["concept"]): row["family"] for row in _table()}
    return tuple(other for other, its in family.items() if its == family[name] and other != name)


@functools.cache
def _icon(concept: str, side: int) -> np.ndarray:
    """Return the picture as float [side, side, 4] from 0 to 1."""
    row = next(row for row in _table() if row["concept"] == concept)
    image = Image.open(io.BytesIO(row["image"])).convert("RGBA")
    # Premultiplied, so that hidden pixels' colour does not bleed into the rim.
    image = image.convert("RGBa").resize((side, side), Image.Resampling.BOX).convert("RGBA")
    return np.asarray(image, dtype=np.float32) / 255


@functools.cache
def colour_of(concept: str) -> str:
    """Return the name of the colour that most of a concept's pixels are nearest to, lines left out."""
    icon = _icon(concept, 32)
    pixels = icon[icon[..., 3] > OPAQUE][:, :3] * 255
    pixels = pixels[pixels.max(1) > 60] if (pixels.max(1) > 60).any() else pixels
    distance = ((pixels[:, None] - np.array(list(COLOURS.values()))) ** 2).sum(-1)
    return list(COLOURS)[np.bincount(distance.argmin(1), minlength=len(COLOURS)).argmax()]


def compose(
    names: Sequence[str], num_scenes: int, *, size: int, seed: int, objects: tuple[int, int] = (2, 4)
) -> Scenes:
    """Compose scenes; equal arguments give equal pixels.

    Args:
        names: Concepts to draw from; each stands at most once in a scene.
        num_scenes: How many.
        size: Side in pixels.
        seed: Of everything that is drawn.
        objects: Smallest and largest number of objects.
    """
    names = tuple(names)
    images = np.empty((num_scenes, size, size, 3), np.uint8)
    labels = np.zeros((num_scenes, size, size), np.uint8)
    depth = np.empty((num_scenes, size, size), np.float32)
    things = []
    for row in range(num_scenes):
        generator = np.random.default_rng([seed, row])
        canvas = _Canvas(names, size, generator)
        for _ in range(TRIES):
            if canvas.paste(int(generator.integers(objects[0], objects[1] + 1))):
                break
        images[row], labels[row], depth[row] = canvas.image, canvas.labels, canvas.depth
        things.append(canvas.things)
    return Scenes(images, labels, depth, tuple(things), names)


class _Canvas:
    """One scene in the making."""

    def __init__(self, names: tuple[str, ...], size: int, generator: np.random.Generator) -> None:
        self.names, self.size, self.generator = names, size, generator
        self.background = _texture(size, generator)

    def paste(self, count: int) -> bool:
        """Paste objects from far to near; False where one of them is nearly hidden."""
        draw, size = self.generator, self.size
        picture = self.background.copy()
        self.labels = np.zeros((size, size), np.uint8)
        self.depth = np.full((size, size), FAR, np.float32)
        chosen = draw.choice(len(self.names), count, replace=False)
        depths = np.sort(draw.uniform(NEAREST, FARTHEST, count))[::-1]
        areas = []
        for which, depth in zip(chosen, depths, strict=True):
            side = _side(depth, size)
            icon = _icon(self.names[which], side)
            icon = icon[:, ::-1] if draw.random() < 0.5 else icon
            top, left = draw.integers(0, size - side + 1, 2)
            where = np.s_[top : top + side, left : left + side]
            alpha = icon[..., 3:]
            tinted = np.clip(icon[..., :3] * draw.uniform(0.75, 1.1, 3).astype(np.float32), 0, 1)
            picture[where] = picture[where] * (1 - alpha) + tinted * alpha
            mask = alpha[..., 0] > OPAQUE
            self.labels[where][mask] = which + 1
            self.depth[where][mask] = depth
            areas.append(mask.sum())
        self.image = (picture * 255 + 0.5).astype(np.uint8)
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names) + 1)
        self.things = tuple(self._thing(w, d) for w, d in zip(chosen[::-1], depths[::-1], strict=True) if counts[w + 1])
        visible = counts[chosen + 1] / np.array(areas)
        return bool((visible >= MIN_VISIBLE).all())

    def _thing(self, which: int, depth: float) -> Thing:
        rows, columns = np.nonzero(self.labels == which + 1)
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        name = self.names[which]
        return Thing(name, box, float(depth), _side(depth, self.size) / self.size, colour_of(name))


def _side(depth: float, size: int) -> int:
    near = (FARTHEST - depth) / (FARTHEST - NEAREST)
    return round(size * (SMALL + (LARGE - SMALL) * near))


def _texture(size: int, generator: np.random.Generator) -> np.ndarray:
    """Return two octaves of smooth colour noise around one colour, float [size, size, 3] from 0 to 1."""
    total = np.tile(generator.uniform(0.1, 0.5, 3).astype(np.float32), (size, size, 1))
    for cells, weight in ((int(generator.integers(2, 5)), 0.3), (int(generator.integers(6, 16)), 0.2)):
        grid = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight / 255 * np.asarray(grid.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return total
