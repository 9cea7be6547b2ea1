"""Learning efficiency: samples that plain and reinforced training need for equal retrieval, on OpenMoji.

    mobileclip reproduce --budget full          (two cores, some hours; smoke: under half a minute)

Fixed before the run. Data: 2,465 icons of OpenMoji at 64 pixels, split by base concept (variants of gender, flags and
clocks stay together); 600 concepts test, 150 validate, the rest is the pool. Real captions are one random tag, 20 % of
them swapped; synthetic captions are words that a tagger reads from pixels, trained on the pool without the reinforced
quarter. Teachers: two MCi models trained on the whole pool. The reinforced set is a fixed quarter of the pool, as
DataCompDR-12M is of DataComp; every student trains on that quarter. Arms (`ARMS`): plain CLIP, with strong
augmentation, with synthetic captions, with ensemble distillation; single teachers, lambda, fewer stored augmentations
and captions, teachers limited to the quarter, and metadata captions (an oracle). Student: MCi shape, 0.6 M parameters.
Every arm gets its own learning rate from the same three, chosen by validation MRR with a seed of its own.

Primary metric: log10 of the samples a control needs to reach its own best text-to-image MRR on the test concepts, over
the samples that reinforced training needs for the same MRR, interpolated on log samples; an arm that never gets there
counts with all its samples (a bound, said so). Controls: plain CLIP (the paper's), and the best arm without
distillation (the strongest). Minimum effect: log10 of 2. Seeds are paired; items and seeds are bootstrapped for the
note. Rows with the teachers' compute count teacher training and reinforcement as student samples by wall time.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_shared.progress import progress
from torch import Tensor

from mobileclip.augment import AugmentConfig, to_pixels
from mobileclip.checkpoint import save_pretrained
from mobileclip.config import MCiConfig, MobileCLIPConfig, TextConfig, TrainConfig
from mobileclip.data import decode_image
from mobileclip.datacompdr import read_config, write_tar
from mobileclip.factory import Tokenizer
from mobileclip.loader import ShardedSamples, StepDataset, Tokenize
from mobileclip.model import MobileCLIP
from mobileclip.openmoji_data import Icon, Splits, noisy_captions, read_icons, split_icons
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.tagger import train_tagger
from mobileclip.train import Trainer

Budget = Literal["smoke", "laptop", "full"]
LEARNING_RATES = (5e-4, 1e-3, 2e-3)
TUNING_SEED = 1000
MINIMUM_EFFECT = math.log10(2)
NUM_VOCABULARY = 2048
CONTEXT = 16
BATCH = 64
TEACHER_DIMS = ((24, 48, 96, 192), (32, 64, 128, 256))
PLAIN, STRONG, SYNTHETIC, REINFORCED = (
    "plain",
    "+ strong augmentation",
    "+ synthetic captions",
    "+ ensemble distillation",
)
PAPER = PaperValue(10.0, "10x-1000x improved learning efficiency", "abstract", "A")
STUDENT = MobileCLIPConfig(
    image=MCiConfig(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), image_size=64),
    text=TextConfig(num_layers=2, dim=64, num_heads=2, vocab_size=NUM_VOCABULARY, context_length=CONTEXT),
    embed_dim=64,
)


@dataclass(frozen=True)
class Plan:
    """What one budget trains."""

    seeds: int
    num_steps: int
    teacher_steps: int
    num_evaluations: int
    arms: tuple[str, ...]
    num_augmentations: int = 10
    tune: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to train: a set, and what differs from plain CLIP training."""

    data: Literal["noisy", "dr", "first teacher", "second teacher", "limited teachers", "oracle"]
    changes: Mapping[str, Any]


