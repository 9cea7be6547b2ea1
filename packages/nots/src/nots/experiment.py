"""One run of the synthetic experiment: pretrain an arm, adapt it frozen and whole, score it in both worlds."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.files import write_json
from torch import Tensor

from nots.adapt import adapt, predict
from nots.checkpoint import from_pretrained, save_pretrained
from nots.classical import ESTIMATORS
from nots.config import AdaptConfig, NoTSConfig, ObjectiveName, Readout, TrainConfig
from nots.model import NoTS
from nots.objectives import step_flops
from nots.train import build, fit
from nots.worlds import WORLDS, Part, Task, make_task, pretraining_series

DIGITS = 5
ADAPT_RATE = 3e-2


@dataclass(frozen=True)
class Arm:
    """What is pretrained.

    Attributes:
        objective: None leaves the weights random.
        readout: In the adaptation: of the narrative, or of the raw signal.
        equal_flops: Whether its batch is as large as NoTS's operations allow; otherwise it is NoTS's.
    """

    objective: ObjectiveName | None
    readout: Readout
    equal_flops: bool = True


ARMS: dict[str, Arm] = {
    "nots": Arm("nots", "sequence"),
    "mae": Arm("mae", "raw"),
    "next": Arm("next", "raw"),
    "random_sequence": Arm(None, "sequence"),
    "random": Arm(None, "raw"),
    "famae": Arm("famae", "raw"),
    "vqvae": Arm("vqvae", "raw"),
    "mae_steps": Arm("mae", "raw", equal_flops=False),
    "next_steps": Arm("next", "raw", equal_flops=False),
    "no_consistency": Arm("no_consistency", "sequence"),
    "no_ar_mask": Arm("no_ar_mask", "sequence"),
    "augment": Arm("augment", "sequence"),
    "noise_degradation": Arm("noise_degradation", "sequence"),
}
CLASSICAL = "classical"


@dataclass(frozen=True)
class Sizes:
    """Sizes of one budget.

    Attributes:
        model: Of every arm.
        num_steps: Updates of every arm.
        batch_size: Series of an update of NoTS.
        num_series: To pretrain on, half of each world.
        parts: Labelled series for training, validation and test.
        adapt_steps: Updates of each adaptation.
        tuning_share: Of the steps, in trials of rates.
        worlds: To adapt in; what is found in one does not depend on the other.
        device: Where torch runs; "auto" is a GPU where there is one.
    """

    model: NoTSConfig = field(default_factory=NoTSConfig)
    num_steps: int = 1500
    batch_size: int = 16
    num_series: int = 8000
    parts: tuple[int, int, int] = (1000, 400, 1000)
    adapt_steps: int = 150
    tuning_share: float = 1 / 3
    worlds: tuple[str, ...] = WORLDS
    device: str = "cpu"

    def place(self) -> str:
        """Return the device's name."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    arm: str
    seed: int
    rate: float
    tuning: bool = False

    @property
    def file(self) -> str:
        """Where its result lies in the output folder."""
        return f"{'tuning' if self.tuning else 'runs'}/{self.arm}-{self.seed}-{self.rate:g}.json"


def batch_size(arm: Arm, sizes: Sizes) -> int:
    """Return the batch at which a step of an arm has the operations of a step of NoTS."""
    if arm.objective is None or not arm.equal_flops:
        return sizes.batch_size
    ours = step_flops(sizes.model, TrainConfig("nots", batch_size=1))
    return max(1, round(sizes.batch_size * ours / step_flops(sizes.model, TrainConfig(arm.objective, batch_size=1))))


