"""PhysioMAE's comparison at laptop scale: real smart-watch recordings, and a polysomnography simulator.

    physiomae reproduce --budget full        (one core, half an hour; goes on from finished runs)

Fixed before the run. The specification is ours: of the paper only the abstract is certain.
Watch (real): seglearn's ten subjects, seven exercises, accelerometer and gyroscope, windows of 2.56 s at 50 Hz that
overlap by half; one subject is left out of pretraining and probes, over all ten, and arms are paired by that subject.
Probes: exercise (balanced accuracy), cadence of the acceleration and logarithm of the gyroscope's RMS (Pearson's r
within the subject left out).
Simulator (synthetic only; frozen and committed before any model): 24 training and 12 test subjects of 60 windows, four
modalities, probes of stage, event and trait (balanced accuracy); cell 0.45-graded with five seeds of subjects and
weights, the eight other cells of coupling (0, 0.45, 0.9) by informativeness (even, graded, one) with three.
Model: patches of 0.32 s (1 s simulated), width 32, two layers, decoder of one layer; targets are samples and log
spectrum, half each. Half of the tokens is masked; dropout takes a drawn proper subset of the modalities from half of
the windows; batches of 64; 400 steps on the watch, 300 on the simulator; AdamW, cosine.
Arms: mae_drop (ours), mae, cross_only, unimodal (each modality alone, late fusion), contrastive pairwise and
leave_one_out (late fusion; the same with two modalities), both together (mae_drop_contrastive), random weights, and on
the watch mae_drop with a third modality of noise (placebo). All have one encoder. An arm stops when its encoder has
done the multiply-adds of mae, padding counted; contrastive_steps has mae's number of steps instead. Late-fusion
features are modalities side by side, reduced by PCA to the width of the others; an absent modality counts as the
training mean.
Rates: each arm has one trial each of 1e-3, 3e-3 and 1e-2, on the watch scored on subject 1 after training without 0 and
1 (so that fold 1's subject has been seen by tuning, alike for all arms), on the simulator in cell 0.45-graded with
subjects of their own; by the mean of the three probes. Contrastive arms of the sweep take cell 0.45-graded's rate.
Primary metric: mean of the three probes' scores with all modalities, `all`; with one or more missing, `missing` (mean
over proper subsets, probe fitted on all). Minimum effects: 0.01 of `all`, 0.02 of `missing`, 0.05 of R², 5 % of
attention over chance, 0.02 of distributedness.
Controls: dropout against mae; contrastive late fusion, the stronger mode by its mean, is compared with mae_drop;
attention and units against random weights and against mae taken where its validation loss (masked tokens, no dropout,
windows of the test subjects without labels) reached that of mae_drop, or at its end.
Power check: trained encoders beat random weights in `all`, and on the simulator stay below the oracle.
Laptop trains five arms on the fold of subject 0 and is held against the recorded folds; smoke runs every arm for a few
steps and judges nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from tenfold_shared.claims import ClaimResult
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from physiomae import verdicts
from physiomae.experiment import ARMS, CELLS, MAIN_CELL, WATCH, Job, Sizes, run, tuning_score

Budget = Literal["smoke", "laptop", "full"]
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED = 10_000
WATCH_ARMS = (
    "mae_drop",
    "mae",
    "contrastive_loo",
    "random",
    "unimodal",
    "cross_only",
    "placebo",
    "contrastive_steps",
    "mae_drop_contrastive",
)
SIMULATED_ARMS = ("mae_drop", "mae", "contrastive_loo", "contrastive_pairwise", "random", "unimodal", "cross_only")
SWEEP_ARMS = ("mae_drop", "mae", "contrastive_loo")
LAPTOP_ARMS = ("mae_drop", "mae", "contrastive_loo", "random", "cross_only")


@dataclass(frozen=True)
class Plan:
    """Which runs a budget has; `rates` None tunes them."""

    folds: int
    watch_arms: Sequence[str]
    seeds: int
    simulated_arms: Sequence[str]
    sweep_seeds: int
    sizes: Sizes
    rates: dict[str, dict[str, float]] | None = None


def recorded_rates() -> dict[str, dict[str, float]]:
    """Return the rates that the recorded run was tuned to, by world and arm."""
    file = resources.files("physiomae").joinpath("results", "rates.json")
    return json.loads(file.read_text("utf-8"))


def plan_of(budget: Budget) -> Plan:
    """Return the runs of a budget."""
    if budget == "full":
        return Plan(10, WATCH_ARMS, 5, SIMULATED_ARMS, 3, Sizes())
    if budget == "laptop":
        return Plan(1, LAPTOP_ARMS, 0, (), 0, Sizes(), recorded_rates())
    rates = {kind: dict.fromkeys(ARMS, 3e-3) for kind in (WATCH, "simulator")}
    return Plan(1, WATCH_ARMS, 1, SIMULATED_ARMS, 0, Sizes(2, 2, (4, 2, 20), (16, 16, 1), every=20), rates)


def tune(out: Path, world: str, arms: Sequence[str], sizes: Sizes) -> dict[str, float]:
    """Return each arm's best rate of the same trials; random weights need none."""
    cell, seed = (WATCH, 1) if world == WATCH else (MAIN_CELL, TUNING_SEED)
    jobs = {arm: [Job(cell, arm, seed, rate, tuning=True) for rate in RATES] for arm in arms if arm != "random"}
    found = {"random": RATES[0]}
    for arm, trials in progress(jobs.items(), description=f"learning rates, {world}", unit="arms"):
        scores = [tuning_score(run(out, job, sizes)) for job in trials]
        found[arm] = trials[scores.index(max(scores))].rate
    return found


