"""Metrics of dense prediction: mean IoU, depth errors, and average precision through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tenfold_shared.commands import require_extra
from tenfold_shared.metrics import Mean, RootMean
from tenfold_shared.metrics import mean_iou as count_labels

DELTA = 1.25


def mean_iou(
    pred: ArrayLike, target: ArrayLike, num_classes: int, *, ignore_index: int | None = None, per_image: bool = False
) -> float:
    """Return the mean intersection over union of the classes that occur in prediction or truth.

    Counted over all pixels, as benchmarks report it and as torchmetrics' `MulticlassJaccardIndex` does; with
    `per_image` for each image and then averaged, as torchmetrics' `segmentation.mean_iou` does.

    Args:
        pred: Integer labels from 0 to `num_classes` - 1, any shape; images come first with `per_image`.
        target: Integer labels of the same shape.
        num_classes: Number of labels.
        ignore_index: Label of the truth that is left out, such as 255.
        per_image: Average over images.

    Returns:
        From 0 to 1; nan where nothing is counted.

    Raises:
        ValueError: Shapes differ, or a label is not from 0 to `num_classes` - 1.

    Example:
        >>> mean_iou([0, 0, 1, 1], [0, 1, 1, 1], 2)
        0.5833333333333333
    """
    if per_image:
        if len(pred) != len(target):
            raise ValueError(f"`pred` holds {len(pred)} images, `target` {len(target)}; they must be as many.")
        each = [count_labels(p, t, num_classes, ignore_index=ignore_index) for p, t in zip(pred, target, strict=True)]
        return float(np.mean([counts.compute() for counts in each])) if each else float("nan")
    return count_labels(pred, target, num_classes, ignore_index=ignore_index).compute()


@dataclass(frozen=True)
class DepthErrors:
    """Sums of a depth map's errors over its measured pixels; adds up over batches."""

    squared: Mean = field(default_factory=RootMean)
    relative: Mean = field(default_factory=Mean)
    close: Mean = field(default_factory=Mean)

    def __add__(self, other: DepthErrors) -> DepthErrors:
        return DepthErrors(self.squared + other.squared, self.relative + other.relative, self.close + other.close)

    def compute(self) -> dict[str, float]:
        """Return rmse, abs_rel (mean |error| / truth) and delta1 (share within a factor of 1.25)."""
        return {"rmse": self.squared.compute(), "abs_rel": self.relative.compute(), "delta1": self.close.compute()}


def depth_errors(pred: ArrayLike, target: ArrayLike, *, max_depth: float) -> DepthErrors:
    """Count the errors of a batch of depth maps (Eigen et al. 2014).

    Pixels whose truth is 0 (not measured) or above `max_depth` are left out.

    Args:
        pred: Depth, any shape; kept within 0.001 and `max_depth`.
        target: Truth of the same shape, in one unit with `max_depth`; finite.
        max_depth: Largest depth that counts.
    """
    found, truth = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if found.shape != truth.shape:
        raise ValueError(f"`pred` {found.shape} and `target` {truth.shape} must have one shape.")
    if not np.isfinite(truth).all():
        raise ValueError("`target` holds nan or inf; write 0 where a depth was not measured.")
    valid = (truth > 0) & (truth <= max_depth)
    found, truth = found[valid].clip(1e-3, max_depth), truth[valid]
    factor = np.maximum(found / truth, truth / found)
    error = found - truth
    return DepthErrors(RootMean.of(error**2), Mean.of(abs(error) / truth), Mean.of(factor < DELTA))


Boxes = Mapping[str, Any]


def average_precision(truth: Sequence[Boxes], predictions: Sequence[Boxes], num_classes: int) -> dict[str, float]:
    """Return COCO's AP, AP50, AP75 and average recall, counted by pycocotools (extra `detection`).

    Args:
        truth: For each picture `boxes` [n, 4] (left, top, right, bottom), `labels` [n] from 1 to `num_classes`, and
            optionally `masks` bool [n, height, width]: then the masks are judged, else the boxes.
        predictions: The same with `scores` [n].
        num_classes: Number of labels.

    Returns:
        ap, ap50, ap75, ar100; -1 where there is no object, as pycocotools gives.
    """
    coco_api = require_extra("pycocotools.coco", "detection", "qualityclip")
    evaluation = require_extra("pycocotools.cocoeval", "detection", "qualityclip")
    masks = any("masks" in row for row in truth)
    kind = "segm" if masks else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_api.COCO()
        coco.dataset = {
            "images": [{"id": number} | _size(row) for number, row in enumerate(truth)],
            "categories": [{"id": label} for label in range(1, num_classes + 1)],
            "annotations": [row | {"id": n, "iscrowd": 0} for n, row in enumerate(_rows(truth, masks), start=1)],
        }
        coco.createIndex()
        found = list(_rows(predictions, masks))
        if not found:
            return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "ar100": 0.0}
        run = evaluation.COCOeval(coco, coco.loadRes(found), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {name: float(run.stats[place]) for name, place in (("ap", 0), ("ap50", 1), ("ap75", 2), ("ar100", 8))}


def _size(picture: Boxes) -> dict[str, int]:
    """Return a picture's size as its masks say it; only masks need it."""
    if "masks" not in picture:
        return {}
    height, width = np.asarray(picture["masks"]).shape[-2:]
    return {"height": height, "width": width}


def _rows(pictures: Sequence[Boxes], masks: bool) -> list[dict[str, Any]]:
    """Return COCO's annotations: boxes as left, top, width, height; masks run-length encoded."""
    found = []
    for number, picture in enumerate(pictures):
        boxes = np.asarray(picture["boxes"], dtype=np.float64).reshape(-1, 4)
        for place, (box, label) in enumerate(zip(boxes, np.asarray(picture["labels"]), strict=True)):
            left, top, right, bottom = box.tolist()
            row: dict[str, Any] = {
                "image_id": number,
                "category_id": int(label),
                "bbox": [left, top, right - left, bottom - top],
            }
            row["area"] = (right - left) * (bottom - top)
            if masks:
                row |= _encode_mask(np.asarray(picture["masks"][place]))
            if "scores" in picture:
                row["score"] = float(picture["scores"][place])
            found.append(row)
    return found


def _encode_mask(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_masks

    code = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"segmentation": code, "area": float(mask.sum())}
