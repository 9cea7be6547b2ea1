"""Learning efficiency: samples that plain and reinforced training need for equal retrieval, on OpenMoji.

    mobileclip reproduce --budget full --parts learning          (one core, about an hour)

Fixed before the run. Data: 2,465 icons of OpenMoji at 64 pixels, split by base concept (variants of gender, flags and
clocks stay together); 600 concepts test, 150 validate, the rest is the pool. Real captions are one random tag, 20 % of
them swapped; synthetic captions are words that a captioner reads from pixels, fitted on the pool without the reinforced
quarter. Teachers: two kernel regressions (`kernel`), one of shapes and one of colours, fitted on the whole pool with
four noisy captions an icon; the paper's too saw more captions than the student. The reinforced set is a fixed quarter
of the pool, as DataCompDR-12M is of DataComp; every student trains on that quarter. Main arms: plain CLIP, with strong
augmentation, with synthetic captions, with ensemble distillation. Ablations: single teachers, lambda, fewer stored
augmentations and captions, teachers limited to the quarter, and metadata captions (an oracle); they have one seed, and
the learning rate of ensemble distillation. Student: MCi shape, 0.7 M parameters. Every main arm gets its own learning
rate from the same two, chosen by validation MRR with a seed of its own.

Primary metric: log10 of the samples a control needs to reach its own best text-to-image MRR on the test concepts, over
the samples that reinforced training needs for the same MRR, interpolated on log samples; an arm that never gets there
counts with all its samples (a bound, said so). A concept's query is the mean embedding of its name and its tags.
Controls: plain CLIP (the paper's), and the best arm without distillation (the strongest). Minimum effect: log10 of 2.
Seeds are paired; items and seeds are bootstrapped for the note. Rows with the teachers' compute count fitting and
reinforcing as student samples by CPU time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_shared.files import atomic_write
from tenfold_shared.progress import progress

from mobileclip.augment import to_pixels
from mobileclip.data import decode_image
from mobileclip.datacompdr import read_config
from mobileclip.efficiency_world import BATCH, STUDENT, TEACHERS, World, new_trainer, plain_config, pool_tokenizer
from mobileclip.kernel import KernelTeacher
from mobileclip.model import MobileCLIP
from mobileclip.openmoji_data import Icon
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
PAPER = PaperValue(10.0, "10x-1000x improved learning efficiency", "abstract", "A")


@dataclass(frozen=True)
class Plan:
    """What one budget trains."""

    seeds: int
    num_steps: int
    num_evaluations: int
    arms: tuple[str, ...]
    num_augmentations: int = 10
    tune: bool = False


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
    "5 augmentations": Arm("dr", {**_DISTIL, "num_augmentations": 5}),
    "1 caption": Arm("dr", {**_DISTIL, "num_captions": 1}),
    "2 captions": Arm("dr", {**_DISTIL, "num_captions": 2}),
    "teachers of the quarter": Arm("limited teachers", _DISTIL),
    "metadata captions (oracle)": Arm("oracle", {}),
}
CONTROLS = (PLAIN, STRONG, SYNTHETIC)
MAIN = (*CONTROLS, REINFORCED)
PLANS: dict[Budget, Plan] = {
    "smoke": Plan(1, 3, 2, (PLAIN, REINFORCED), num_augmentations=1),
    "laptop": Plan(2, 24, 3, (PLAIN, REINFORCED), num_augmentations=2),
    "full": Plan(5, 600, 7, tuple(ARMS), tune=True),
}


@dataclass(frozen=True)
class Curve:
    """Retrieval along a run.

    Args:
        samples: Samples seen at each evaluation.
        ranks: Reciprocal rank of each test icon [evaluations, icons].
        seconds_per_sample: CPU time of training.
    """

    samples: np.ndarray
    ranks: np.ndarray
    seconds_per_sample: float

    @property
    def mrr(self) -> np.ndarray:
        """Mean reciprocal rank at each evaluation."""
        return self.ranks.mean(1)

    def save(self, path: Path) -> None:
        """Write the curve, whole or not at all."""
        with atomic_write(path) as file:
            np.savez(file, samples=self.samples, ranks=self.ranks, seconds=self.seconds_per_sample)

    @classmethod
    def load(cls, path: Path) -> Curve:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["samples"], arrays["ranks"], float(arrays["seconds"]))


def run_arm(world: World, arm: str, *, seed: int, rate: float, plan: Plan, icons: Sequence[Icon]) -> Curve:
    """Train a student and measure it on the way; a run that is there already is read.

    Args:
        world: Data and teachers.
        arm: Key of `ARMS`.
        seed: Of weights, order and choices.
        rate: Learning rate.
        plan: How long, and how often it is measured.
        icons: What is retrieved.
    """
    path = world.folder / "curves" / f"{arm} {seed} {rate:g}.npz"
    if path.exists():
        return Curve.load(path)
    chosen, spent = ARMS[arm], 0.0
    config = plain_config(STUDENT, plan.num_steps, seed=seed, learning_rate=rate, **chosen.changes)
    dataset, trainer = world.dataset(chosen.data, config), new_trainer(config)
    dims = tuple(read_config(world.data(chosen.data)).get("teacher_dims", ()))
    steps = evaluation_steps(plan.num_steps, plan.num_evaluations)
    ranks = []
    for step in range(config.num_steps):
        start = time.process_time()
        trainer.train_step(dataset[step], dims)
        spent += time.process_time() - start
        if step + 1 in steps:
            ranks.append(reciprocal_ranks(trainer.model, icons))
    curve = Curve(np.array([step * BATCH for step in steps]), np.stack(ranks), spent / (config.num_steps * BATCH))
    curve.save(path)
    return curve


def evaluation_steps(num_steps: int, num_evaluations: int) -> list[int]:
    """Return steps evenly spaced on a log scale, the last one the end of training."""
    first = max(1, num_steps // 16)
    return sorted({round(step) for step in np.geomspace(first, num_steps, num_evaluations)})


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
    return _ranks(text @ image.T)


def _query(icon: Icon) -> tuple[str, ...]:
    return (icon.annotation, *icon.tags)


def _ranks(scores: torch.Tensor) -> np.ndarray:
    """Return 1 / rank of column i in row i."""
    return (1 / (scores >= scores.diag()[:, None]).sum(1)).numpy()


def teacher_mrr(folder: Path, icons: Sequence[Icon]) -> float:
    """Return what a teacher itself reaches: the power check of the experiment."""
    model = KernelTeacher(folder)
    text = model.embed_texts([" ".join(_query(icon)) for icon in icons])
    image = model.embed_images([decode_image(icon.image, icon.uid) for icon in icons])
    return float(_ranks(text @ image.T).mean())


def samples_to_reach(target: float, samples: np.ndarray, mrr: np.ndarray) -> tuple[float, bool]:
    """Return the samples at which a curve first reaches a target, and whether it does.

    Interpolated on log samples between evaluations; a curve that stays below gives its last number as a bound.

    Example:
        >>> samples_to_reach(0.2, np.array([100, 1000]), np.array([0.1, 0.3]))[0]  # doctest: +ELLIPSIS
        316.2...
    """
    above = np.flatnonzero(mrr >= target)
    if not len(above):
        return float(samples[-1]), False
    at = int(above[0])
    share = 1.0 if at == 0 else (target - mrr[at - 1]) / (mrr[at] - mrr[at - 1])
    if share == 1:  # without the rounding of a logarithm and back, which would be a difference of its own
        return float(samples[at]), True
    low, high = np.log(samples[at - 1]), np.log(samples[at])
    return float(np.exp(low + share * (high - low))), True


def log_ratio(control: Curve, ours: Curve) -> tuple[float, bool]:
    """Return log10 of how many times fewer samples `ours` needs to reach the control's best, and whether it does."""
    return _log_ratio(control.samples, control.mrr, ours.mrr)


