"""Learning efficiency: samples that plain and reinforced training need for equal retrieval, on OpenMoji.

    mobileclip reproduce --budget full --parts learning          (two hours of one core; goes on from what is done)

Fixed before the run. Data: 2,465 icons of OpenMoji and 7,188 Material Design icons at 64 pixels, split by base concept
(variants of gender, flags and clocks, outlines and badges stay together); 1,200 concepts test, 300 validate, one icon
each, the rest is the pool. Real captions are one random tag, 20 % of them swapped; synthetic captions are words that a
captioner reads from pixels, fitted on the pool without the reinforced quarter. Teachers: two kernel regressions
(`kernel`), one of shapes and one of colours, fitted on the whole pool with four noisy captions an icon; the paper's too
saw more captions than the student. The reinforced set is a fixed quarter of the pool, as DataCompDR-12M is of DataComp;
every student trains on that quarter. Main arms: plain CLIP, with strong augmentation, with synthetic captions, with
ensemble distillation. Ablations: single teachers, lambda, fewer stored augmentations and captions, teachers limited to
the quarter, and metadata captions (an oracle); they have one seed, and the learning rate of ensemble distillation.
Student: MCi shape, 0.8 M parameters. Every main arm gets its own learning rate from the same two, chosen by validation
MRR at half the length with a seed of its own.

Primary metric: log10 of the samples a control needs to reach its own best text-to-image MRR on the test concepts, over
the samples that reinforced training needs for the same MRR, interpolated on log samples; an arm that never gets there
counts with all its samples (a bound, said so). A concept's query is the mean embedding of its name and its tags.
Controls: plain CLIP (the paper's), and the best arm without distillation (the strongest). Minimum effect: log10 of 2.
Second row: MRR after 9,600 samples against the strongest control; minimum effect half of what guessing gives. Rates are
constant, so that a laptop run is the beginning of a full one: it retrains the two arms of this row, with the recorded
learning rates, and is held against the recorded seeds. Seeds are paired; items and seeds are bootstrapped for the note.
Rows with the teachers' compute count fitting and reinforcing as student samples by CPU time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_shared.progress import progress

from mobileclip.augment import to_pixels
from mobileclip.data import decode_image
from mobileclip.datacompdr import read_config
from mobileclip.efficiency_world import BATCH, STUDENT, TEACHERS, World, new_trainer, plain_config, pool_tokenizer
from mobileclip.icon_data import NUM_TEST, Icon
from mobileclip.kernel import KernelTeacher
from mobileclip.learning_curve import (
    Curve,
    bootstrap,
    chance,
    log_ratio,
    read_curves,
    reciprocal_rank,
    with_compute,
    write_curves,
)
from mobileclip.model import MobileCLIP
from mobileclip.timing import torch_threads

Budget = Literal["smoke", "laptop", "full"]
LEARNING_RATES = (2e-3, 6e-3)
TUNING_SEED = 1000
MINIMUM_EFFECT = math.log10(2)
PLAIN, STRONG, SYNTHETIC, REINFORCED = (
    "plain",
    "+ strong augmentation",
    "+ synthetic captions",
    "+ ensemble distillation",
)
CURVES = "efficiency.json"
RECORDED = Path(__file__).parent / "results" / CURVES
PAPER = PaperValue(10.0, "10x-1000x improved learning efficiency", "abstract", "A")


@dataclass(frozen=True)
class Plan:
    """What one budget trains, on what share of the icons; the laptop's arms are the primary one and its control."""

    seeds: int
    num_steps: int
    arms: tuple[str, ...]
    num_augmentations: int = 5
    tune: bool = False
    share: float = 1.0


@dataclass(frozen=True)
class Arm:
    """One way to train: a set, and what differs from plain CLIP training."""

    data: Literal["noisy", "dr", "shapes teacher", "colours teacher", "limited teachers", "oracle"]
    changes: Mapping[str, Any]


