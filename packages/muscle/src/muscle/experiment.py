"""The experiment's stages: bases, task adapters, rates, arms; every finished run is a file and is not made again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from muscle.collect import OF_NEW, OTHER, REGIMES, RunFolder, arm_name, run_name, scores_of
from muscle.corpus import KINDS, load_tokenizer, read_text
from muscle.decoder import Decoder, Layout, Shape, load_base, round_weights, save_base
from muscle.pretraining import pack_rows, pretrain
from muscle.tasks import TASK_NAMES, Task, build_task, score
from muscle.trials import (
    ARMS,
    RANK,
    Frozen,
    Material,
    Plan,
    Teachers,
    choose,
    freeze,
    generate,
    hidden_states,
    read_prompts,
    start_adapters,
    train_arm,
)

TUNING_SEED = 99
RATES = (3e-4, 1e-3, 3e-3)
TASK_RATE = 1e-3
# Base, half of the text, share of the steps, seed of the weights.
BASES = {"a": ("a", 1.0, 1), "b": ("b", 1.0, 2), "weak": ("a", 0.1, 3)}
FIRST = ("CE continued", "MUSCLE", "MUSCLE + CE", "wrong teacher", "wrong teacher + CE")


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        shape: Of the bases.
        steps: Of pretraining.
        epochs: Of every adapter.
        seeds: One value per seed.
        num_train: Training examples; None for all.
        num_test: Tests; None for all.
        rates: Learning rates tried.
    """

    shape: Shape
    steps: int
    epochs: int
    seeds: tuple[int, ...]
    num_train: int | None = None
    num_test: int | None = None
    rates: tuple[float, ...] = RATES


@dataclass(frozen=True)
class Setting:
    """Where and how a run is made.

    Attributes:
        out: Folder of the runs.
        scale: Sizes.
        device: "cpu" or "cuda".
        workers: Processes side by side.
        deadline: Value of `time.time` after which nothing new is begun.
        text: Folder of the training text; None trains bases on the tasks' own training examples.
    """

    out: Path
    scale: Scale
    device: str = "cpu"
    workers: int = 1
    deadline: float = float("inf")
    text: Path | None = None


@dataclass(frozen=True)
class Row:
    """One of the runs that a job stacks: which file it goes to, its seed and rate, and the base of its v1.

    Attributes:
        name: File without suffix; rows of one name are its seeds.
        seed: Of adapters and order, and which v1 and v2 it goes on from.
        rate: Learning rate.
        teacher: Base of v1; "" for none.
        offset: Added to the seed: another seed of v2.
    """

    name: str
    seed: int
    rate: float
    teacher: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Job:
    """Runs that are trained side by side: one task, one base, one objective.

    Attributes:
        task: Their task.
        arm: "task" for task adapters, "base" for none, else a name of `ARMS`.
        base: The base that is trained.
        rows: The runs.
        tuning: Whether rates are compared on validation examples, in a third of the epochs, rounded up.
    """

    task: str
    arm: str
    base: str
    rows: tuple[Row, ...]
    tuning: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Files that the job writes."""
        return tuple(dict.fromkeys(row.name for row in self.rows))


def make_bases(setting: Setting) -> dict[str, str]:
    """Train the bases that are missing, side by side; return each file's SHA-256."""
    missing = [name for name in BASES if not _base_file(setting.out, name).is_file()]
    _map(_train_base, [(setting, name) for name in missing], setting)
    digests = {name: _digest(_base_file(setting.out, name)) for name in BASES}
    write_json(setting.out / "bases.json", digests)
    return digests


def _base_file(out: Path, name: str) -> Path:
    return out / f"base-{name}.npz"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _train_base(job: tuple[Setting, str]) -> None:
    setting, name = job
    half, share, seed = BASES[name]
    if setting.text is None:
        texts: Iterable[str] = (" ".join(f"{i} {half}" for i in range(40)) for _ in range(200))
    else:
        texts = read_text(setting.text, half)
    rows = pack_rows(load_tokenizer(), texts)
    steps = max(1, int(setting.scale.steps * share))
    log: list[dict[str, float]] = []
    weights = pretrain(rows, setting.scale.shape, steps=steps, seed=seed, device=setting.device, log=log.append)
    write_json(setting.out / f"base-{name}.json", {"steps": steps, "rows": len(rows), "log": log})
    save_base(_base_file(setting.out, name), round_weights(weights))


@lru_cache(maxsize=4)
def _task(name: str, num_train: int | None, num_test: int | None, device: str) -> Task:
    task = build_task(name, num_train, num_test)
    rows = {part: getattr(task, part).to(device) for part in ("train", "validation", "tests", "validation_tests")}
    return replace(task, **rows)


@lru_cache(maxsize=8)
def _frozen(setting: Setting, base: str, name: str, part: str) -> Frozen:
    scale = setting.scale
    task = _task(name, scale.num_train, scale.num_test, setting.device)
    return freeze(_model(setting.out, base, scale.shape, setting.device), getattr(task, part))


