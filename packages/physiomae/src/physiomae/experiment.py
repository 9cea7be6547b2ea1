"""One run of the experiment: train an arm in a world, freeze it, probe it on every subset, look into it."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.files import write_json

from physiomae.analyze import attention_report, unit_report
from physiomae.batch import MultimodalBatch
from physiomae.config import OBJECTIVES, ObjectiveConfig, PhysioMAEConfig, TrainConfig
from physiomae.evaluate import embed_windows, hidden_r2, subsets, validation_loss
from physiomae.model import PhysioMAE, encoder_macs
from physiomae.probe import fit_probe, probe_metrics
from physiomae.simulator import STRENGTHS
from physiomae.sources import ArraySource
from physiomae.train import build, fit
from physiomae.worlds import PLACEBO, World, simulated_world, watch_world

BATCH, WARMUP_SHARE = 64, 0.1
VALIDATION_WINDOWS, CHECKS = 256, 10
DIGITS = 5


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        objective: None leaves the weights random.
        placebo: With a third modality of noise (watch only).
        equal_steps: As many steps as masked autoencoding, whatever the encoder's work.
        follows: An arm at whose validation loss this one is looked into, beside its end.
    """

    objective: ObjectiveConfig | None
    placebo: bool = False
    equal_steps: bool = False
    follows: str = ""


ARMS: dict[str, Arm] = {
    "random": Arm(None),
    "mae_drop": Arm(OBJECTIVES["mae_drop"]),
    "mae": Arm(OBJECTIVES["mae"], follows="mae_drop"),
    "contrastive_pairwise": Arm(OBJECTIVES["contrastive_pairwise"]),
    "contrastive_loo": Arm(OBJECTIVES["contrastive_loo"]),
    "contrastive_steps": Arm(OBJECTIVES["contrastive_loo"], equal_steps=True),
    "unimodal": Arm(OBJECTIVES["unimodal"]),
    "cross_only": Arm(OBJECTIVES["cross_only"]),
    "mae_drop_contrastive": Arm(OBJECTIVES["mae_drop_contrastive"]),
    "placebo": Arm(OBJECTIVES["mae_drop"], placebo=True),
}
WATCH = "watch"
MAIN_CELL = "0.45-graded"
CELLS = tuple(f"{coupling:g}-{spread}" for spread in ("even", "graded", "one") for coupling in (0.0, 0.45, 0.9))


@dataclass(frozen=True)
class Job:
    """One run of one arm: a cell is "watch" or coupling-informativeness; the seed is also the watch's test subject."""

    cell: str
    arm: str
    seed: int
    rate: float
    tuning: bool = False

    @property
    def file(self) -> str:
        """Where its result lies in the output folder."""
        return f"{'tuning' if self.tuning else 'runs'}/{self.cell}-{self.arm}-{self.seed}-{self.rate:g}.json"


@dataclass(frozen=True)
class Sizes:
    """Sizes of one budget.

    Attributes:
        watch_steps: Updates of masked autoencoding on the watch.
        num_steps: The same on the simulator.
        sizes: Training subjects, test subjects and windows of the simulator.
        widths: Encoder's and decoder's width and encoder's layers; None keeps the presets'.
        every: Only each so many windows of the watch.
    """

    watch_steps: int = 400
    num_steps: int = 300
    sizes: tuple[int, int, int] = (24, 12, 60)
    widths: tuple[int, int, int] | None = None
    every: int = 1

    def steps(self, cell: str) -> int:
        """Updates of masked autoencoding in a cell."""
        return self.watch_steps if cell == WATCH else self.num_steps


def make_world(job: Job, sizes: Sizes) -> World:
    """Return a job's data: the watch with subject `seed` left out, or the simulator.

    Tuning scores on subject 1 of the watch, without subject 0, or on simulated subjects of its own seed.
    """
    if job.cell == WATCH:
        placebo = ARMS[job.arm].placebo
        world = watch_world(1, 0, placebo=placebo) if job.tuning else watch_world(job.seed, placebo=placebo)
    else:
        coupling, spread = job.cell.split("-")
        informativeness = next(name for name in STRENGTHS if name == spread)
        world = simulated_world(float(coupling), informativeness, job.seed, sizes.sizes)
    if job.cell == WATCH and sizes.every > 1:
        world = replace(world, train=world.train.thin(sizes.every), test=world.test.thin(sizes.every))
    if sizes.widths:
        dim, decoder, layers = sizes.widths
        world = replace(world, config=replace(world.config, dim=dim, decoder_dim=decoder, num_layers=layers))
    return world


def window_macs(config: PhysioMAEConfig, objective: ObjectiveConfig) -> float:
    """Return multiply-adds of the encoder for one window: padding counts, decoders and stems do not."""
    num, modalities = config.num_patches, len(config.modalities)
    total = 0.0
    kept = 1 - objective.mask_ratio
    if objective.reconstruct in ("all", "hidden"):
        most = modalities - 1 if objective.reconstruct == "hidden" else modalities
        total += encoder_macs(config, most * num * kept)
    if objective.reconstruct == "own":
        total += modalities * encoder_macs(config, num * kept)
    if objective.contrast != "none":
        total += modalities * encoder_macs(config, num)
    return total


