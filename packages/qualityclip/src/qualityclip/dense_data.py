"""Labelled pictures on disk: ADE20K's, NYUv2's and COCO's layouts, and composed scenes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tenfold_shared.commands import InputError
from torch import Tensor

from qualityclip.config import DenseConfig, VisionConfig
from qualityclip.data import normalise, to_pixels
from qualityclip.dense import IGNORE, ArrayData, DenseData
from qualityclip.scenes import Scenes, compose, concepts

MILLIMETRES = 1000.0
SCENES = "scenes"
NUM_SCENES = {"train": 200, "test": 200}
_SPLITS = {"train": ("training", "train", "train2017"), "test": ("validation", "test", "val", "val2017")}


def open_dense(path: str | Path, config: DenseConfig, vision: VisionConfig, split: str) -> DenseData:
    """Open labelled pictures of a task; every picture and truth is resized to a square of `config.image_size`.

    - segmentation: ADE20K's layout, images/training/*.jpg beside annotations/training/*.png; 0 there is "other" and
      does not count, 1 is the first class.
    - depth: NYUv2's layout, train/**/rgb_*.jpg beside sync_depth_*.png (16 bit, millimetres) or .npy (metres); 0 was
      not measured.
    - detection: COCO's layout, train2017/*.jpg and annotations/instances_train2017.json.
    - "scenes": composed scenes that come with the package, for every task.

    Args:
        path: Folder, or "scenes".
        config: Task, classes, size.
        vision: Says how the tower wants pixels.
        split: "train" or "test".

    Raises:
        InputError: A layout without pictures, or a truth that does not fit; the file is named.
    """
    if str(path) == SCENES:
        names = concepts("held out", per_family=1)
        seed = {"train": 1, "test": 2}[split]
        scenes = compose(names, NUM_SCENES[split], size=config.image_size, seed=seed)
        return scene_data(scenes, config.task, vision)
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; give labelled pictures, or the word `scenes`.")
    opened = {"segmentation": _open_ade20k, "depth": _open_nyuv2, "detection": _open_coco}[config.task]
    return opened(folder, config, vision, split)


def _split_folder(parent: Path, split: str) -> Path:
    for name in _SPLITS[split]:
        if (parent / name).is_dir():
            return parent / name
    raise InputError(f"{parent} has no folder for the {split} split: one of {', '.join(_SPLITS[split])}.")


def _read(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path}: the picture cannot be read ({error}).") from error


def _pixels(image: Image.Image, config: DenseConfig, vision: VisionConfig) -> Tensor:
    side = (config.image_size, config.image_size)
    return to_pixels(image.convert("RGB").resize(side, Image.Resampling.BICUBIC), vision)


def _check_size(image: Image.Image, truth: tuple[int, int], path: Path) -> None:
    if image.size != truth:
        raise InputError(
            f"{path}: the truth has {truth[0]} x {truth[1]} pixels, its picture {image.size[0]} x {image.size[1]}; "
            "they must be of one size."
        )


@dataclass(frozen=True)
class MaskPairs:
    """Pictures with label maps, in ADE20K's numbering."""

    pairs: Sequence[tuple[Path, Path]]
    config: DenseConfig
    vision: VisionConfig

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        picture, truth = self.pairs[place]
        image, mask = _read(picture), _read(truth)
        _check_size(image, mask.size, truth)
        side = (self.config.image_size, self.config.image_size)
        labels = np.array(mask.resize(side, Image.Resampling.NEAREST)).astype(np.int64)
        if labels.ndim != 2:
            raise InputError(f"{truth}: a label map has one channel, this one {labels.shape[-1]}.")
        if (largest := labels[labels != IGNORE].max(initial=0)) > self.config.num_classes:
            raise InputError(
                f"{truth} holds the label {largest}, with {self.config.num_classes} classes; "
                f"give --num-classes {largest}."
            )
        labels[labels == 0] = IGNORE + 1
        labels[labels != IGNORE] -= 1
        return _pixels(image, self.config, self.vision), torch.from_numpy(labels)


def _open_ade20k(folder: Path, config: DenseConfig, vision: VisionConfig, split: str) -> MaskPairs:
    pictures = sorted(_split_folder(folder / "images", split).glob("*.jpg"))
    masks = _split_folder(folder / "annotations", split)
    pairs = [(picture, masks / f"{picture.stem}.png") for picture in pictures]
    _check_pairs(folder, pairs)
    return MaskPairs(pairs, config, vision)


def _check_pairs(folder: Path, pairs: Sequence[tuple[Path, Path]]) -> None:
    if not pairs:
        raise InputError(f"{folder} holds no pictures in the expected layout.")
    for picture, truth in pairs:
        if not truth.exists():
            raise InputError(f"{picture} has no truth at {truth}.")


@dataclass(frozen=True)
class DepthPairs:
    """Pictures with depth maps in metres."""

    pairs: Sequence[tuple[Path, Path]]
    config: DenseConfig
    vision: VisionConfig

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        picture, truth = self.pairs[place]
        image, depth = _read(picture), read_depth(truth)
        _check_size(image, (depth.shape[1], depth.shape[0]), truth)
        side = (self.config.image_size, self.config.image_size)
        # Nearest: a mean of measured and unmeasured pixels would be neither.
        resized = np.array(Image.fromarray(depth).resize(side, Image.Resampling.NEAREST))
        return _pixels(image, self.config, self.vision), torch.from_numpy(resized)


