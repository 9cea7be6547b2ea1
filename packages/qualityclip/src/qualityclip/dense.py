"""Dense transfer: a head on a backbone, frozen or fine-tuned, trained and judged top to bottom.

qualityclip dense run/model --data scenes --preset tiny --out dense         (one CPU, half a minute)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from tenfold_shared.commands import InputError
from tenfold_shared.metrics import MeanIoU, mean_iou
from tenfold_shared.progress import progress
from torch import Tensor, nn

from qualityclip.backbone import Backbone, parameter_groups, set_drop_path
from qualityclip.config import DenseConfig
from qualityclip.detection import build_detector, detector_loss
from qualityclip.heads import HEADS, resize
from qualityclip.metrics import DepthErrors, average_precision, depth_errors

IGNORE = 255
SILOG = 0.5  # share of the mean that the scale-invariant loss forgives (Eigen et al. 2014, equation 4)
CACHE_BYTES = 2 << 30
MIN_SCORE = 0.05


class DenseData(Protocol):
    """Pictures and truths by number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        """Return a picture, float [3, height, width], normalised, and its truth.

        Segmentation: int64 [height, width], 255 where nothing counts. Depth: float [height, width], 0 where nothing
        was measured. Detection: boxes float [n, 4] (left, top, right, bottom), labels int64 [n] from 1, and for
        Mask R-CNN masks uint8 [n, height, width].
        """
        ...


@dataclass(frozen=True)
class ArrayData:
    """Pictures and truths in memory."""

    images: Tensor
    targets: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        return self.images[place], self.targets[place]


class DenseModel(nn.Module):
    """A backbone with a head.

    Args:
        backbone: Image tower.
        config: Task and head.
    """

    def __init__(self, backbone: Backbone, config: DenseConfig) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        torch.manual_seed(config.seed)
        if config.task == "detection":
            self.detector = build_detector(backbone, config)
            self.head: nn.Module = nn.ModuleList(
                module for name, module in self.detector.named_children() if name != "backbone"
            )
            self.head.extend([self.detector.backbone.pyramid, self.detector.backbone.top_down])
        else:
            outputs = config.num_classes if config.task == "segmentation" else 1
            self.head = HEADS[config.head](backbone, outputs, config.width)
        backbone.requires_grad_(not config.frozen)

    def train(self, mode: bool = True) -> DenseModel:
        """Switch to training; a frozen backbone stays in evaluation mode, its running statistics with it."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's maps, without a graph where it is frozen."""
        with torch.set_grad_enabled(not self.config.frozen and torch.is_grad_enabled()):
            return self.backbone(images)

    def predict(self, maps: list[Tensor], size: Sequence[int]) -> Tensor:
        """Return logits [batch, classes, *size], or depth [batch, *size] from 0 to `max_depth`."""
        x = resize(self.head(maps), size)
        return x if self.config.task == "segmentation" else self.config.max_depth * torch.sigmoid(x[:, 0])

    def loss(self, maps: list[Tensor], targets: Tensor) -> Tensor:
        """Return the loss of a batch of segmentation or depth."""
        found = self.predict(maps, targets.shape[-2:])
        if self.config.task == "segmentation":
            return F.cross_entropy(found, targets, ignore_index=IGNORE)
        return silog_loss(found, targets, self.config.max_depth)


def silog_loss(found: Tensor, truth: Tensor, max_depth: float) -> Tensor:
    """Return the scale-invariant log loss, sqrt(mean d^2 - 0.5 mean(d)^2) with d = log found - log truth.

    Args:
        found: Depth above 0.
        truth: Depth; pixels with 0 or above `max_depth` do not count.
        max_depth: Largest depth that counts.
    """
    valid = (truth > 0) & (truth <= max_depth)
    difference = found[valid].clamp(min=1e-3).log() - truth[valid].log()
    # The root's slope is infinite at 0.
    return torch.sqrt((difference**2).mean() - SILOG * difference.mean() ** 2 + 1e-8)


def transfer(
    backbone: Backbone,
    train: DenseData,
    test: DenseData,
    config: DenseConfig,
    *,
    device: str = "cpu",
    quiet: bool = True,
) -> dict[str, float]:
    """Train a head, or the whole, on labelled pictures and return its scores on others.

    A frozen backbone's maps are computed once where they fit into 2 GB.

    Args:
        backbone: Of `as_backbone`; changed where it is fine-tuned.
        train: Labelled pictures, for instance of `open_dense`.
        test: Others.
        config: Task, head and training.
        device: Where.
        quiet: No progress.

    Returns:
        mean_iou; or rmse, abs_rel, delta1; or ap, ap50, ap75, ar100.

    Raises:
        InputError: The loss is not finite.
    """
    model = fit(backbone, train, config, device=device, quiet=quiet)
    return evaluate_dense(model, test, device=device, quiet=quiet)


