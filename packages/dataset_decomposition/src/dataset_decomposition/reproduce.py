"""Dataset Decomposition's claims at laptop scale: the same documents, cut in ten ways, into the same small decoder.

    dataset-decomposition reproduce --budget laptop        (two cores, two minutes; full: half an hour of one thread)

Fixed before the run.
Data: the functions and methods of sympy and networkx (frozen list of hashes), each a document as in CodeSearchNet, in
random order; BPE of 512 tokens trained on the training part, with which a document has 163 tokens in the median, 396
in the mean, 36,638 at most; of the source files every twelfth for validation, another twelfth for the test. One pass
over 1.2 M tokens. Model: width 64, 2 layers, longest row 256, so that attention takes 25 % of the compute of
concat-and-chunk, the paper's share for 1B at 8k ("8k at the cost of 2k" becomes "256 at the cost of 64"); shortest
bucket 32, with which decomposition drops 4 % of the tokens; 4,096 tokens a step.
Arms: concat-and-chunk 256 and 64, the first with document mask, best-fit packing with document mask, decomposition
with uniform, grow-p2 (8 cycles: primary, and 1 cycle), grow-p100 and shrink-p100, and the same text chunked to 32
(against 256: the single-length pair). All take the same number of steps. Rates are chosen for each arm alike, by one
trial each of (2e-3, 4e-3, 8e-3) on a quarter of the documents with a seed of its own, on validation documents.
Seeds: five for the primary arm and the three packings that keep the longest row; three for the rest, whose verdicts
can be "direction only" at most.
Evaluation, the same for all: 300 test documents, one per row, the first 256 targets (no arm has seen more), bits per
byte (negated: larger is better), also by position; apart from them whole functions under the shortest bucket, which
decomposition drops; retrieval of four random tokens anywhere in the first half of a row.
Time: seconds per step of each row length on one thread, measured in interleaved rounds, times steps; masked rows
count as plain ones. The time to the baseline's loss comes from the primary arm trained on a quarter, half and all of
the documents, each with its own schedule, interpolated in the logarithm of time. Equal time: concat-and-chunk ended,
with a schedule of its own, after the seconds of the primary arm.
Stability: the largest rise of the training loss over its lowest for rows of that length, on a quarter of the
documents, at a rate of 3e-2 and without clipping.
Controls: concat-and-chunk 256 for time; for quality the best on average of the three packings with the longest
row, for short documents the best of them there.
Minimum effects: 0.01 bits per byte; half of the paper's gain in time (1.0 for 3x); half of the way from the cost of
long rows to that of short ones; 0.02 of the keys; 0.1 nats of rise.
Laptop trains the primary arm (all three sizes), concat-and-chunk and best-fit with one seed at the full size, in
two processes; smoke trains every arm for a few steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult
from tenfold_shared.files import write_json
from tenfold_shared.progress import progress

from dataset_decomposition import verdicts
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.plots import draw_curves, draw_positions, draw_steps
from dataset_decomposition.trials import ARMS, Data, Scale, Trial, prepare, run_trial, step_seconds
from dataset_decomposition.verdicts import BASELINE, EQUAL_TIME, PACKINGS, PARTS, PRIMARY, STABILITY, Runs
from dataset_decomposition.workers import map_in_order

Budget = Literal["smoke", "laptop", "full"]
RATES = (2e-3, 4e-3, 8e-3)
HIGH_RATE = 3e-2
TUNING_SEED = 10_000  # not used again
TUNING_PART = 0.25
MANY_SEEDS, FEW_SEEDS = 5, 3
TIMES = "step-seconds.json"

_FULL = Scale(ModelConfig(64, 2, 4, 512, 10_000.0), 256, 32, 1_200_000, 4096, 300)
_SMOKE = Scale(ModelConfig(32, 1, 2, 512, 10_000.0), 256, 32, 30_000, 512, 20)
LAPTOP_RATE = 8e-3  # what tuning at full budget chose for the laptop's three arms


@dataclass(frozen=True)
class Settings:
    """What one budget runs: sizes, arms with their numbers of seeds, processes."""

    scale: Scale
    seeds: dict[str, int]
    rounds: int
    workers: int = 1
    tune: bool = False
    extras: bool = True


_SEEDS = {arm: MANY_SEEDS if arm in (PRIMARY, *PACKINGS) else FEW_SEEDS for arm in ARMS}
SETTINGS: dict[Budget, Settings] = {
    "smoke": Settings(_SMOKE, dict.fromkeys(ARMS, 1), 2),
    "laptop": Settings(_FULL, dict.fromkeys((PRIMARY, BASELINE, "best-fit"), 1), 7, workers=2, extras=False),
    "full": Settings(_FULL, _SEEDS, 25, tune=True),
}


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms and judge the paper's claims.

    Finished runs and measured step times are kept in `out` and not made again.

    Args:
        out: Existing folder; gets `curves.svg`, `lengths.svg`, `positions.svg` and the runs' results.
        budget: "smoke" (a few steps of every arm), "laptop" (three arms, one seed) or "full" (all).
        seed: Of the first of the seeds.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start, settings = time.perf_counter(), SETTINGS[budget]
    torch.set_num_threads(1)  # matrices this small are slower on two
    data = prepare(out, settings.scale, PARTS)
    rates = tune(out, settings, data) if settings.tune else dict.fromkeys(ARMS, LAPTOP_RATE)
    results = run_arms(out, settings, data, rates, seed)
    rounds = load_step_seconds(out, settings)
    if settings.extras:
        results |= run_extras(out, settings, data, rates, (seed, verdicts.medians(rounds)))
    _draw(out, results, verdicts.medians(rounds))
    took = time.perf_counter() - start
    claims = verdicts.judge(results, rounds, settings.scale, budget=budget, seconds=took)
    return [*claims, *verdicts.not_attempted()]


def load_step_seconds(out: Path, settings: Settings) -> dict[int, list[float]]:
    """Return the seconds of a step of each length, one per round, measured now unless `out` has them already."""
    path = out / TIMES
    if not path.is_file():
        write_json(path, {str(n): times for n, times in step_seconds(settings.scale, settings.rounds).items()})
    return {int(n): times for n, times in json.loads(path.read_text(encoding="utf-8")).items()}


def run_all(out: Path, settings: Settings, data: Data, trials: Sequence[Trial], what: str) -> list[dict[str, Any]]:
    """Run trials, in processes of their own where the settings say so; results come in the trials' order."""
    if settings.workers == 1:
        bar = progress(trials, description=what, unit="runs")
        return [run_trial(out, trial, settings.scale, data) for trial in bar]
    jobs = [(out, trial, settings.scale, data) for trial in trials]
    found = map_in_order(_work, jobs, settings.workers, (torch.set_num_threads, (1,)))
    return list(progress(found, total=len(jobs), description=what, unit="runs"))


