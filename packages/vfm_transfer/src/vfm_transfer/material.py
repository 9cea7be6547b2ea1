"""Images of the experiment: real ones, shipped or installed with others, and composed scenes with masks."""

from __future__ import annotations

import base64
import io
import json
import lzma
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tenfold_shared.commands import require_extra
from tenfold_shared.files import cache_dir

from vfm_transfer.images import ArrayImages, Labelled

DIST = "vfm-transfer"
World = Literal["fashion", "cifar"]
SIDE, NUM_CLASSES = 28, 10
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"labelled": 100, "pool": 250, "gallery": 200, "val": 50, "test": 200}  # of each class, in the file's order
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "horse.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
NUM_PHOTOS = 4000
CROP_SIDES = (28, 200)
MASK_LEVEL = 24  # grey value above which a pixel belongs to the piece of clothing


@lru_cache(maxsize=2)
def load_world(name: World) -> dict[str, Labelled]:
    """Return the parts of a data set; no picture is in two of them.

    Args:
        name: "fashion" ships with the package, "cifar" is CIFAR-10's test set and must be there, see `find_cifar`.
    """
    images, labels, classes = _fashion() if name == "fashion" else _cifar()
    found, start = {}, 0
    for part, size in PARTS.items():
        rows = slice(start, start + NUM_CLASSES * size)
        found[part] = Labelled(ArrayImages(images[rows]), labels[rows], classes)
        start = rows.stop
    return found


def _fashion() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    content = lzma.decompress(resources.files("vfm_transfer").joinpath("fashion", "images.xz").read_bytes())
    num = NUM_CLASSES * sum(PARTS.values())
    labels = np.frombuffer(content, np.uint8, num).astype(np.int64)
    return np.frombuffer(content, np.uint8, offset=num).reshape(num, SIDE, SIDE), labels, FASHION


def find_cifar() -> Path:
    """Return the file with CIFAR-10's test set that the source distribution of bigbench holds.

    Raises:
        FileNotFoundError: It is not there; the message says how to get it.
    """
    path = cache_dir("vfm_transfer") / "cifar10-task.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: run `pip download --no-deps --no-binary :all: bigbench==1.0.0`, unpack it, and copy its "
            "bigbench/benchmark_tasks/cifar10_classification/base64/task.json there."
        )
    return path


def _cifar() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The pictures, shuffled since the file has them by class, part by part and in a part class by class."""
    examples = json.loads(find_cifar().read_text(encoding="utf-8"))["examples"]
    names = sorted(examples[0]["target_scores"])
    labels = np.array([names.index(max(e["target_scores"], key=e["target_scores"].get)) for e in examples])
    order = np.random.default_rng(0).permutation(len(examples))
    rows = {c: [int(n) for n in order if labels[n] == c] for c in range(NUM_CLASSES)}
    chosen, offset = [], 0
    for size in PARTS.values():
        chosen += [n for c in range(NUM_CLASSES) for n in rows[c][offset : offset + size]]
        offset += size
    images = []
    for number in chosen:
        with Image.open(io.BytesIO(base64.b64decode(examples[number]["input"]))) as image:
            images.append(np.asarray(image.convert("RGB")))
    found = np.stack(images)
    if len(np.unique(found.reshape(len(found), -1), axis=0)) != len(found):
        raise ValueError(f"{find_cifar()}: a picture occurs twice.")
    return found, labels[chosen].astype(np.int64), tuple(names)


def draw_labels(world: World, per_class: int, draw: int) -> Labelled:
    """Return one label draw: so many pictures of each class of a hundred; smaller draws lie inside larger ones."""
    part = load_world(world)["labelled"]
    generator = np.random.default_rng([draw, 2])
    rows = [generator.permutation(np.flatnonzero(part.labels == c))[:per_class] for c in range(NUM_CLASSES)]
    return part.take(np.concatenate(rows))


@lru_cache(maxsize=2)
def load_photos(side: int, num: int = NUM_PHOTOS) -> np.ndarray:
    """Return crops [num, side, side, 3] of scikit-image's photographs: the generic images."""
    require_extra("skimage", "demo", DIST)
    folder, generator = resources.files("skimage").joinpath("data"), np.random.default_rng(0)
    pictures = []
    for name in PHOTOS:
        with folder.joinpath(name).open("rb") as file, Image.open(file) as image:
            pictures.append(image.convert("RGB"))
    crops = []
    for number in range(num):
        picture = pictures[number % len(pictures)]
        length = int(min(generator.integers(*CROP_SIDES), *picture.size))
        left, top = (int(generator.integers(0, size - length + 1)) for size in picture.size)
        crops.append(picture.resize((side, side), Image.Resampling.BOX, (left, top, left + length, top + length)))
    return np.stack([np.asarray(crop) for crop in crops])


@lru_cache(maxsize=2)
def load_digits(side: int) -> np.ndarray:
    """Return scikit-learn's 1,797 handwritten digits [num, side, side, 3]: the images of another domain."""
    datasets = require_extra("sklearn.datasets", "demo", DIST)
    digits = (datasets.load_digits().images * 15.9).astype(np.uint8)
    images = [Image.fromarray(digit).resize((side, side), Image.Resampling.BILINEAR).convert("RGB") for digit in digits]
    return np.stack([np.asarray(image) for image in images])


@dataclass(frozen=True)
class Gallery:
    """A pile to retrieve from.

    Attributes:
        images: Pictures of the task, photographs and digits, in this order.
        relevant: Which are of the task.
    """

    images: ArrayImages
    relevant: np.ndarray


def load_gallery(world: World) -> Gallery:
    """Return 2,000 pictures of the task (none of them in another part), 4,000 crops of photographs, 1,797 digits."""
    own = pixels_of(load_world(world)["gallery"])
    side = own.shape[1]
    arrays = [own, load_photos(side), load_digits(side)]
    if world == "fashion":  # grey, so that colour does not give the others away
        arrays[1] = np.repeat(arrays[1].mean(3, keepdims=True).astype(np.uint8), 3, axis=3)
    num = [len(array) for array in arrays]
    return Gallery(ArrayImages(np.concatenate(arrays)), np.arange(sum(num)) < num[0])


def pixels_of(part: Labelled) -> np.ndarray:
    """Return a part's pictures [num, side, side, 3]."""
    return part.images.fetch(np.arange(len(part))).permute(0, 2, 3, 1).numpy()


def compose_scenes(part: str, num: int, seed: int) -> Labelled:
    """Return composed scenes with masks: a piece of clothing, up to twice as small and anywhere, on a crop of a photo.

    Class 0 is the background, class 1 + c the pixels of the clothing of class c.
    """
    source, photos = load_world("fashion")[part], load_photos(SIDE)
    generator = np.random.default_rng([seed, 3])
    pieces, labels = pixels_of(source)[..., 0], source.target(np.arange(len(source))).numpy()
    scenes = photos[generator.integers(0, len(photos), num)].copy()
    masks = np.zeros((num, SIDE, SIDE), np.uint8)
    for number in range(num):
        row = int(generator.integers(len(pieces)))
        side = int(generator.integers(SIDE // 2, SIDE - 3))
        piece = np.asarray(Image.fromarray(pieces[row]).resize((side, side), Image.Resampling.BILINEAR))
        left, top = generator.integers(0, SIDE - side + 1, 2)
        place = np.s_[number, top : top + side, left : left + side]
        on = piece > MASK_LEVEL
        scenes[place][on] = piece[on][:, None]
        masks[place][on] = 1 + labels[row]
    return Labelled(ArrayImages(scenes), ArrayImages(masks, masks=True), ("background", *FASHION))
