"""From files of answers to the arms' figures; the same for a run's folder and for the answers kept in the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muscle.corpus import KINDS
from muscle.tasks import TASK_NAMES
from muscle.verdicts import PLAIN, Arm, Arms, Found, summarise

ARM_NAMES = (
    "CE continued",
    "MUSCLE",
    "MUSCLE + CE",
    "wrong teacher",
    "wrong teacher + CE",
    "KL to old",
    "old correct",
    "LL token + CE",
    "LL sequence + CE",
)
OF_NEW = ("CE continued", "wrong teacher", "wrong teacher + CE")  # arms that know nothing of v1
REGIMES = {"alike": "a", "better": "weak"}  # which base is v1; v2 is "b"
OTHER = 1000  # added to a seed, it is another seed
Answers = Mapping[str, np.ndarray]  # `answers` [epochs, seeds, tests] and `losses` [epochs, seeds]


def run_name(task: str, arm: str, base: str = "b", teacher: str = "", offset: int = 0) -> str:
    """Return the name of a run's file."""
    parts = [task, arm, base, *([teacher] if teacher else []), *([str(offset)] if offset else [])]
    return "-".join(parts).replace(" ", "_").replace("+", "and")


def arm_name(task: str, arm: str, regime: str) -> str:
    """Return the name of an arm's run; some know nothing of v1 and serve both regimes."""
    return run_name(task, arm, "b", "" if arm in OF_NEW else REGIMES[regime])


class RunFolder(Mapping[str, Answers]):
    """The finished runs of a folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        """Look at what is there at every call."""
        self.folder = folder

    def __getitem__(self, name: str) -> Answers:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            raise KeyError(name)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def __contains__(self, name: object) -> bool:
        return (self.folder / f"{name}.npz").is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.npz")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def pack_runs(runs: Mapping[str, Answers]) -> dict[str, np.ndarray]:
    """Return the answers and losses of all runs but tuning as one flat mapping, for one file."""
    names = [name for name in runs if not name.startswith("tuning-")]
    keys = ("answers", "losses")
    found = {name: runs[name] for name in names}
    return {f"{name}.{key}": run[key] for name, run in found.items() for key in keys if key in run}


def unpack_runs(arrays: Mapping[str, np.ndarray]) -> dict[str, Answers]:
    """Undo `pack_runs`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        name, part = key.rsplit(".", 1)
        found.setdefault(name, {})[part] = value
    return dict(found)


def scores_of(task: str, answers: np.ndarray, gold: Sequence[Any]) -> np.ndarray:
    """Return the score of every encoded answer, from 0 to 1, in the shape of `answers`."""
    if task == "short":
        return answers.astype(np.float64) / 10_000
    places = {kind: place for place, kind in enumerate(KINDS)}
    return (answers == np.array([places[g] if task == "kind" else g for g in gold])).astype(np.float64)


def collect(runs: Mapping[str, Answers], golds: Mapping[str, Sequence[Any]], num_seeds: int) -> Found:
    """Return the figures of every arm whose runs are there, by regime and task.

    Args:
        runs: By name.
        golds: Right answers of each task's tests.
        num_seeds: Seeds of the experiment; runs may hold the tuning seed after them.
    """
    found = {}
    for regime in REGIMES:
        for task in TASK_NAMES:
            arms = _collect_task(runs, regime, task, (golds[task], num_seeds))
            if arms:
                found[regime, task] = arms
    return found


def _collect_task(runs: Mapping[str, Answers], regime: str, task: str, rest: tuple[Sequence[Any], int]) -> Arms:
    old, plain = run_name(task, "task", REGIMES[regime]), run_name(task, "task", "b")
    if old not in runs or plain not in runs:
        return {}
    before = _selected(runs[old], task, rest)
    names = {PLAIN: plain} | {arm: arm_name(task, arm, regime) for arm in ARM_NAMES}
    arms = {arm: _arm(runs[name], task, before, rest) for arm, name in names.items() if name in runs}
    other = run_name(task, "task", "b", offset=OTHER)
    if other in runs:
        arms["noise floor"] = _arm(runs[other], task, _selected(runs[plain], task, rest), rest)
    return arms


def _selected(run: Answers, task: str, rest: tuple[Sequence[Any], int]) -> tuple[np.ndarray, np.ndarray]:
    """Answers and scores of a run's selected epochs [seeds, tests]."""
    gold, seeds = rest
    best = run["losses"].argmin(axis=0)[:seeds]
    answers = run["answers"][best, np.arange(seeds)]
    return answers, scores_of(task, answers, gold)


def _arm(run: Answers, task: str, before: tuple[np.ndarray, np.ndarray], rest: tuple[Sequence[Any], int]) -> Arm:
    gold, seeds = rest
    answers = run["answers"][:, :seeds]
    best = run["losses"].argmin(axis=0)[:seeds].tolist()
    return summarise(before, answers, scores_of(task, answers, gold), best)


def base_levels(runs: Mapping[str, Answers], golds: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Return the level of v2's base without any adapter on every task."""
    names = {task: run_name(task, "base") for task in TASK_NAMES}
    return {
        task: float(scores_of(task, runs[name]["answers"], golds[task]).mean())
        for task, name in names.items()
        if name in runs
    }
