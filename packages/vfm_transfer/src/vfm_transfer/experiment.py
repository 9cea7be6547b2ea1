"""The experiment's runs: teachers, students, transfer sets; every finished run is a file and is not made again."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.files import write_json

from vfm_transfer.config import NetworkConfig, Objective, Schedule, Transfer
from vfm_transfer.curation import curate, random_images
from vfm_transfer.embeddings import embed
from vfm_transfer.evaluate import evaluate
from vfm_transfer.images import ArrayImages, Images, Labelled, Subset
from vfm_transfer.ledger import Ledger
from vfm_transfer.material import World, compose_scenes, draw_labels, load_digits, load_gallery, load_photos, load_world
from vfm_transfer.networks import Network, build_network
from vfm_transfer.stages import distill, finetune, teach

LOG = logging.getLogger(__name__)
TUNING_DRAW, SCENES_STRIDE = 99, 16
Kind = Literal["in-domain", "generic", "out-of-domain", "random", "global", "query-balanced", "scenes"]
FEATURES: dict[str, Objective] = {"cosine": "cosine", "mse": "mse", "contrastive": "contrastive", "patch": "patch"}
TRANSFER_RATES, FINETUNE_RATES = (1e-3, 3e-3), (3e-4, 1e-3, 3e-3)
# As many trials as the arms with a middle step have.
SCRATCH_RATES = (3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 6e-3)
TEACHER_RATES = (1e-4, 3e-4, 1e-3)
# Scenes: as many trials of each arm, at the higher rates that a map of pixels takes.
SCENES_TRANSFER_RATES, SCENES_FINETUNE_RATES = (3e-3, 1e-2), (1e-3, 3e-3, 1e-2)
SCENES_SCRATCH_RATES = (1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2)
SCENES_TEACHER_RATES = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Scale:
    """Sizes of a run of the experiment.

    Attributes:
        draws: Label draws.
        budgets: Labels of a class; the first has all arms.
        size: Images of every transfer set.
        teacher_size: Input of EfficientNet-Lite0.
        teach: Training of the teacher.
        transfer: Training of the middle step.
        finetune: Training on the labels.
        test: Test images that are looked at; 0 for all.
        scenes_size: Input of EfficientNet-Lite0 for scenes, with a cell of the map for 16 pixels.
        scenes_teach: Training of the teacher for scenes.
    """

    draws: tuple[int, ...] = tuple(range(10))
    budgets: tuple[int, ...] = (10, 5, 25)
    size: int = 1500
    teacher_size: int = 64
    teach: Schedule = field(default_factory=lambda: Schedule(40, 32, 3e-4, 1.5e-3, views=0, min_area=0.85))
    transfer: Schedule = field(default_factory=lambda: Schedule(250, 64, 1e-3, views=2, min_area=0.85))
    finetune: Schedule = field(default_factory=lambda: Schedule(100, 64, 1e-3, views=0, min_area=0.85))
    test: int = 0
    scenes_size: int = 96
    scenes_teach: Schedule = field(default_factory=lambda: Schedule(100, 32, 1e-3, 5e-3, views=0, min_area=0.85))


@dataclass(frozen=True)
class Run:
    """What one student is.

    Attributes:
        arm: "oriented", a feature loss, "logits", "self" or "scratch"; "teacher" is the teacher itself.
        draw: Label draw, which also seeds weights and order.
        budget: Labels of a class.
        world: Data set.
        kind: Transfer set.
        steps: Of the middle step, as a multiple of the scale's.
        teacher: "lite0" or "opennsfw".
    """

    arm: str
    draw: int
    budget: int = 10
    world: World = "cifar"
    kind: Kind = "in-domain"
    steps: float = 1.0
    teacher: str = "lite0"

    @property
    def tuned_as(self) -> str:
        """Name of its rates."""
        return f"scenes-{self.arm}" if self.kind == "scenes" else self.arm

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.world}-{self.budget}-{self.arm}-{self.kind}-{self.teacher}-x{self.steps:g}-d{self.draw}"


@dataclass
class Setting:
    """Where runs are made, in what sizes, at which rates.

    Attributes:
        out: Folder.
        scale: Sizes.
        rates: By arm (`Run.tuned_as`): of the middle step and of fine-tuning; "teacher" has one.
    """

    out: Path
    scale: Scale
    rates: dict[str, list[float]] = field(default_factory=dict)
    teachers: dict[tuple[Any, ...], tuple[Network, Ledger]] = field(default_factory=dict)

    def result(self, run: Run) -> dict[str, Any] | None:
        """Return what a finished run found."""
        path = self.out / "runs" / f"{run.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def new_student(run: Run, num_classes: int) -> Network:
    """Return a student whose weights follow from the draw."""
    torch.manual_seed(run.draw)
    task = "segment" if run.kind == "scenes" else "classify"
    return build_network(NetworkConfig("convnet", num_classes, task))


def new_teacher(setting: Setting, run: Run, num_classes: int) -> Network:
    """Return a pretrained network under a new head."""
    torch.manual_seed(run.draw)
    task = "segment" if run.kind == "scenes" else "classify"
    if run.teacher == "opennsfw":
        return build_network(NetworkConfig("opennsfw", num_classes, task), pretrained=True)
    size, stride = (
        (setting.scale.scenes_size, SCENES_STRIDE) if run.kind == "scenes" else (setting.scale.teacher_size, 0)
    )
    return build_network(NetworkConfig("efficientnet-lite0", num_classes, task, size, stride=stride), pretrained=True)


@lru_cache(maxsize=4)
def _scenes(part: str, num: int, seed: int) -> Labelled:
    return compose_scenes(part, num, seed)


def labels_of(run: Run) -> Labelled:
    """Return the labelled images of a run."""
    if run.kind == "scenes":
        return _scenes("labelled", run.budget * 10, run.draw)
    return draw_labels(run.world, run.budget, run.draw)


def judged_on(setting: Setting, run: Run, part: str) -> Labelled:
    """Return validation or test images."""
    found = _scenes(part, 500, 0) if run.kind == "scenes" else load_world(run.world)[part]
    num = setting.scale.test
    return found.take(np.random.default_rng(0).permutation(len(found))[:num]) if num else found


def transfer_set(setting: Setting, run: Run) -> Images:
    """Return the unlabelled images of a run; all kinds have one size."""
    size = setting.scale.size
    first = np.arange(size)
    if run.kind == "scenes":
        return _scenes("pool", size, 0).images
    if run.kind == "in-domain":
        pool = load_world(run.world)["pool"].images
        return Subset(pool, np.random.default_rng(0).permutation(len(pool))[:size])
    side = load_world(run.world)["val"].images.fetch(first[:1]).shape[-1]
    if run.kind == "generic":
        return Subset(ArrayImages(load_photos(side)), first)
    if run.kind == "out-of-domain":
        return Subset(ArrayImages(load_digits(side)), first)
    gallery = load_gallery(run.world)
    return Subset(gallery.images, retrieve(setting, run, gallery.images, size))


def retrieve(setting: Setting, run: Run, gallery: Images, size: int) -> np.ndarray:
    """Choose from the gallery by the pretrained teacher's features of the labelled images."""
    if run.kind == "random":
        return random_images(gallery, size, run.draw)
    path = setting.out / "kept" / f"gallery-{run.world}-{run.teacher}.npy"
    pretrained = new_teacher(setting, run, 10)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, embed(pretrained, gallery))
    queries = embed(pretrained, labels_of(run).images)
    return curate(queries, np.load(path), size, balance="query" if run.kind == "query-balanced" else "none")