def jobs_of(plan: Plan, rates: dict[str, dict[str, float]], seed: int) -> list[Job]:
    """Return all runs, seed by seed, so that what is done is complete when time is up.

    First the seeds that both worlds have, then one of the map, then the watch's other subjects, then the map's others.
    """

    def watch(turn: int) -> list[Job]:
        return [Job(WATCH, arm, (seed + turn) % 10, rates[WATCH][arm]) for arm in plan.watch_arms]

    def sweep(turn: int) -> list[Job]:
        cells = [cell for cell in CELLS if cell != MAIN_CELL]
        return [Job(cell, arm, seed + turn, rates["simulator"][arm]) for cell in cells for arm in SWEEP_ARMS]

    jobs: list[Job] = []
    shared = min(plan.folds, max(1, plan.seeds))
    for turn in range(shared):
        jobs += watch(turn)
        if turn < plan.seeds:
            jobs += [Job(MAIN_CELL, arm, seed + turn, rates["simulator"][arm]) for arm in plan.simulated_arms]
    later = [sweep(turn) for turn in range(plan.sweep_seeds)]
    for group in [*later[:1], *map(watch, range(shared, plan.folds)), *later[1:]]:
        jobs += group
    return jobs


def train_all(out: Path, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Make all runs of a budget, going on from those that are done."""
    torch.set_num_threads(1)  # matrices this small are slower on two
    plan = plan_of(budget)
    rates = plan.rates
    if rates is None:
        rates = {
            WATCH: tune(out, WATCH, plan.watch_arms, plan.sizes),
            "simulator": tune(out, "simulator", plan.simulated_arms, plan.sizes),
        }
        write_json(out / "rates.json", rates)
    jobs = jobs_of(plan, rates, seed)
    return [run(out, job, plan.sizes) for job in progress(jobs, description="runs", unit="runs")]


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms and judge the paper's claims.

    Args:
        out: Existing folder; gets the runs (`BUDGET/runs`), figures, and in a full run `runs.json`.
        budget: "smoke" (every arm, two steps), "laptop" (five arms on one fold) or "full".
        seed: First subject that is left out, and first seed of the simulator.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start = time.perf_counter()
    runs = train_all(out / budget, budget, seed)
    if budget == "full":
        keep_runs(out / budget / "runs.json", runs)
    return verdicts.judge(runs, out, budget=budget, seconds=time.perf_counter() - start)


def judge_finished(out: Path) -> list[ClaimResult]:
    """Judge the runs of a full budget that exist, without making any: what a run that was stopped has to say.

    Args:
        out: Folder of `reproduce`.
    """
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / "full" / "runs").glob("*.json"))]
    if not runs:
        raise InputError(
            f"no finished runs in {out / 'full' / 'runs'}; `physiomae reproduce --budget full` makes them."
        )
    keep_runs(out / "full" / "runs.json", runs)
    return verdicts.judge(runs, out, budget="full", seconds=sum(run["seconds"] for run in runs))


def keep_runs(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write all runs as one file, a line each; `results/runs.json` is that of the recorded run."""
    with atomic_write(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs) + "\n]\n")