def train_config(job: Job, sizes: Sizes) -> TrainConfig:
    """Return how a job's trunk is pretrained."""
    arm = ARMS[job.arm]
    steps = max(1, round(sizes.num_steps * (sizes.tuning_share if job.tuning else 1)))
    objective: ObjectiveName = arm.objective or "nots"
    size = batch_size(arm, sizes)
    return TrainConfig(objective, steps, size, job.rate, max(1, steps // 20), seed=job.seed)


def pretrained(out: Path, job: Job, sizes: Sizes) -> NoTS:
    """Pretrain a job's trunk, or leave it random; the same seed gives all arms the same series and weights.

    Trunks are kept in `out/trunks`, for the real series.
    """
    config = train_config(job, sizes)
    if ARMS[job.arm].objective is None:
        return build(sizes.model, config).model.eval().to(sizes.place())
    folder = out / "trunks" / f"{job.arm}-{job.seed}-{job.rate:g}"
    if not job.tuning and (folder / "config.json").exists():
        return from_pretrained(folder).to(sizes.place())
    series = pretraining_series(sizes.model.length, sizes.num_series, job.seed)
    trunk = fit(sizes.model, config, series, device=sizes.place())
    if not job.tuning:
        save_pretrained(trunk, folder)
    return trunk


def run(out: Path, job: Job, sizes: Sizes) -> dict[str, Any]:
    """Do one run, or read what an earlier one found; its file is whole or not there."""
    path = out / job.file
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    start = time.process_time()
    facts: dict[str, Any] = {"arm": job.arm, "seed": job.seed, "rate": job.rate}
    if job.arm == CLASSICAL:
        found = {**facts, "scores": {"classical": {"fbm": classical_scores(job.seed, sizes)}}}
    else:
        trunk, config = pretrained(out, job, sizes), train_config(job, sizes)
        found = {**facts, "batch_size": config.batch_size, "num_steps": config.num_steps}
        trained = ARMS[job.arm].objective is not None
        found["flops"] = step_flops(sizes.model, config) * config.num_steps if trained else 0
        found["scores"] = score_all(trunk, job, sizes)
    found["seconds"] = time.process_time() - start
    found = rounded(found)
    write_json(path, found)
    return found


def score_all(trunk: NoTS, job: Job, sizes: Sizes) -> dict[str, Any]:
    """Adapt a trunk in each mode and score it in each world; trials look at one mode, one world, validation alone."""
    readout = ARMS[job.arm].readout
    base = AdaptConfig("frozen", readout, num_steps=sizes.adapt_steps, learning_rate=ADAPT_RATE, seed=job.seed)
    if job.tuning:
        task = make_task("fbm", sizes.model.length, sizes.parts, job.seed)
        return {"frozen": {"fbm": score(trunk, base, task, task.valid)}}
    modes: dict[str, AdaptConfig] = {"frozen": base, "full": replace(base, mode="full")}
    if job.arm == "nots" and sizes.worlds == WORLDS:
        modes["frozen, raw"] = replace(base, readout="raw")
    tasks = {world: make_task(world, sizes.model.length, sizes.parts, job.seed) for world in sizes.worlds}
    return {
        mode: {world: score(trunk, config, task, task.test) for world, task in tasks.items()}
        for mode, config in modes.items()
    }


def score(trunk: NoTS, config: AdaptConfig, task: Task, part: Part) -> dict[str, dict[str, float]]:
    """Adapt a copy of a trunk to a task and score one part of it."""
    model = adapt(copy.deepcopy(trunk), config, task.targets, (task.train.x, task.train.y))
    told = predict(model, part.x)
    columns = model.head.columns()
    return {name: errors(told[:, place], part.y[:, place], task.scales[name]) for name, place in columns.items()}


def errors(told: Tensor, truth: Tensor, scale: float) -> dict[str, float]:
    """Return squared and absolute error x100 of standardised targets, R2, and the absolute error in raw units."""
    gap = told - truth
    squared, absolute = float(gap.square().mean()), float(gap.abs().mean())
    spread = float((truth - truth.mean()).square().mean())
    return {"mse": 100 * squared, "mae": 100 * absolute, "r2": 1 - squared / spread, "mae_raw": absolute * scale}


def classical_scores(seed: int, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Score the classical estimators of H on the test paths, in the units of the other arms."""
    task = make_task("fbm", sizes.model.length, sizes.parts, seed)
    scale, truth = task.scales["H"], task.test.hurst
    found = {}
    for name, estimate in ESTIMATORS.items():
        gap = torch.from_numpy(estimate(task.test.x[:, 0].double().numpy()) - truth) / scale
        standard = torch.from_numpy(truth) / scale
        found[name] = errors(gap + standard, standard, scale)
    return found


def rounded(value: Any) -> Any:
    """Return a copy whose floats have five digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def mean_r2(found: Mapping[str, Any], mode: str = "frozen", world: str = "fbm") -> float:
    """Return the mean R2 of a world's targets, by which rates are chosen and arms are compared."""
    scores = found["scores"][mode][world]
    return sum(target["r2"] for target in scores.values()) / len(scores)


def set_threads() -> None:
    """Use one thread: matrices this small are slower on two."""
    torch.set_num_threads(1)
