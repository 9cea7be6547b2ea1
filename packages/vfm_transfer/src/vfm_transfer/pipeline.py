"""From a teacher, a few labels and a pile of images to a student: three stages in a folder, and arms side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import plain_json, write_json
from tenfold_shared.intervals import paired_interval

from vfm_transfer.artefacts import Artefact, digest_images, digest_labelled, make_stage, replacement
from vfm_transfer.checkpoint import read_config, weights_digest
from vfm_transfer.config import Arm, NetworkConfig, Objective, RunConfig, Schedule
from vfm_transfer.evaluate import evaluate
from vfm_transfer.images import Images, Labelled
from vfm_transfer.ledger import Ledger
from vfm_transfer.networks import Network, build_network, find_source
from vfm_transfer.stages import StageResult, check_transfer, distill, finetune, teach

__all__ = ["RunData", "compare", "run"]

LOG = logging.getLogger(__name__)
FEATURE_ARMS = ("cosine", "mse", "contrastive", "patch")


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    Attributes:
        labelled: The few labelled images.
        transfer: The pile; not needed by "scratch" and "checkpoint".
        test: What the student is scored on; None for nothing.
    """

    labelled: Labelled
    transfer: Images | None = None
    test: Labelled | None = None


@dataclass(frozen=True)
class Replaced:
    """Networks from elsewhere in a stage's place.

    Attributes:
        teacher: Folder of a teacher that knows the task.
        pretrained: Folder of a student after the middle step, or of any checkpoint.
    """

    teacher: Path | None = None
    pretrained: Path | None = None