def read_depth(path: Path) -> np.ndarray:
    """Return a depth map, float32 [height, width], 0 where nothing was measured.

    Raises:
        InputError: It holds nan, inf or negative numbers, or not one measured pixel.
    """
    if path.suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False).astype(np.float32)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path}: not a plain array ({error}).") from error
    else:
        depth = np.array(_read(path)).astype(np.float32) / MILLIMETRES
    if depth.ndim != 2:
        raise InputError(f"{path}: a depth map has two axes, this one {depth.ndim}.")
    if not np.isfinite(depth).all():
        raise InputError(f"{path} holds nan or inf; write 0 where a depth was not measured.")
    if depth.min() < 0 or depth.max() == 0:
        raise InputError(f"{path} holds {'a negative depth' if depth.min() < 0 else 'only zeros, no measured pixel'}.")
    return depth


def _open_nyuv2(folder: Path, config: DenseConfig, vision: VisionConfig, split: str) -> DepthPairs:
    pairs = []
    for picture in sorted(_split_folder(folder, split).rglob("rgb_*.jpg")):
        name = picture.stem.replace("rgb_", "sync_depth_")
        found = [picture.with_name(f"{name}{ending}") for ending in (".npy", ".png")]
        pairs.append((picture, next((truth for truth in found if truth.exists()), found[-1])))
    _check_pairs(folder, pairs)
    return DepthPairs(pairs, config, vision)


@dataclass(frozen=True)
class CocoBoxes:
    """Pictures with boxes and masks of objects; categories are numbered from 1 in the order of their ids."""

    pictures: Sequence[tuple[Path, list[dict[str, Any]]]]
    categories: dict[int, int]
    config: DenseConfig
    vision: VisionConfig

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        path, objects = self.pictures[place]
        image = _read(path)
        side = self.config.image_size
        scale = np.array([side / image.width, side / image.height] * 2)
        boxes = np.array([row["bbox"] for row in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": torch.from_numpy((boxes * scale).astype(np.float32)),
            "labels": torch.tensor([self.categories[row["category_id"]] for row in objects], dtype=torch.long),
        }
        if self.config.head == "mask_rcnn":
            masks = [_draw_mask(row["segmentation"], image.size, side, path) for row in objects]
            target["masks"] = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, side, side), np.uint8))
        return _pixels(image, self.config, self.vision), target


def _draw_mask(segmentation: Any, size: tuple[int, int], side: int, path: Path) -> np.ndarray:
    """Return polygons or a run-length code of COCO as uint8 [side, side]."""
    from pycocotools import mask as coco_masks

    codes = coco_masks.frPyObjects(segmentation, size[1], size[0])
    code = coco_masks.merge(codes) if isinstance(codes, list) else codes
    if list(code["size"]) != [size[1], size[0]]:
        raise InputError(
            f"{path}: a mask has {code['size'][1]} x {code['size'][0]} pixels, its picture {size[0]} x {size[1]}."
        )
    with warnings.catch_warnings():  # of NumPy 2, about how pycocotools copies
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = coco_masks.decode(code)
    mask = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    return np.array(mask)


def _open_coco(folder: Path, config: DenseConfig, vision: VisionConfig, split: str) -> CocoBoxes:
    pictures = _split_folder(folder, split)
    file = folder / "annotations" / f"instances_{pictures.name}.json"
    if not file.is_file():
        raise InputError(f"{folder} has no {file.relative_to(folder)}.")
    try:
        record = json.loads(file.read_text("utf-8"))
        categories = {row["id"]: place for place, row in enumerate(sorted(record["categories"], key=_id), start=1)}
        objects: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in record["images"]}
        for row in record["annotations"]:
            if not row.get("iscrowd") and min(row["bbox"][2:]) > 0:
                objects[row["image_id"]].append(row)
        found = [(pictures / row["file_name"], objects[row["id"]]) for row in sorted(record["images"], key=_id)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read as COCO's instances ({type(error).__name__}: {error}).") from error
    if len(categories) > config.num_classes:
        raise InputError(f"{file} has {len(categories)} categories, over `num_classes` (={config.num_classes}).")
    # Pictures without an object teach a detector nothing that torchvision's losses can use here.
    found = [(path, rows) for path, rows in found if rows] if split == "train" else found
    if not found:
        raise InputError(f"{file} has no pictures with objects.")
    return CocoBoxes(found, categories, config, vision)


def _id(row: dict[str, Any]) -> int:
    return row["id"]


def pixels_of(images: np.ndarray, vision: VisionConfig) -> Tensor:
    """Return pictures, uint8 [n, side, side, 3], as float [n, 3, side, side], normalised as the tower wants it."""
    return normalise(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255, vision)


def scene_data(scenes: Scenes, task: str, vision: VisionConfig) -> ArrayData:
    """Return scenes with the truth of a task, as `transfer` takes them."""
    images = pixels_of(scenes.images, vision)
    if task == "segmentation":
        return ArrayData(images, torch.from_numpy(scenes.labels).long())
    if task == "depth":
        return ArrayData(images, torch.from_numpy(scenes.depth))
    return ArrayData(images, [_boxes(scenes, row) for row in range(len(scenes))])


def _boxes(scenes: Scenes, row: int) -> dict[str, Any]:
    things = scenes.things[row]
    labels = torch.tensor([scenes.concepts.index(thing.concept) + 1 for thing in things])
    masks = np.stack([scenes.labels[row] == label for label in labels.tolist()]).astype(np.uint8)
    boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32)
    return {"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}