_DISTIL = {"distill_weight": 1.0, "synthetic": True, "augmentation": "stored"}
ARMS: dict[str, Arm] = {
    PLAIN: Arm("noisy", {}),
    STRONG: Arm("noisy", {"augmentation": "strong"}),
    SYNTHETIC: Arm("dr", {"augmentation": "strong", "synthetic": True}),
    REINFORCED: Arm("dr", _DISTIL),
    "teacher of shapes only": Arm("shapes teacher", _DISTIL),
    "teacher of colours only": Arm("colours teacher", _DISTIL),
    "lambda 0.75": Arm("dr", {**_DISTIL, "distill_weight": 0.75}),
    "lambda 0": Arm("dr", {**_DISTIL, "distill_weight": 0.0}),
    "1 augmentation": Arm("dr", {**_DISTIL, "num_augmentations": 1}),
    "2 augmentations": Arm("dr", {**_DISTIL, "num_augmentations": 2}),
    "1 caption": Arm("dr", {**_DISTIL, "num_captions": 1}),
    "2 captions": Arm("dr", {**_DISTIL, "num_captions": 2}),
    "teachers of the quarter": Arm("limited teachers", _DISTIL),
    "metadata captions (oracle)": Arm("oracle", {}),
}
CONTROLS = (PLAIN, STRONG, SYNTHETIC)
MAIN = (*CONTROLS, REINFORCED)
EARLY = 150
EVALUATIONS = (38, 75, EARLY, 300, 600, 1000)
PLANS: dict[Budget, Plan] = {
    "smoke": Plan(1, 3, (PLAIN, REINFORCED), num_augmentations=1, share=0.05),
    "laptop": Plan(1, EARLY, (PLAIN, REINFORCED)),
    "full": Plan(5, 1500, tuple(ARMS), tune=True),
}
EARLY_CLAIM = f"Reinforced training retrieves better than the strongest control after {EARLY * BATCH:,} samples"


@dataclass(frozen=True)
class Job:
    """One run of one arm.

    Args:
        arm: Key of `ARMS`.
        seed: Of weights, order and choices.
        rate: Learning rate.
        plan: How long.
        validate: Whether the validation concepts are retrieved instead of the test ones.
    """

    arm: str
    seed: int
    rate: float
    plan: Plan
    validate: bool = False


def run_arm(world: World, job: Job) -> Curve:
    """Train a student and measure it on the way; a run that is there already is read."""
    path = world.folder / "curves" / f"{job.arm} {job.seed} {job.rate:g}.npz"
    if path.exists():
        return Curve.load(path)
    chosen, spent, num_steps = ARMS[job.arm], 0.0, job.plan.num_steps
    config = plain_config(STUDENT, num_steps, seed=job.seed, learning_rate=job.rate, **chosen.changes)
    dataset, trainer = world.dataset(chosen.data, config), new_trainer(config)
    dims = tuple(read_config(world.data(chosen.data)).get("teacher_dims", ()))
    icons = world.splits.validation if job.validate else world.splits.test
    steps = evaluation_steps(num_steps)
    ranks = []
    for step in range(num_steps):
        start = time.process_time()
        trainer.train_step(dataset[step], dims)
        spent += time.process_time() - start
        if step + 1 in steps:
            ranks.append(reciprocal_ranks(trainer.model, icons))
    curve = Curve(np.array([step * BATCH for step in steps]), np.stack(ranks), spent / (num_steps * BATCH))
    curve.save(path)
    return curve


def evaluation_steps(num_steps: int) -> list[int]:
    """Return the steps after which a run is measured: always the same ones, and the end."""
    return [*(step for step in EVALUATIONS if step < num_steps), num_steps]


@torch.inference_mode()
def reciprocal_ranks(model: MobileCLIP, icons: Sequence[Icon]) -> np.ndarray:
    """Return 1 / rank of each icon among all when its words are searched; ties count against it."""
    tokenize, training = pool_tokenizer(), model.training
    model.eval()
    pixels = torch.stack([to_pixels(decode_image(icon.image, icon.uid)) for icon in icons])
    image = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(200)])
    words = model.encode_text(tokenize([word for icon in icons for word in _query(icon)]), normalize=True)
    text = torch.stack([rows.mean(0) for rows in words.split([len(_query(icon)) for icon in icons])])
    model.train(training)
    return reciprocal_rank(text @ image.T)