_DISTIL = {"distill_weight": 1.0, "synthetic": True, "augmentation": "stored"}
ARMS: dict[str, Arm] = {
    PLAIN: Arm("noisy", {}),
    STRONG: Arm("noisy", {"augmentation": "strong"}),
    SYNTHETIC: Arm("dr", {"augmentation": "strong", "synthetic": True}),
    REINFORCED: Arm("dr", _DISTIL),
    "first teacher only": Arm("first teacher", _DISTIL),
    "second teacher only": Arm("second teacher", _DISTIL),
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
PLANS: dict[Budget, Plan] = {
    "smoke": Plan(1, 3, 3, 2, (PLAIN, REINFORCED), num_augmentations=1),
    "laptop": Plan(2, 24, 40, 3, (PLAIN, REINFORCED), num_augmentations=2),
    "full": Plan(5, 1500, 3000, 10, tuple(ARMS), tune=True),
}


class CompactTokenizer:
    """CLIP's tokens renumbered to those that occur in some captions; all others share one number.

    Args:
        captions: What the student may see in training.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self._tokenizer = Tokenizer(CONTEXT)
        counts = torch.bincount(self._tokenizer(list(captions)).flatten(), minlength=49408)
        counts[[0, 49406, 49407]] = 0
        kept = counts.argsort(descending=True, stable=True)[: NUM_VOCABULARY - 4]
        self._number = torch.full((49408,), 1)  # unknown
        self._number[kept[counts[kept] > 0]] = torch.arange(2, 2 + int((counts[kept] > 0).sum()))
        # Zero pads, and the end token keeps the largest number: it is found by that.
        self._number[[0, 49406, 49407]] = torch.tensor([0, NUM_VOCABULARY - 2, NUM_VOCABULARY - 1])

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids [n, 16]."""
        return self._number[self._tokenizer(texts)]


class World:
    """Data, teachers and reinforced sets of one budget, made once in a folder and found again there.

    Args:
        folder: Where they are kept.
        plan: How long teachers train.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.splits: Splits = split_icons(read_icons())
        self.teacher_seconds = 0.0

    @cached_property
    def tokenize(self) -> CompactTokenizer:
        """The student's tokens: those of the pool's words."""
        return CompactTokenizer([" ".join((icon.annotation, *icon.tags)) for icon in self.splits.pool])

    def source(self, kind: Literal["noisy", "oracle", "pool"]) -> Path:
        """Return shards of the quarter with noisy or metadata captions, or of the whole pool with noisy ones."""
        icons = self.splits.pool if kind == "pool" else self.splits.quarter
        captions = [icon.annotation for icon in icons] if kind == "oracle" else noisy_captions(icons)
        return _write_once(self.folder / kind, icons, captions)

    def teacher(self, number: int, *, limited: bool = False) -> str:
        """Return the folder of a trained teacher; two differ in width, depth and seed."""
        folder = self.folder / f"teacher-{number}{'-limited' if limited else ''}"
        if not (folder / "model.safetensors").exists():
            start = time.perf_counter()
            model = MobileCLIPConfig(
                image=MCiConfig(depths=(1, 2, 2 + number, 1), dims=TEACHER_DIMS[number], image_size=64),
                text=TextConfig(num_layers=2, dim=96, num_heads=4, context_length=CONTEXT),
                embed_dim=96,
            )
            config = _plain(model, self.plan.teacher_steps, seed=500 + number, augmentation="strong")
            trainer, dataset = (
                Trainer(config),
                self._dataset("noisy" if limited else "pool", config, Tokenizer(CONTEXT)),
            )
            for step in range(config.num_steps):
                trainer.train_step(dataset[step], ())
            save_pretrained(trainer.ema or trainer.model, folder)
            self.teacher_seconds += time.perf_counter() - start
        return str(folder)

    @cached_property
    def tagger(self) -> str:
        """The captioner, trained on the pool without the quarter."""
        folder = self.folder / "tagger"
        if not (folder / "tagger.pt").exists():
            rest = self.splits.rest
            images = [decode_image(icon.image, icon.uid) for icon in rest]
            words = [[word for tag in icon.tags for word in tag.split()] for icon in rest]
            train_tagger(images, words, folder, num_steps=self.plan.teacher_steps, seed=7)
        return f"mobileclip.tagger:caption@{folder}"

    def data(self, kind: str) -> Path:
        """Return the shards an arm trains on, made at first use."""
        if kind in ("noisy", "oracle", "pool"):
            return self.source(kind)  # type: ignore[arg-type]
        numbers = {"first teacher": (0,), "second teacher": (1,)}.get(kind, (0, 1))
        teachers = tuple(self.teacher(number, limited=kind == "limited teachers") for number in numbers)
        config = ReinforceConfig(
            teachers, self.tagger, num_augmentations=self.plan.num_augmentations, augment=AugmentConfig(image_size=64)
        )
        out = self.folder / kind.replace(" ", "-")
        start = time.perf_counter()
        reinforce(self.source("noisy"), out, config, quiet=True)
        self.teacher_seconds += time.perf_counter() - start
        return out

    def _dataset(self, kind: str, config: TrainConfig, tokenize: Tokenize) -> StepDataset:
        return StepDataset(ShardedSamples(self.data(kind)), config, tokenize)

    def run(self, arm: str, seed: int, rate: float, icons: Sequence[Icon]) -> Curve:
        """Train a student and measure it on the way.

        Args:
            arm: Key of `ARMS`.
            seed: Of weights, order and choices.
            rate: Learning rate.
            icons: What is retrieved.
        """
        chosen, start = ARMS[arm], time.perf_counter()
        config = _plain(STUDENT, self.plan.num_steps, seed=seed, learning_rate=rate, **chosen.changes)
        dataset, trainer = self._dataset(chosen.data, config, self.tokenize), Trainer(config)
        dims = tuple(read_config(self.data(chosen.data)).get("teacher_dims", ()))
        steps = evaluation_steps(self.plan)
        ranks = []
        for step in range(config.num_steps):
            trainer.train_step(dataset[step], dims)
            if step + 1 in steps:
                ranks.append(reciprocal_ranks(trainer.ema or trainer.model, icons, self.tokenize))
        seconds = (time.perf_counter() - start) / (config.num_steps * BATCH)
        return Curve(np.array([step * BATCH for step in steps]), np.stack(ranks), seconds)


@dataclass(frozen=True)
class Curve:
    """Retrieval along a run.

    Args:
        samples: Samples seen at each evaluation.
        ranks: Reciprocal rank of each test icon [evaluations, icons].
        seconds_per_sample: Wall time of training, evaluations included.
    """

    samples: np.ndarray
    ranks: np.ndarray
    seconds_per_sample: float

    @property
    def mrr(self) -> np.ndarray:
        """Mean reciprocal rank at each evaluation."""
        return self.ranks.mean(1)


def _plain(model: MobileCLIPConfig, num_steps: int, **changes: Any) -> TrainConfig:
    """Return plain CLIP training with a constant rate, so that a run can be read at any step."""
    config = TrainConfig(
        model, batch_size=BATCH, num_steps=num_steps, warmup_steps=min(50, num_steps // 2), constant_steps=num_steps,
        distill_weight=0.0, synthetic=False, augmentation="crop", ema_decay=0.95, precision="fp32",
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def evaluation_steps(plan: Plan) -> list[int]:
    """Return steps evenly spaced on a log scale, the last one the end of training."""
    first = max(1, plan.num_steps // 50)
    return sorted({round(step) for step in np.geomspace(first, plan.num_steps, plan.num_evaluations)})


@torch.inference_mode()
def reciprocal_ranks(model: MobileCLIP, icons: Sequence[Icon], tokenize: Tokenize) -> np.ndarray:
    """Return 1 / rank of each icon among all when its name is searched; ties count against it."""
    training = model.training
    model.eval()
    pixels = torch.stack([to_pixels(decode_image(icon.image, icon.uid)) for icon in icons])
    image = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(200)])
    text = model.encode_text(tokenize([icon.annotation for icon in icons]), normalize=True)
    model.train(training)
    scores = text @ image.T
    return (1 / (scores >= scores.diag()[:, None]).sum(1)).numpy()


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
    if at == 0:
        return float(samples[0]), True
    share = (target - mrr[at - 1]) / (mrr[at] - mrr[at - 1])
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
    world = World(out / "efficiency" / budget, plan)
    curves: dict[str, list[Curve]] = {arm: [] for arm in plan.arms}
    total = len(plan.arms) * (plan.seeds + (len(LEARNING_RATES) if plan.tune else 0))
    with progress(total=total, description="efficiency", unit="runs") as bar:
        for arm in plan.arms:
            rate = _tune(world, arm, bar.update) if plan.tune else LEARNING_RATES[1]
            for number in range(plan.seeds):
                curves[arm].append(world.run(arm, seed + number, rate, world.splits.test))
                bar.update(1)
    plots.draw_efficiency(
        out / "efficiency.svg", {arm: (runs[0].samples, [r.mrr for r in runs]) for arm, runs in curves.items()}
    )
    seconds = time.perf_counter() - start
    strongest = max(
        (arm for arm in CONTROLS if arm in curves), key=lambda arm: np.mean([c.mrr.max() for c in curves[arm]])
    )
    controls = [PLAIN] if strongest == PLAIN else [PLAIN, strongest]
    return [
        _judge(name, curves, world.teacher_seconds * counted, budget=budget, seconds=seconds)
        for name in controls
        for counted in (0, 1)
    ]


def _tune(world: World, arm: str, update: Any) -> float:
    """Return the learning rate with the best validation MRR at the end, by one run each with a seed of its own."""
    best = {}
    for rate in LEARNING_RATES:
        best[rate] = world.run(arm, TUNING_SEED, rate, world.splits.validation).mrr[-1]
        update(1)
    return max(best, key=lambda rate: best[rate])


def _judge(
    control: str, curves: Mapping[str, Sequence[Curve]], teacher_seconds: float, *, budget: Budget, seconds: float
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
        budget=budget,
        evidence="real",
        data="OpenMoji 17: 600 test concepts; students see a quarter of the pool",
        seconds=seconds,
        figures=("efficiency.svg",),
        note=f"bootstrap over items and seeds without teachers [{interval[0]:.2f}, {interval[1]:.2f}].{bound} "
        f"Final MRR: {finals}.",
    )


def _with_compute(control: Curve, ours: Curve, teacher_seconds: float) -> float:
    """Return `log_ratio` in wall time, the teachers' included."""
    ratio, _ = log_ratio(control, ours)
    target = float(control.mrr.max())
    needed, _ = samples_to_reach(target, control.samples, control.mrr)
    taken = needed / 10**ratio
    return math.log10(needed * control.seconds_per_sample / (taken * ours.seconds_per_sample + teacher_seconds))


def _write_once(folder: Path, icons: Sequence[Icon], captions: Sequence[str]) -> Path:
    """Write icons with captions as one shard, unless it is there."""
    from tenfold_shared.files import atomic_write

    path = folder / "00000000.tar"
    if not path.exists():
        with atomic_write(path) as file:
            pairs = zip(icons, captions, strict=True)
            write_tar(file, ((icon.uid, {"png": icon.image, "txt": text.encode()}) for icon, text in pairs))
    return folder