def _work(job: tuple[Path, Trial, Scale, Data]) -> dict[str, Any]:
    return run_trial(*job)


def tune(out: Path, settings: Settings, data: Data) -> dict[str, float]:
    """Return each arm's best learning rate on the validation documents."""
    trials = [Trial(arm, TUNING_SEED, lr, TUNING_PART) for arm in settings.seeds for lr in RATES]
    found = run_all(out, settings, data, trials, "learning rates")
    return {
        arm: min((r for r in found if r["arm"] == arm), key=lambda r: r["validation"])["lr"] for arm in settings.seeds
    }


def run_arms(out: Path, settings: Settings, data: Data, rates: dict[str, float], seed: int) -> Runs:
    """Run every arm with its seeds, the primary arm also on less data; runs of an arm are in the order of seeds."""
    jobs = [(arm, arm, seed + i, 1.0) for arm, count in settings.seeds.items() for i in range(count)]
    jobs += [
        (f"{PRIMARY}, {part:g}", PRIMARY, seed + i, part)
        for part in PARTS
        if part < 1
        for i in range(settings.seeds[PRIMARY])
    ]
    jobs.sort(key=lambda job: (-job[3], job[2]))  # the longest first, then seed by seed
    trials = [Trial(arm, number, rates[arm], part) for _, arm, number, part in jobs]
    results: Runs = {name: [] for name, *_ in jobs}
    for (name, *_), run in zip(jobs, run_all(out, settings, data, trials, "arms"), strict=True):
        results[name].append(run)
    return results


def run_extras(out: Path, settings: Settings, data: Data, rates: dict[str, float], rest: tuple[int, Any]) -> Runs:
    """Run the baseline for the primary arm's seconds, and two arms at a high rate."""
    seed, seconds = rest
    count = settings.seeds[PRIMARY]
    primary = run_arms(out, replace(settings, seeds={PRIMARY: count}), data, rates, seed)[PRIMARY]
    steps = [int(verdicts.clock(run, seconds)[-1] / seconds[settings.scale.longest]) for run in primary]
    equal = [Trial(BASELINE, seed + i, rates[BASELINE], steps=n) for i, n in enumerate(steps)]
    jobs = [(EQUAL_TIME, trial) for trial in equal]
    for arm in STABILITY:
        jobs += [(f"{arm}, high rate", Trial(arm, seed + i, HIGH_RATE, TUNING_PART, clip=0.0)) for i in range(count)]
    results: Runs = {name: [] for name, _ in jobs}
    for (name, _), run in zip(jobs, run_all(out, settings, data, [t for _, t in jobs], "extras"), strict=True):
        results[name].append(run)
    return results


def _draw(out: Path, results: Runs, seconds: dict[int, float]) -> None:
    curves, positions = {}, {}
    arms = [arm for arm in ARMS if arm in results]
    for arm in arms:
        clock = verdicts.clock(results[arm][0], seconds)
        steps = [step for step, _ in results[arm][0]["curve"]]
        means = np.mean([[value for _, value in run["curve"]] for run in results[arm]], axis=0)
        curves[arm] = ([float(clock[step - 1]) for step in steps], means.tolist())
        names = [name for name in results[arm][0]["final"] if "/" in name]
        positions[arm] = {name: float(np.mean([run["final"][name] for run in results[arm]])) for name in names}
    draw_curves(out / "curves.svg", curves, "training seconds (measured step times)", "Held-out loss over time")
    draw_positions(out / "positions.svg", positions)
    lengths = {arm: np.array(results[arm][0]["lengths"]) for arm in arms if arm.startswith("DD")}
    draw_steps(out / "lengths.svg", lengths, windows=48, span="run")