def taught(setting: Setting, run: Run) -> tuple[Network, Ledger]:
    """Return the teacher of a run's labels, and what teaching it cost; kept while its draw lasts."""
    key = (run.world, run.budget, run.draw, run.teacher, run.kind == "scenes")
    if key not in setting.teachers:
        examples = labels_of(run)
        teacher = new_teacher(setting, run, len(examples.classes))
        rate = setting.rates[replace(run, arm="teacher").tuned_as][0]
        schedule = setting.scale.scenes_teach if run.kind == "scenes" else setting.scale.teach
        schedule = replace(schedule, lr=rate, head_lr=5 * rate, seed=run.draw)
        mode: Literal["full", "linear"] = "full"
        if run.teacher == "opennsfw":
            mode, schedule = "linear", replace(schedule, steps=200, head_lr=1e-2)
        done = teach(teacher, examples, schedule, mode=mode)
        setting.teachers[key] = (done.network, done.ledger)
    return setting.teachers[key]


def make_run(setting: Setting, run: Run) -> dict[str, Any]:
    """Make a run and keep what it found, unless it is there."""
    if (found := setting.result(run)) is not None:
        return found
    start = time.process_time()
    if run.arm == "teacher":
        network, ledger = taught(setting, run)
    elif run.arm == "scratch":
        network, ledger = scratch(setting, run)
    else:
        rates = setting.rates[run.tuned_as]
        middle, ledger = middle_step(setting, run, rates[0])
        network, last = last_step(setting, run, middle, rates[1])
        ledger = ledger.merge(last)
    scores = {part: evaluate(network, judged_on(setting, run, part))["score"] for part in ("val", "test")}
    found = {**vars(run), **scores, "flops": ledger.flops, "cpu_seconds": round(time.process_time() - start, 2)}
    write_json(setting.out / "runs" / f"{run.name}.json", found)
    LOG.info("%s: %.3f (%.1f s)", run.name, scores["test"], found["cpu_seconds"])
    return found