@lru_cache(maxsize=2)
def _material(setting: Setting, base: str, name: str, part: str) -> Material:
    """A task under a base; `part` holds what is answered: "tests" or "validation_tests"."""
    scale = setting.scale
    task = _task(name, scale.num_train, scale.num_test, setting.device)
    model = _model(setting.out, base, scale.shape, setting.device)
    read = () if name == "topic" else read_prompts(model, getattr(task, part))

    def answer(flat: torch.Tensor) -> list[list[Any]]:
        if name == "topic":
            return choose(model, flat, _frozen(setting, base, name, part))
        return [[text.strip() for text in task.tokenizer.decode_batch(run)] for run in generate(model, flat, read)]

    return Material(_frozen(setting, base, name, "train"), _frozen(setting, base, name, "validation"), answer)


@lru_cache(maxsize=4)
def _model(out: Path, name: str, shape: Shape, device: str) -> Decoder:
    return Decoder(shape, {key: value.to(device) for key, value in load_base(_base_file(out, name)).items()})


def folder(setting: Setting) -> RunFolder:
    """Return the finished runs."""
    return RunFolder(setting.out / "runs")


def run_job(setting: Setting, job: Job) -> None:
    """Make the runs of a job, unless all their files are there."""
    if all(name in folder(setting) for name in job.names):
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    scale = setting.scale
    task = _task(job.task, scale.num_train, scale.num_test, setting.device)
    model = _model(setting.out, job.base, scale.shape, setting.device)
    gold = task.validation_gold if job.tuning else task.gold
    material = _material(setting, job.base, job.task, "validation_tests" if job.tuning else "tests")
    if job.arm == "base":
        zero = torch.zeros_like(Layout(scale.shape, RANK).init([0])).to(setting.device)
        _write(setting, job, {"answers": encode_answers(job.task, [material.answer(zero)], gold)})
        return
    run = train_arm(model, material, *_plan(setting, job))
    arrays = {
        "answers": encode_answers(job.task, run.answers, gold),
        "losses": np.array(run.losses, dtype=np.float32),
    }
    if job.arm == "task":
        arrays["chosen"] = run.chosen().half().cpu().numpy()[None]
    _write(setting, job, arrays)


def _write(setting: Setting, job: Job, arrays: dict[str, np.ndarray]) -> None:
    """Write the rows of each name to its file."""
    for name in job.names:
        rows = [place for place, row in enumerate(job.rows) if row.name == name]
        with atomic_write(setting.out / "runs" / f"{name}.npz") as file:
            np.savez(file, **{key: value[:, rows] for key, value in arrays.items()})