def fit(
    backbone: Backbone, train: DenseData, config: DenseConfig, *, device: str = "cpu", quiet: bool = True
) -> DenseModel:
    """Train; see `transfer`."""
    if not len(train):
        raise InputError("there are no labelled pictures to train on.")
    model = DenseModel(backbone, config).to(device)
    if not config.frozen and config.drop_path:
        set_drop_path(backbone, config.drop_path)
    optimizer, scales = _optimizer(model)
    model.train()
    cache = _Cache(model, train, device)
    order = _order(len(train), config.batch_size, config.seed)
    for step in progress(range(config.num_steps), description=config.task, unit="steps", quiet=quiet):
        # Rate of this step, for each layer
        rate = learning_rate(step, config)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = rate * scale
        # Loss
        places = next(order)
        if config.task == "detection":
            loss = _detection_loss(model, train, places, device)
        else:
            maps, targets = cache.batch(places)
            loss = model.loss(maps, targets)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is not finite at step {step} (learning rate {rate:g}, pictures {places[:4].tolist()}...); "
                "lower --learning-rate or look at these."
            )
        # Update
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model


def learning_rate(step: int, config: DenseConfig) -> float:
    """Return the rate of a step: linear warm-up, cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _optimizer(model: DenseModel) -> tuple[torch.optim.AdamW, list[float]]:
    config = model.config
    groups = list(parameter_groups(model.backbone, model.head, frozen=config.frozen, decay=config.layer_decay))
    settings = [
        {"params": group["params"], "weight_decay": config.weight_decay if group["decays"] else 0.0} for group in groups
    ]
    return torch.optim.AdamW(settings, lr=config.learning_rate), [group["scale"] for group in groups]


def _order(count: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield batches for ever: every picture once an epoch, in another order each time."""
    epoch, waiting = 0, np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, np.random.default_rng([seed, epoch]).permutation(count)])
            epoch += 1
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


class _Cache:
    """Maps and truths of batches, computed once where the backbone is frozen and they fit into memory."""

    def __init__(self, model: DenseModel, data: DenseData, device: str) -> None:
        self.model, self.data, self.device = model, data, device
        self.maps: list[Tensor] = []
        self.targets = torch.empty(0)
        if model.config.frozen and model.config.task != "detection":
            image, target = data[0]
            sizes = [each.numel() * 4 for each in model.features(image[None].to(device))]
            if len(data) * (sum(sizes) + target.numel() * 8) <= CACHE_BYTES:
                self._fill()

    def _fill(self) -> None:
        batches = [self._compute(places) for places in _chunks(len(self.data), self.model.config.batch_size)]
        self.maps = [torch.cat(level) for level in zip(*(maps for maps, _ in batches), strict=True)]
        self.targets = torch.cat([targets for _, targets in batches])

    def _compute(self, places: np.ndarray) -> tuple[list[Tensor], Tensor]:
        images, targets = zip(*(self.data[int(place)] for place in places), strict=True)
        return self.model.features(torch.stack(images).to(self.device)), torch.stack(targets).to(self.device)

    def batch(self, places: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Return the maps and truths of some pictures."""
        if not self.maps:
            return self._compute(places)
        rows = torch.from_numpy(places).to(self.device)
        return [level[rows] for level in self.maps], self.targets[rows]


def _chunks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _detection_loss(model: DenseModel, data: DenseData, places: np.ndarray, device: str) -> Tensor:
    images, targets = zip(*(data[int(place)] for place in places), strict=True)
    moved = [{name: value.to(device) for name, value in target.items()} for target in targets]
    return detector_loss(model.detector, torch.stack(images).to(device), moved)


@torch.no_grad()
def evaluate_dense(model: DenseModel, test: DenseData, *, device: str = "cpu", quiet: bool = True) -> dict[str, float]:
    """Return a model's scores on labelled pictures; see `transfer`."""
    config = model.config
    model.eval()
    chunks = progress(_chunks(len(test), config.batch_size), description="evaluate", unit="batches", quiet=quiet)
    if config.task == "detection":
        return _evaluate_detection(model, test, chunks, device)
    ious = MeanIoU(np.zeros((config.num_classes, config.num_classes), np.int64))
    errors = DepthErrors()
    for places in chunks:
        images, targets = zip(*(test[int(place)] for place in places), strict=True)
        truth = torch.stack(targets).numpy()
        found = model.predict(model.features(torch.stack(images).to(device)), truth.shape[-2:])
        if config.task == "depth":
            errors = errors + depth_errors(found.cpu().numpy(), truth, max_depth=config.max_depth)
        else:
            ious = ious + mean_iou(found.argmax(1).cpu().numpy(), truth, config.num_classes, ignore_index=IGNORE)
    return errors.compute() if config.task == "depth" else {"mean_iou": ious.compute()}


def _evaluate_detection(model: DenseModel, test: DenseData, chunks: Any, device: str) -> dict[str, float]:
    truth, found = [], []
    for places in chunks:
        images, targets = zip(*(test[int(place)] for place in places), strict=True)
        for target, answer in zip(targets, model.detector([image.to(device) for image in images]), strict=True):
            kept = answer["scores"] >= MIN_SCORE if model.config.head == "mask_rcnn" else slice(None)
            row = {name: answer[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores")}
            if "masks" in answer and "masks" in target:
                row["masks"] = (answer["masks"][kept][:, 0] > 0.5).cpu().numpy()
            found.append(row)
            names = ("boxes", "labels", "masks") if "masks" in row else ("boxes", "labels")
            truth.append({name: target[name].numpy() for name in names})
    return average_precision(truth, found, model.config.num_classes)