def scratch(setting: Setting, run: Run, rate: float = 0.0) -> tuple[Network, Ledger]:
    """Train a student on the labels alone, for as many steps as the other arms take in all."""
    key = ("scratch", run.world, run.budget, run.draw, run.kind == "scenes")
    if key in setting.teachers and not rate:
        return setting.teachers[key]
    scale, examples = setting.scale, labels_of(run)
    schedule = replace(scale.finetune, lr=rate or setting.rates[replace(run, arm="scratch").tuned_as][0], seed=run.draw)
    schedule = replace(schedule, steps=scale.finetune.steps + scale.transfer.steps)
    done = finetune(new_student(run, len(examples.classes)), examples, schedule)
    if not rate:
        setting.teachers[key] = (done.network, done.ledger)
    return done.network, done.ledger


def middle_step(setting: Setting, run: Run, rate: float) -> tuple[Network, Ledger]:
    """Distil a student, and return it under a new head where its own is of no use."""
    scale, examples = setting.scale, labels_of(run)
    num, cost = len(examples.classes), Ledger()
    objective: Objective = "task" if run.arm in ("oriented", "self") else FEATURES.get(run.arm, "logits")
    schedule = replace(scale.transfer, lr=rate, seed=run.draw, steps=max(1, round(run.steps * scale.transfer.steps)))
    kept = setting.out / "kept" / f"{run.world}-{run.kind}-{run.teacher}"
    if run.arm == "oriented":
        teacher, cost = taught(setting, run)
    elif run.arm == "self":
        teacher, cost = scratch(setting, run)
    else:
        teacher = new_teacher(setting, run, num)
    if run.arm == "logits":
        config = NetworkConfig("efficientnet-lite0", 1, "classify", scale.teacher_size)
        teacher = build_network(config, pretrained=True, classifier=True)
        num = teacher.config.num_classes
    names = {"oriented": f"drawn-{run.arm}-{run.budget}-{run.draw}", "self": f"drawn-{run.arm}-{run.budget}-{run.draw}"}
    pooled = "logits" if run.arm == "logits" else "patches" if run.arm == "patch" else "pooled"
    if run.kind in ("random", "global", "query-balanced"):
        pooled = f"drawn-{pooled}-{run.budget}-{run.draw}"  # these sets follow from the labels
    student = new_student(run, num)
    done = distill(student, teacher, transfer_set(setting, run), Transfer(objective, schedule=schedule),
                   kept=kept / names.get(run.arm, pooled))  # fmt: skip
    network = done.network if objective == "task" else done.network.new_head(len(examples.classes))
    return network, cost.merge(done.ledger)


def last_step(setting: Setting, run: Run, network: Network, rate: float) -> tuple[Network, Ledger]:
    """Fine-tune on the labels."""
    done = finetune(network, labels_of(run), replace(setting.scale.finetune, lr=rate, seed=run.draw))
    return done.network, done.ledger


def end_draw(setting: Setting) -> None:
    """Forget teachers and their outputs of a draw."""
    setting.teachers.clear()
    for folder in (setting.out / "kept").glob("*/drawn-*"):
        shutil.rmtree(folder)


def tune(setting: Setting, arms: Sequence[str], place: Run | None = None) -> dict[str, list[float]]:
    """Choose each arm's rates on validation images with a draw of its own, once for a folder.

    Args:
        setting: Gets the rates.
        arms: Beside the teacher, which comes first.
        place: Data set and transfer set; CIFAR-10 unless told.
    """
    path, place = setting.out / "rates.json", place or Run("teacher", TUNING_DRAW)
    trials = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for arm in ("teacher", *arms):
        run = replace(place, arm=arm)
        if run.tuned_as not in trials:
            trials[run.tuned_as] = _trials(setting, run)
            write_json(path, trials)
            LOG.info("tuned %s: %s", run.tuned_as, trials[run.tuned_as])
        setting.rates[run.tuned_as] = max(trials[run.tuned_as], key=lambda trial: trial["val"])["rates"]
    end_draw(setting)
    return setting.rates


def _trials(setting: Setting, run: Run) -> list[dict[str, Any]]:
    val, found, scenes = judged_on(setting, run, "val"), [], run.kind == "scenes"

    def note(rates: list[float], network: Network) -> None:
        found.append({"rates": rates, "val": evaluate(network, val)["score"]})

    if run.arm == "teacher":
        for rate in SCENES_TEACHER_RATES if scenes else TEACHER_RATES:
            setting.teachers.clear()
            setting.rates[run.tuned_as] = [rate]
            note([rate], taught(setting, run)[0])
        setting.teachers.clear()
    elif run.arm == "scratch":
        for rate in SCENES_SCRATCH_RATES if scenes else SCRATCH_RATES:
            note([rate], scratch(setting, run, rate)[0])
    else:
        for first in SCENES_TRANSFER_RATES if scenes else TRANSFER_RATES:
            middle, _ = middle_step(setting, run, first)
            weights = {name: value.clone() for name, value in middle.state_dict().items()}
            for last in SCENES_FINETUNE_RATES if scenes else FINETUNE_RATES:
                middle.load_state_dict(weights)
                note([first, last], last_step(setting, run, middle, last)[0])
    return found