def _plan(setting: Setting, job: Job) -> tuple[Plan, Teachers | None]:
    """A task adapter begins anew; an arm goes on from v2's adapters, with the teachers' states on the training rows."""
    scale, seeds = setting.scale, [row.seed + row.offset for row in job.rows]
    rates, epochs = [row.rate for row in job.rows], -(-scale.epochs // 3) if job.tuning else scale.epochs
    if job.arm == "task":
        return Plan(start_adapters(Layout(scale.shape, RANK), seeds, setting.device), seeds, rates, epochs), None
    arm = ARMS[job.arm]
    new = torch.stack([_chosen(setting, run_name(job.task, "task", "b"), row.seed) for row in job.rows])
    plan = Plan(new, seeds, rates, epochs, arm)
    if arm.weight == 0:
        return plan, None
    v2 = _model(setting.out, "b", scale.shape, setting.device)
    states = hidden_states(v2, new, _frozen(setting, "b", job.task, "train"))
    return plan, Teachers(_old_states(setting, job), states)


def _old_states(setting: Setting, job: Job) -> tuple[tuple[Decoder, torch.Tensor], ...]:
    """The model in v1's place and its states, for runs that follow one another with the same one."""
    found = []
    for base in dict.fromkeys(row.teacher for row in job.rows):
        rows = [row for row in job.rows if row.teacher == base]
        other = OTHER if ARMS[job.arm].teacher == "other seed" else 0
        name = run_name(job.task, "task", base, offset=other)
        flat = torch.stack([_chosen(setting, name, row.seed) for row in rows])
        model = _model(setting.out, base, setting.scale.shape, setting.device)
        found.append((model, hidden_states(model, flat, _frozen(setting, base, job.task, "train"))))
    return tuple(found)


def _chosen(setting: Setting, name: str, seed: int) -> torch.Tensor:
    """The selected adapter of a finished run."""
    row = (*setting.scale.seeds, TUNING_SEED).index(seed)
    return torch.from_numpy(_adapters(setting.out, name)[row].astype(np.float32)).to(setting.device)


@lru_cache(maxsize=4)
def _adapters(out: Path, name: str) -> np.ndarray:
    return RunFolder(out / "runs")[name]["chosen"][0]


def encode_answers(name: str, answers: Sequence[Sequence[Sequence[Any]]], gold: Sequence[Any]) -> np.ndarray:
    """Return answers [epochs, seeds, tests] as small numbers: a choice, a category (26 for none), ROUGE-1 x 10,000."""
    if name == "short":
        values = [[np.array(score(name, run, gold)) * 10_000 for run in epoch] for epoch in answers]
        return np.rint(np.array(values)).astype(np.uint16)
    places = {kind: place for place, kind in enumerate(KINDS)}
    found = [[[places.get(a, len(KINDS)) if name == "kind" else a for a in run] for run in epoch] for epoch in answers]
    return np.array(found, dtype=np.uint8)


def base_job(task: str, base: str) -> Job:
    """The base alone, without any adapter."""
    return Job(task, "base", base, (Row(run_name(task, "base", base), 0, 0.0),))


def task_job(setting: Setting, task: str, base: str) -> Job:
    """Task adapters on a base, the tuning seed with them; on v2's also the other seeds."""
    rate, seeds = TASK_RATE, (*setting.scale.seeds, TUNING_SEED)
    offsets = (0, OTHER) if base == "b" else (0,)
    names = {offset: run_name(task, "task", base, offset=offset) for offset in offsets}
    return Job(task, "task", base, tuple(Row(names[o], seed, rate, "", o) for o in offsets for seed in seeds))


def arm_job(setting: Setting, task: str, arm: str, regimes: Sequence[str] | None = None) -> Job:
    """An arm with all seeds; the main arms in both regimes, the others where accuracies are alike."""
    regimes = regimes or (tuple(REGIMES) if arm in FIRST else ("alike",))
    rate = best_rate(setting, task, arm)
    places = {arm_name(task, arm, regime): _teacher(arm, REGIMES[regime]) for regime in regimes}
    rows = [Row(name, seed, rate, base) for name, base in places.items() for seed in setting.scale.seeds]
    return Job(task, arm, "b", tuple(rows))


def _teacher(arm: str, old: str) -> str:
    return ("" if ARMS[arm].weight == 0 else "b") if arm in OF_NEW else old


def tuning_job(setting: Setting, task: str, arm: str) -> Job:
    """All rates of an arm side by side with the tuning seed; v1 is that of the regime of like accuracies."""
    teacher = _teacher(arm, REGIMES["alike"])
    rows = [Row(f"tuning-{run_name(task, arm)}", TUNING_SEED, rate, teacher) for rate in setting.scale.rates]
    return Job(task, arm, "b", tuple(rows), tuning=True)


def best_rate(setting: Setting, task: str, arm: str) -> float:
    """The rate with the highest mean score on validation examples, at the epoch of the lowest validation loss."""
    if len(setting.scale.rates) == 1:
        return setting.scale.rates[0]
    found = folder(setting)[tuning_job(setting, task, arm).names[0]]
    gold = _task(task, setting.scale.num_train, setting.scale.num_test, "cpu").validation_gold
    levels = scores_of(task, found["answers"], gold).mean(-1)
    best = found["losses"].argmin(axis=0)
    return setting.scale.rates[int(np.argmax([levels[epoch, row] for row, epoch in enumerate(best)]))]


def run_stages(setting: Setting, on_power: Callable[[], None]) -> None:
    """Make every run in an order in which what is needed comes first; after the task adapters, check the power.

    The main arms come before the rest. Past the deadline nothing more is begun.
    """
    first = [task_job(setting, task, base) for task in TASK_NAMES for base in ("b", "a", "weak")]
    run_all(setting, first + [base_job(task, base) for task in TASK_NAMES for base in BASES])
    on_power()
    for arms in (FIRST, [arm for arm in ARMS if arm not in FIRST]):
        if len(setting.scale.rates) > 1 and time.time() < setting.deadline:
            run_all(setting, [tuning_job(setting, task, arm) for task in TASK_NAMES for arm in arms])
        if time.time() < setting.deadline:
            run_all(setting, [arm_job(setting, task, arm) for task in TASK_NAMES for arm in arms])


def run_all(setting: Setting, jobs: Sequence[Job]) -> None:
    """Make the runs that are missing."""
    done = set(folder(setting))
    _map(_work, [(setting, job) for job in jobs if not done.issuperset(job.names)], setting)


def _work(job: tuple[Setting, Job]) -> None:
    if time.time() < job[0].deadline:
        run_job(*job)


_POOLS: dict[int, ProcessPoolExecutor] = {}


def _map(function: Callable[[Any], None], jobs: Sequence[Any], setting: Setting) -> None:
    """Call a function for every job, in processes that stay (each holds its models) where there are several."""
    if setting.workers == 1 or not jobs:
        for job in progress(jobs, description="experiment", unit="jobs"):
            function(job)
        return
    if setting.workers not in _POOLS:
        _POOLS[setting.workers] = ProcessPoolExecutor(
            setting.workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
    futures = [_POOLS[setting.workers].submit(function, job) for job in jobs]
    try:
        for future in progress(as_completed(futures), total=len(jobs), description="experiment", unit="jobs"):
            future.result()
    except (BrokenProcessPool, KeyboardInterrupt):
        close_workers()
        raise


def close_workers() -> None:
    """End the processes that stayed."""
    for pool in _POOLS.values():
        pool.shutdown(wait=True, cancel_futures=True)
    _POOLS.clear()