def _log_ratio(samples: np.ndarray, control: np.ndarray, ours: np.ndarray) -> tuple[float, bool]:
    target = float(control.max())
    needed, _ = samples_to_reach(target, samples, control)
    taken, reached = samples_to_reach(target, samples, ours)
    return math.log10(needed / taken), reached


def bootstrap(control: Sequence[Curve], ours: Sequence[Curve], draws: int = 500) -> tuple[float, float]:
    """Return the 95 % interval of `log_ratio` of the mean curves, seeds and test items drawn anew."""
    random = np.random.default_rng(0)
    first, second = (np.stack([curve.ranks for curve in curves]) for curves in (control, ours))
    values = []
    for _ in range(draws):
        seeds = random.integers(len(first), size=len(first))
        items = random.integers(first.shape[2], size=first.shape[2])
        means = [ranks[seeds][:, :, items].mean((0, 2)) for ranks in (first, second)]
        values.append(_log_ratio(control[0].samples, *means)[0])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def measure(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms of a budget and judge the learning-efficiency claim.

    Args:
        out: Existing folder; gets `efficiency/` with teachers and sets, and the figure `efficiency.svg`.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of the first run.

    Returns:
        Reinforced training against plain CLIP and against the best arm without distillation, each without and with
        the teachers' compute.
    """
    from mobileclip import plots

    plan, start = PLANS[budget], time.perf_counter()
    world = World(out / "efficiency" / budget, num_augmentations=plan.num_augmentations)
    with torch_threads(1):  # maps this small are no faster on two, and CPU time is what is counted
        curves = _run_arms(world, plan, seed)
    plots.draw_efficiency(
        out / "efficiency.svg", {arm: (runs[0].samples, [r.mrr for r in runs]) for arm, runs in curves.items()}
    )
    seconds = time.perf_counter() - start
    strongest = max(
        (arm for arm in CONTROLS if arm in curves), key=lambda arm: np.mean([c.mrr.max() for c in curves[arm]])
    )
    controls = [PLAIN] if strongest == PLAIN else [PLAIN, strongest]
    teachers = [teacher_mrr(world.teacher(name), world.splits.test) for name in TEACHERS]
    note = f"Chance {chance(len(world.splits.test)):.4f}; teachers' own MRR {teachers[0]:.4f} and {teachers[1]:.4f}."
    return [
        _judge(name, curves, world.teacher_seconds if counted else 0.0, budget=budget, seconds=seconds, note=note)
        for name in controls
        for counted in (False, True)
    ]


def _run_arms(world: World, plan: Plan, seed: int) -> dict[str, list[Curve]]:
    """Tune and train every main arm, then the ablations with one seed."""
    rates = dict.fromkeys(plan.arms, LEARNING_RATES[0])
    curves: dict[str, list[Curve]] = {}
    total = sum((plan.seeds + plan.tune * len(LEARNING_RATES)) if arm in MAIN else 1 for arm in plan.arms)
    with progress(total=total, description="efficiency", unit="runs") as bar:

        def run(arm: str, number: int, rate: float, icons: Sequence[Icon]) -> Curve:
            curve = run_arm(world, arm, seed=number, rate=rate, plan=plan, icons=icons)
            bar.update(1)
            return curve

        for arm in plan.arms:
            if plan.tune and arm in MAIN:
                found = {r: run(arm, TUNING_SEED, r, world.splits.validation).mrr[-1] for r in LEARNING_RATES}
                rates[arm] = max(found, key=lambda rate: found[rate])
            elif arm not in MAIN:
                rates[arm] = rates[REINFORCED]
            seeds = range(seed, seed + (plan.seeds if arm in MAIN else 1))
            curves[arm] = [run(arm, number, rates[arm], world.splits.test) for number in seeds]
    return curves


def chance(count: int) -> float:
    """Return the MRR of guessing among so many items."""
    return sum(1 / rank for rank in range(1, count + 1)) / count


def _judge(
    control: str,
    curves: Mapping[str, Sequence[Curve]],
    teacher_seconds: float,
    *,
    budget: Budget,
    seconds: float,
    note: str = "",
) -> ClaimResult:
    """Turn curves into a row; teachers' seconds become student samples at the reinforced arm's rate."""
    pairs = list(zip(curves[control], curves[REINFORCED], strict=True))
    ratios, reached = zip(*(log_ratio(first, second) for first, second in pairs), strict=True)
    if teacher_seconds:
        ratios = [_with_compute(*pair, teacher_seconds) for pair in pairs]
    interval = bootstrap(curves[control], curves[REINFORCED])
    finals = ", ".join(f"{arm} {np.mean([c.mrr[-1] for c in runs]):.4f}" for arm, runs in curves.items())
    bound = "" if all(reached) else f" Not reached in {len(reached) - sum(reached)} of {len(reached)} runs: a bound."
    compute = " (teachers' compute counted)" if teacher_seconds else ""
    return ClaimResult.compare(
        paper="mobileclip",
        claim=f"Reinforced training needs fewer samples than {control} CLIP training{compute}",
        primary_metric="log10 of samples of the control over ours, to equal text-to-image MRR on unseen concepts",
        paper_value=PAPER if control == PLAIN and not teacher_seconds else None,
        ours=list(ratios),
        control=[0.0] * len(ratios),
        control_name=control,
        minimum_effect=MINIMUM_EFFECT,
        # Below the full budget arms are trained for a few steps: that they run is all it says.
        budget="full" if budget == "full" else "smoke",
        evidence="real",
        data="OpenMoji 17: 600 test concepts; students see a quarter of the pool",
        seconds=seconds,
        figures=("efficiency.svg",),
        note=f"bootstrap over items and seeds without teachers [{interval[0]:.2f}, {interval[1]:.2f}].{bound} "
        f"{note} Final MRR: {finals}.",
    )


def _with_compute(control: Curve, ours: Curve, teacher_seconds: float) -> float:
    """Return `log_ratio` in CPU time, the teachers' included."""
    ratio, _ = log_ratio(control, ours)
    target = float(control.mrr.max())
    needed, _ = samples_to_reach(target, control.samples, control.mrr)
    taken = needed / 10**ratio
    return math.log10(needed * control.seconds_per_sample / (taken * ours.seconds_per_sample + teacher_seconds))
