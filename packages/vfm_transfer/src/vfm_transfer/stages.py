"""The three steps of the method, and the variants of the middle one, each a function from networks to a network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfm_transfer import loss as losses
from vfm_transfer.config import FinetuneMode, Objective, Schedule, TeachMode, Transfer
from vfm_transfer.images import IGNORED, ArrayImages, Images, Labelled
from vfm_transfer.ledger import Ledger, count_flops
from vfm_transfer.lowrank import add_low_rank, fold_low_rank
from vfm_transfer.networks import Network
from vfm_transfer.targets import CachedTargets, Kind, LiveTargets
from vfm_transfer.train import Batch, fit, freeze_norms
from vfm_transfer.views import apply_views

__all__ = ["StageResult", "distill", "finetune", "teach"]

CONTRASTIVE_TEMPERATURE = 0.07


@dataclass(frozen=True)
class StageResult:
    """What a stage made.

    Attributes:
        network: Trained, in evaluation mode.
        ledger: What it cost.
        losses: Of the steps that this process took.
    """

    network: Network
    ledger: Ledger
    losses: list[float]


def teach(
    teacher: Network,
    examples: Labelled,
    schedule: Schedule,
    *,
    mode: TeachMode = "full",
    rank: int = 8,
    folder: Path | None = None,
) -> StageResult:
    """Step (a): fit a pretrained network with a new head to the labelled images.

    Args:
        teacher: With a head of the task; trained in place.
        examples: The labelled images.
        schedule: How; `head_lr` is for the head.
        mode: "full" trains everything but the statistics of batch norms, "lora" low-rank updates, which are folded in
            at the end, "linear" the head alone on features of the plain images, computed once.
        rank: Of the low-rank updates.
        folder: For the state a stopped training goes on from.

    Returns:
        The teacher, and its cost as `teacher_*` or `head_*`.

    Raises:
        ValueError: The head and the labels differ in their classes.
    """
    _check_classes(teacher, examples, "the teacher")
    flops = count_flops(teacher)
    if mode == "linear":
        return _fit_head(teacher, examples, schedule, folder, "teacher_forward", flops)
    if mode == "lora":
        add_low_rank(teacher.backbone, rank)
    if not any(parameter.requires_grad for parameter in teacher.backbone.parameters()):
        raise ValueError(f"{teacher.config.name!r} is frozen; teach it with mode 'linear'.")
    teacher.train()
    freeze_norms(teacher)
    found = fit(
        teacher, examples.images, _supervised(teacher, examples, schedule), schedule, head=[teacher.head], folder=folder
    )
    if mode == "lora":
        fold_low_rank(teacher.backbone)
    ledger = Ledger()
    for part in ("forward", "backward"):
        ledger.add(f"teacher_{part}", flops[part], num_images=schedule.steps * schedule.batch_size)
    return StageResult(teacher.eval(), ledger, found)


def _check_classes(network: Network, examples: Labelled, who: str) -> None:
    if network.config.num_classes != len(examples.classes):
        raise ValueError(
            f"{who} has {network.config.num_classes} classes, the labels have {len(examples.classes)}; they must agree."
        )


def _supervised(network: Network, examples: Labelled, schedule: Schedule) -> Any:
    def loss_of(batch: Batch) -> Tensor:
        target = examples.target(batch.ids)
        if target.dim() == 3:
            target = apply_views(target, batch.draws, schedule.min_area)
        return cross_entropy(network(batch.pixels), target.to(batch.pixels.device))

    return loss_of


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy with labels [batch], or with masks in whose size the logits are compared."""
    if target.dim() == 3:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, target, ignore_index=IGNORED)


def _fit_head(
    network: Network, examples: Labelled, schedule: Schedule, folder: Path | None, kind: str, flops: dict[str, float]
) -> StageResult:
    """Train the head alone on features of the plain images."""
    features = _features(network, examples.images)
    targets = examples.target(np.arange(len(examples)))
    device = features.device

    def loss_of(batch: Batch) -> Tensor:
        return cross_entropy(network.head(features[batch.ids]), targets[batch.ids].to(device))

    stand_in = ArrayImages(np.zeros((len(examples), 1, 1), np.uint8))  # only their order matters
    plain = replace(schedule, augment=False, lr=schedule.head_lr or schedule.lr)
    found = fit(network.head, stand_in, loss_of, plain, folder=folder)
    ledger, seen = Ledger(), schedule.steps * schedule.batch_size
    ledger.add(kind, flops["forward"], num_images=len(examples))
    ledger.add("head_forward", flops["head"], num_images=seen)
    ledger.add("head_backward", 2 * flops["head"], num_images=seen)
    return StageResult(network.eval(), ledger, found)


def _features(network: Network, images: Images) -> Tensor:
    device, found = next(network.parameters()).device, []
    with torch.no_grad():
        network.eval()
        for ids in chunks(len(images)):
            pooled, patches = network.features(apply_views(images.fetch(ids).to(device), None))
            found.append(patches if network.config.task == "segment" else pooled)
    return torch.cat(found)


def chunks(num: int, size: int = 128) -> Iterable[np.ndarray]:
    """Yield the numbers up to `num` in pieces."""
    return (np.arange(start, min(start + size, num)) for start in range(0, num, size))