def _query(icon: Icon) -> tuple[str, ...]:
    return (icon.annotation, *icon.tags)


def teacher_mrr(folder: Path, icons: Sequence[Icon]) -> float:
    """Return what a teacher itself reaches: the power check of the experiment."""
    model = KernelTeacher(folder)
    text = model.embed_texts([" ".join(_query(icon)) for icon in icons])
    image = model.embed_images([decode_image(icon.image, icon.uid) for icon in icons])
    return float(reciprocal_rank(text @ image.T).mean())


def measure(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms of a budget and judge the learning-efficiency claim.

    Args:
        out: Existing folder; gets `efficiency/` with teachers and sets, `efficiency.json` with all curves, and the
            figure `efficiency.svg`; below the full budget also the recorded run's, which has all arms.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of the first run.

    Returns:
        Retrieval after equal samples; but for the laptop, samples to equal retrieval against plain CLIP and against the
        best arm without distillation, each without and with the teachers' compute.
    """
    from mobileclip import plots

    plan, start = PLANS[budget], time.perf_counter()
    known = {"rates": {}} if budget == "full" else json.loads(RECORDED.read_text())
    if budget == "laptop":
        plan = dataclasses.replace(plan, arms=(known["strongest"], REINFORCED))
    world = World(out / "efficiency" / budget, num_augmentations=plan.num_augmentations, share=plan.share)
    curves, rates = _run_arms(world, plan, seed, known["rates"])
    plots.draw_efficiency(out / "efficiency.svg", curves, MAIN)
    if budget != "full":
        plots.draw_efficiency(out / "efficiency-recorded.svg", read_curves(RECORDED), MAIN)
    strongest = max(
        (arm for arm in CONTROLS if arm in curves), key=lambda arm: np.mean([c.mrr.max() for c in curves[arm]])
    )
    teachers = [teacher_mrr(world.teacher(name), world.splits.test) for name in TEACHERS]
    facts = _Facts(
        budget,
        time.perf_counter() - start,
        f"Chance {chance(len(world.splits.test)):.4f}; teachers' own MRR {teachers[0]:.4f} and {teachers[1]:.4f}.",
    )
    write_curves(
        out / CURVES, curves, strongest=strongest, rates=rates, teacher_seconds=world.teacher_seconds, teachers=teachers
    )
    early = _judge_early(strongest, curves, facts)
    if budget == "laptop":
        return [early]
    controls = [PLAIN] if strongest == PLAIN else [PLAIN, strongest]
    spent = (0.0, world.teacher_seconds)
    return [early, *(_judge(name, curves, seconds, facts) for name in controls for seconds in spent)]


@dataclass(frozen=True)
class _Facts:
    """What all rows of a run share."""

    budget: Budget
    seconds: float
    note: str


def _run_arms(
    world: World, plan: Plan, seed: int, rates: Mapping[str, float]
) -> tuple[dict[str, list[Curve]], dict[str, float]]:
    """Tune every main arm, then train the arms, ablations with one seed; return curves and learning rates."""
    rates, main = dict(rates), [arm for arm in plan.arms if arm in MAIN]
    if plan.tune:
        short = dataclasses.replace(plan, num_steps=plan.num_steps // 2)
        trials = [Job(arm, TUNING_SEED, rate, short, validate=True) for arm in main for rate in LEARNING_RATES]
        found = dict(zip(trials, _run_jobs(world, trials, "learning rates"), strict=True))
        for arm in main:
            rates[arm] = max(LEARNING_RATES, key=lambda rate: found[_trial(trials, arm, rate)].mrr[-1])
        rates |= {arm: rates[REINFORCED] for arm in plan.arms if arm not in MAIN}
    jobs = [
        Job(arm, number, rates[arm], plan)
        for arm in plan.arms
        for number in range(seed, seed + (plan.seeds if arm in MAIN else 1))
    ]
    curves: dict[str, list[Curve]] = {arm: [] for arm in plan.arms}
    for job, curve in zip(jobs, _run_jobs(world, jobs, "efficiency"), strict=True):
        curves[job.arm].append(curve)
    return curves, rates


def _trial(trials: Sequence[Job], arm: str, rate: float) -> Job:
    return next(job for job in trials if (job.arm, job.rate) == (arm, rate))


def _run_jobs(world: World, jobs: Sequence[Job], description: str) -> list[Curve]:
    """Run jobs side by side, one thread each: maps this small are no faster on two, and CPU time is what is counted."""
    for kind in dict.fromkeys(ARMS[job.arm].data for job in jobs):
        world.data(kind)
    processes = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run_job, world.folder, job) for job in jobs]
        for _ in progress(as_completed(runs), total=len(runs), description=description, unit="runs"):
            pass
        return [run.result() for run in runs]


def run_job(folder: Path, job: Job) -> Curve:
    """Do one job in a process of its own."""
    with torch_threads(1):
        return run_arm(World(folder, num_augmentations=job.plan.num_augmentations, share=job.plan.share), job)


def _judge(control: str, curves: Mapping[str, Sequence[Curve]], teacher_seconds: float, facts: _Facts) -> ClaimResult:
    """Turn curves into a row; teachers' seconds become student samples at the reinforced arm's rate."""
    pairs = list(zip(curves[control], curves[REINFORCED], strict=True))
    ratios, reached = zip(*(log_ratio(first, second) for first, second in pairs), strict=True)
    if teacher_seconds:
        ratios = [with_compute(*pair, teacher_seconds) for pair in pairs]
    interval = bootstrap(curves[control], curves[REINFORCED])
    bound = "" if all(reached) else f" Not reached in {len(reached) - sum(reached)} of {len(reached)} runs: a bound."
    compute = " (teachers' compute counted)" if teacher_seconds else ""
    return ClaimResult.compare(
        claim=f"Reinforced training needs fewer samples than {control} CLIP training{compute}",
        primary_metric="log10 of samples of the control over ours, to equal text-to-image MRR on unseen concepts",
        paper_value=PAPER if control == PLAIN and not teacher_seconds else None,
        ours=list(ratios),
        control=[0.0] * len(ratios),
        control_name=control,
        minimum_effect=MINIMUM_EFFECT,
        note=f"bootstrap over items and seeds without teachers [{interval[0]:.2f}, {interval[1]:.2f}].{bound} "
        f"{facts.note} Final MRR: {_finals(curves)}.",
        **_shared_fields(facts),
    )


def _judge_early(control: str, curves: Mapping[str, Sequence[Curve]], facts: _Facts) -> ClaimResult:
    """Compare MRR after the same number of samples: `EARLY` steps, or all of a shorter run's."""
    steps = curves[control][0].samples.tolist()
    at = steps.index(EARLY * BATCH) if EARLY * BATCH in steps else -1
    return ClaimResult.compare(
        claim=EARLY_CLAIM,
        primary_metric="text-to-image MRR on unseen concepts",
        paper_value=None,
        ours=[float(curve.mrr[at]) for curve in curves[REINFORCED]],
        control=[float(curve.mrr[at]) for curve in curves[control]],
        control_name=control,
        minimum_effect=chance(NUM_TEST) / 2,
        note=f"{facts.note} Final MRR: {_finals(curves)}.",
        **_shared_fields(facts),
    )


def _finals(curves: Mapping[str, Sequence[Curve]]) -> str:
    return ", ".join(f"{arm} {np.mean([c.mrr[-1] for c in runs]):.4f}" for arm, runs in curves.items())


def _shared_fields(facts: _Facts) -> dict[str, Any]:
    return {
        "paper": "mobileclip",
        "budget": facts.budget,
        "evidence": "real",
        "data": f"OpenMoji and Material Design icons: {NUM_TEST} test concepts; students see a quarter of the pool",
        "seconds": facts.seconds,
        "figures": ("efficiency.svg",) if facts.budget == "full" else ("efficiency.svg", "efficiency-recorded.svg"),
    }
