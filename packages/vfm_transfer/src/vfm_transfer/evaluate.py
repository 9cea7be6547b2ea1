"""Accuracy of classification, and mean intersection over union of segmentation, of a network on labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tenfold_shared.metrics import mean_iou

from vfm_transfer.images import IGNORED, Labelled
from vfm_transfer.networks import Network
from vfm_transfer.stages import chunks
from vfm_transfer.views import apply_views

__all__ = ["evaluate"]


def predict(network: Network, examples: Labelled) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield predicted and right classes, of images or of pixels, piece by piece."""
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        for ids in chunks(len(examples)):
            pixels = apply_views(examples.images.fetch(ids).to(device), None)
            logits = network.segment(pixels) if network.config.task == "segment" else network(pixels)
            yield logits.argmax(1).cpu().numpy(), examples.target(ids).numpy()


def evaluate(network: Network, examples: Labelled) -> dict[str, Any]:
    """Score a network.

    Args:
        network: Of the same classes as the examples.
        examples: Labelled images.

    Returns:
        `score` (accuracy, or mean IoU over the classes that occur), `metric`, `num_images`, and `per_class`: recall or
        IoU of each class.

    Raises:
        ValueError: Other numbers of classes.
    """
    num = len(examples.classes)
    if network.config.num_classes != num:
        raise ValueError(f"the network has {network.config.num_classes} classes, the images {num}.")
    table = np.zeros((num, num))
    for found, right in predict(network, examples):
        table += mean_iou(found, right, num, ignore_index=IGNORED).confusion
    hits, rows, columns = np.diag(table), table.sum(1), table.sum(0)
    segment = network.config.task == "segment"
    per_class = hits / np.maximum(rows + columns - hits if segment else rows, 1)
    present = (rows + columns if segment else rows) > 0
    score = per_class[present].mean() if segment else hits.sum() / table.sum()
    return {
        "score": float(score),
        "metric": "mIoU" if segment else "accuracy",
        "num_images": len(examples),
        "per_class": {name: float(value) for name, value in zip(examples.classes, per_class, strict=True)},
    }