def distill(
    student: Network,
    teacher: Network,
    images: Images,
    transfer: Transfer,
    *,
    folder: Path | None = None,
    kept: Path | None = None,
) -> StageResult:
    """Step (b), or (d) of the task-agnostic baseline: match a teacher on unlabelled images.

    Args:
        student: Trained in place; its head too where predictions are matched.
        teacher: Frozen.
        images: The transfer set.
        transfer: What is matched, and how.
        folder: For the state a stopped training goes on from.
        kept: For the teacher's outputs, which trainings on the same images and views can share; a temporary folder
            unless told.

    Returns:
        The student, and the cost.

    Raises:
        ValueError: Teacher and student differ in their classes where predictions are matched, or there are fewer
            images than a batch has.
    """
    check_transfer(student, teacher, len(images), transfer)
    with tempfile.TemporaryDirectory() as temporary:
        targets = _targets(teacher, images, transfer, kept or Path(temporary))
        projector = make_projector(student, teacher, transfer.objective)
        both = nn.ModuleDict({"student": student, "projector": projector})
        student.train()
        loss_of = _matching(student, projector, targets, transfer)
        found = fit(both, images, loss_of, transfer.schedule, head=[projector], folder=folder)
        ledger = _transfer_ledger(student, teacher, targets, transfer.schedule)
    return StageResult(student.eval(), ledger, found)


def check_transfer(student: Network, teacher: Network, num_images: int, transfer: Transfer) -> None:
    """Refuse what cannot be matched; see `distill`."""
    ours, theirs = student.config.num_classes, teacher.config.num_classes
    if transfer.objective in ("task", "logits") and ours != theirs:
        raise ValueError(f"the teacher has {theirs} classes and the student {ours}; predictions need the same classes.")
    if student.config.task != teacher.config.task and transfer.objective == "task":
        raise ValueError(f"the teacher's task is {teacher.config.task!r}, the student's {student.config.task!r}.")
    if num_images < transfer.schedule.batch_size:
        raise ValueError(
            f"the transfer set has {num_images} images, under one batch of {transfer.schedule.batch_size}; "
            "add images or lower `batch_size`."
        )


def _targets(teacher: Network, images: Images, transfer: Transfer, folder: Path) -> LiveTargets | CachedTargets:
    kinds: dict[str, Kind] = {"task": "logits", "logits": "logits", "patch": "patches"}
    kind = kinds.get(transfer.objective, "pooled")
    if not transfer.cache:
        return LiveTargets(teacher, kind)
    return CachedTargets(teacher, kind, images, transfer.schedule, folder)


def dims_of(network: Network) -> tuple[int, int]:
    """Return the dimensions of pooled features and of the map."""
    backbone: Any = network.backbone
    return backbone.dims


def make_projector(student: Network, teacher: Network, objective: Objective) -> nn.Module:
    """Return the layer from the student's features to the teacher's; nothing where predictions are matched."""
    ours, theirs = dims_of(student), dims_of(teacher)
    if objective in ("task", "logits"):
        return nn.Identity()
    return nn.Conv2d(ours[1], theirs[1], 1) if objective == "patch" else nn.Linear(ours[0], theirs[0])


def _matching(student: Network, projector: nn.Module, targets: LiveTargets | CachedTargets, transfer: Transfer) -> Any:
    objective, temperature = transfer.objective, transfer.temperature

    def loss_of(batch: Batch) -> Tensor:
        wanted = targets.batch(batch)
        if objective in ("task", "logits"):
            match = losses.match_pixels if wanted.dim() == 4 else losses.match_predictions
            return match(student(batch.pixels), wanted, temperature)
        pooled, patches = student.features(batch.pixels)
        if objective == "patch":
            return losses.match_patches(projector(patches), wanted)
        if objective == "contrastive":
            return losses.contrastive(projector(pooled), wanted, CONTRASTIVE_TEMPERATURE * temperature)
        return (losses.cosine if objective == "cosine" else losses.mse)(projector(pooled), wanted)

    return loss_of


def _transfer_ledger(
    student: Network, teacher: Network, targets: LiveTargets | CachedTargets, schedule: Schedule
) -> Ledger:
    ledger, seen = Ledger(), schedule.steps * schedule.batch_size
    looked = targets.num_computed() if isinstance(targets, CachedTargets) else seen
    ledger.add("teacher_forward", count_flops(teacher)["forward"], num_images=looked)
    for part in ("forward", "backward"):
        ledger.add(f"student_{part}", count_flops(student)[part], num_images=seen)
    return ledger


def finetune(
    student: Network,
    examples: Labelled,
    schedule: Schedule,
    *,
    mode: FinetuneMode = "full",
    folder: Path | None = None,
) -> StageResult:
    """Step (c), or (e) of the baselines: fit the student to the labelled images.

    Args:
        student: With a head of the task; trained in place.
        examples: The labelled images.
        schedule: How.
        mode: "full"; "linear" trains the head alone on the transferred features; "linear-then-full" first the head so,
            for half of the steps, then everything for the other half.
        folder: For the state a stopped training goes on from.

    Returns:
        The student, and its cost.
    """
    _check_classes(student, examples, "the student")
    flops, ledger, found = count_flops(student), Ledger(), []
    if mode != "full":
        part = schedule if mode == "linear" else replace(schedule, steps=max(1, schedule.steps // 2))
        first = _fit_head(student, examples, part, folder / "head" if folder else None, "student_forward", flops)
        if mode == "linear":
            return first
        schedule = replace(schedule, steps=max(1, schedule.steps - part.steps))
        ledger, found = first.ledger, first.losses
    student.train()
    loss_of = _supervised(student, examples, schedule)
    found = found + fit(student, examples.images, loss_of, schedule, head=[student.head], folder=folder)
    for part_name in ("forward", "backward"):
        ledger.add(f"student_{part_name}", flops[part_name], num_images=schedule.steps * schedule.batch_size)
    return StageResult(student.eval(), ledger, found)