def num_steps(config: PhysioMAEConfig, arm: Arm, steps: int) -> int:
    """Return the updates after which an arm's encoder has done the work of masked autoencoding, at most as many."""
    if arm.objective is None:
        return 0
    if arm.equal_steps:
        return steps
    budget = window_macs(config, OBJECTIVES["mae"])
    return round(steps * min(1.0, budget / window_macs(config, arm.objective)))


def run(out: Path, job: Job, sizes: Sizes) -> dict[str, Any]:
    """Do one run, or read what an earlier one found; its file is whole or not there."""
    path = out / job.file
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    start, world = time.process_time(), make_world(job, sizes)
    batches = tuple(MultimodalBatch.from_arrays(world.config, part.arrays) for part in (world.train, world.test))
    model, matched = _train(world, job, batches[1], _target(out, job), sizes.steps(job.cell))
    facts = {name: getattr(job, name) for name in ("cell", "arm", "seed", "rate")}
    found = {**facts, **_score(model, world, batches)}
    if not job.tuning:
        found |= look_into(model, world, batches[1], job.seed)
        if matched is not None:
            found["matched"] = look_into(matched, world, batches[1], job.seed)
    found["encoder_macs"] = _work(world, ARMS[job.arm], sizes.steps(job.cell))
    found["seconds"] = time.process_time() - start
    found = _rounded(found)
    write_json(path, found)
    return found


def _target(out: Path, job: Job) -> float | None:
    """Validation loss of the arm that this one follows, if it has run."""
    follows = ARMS[job.arm].follows
    files = sorted((out / "runs").glob(f"{job.cell}-{follows}-{job.seed}-*.json")) if follows else []
    return json.loads(files[0].read_text(encoding="utf-8"))["validation_loss"] if files else None


def _work(world: World, arm: Arm, steps: int) -> float:
    if arm.objective is None:
        return 0.0
    return num_steps(world.config, arm, steps) * BATCH * window_macs(world.config, arm.objective)


def _train(
    world: World, job: Job, test: MultimodalBatch, target: float | None, full: int
) -> tuple[PhysioMAE, PhysioMAE | None]:
    """Train an arm; also return it as it was when it reached the loss of the arm it follows (or at its end)."""
    arm = ARMS[job.arm]
    steps = num_steps(world.config, arm, full)
    warmup = max(1, round(WARMUP_SHARE * steps))
    config = TrainConfig(arm.objective or OBJECTIVES["mae"], max(1, steps), BATCH, job.rate, warmup, seed=job.seed)
    model = build(world.config, config)
    if steps == 0:
        return model.eval(), None
    kept: list[PhysioMAE] = []
    few = test.rows(slice(0, VALIDATION_WINDOWS))

    def check(step: int, _: Any) -> None:
        due = target is not None and not kept and step % max(1, steps // CHECKS) == 0
        if due and validation_loss(model, few) <= target:
            kept.append(copy.deepcopy(model))

    fit(model, ArraySource(world.config, world.train.arrays), config, after_step=check)
    matched = kept[0].eval() if kept else model
    return model, matched if target is not None else None


def _score(model: PhysioMAE, world: World, batches: tuple[MultimodalBatch, ...]) -> dict[str, Any]:
    """Probe every task on every subset of modalities, fitted once on all of them; on all also each metric."""
    train, test = batches
    features = embed_windows(model, train)
    probes = {
        task: fit_probe(features, world.train.labels[task], kind=kind, components=world.config.dim)
        for task, (kind, _) in world.tasks.items()
    }
    scores: dict[str, dict[str, float]] = {}
    for subset in subsets(model.config.names):
        if set(subset) == {PLACEBO}:
            continue
        seen = embed_windows(model, test, subset)
        scores["+".join(subset)] = {
            task: probe_metrics(probes[task], seen, world.test.labels[task])[metric]
            for task, (_, metric) in world.tasks.items()
        }
    return {"scores": scores, "own": _refit(model, world, batches)}


def _refit(model: PhysioMAE, world: World, batches: tuple[MultimodalBatch, ...]) -> dict[str, dict[str, float]]:
    """Probes fitted again on single modalities, where there are two of them."""
    found: dict[str, dict[str, float]] = {}
    for name in model.config.names if len(model.config.names) == 2 else ():
        seen, test = (np.nan_to_num(embed_windows(model, batch, (name,))) for batch in batches)
        found[name] = {
            task: probe_metrics(fit_probe(seen, world.train.labels[task], kind=kind), test, world.test.labels[task])[
                metric
            ]
            for task, (kind, metric) in world.tasks.items()
        }
    return found


def look_into(model: PhysioMAE, world: World, batch: MultimodalBatch, seed: int) -> dict[str, Any]:
    """Return validation loss, and for joint models reconstruction across modalities, attention and units."""
    few = batch.rows(slice(0, VALIDATION_WINDOWS))
    found: dict[str, Any] = {"validation_loss": validation_loss(model, few)}
    if model.late_fusion:
        return found
    report = attention_report(model, few).to_dict()
    units = unit_report(model, batch, world.test.subject, seed)
    found |= {name: report[name] for name in ("mass", "cross", "aligned", "received")}
    return {**found, "hidden_r2": hidden_r2(model, batch), "distributedness": units.distributedness}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def tuning_score(found: Mapping[str, Any]) -> float:
    """Mean over tasks with all modalities, by which a rate is chosen."""
    whole = max(found["scores"], key=lambda subset: subset.count("+"))
    return float(np.mean(list(found["scores"][whole].values())))