def run(
    config: RunConfig,
    data: RunData,
    out: str | Path,
    *,
    replaced: Replaced | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Take all three steps; a run that was stopped goes on where it was, to the same weights.

    Writes `1-teacher`, `2-pretrained`, `3-student` (each `network.json`, `model.safetensors`, `stage.json` with what it
    depends on and what it cost), `config.json` and `result.json`. A stage whose folder is whole is not done again; one
    that depends on something else than now is refused.

    Args:
        config: The arm, the networks, the settings.
        data: Labelled, unlabelled and test images.
        out: Folder.
        replaced: Networks from elsewhere in a stage's place.
        device: Of torch.

    Returns:
        `score` on the test images (and `metric`, `per_class`), `flops` by kind and in all, `student` (folder).

    Raises:
        ValueError: Teacher, student and labels do not fit, or the transfer set is too small; nothing is written then.
    """
    out, replaced, on = Path(out), replaced or Replaced(), torch.device(device)
    check_run(config, data, replaced)
    write_json(out / "config.json", plain_json(config.to_dict()))
    ledger = Ledger()
    pretrained: Artefact | None = None
    if replaced.pretrained:
        pretrained = replacement(replaced.pretrained)
    elif config.arm not in ("scratch", "checkpoint"):
        teacher = None
        if config.arm in ("oriented", "self"):
            teacher = replacement(replaced.teacher) if replaced.teacher else make_teacher(config, data, out, on)
            ledger = ledger.merge(teacher.ledger)
        pretrained = make_pretrained(config, data, out, teacher, on)
    ledger = ledger.merge(pretrained.ledger if pretrained else Ledger())
    student = make_student(config, data, out, pretrained, on)
    ledger = ledger.merge(student.ledger)
    found: dict[str, Any] = {"arm": config.arm, "student": str(student.folder)}
    if data.test is not None:
        found |= evaluate(student.load(on), data.test)
    found |= {"flops": ledger.flops, "total_flops": ledger.total}
    write_json(out / "result.json", plain_json(found))
    return found


def check_run(config: RunConfig, data: RunData, replaced: Replaced) -> None:
    """Refuse what cannot end well, before anything is written."""
    needs_pile = config.arm not in ("scratch", "checkpoint") and not replaced.pretrained
    num = len(data.labelled.classes)
    if needs_pile and data.transfer is None:
        raise InputError(f"arm {config.arm!r} needs a transfer set; name a folder or a list of images.")
    if config.arm == "checkpoint" and not replaced.pretrained and ":" not in config.student:
        raise InputError(
            "arm 'checkpoint' needs a network: a folder in the middle step's place, or a student like timm:NAME."
        )
    if replaced.teacher:
        theirs = read_config(replaced.teacher)
        if theirs.num_classes != num:
            raise InputError(
                f"the teacher {replaced.teacher} has {theirs.num_classes} classes and the labels {num}; "
                "predictions need the same classes."
            )
    if replaced.pretrained:
        read_config(replaced.pretrained)
    elif config.arm not in ("self", "scratch", "checkpoint") and not replaced.teacher:
        find_source(_teacher(config, num))
    new_student(config, num, config.finetune)
    size = config.transfer.schedule.batch_size
    if needs_pile and data.transfer is not None and len(data.transfer) < size:
        raise InputError(
            f"the transfer set has {len(data.transfer)} images, under one batch of {size}; add images or lower "
            "`batch_size`."
        )


def _student(config: RunConfig, num_classes: int) -> NetworkConfig:
    return NetworkConfig(config.student, num_classes, config.task, config.student_size, stride=config.student_stride)


def _teacher(config: RunConfig, num_classes: int) -> NetworkConfig:
    return NetworkConfig(config.teacher, num_classes, config.task, config.teacher_size, stride=config.teacher_stride)


def _teacher_name(config: RunConfig) -> list[Any]:
    return [config.teacher, config.teacher_size, config.teacher_stride]


def _seeded(schedule: Schedule, build: Any) -> Network:
    """Build a network whose random weights follow from the seed."""
    torch.manual_seed(schedule.seed)
    return build()


def new_student(config: RunConfig, num_classes: int, schedule: Schedule) -> Network:
    """Build an untrained student."""
    return _seeded(schedule, lambda: build_network(_student(config, num_classes)))


def new_teacher(config: RunConfig, num_classes: int, *, classifier: bool = False) -> Network:
    """Build the pretrained teacher under a new head, or under its own classifier; a `convnet` has random weights."""
    described = _teacher(config, num_classes)
    pretrained = config.teacher != "convnet"
    return _seeded(config.teach, lambda: build_network(described, pretrained=pretrained, classifier=classifier))


def make_teacher(config: RunConfig, data: RunData, out: Path, device: torch.device) -> Artefact:
    """Make `1-teacher`: the pretrained network that learnt the task, or a student that learnt the labels ("self")."""
    num = len(data.labelled.classes)
    request: dict[str, Any] = {"arm": "self" if config.arm == "self" else "oriented", "schedule": asdict(config.teach)}
    request["labels"] = digest_labelled(data.labelled)
    if config.arm == "self":
        schedule = scratch_schedule(config)
        request |= {"schedule": asdict(schedule), "network": asdict(_student(config, num))}

        def learn(work: Path) -> StageResult:
            return finetune(new_student(config, num, schedule).to(device), data.labelled, schedule, folder=work)

        return make_stage(out / "1-teacher", request, learn)
    request |= {"network": [*_teacher_name(config), config.task], "mode": config.teach_mode}
    request["rank"] = config.lora_rank if config.teach_mode == "lora" else 0

    def learn_task(work: Path) -> StageResult:
        teacher = new_teacher(config, num).to(device)
        return teach(teacher, data.labelled, config.teach, mode=config.teach_mode, rank=config.lora_rank, folder=work)

    return make_stage(out / "1-teacher", request, learn_task)


def scratch_schedule(config: RunConfig) -> Schedule:
    """Return how a student is trained on the labels alone: for the steps of both of the other arms' trainings."""
    return replace(config.finetune, steps=config.finetune.steps + config.transfer.schedule.steps)


def make_pretrained(
    config: RunConfig, data: RunData, out: Path, teacher: Artefact | None, device: torch.device
) -> Artefact:
    """Make `2-pretrained`: a student that matched a teacher on the transfer set."""
    objective: Objective = "task" if config.arm in ("oriented", "self") else _objective(config.arm)
    transfer = replace(config.transfer, objective=objective)
    assert data.transfer is not None
    request = {
        "network": asdict(_student(config, len(data.labelled.classes))),
        "teacher": weights_digest(teacher.folder) if teacher else _teacher_name(config),
        "transfer": asdict(transfer),
        "images": digest_images(data.transfer),
        "classes": len(data.labelled.classes),
    }

    def match(work: Path) -> StageResult:
        assert data.transfer is not None
        num = len(data.labelled.classes)
        guide = (
            teacher.load(device) if teacher else new_teacher(config, num, classifier=objective == "logits").to(device)
        )
        outputs = guide.config.num_classes if objective == "logits" else num
        student = new_student(config, outputs, transfer.schedule).to(device)
        check_transfer(student, guide, len(data.transfer), transfer)
        return distill(student, guide, data.transfer, transfer, folder=work, kept=work / "targets")

    return make_stage(out / "2-pretrained", request, match)


def _objective(arm: Arm) -> Objective:
    objectives: dict[str, Objective] = {name: name for name in ("cosine", "mse", "contrastive", "patch", "logits")}
    return objectives[arm]


def make_student(
    config: RunConfig, data: RunData, out: Path, pretrained: Artefact | None, device: torch.device
) -> Artefact:
    """Make `3-student`: fine-tuned on the labels, from the middle step, from a checkpoint, or from scratch."""
    num = len(data.labelled.classes)
    alone = pretrained is None and config.arm == "scratch"
    schedule = scratch_schedule(config) if alone else config.finetune
    request = {
        "start": weights_digest(pretrained.folder) if pretrained else [asdict(_student(config, num)), config.arm],
        "schedule": asdict(schedule),
        "mode": "full" if alone else config.finetune_mode,
        "labels": digest_labelled(data.labelled),
    }

    def learn(work: Path) -> StageResult:
        student = _start(config, pretrained, num, schedule).to(device)
        mode = "full" if alone else config.finetune_mode
        return finetune(student, data.labelled, schedule, mode=mode, folder=work)

    return make_stage(out / "3-student", request, learn)


def _start(config: RunConfig, pretrained: Artefact | None, num_classes: int, schedule: Schedule) -> Network:
    """The network that is fine-tuned; a head of its own where what came before did not match the task's predictions."""
    if pretrained is None:
        if config.arm == "scratch":
            return new_student(config, num_classes, schedule)
        return _seeded(schedule, lambda: build_network(_student(config, num_classes), pretrained=True))
    found = pretrained.load(torch.device("cpu"))
    if config.arm in ("oriented", "self") and found.config.num_classes == num_classes:
        return found
    return _seeded(schedule, lambda: found.new_head(num_classes))


@dataclass(frozen=True)
class Draws:
    """Label draws of a comparison.

    Attributes:
        seeds: Of draws, weights and order.
        per_class: Labels of each class that a draw takes; 0 takes all.
    """

    seeds: tuple[int, ...]
    per_class: int = 0


def compare(
    config: RunConfig,
    data: RunData,
    out: str | Path,
    *,
    arms: Sequence[Arm],
    draws: Draws,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run arms side by side on several label draws, and compare each with the first one, paired by draw.

    Finished runs in `out` are not made again. All arms of a draw share labels and seed.

    Args:
        config: Settings of every arm.
        data: With test images.
        out: Folder; gets a folder for each run and `comparison.json`.
        arms: The first is what the others are compared with.
        draws: Seeds, and labels of each class.
        device: Of torch.

    Returns:
        `rows`, one for each arm: mean and scores by seed, the difference to it (first arm minus this one) with its 95 %
        paired-t interval, operations.
    """
    if data.test is None:
        raise InputError("a comparison needs test images.")
    out, found = Path(out), {arm: [] for arm in arms}
    for seed in draws.seeds:
        drawn = replace(data, labelled=draw(data.labelled, draws.per_class, seed)) if draws.per_class else data
        for arm in arms:
            folder = out / f"{arm}-s{seed}"
            found[arm].append(run(with_seed(replace(config, arm=arm), seed), drawn, folder, device=device))
    first = [result["score"] for result in found[arms[0]]]
    rows = []
    for arm, results in found.items():
        scores = [result["score"] for result in results]
        mean, low, high = paired_interval([ours - theirs for ours, theirs in zip(first, scores, strict=True)])
        rows.append(
            {
                "arm": arm,
                "score": float(np.mean(scores)),
                "per_seed": scores,
                "ahead": mean,
                "low": low,
                "high": high,
                "flops": float(np.mean([result["total_flops"] for result in results])),
            }
        )
    report = {"metric": found[arms[0]][0]["metric"], "reference": arms[0], "seeds": list(draws.seeds), "rows": rows}
    write_json(out / "comparison.json", plain_json(report))
    return report


def draw(examples: Labelled, per_class: int, seed: int) -> Labelled:
    """Take so many images of each class at random."""
    if not isinstance(examples.labels, np.ndarray):
        raise InputError("label draws by class are for classification; give fewer images for segmentation.")
    generator, chosen = np.random.default_rng([seed, 4]), []
    for number, name in enumerate(examples.classes):
        rows = generator.permutation(np.flatnonzero(examples.labels == number))
        if len(rows) < per_class:
            raise InputError(f"class {name!r} has {len(rows)} images, fewer than the {per_class} of a draw.")
        chosen.append(rows[:per_class])
    return examples.take(np.concatenate(chosen))


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Give every training one seed."""
    transfer = replace(config.transfer, schedule=replace(config.transfer.schedule, seed=seed))
    return replace(
        config, teach=replace(config.teach, seed=seed), transfer=transfer, finetune=replace(config.finetune, seed=seed)
    )
