"""NoTS's synthetic benchmark at CPU scale, its differentiation claim, and real series that come with aeon.

    nots reproduce --budget full        (one core; goes on from finished runs; --finished judges what there is)

Fixed before the run. **Synthetic** (T = 256, K = 4, patches of 16, width 64, two layers, 86 k parameters): every seed
draws 4,000 paths of fractional Brownian motion (H uniform in 0.05 to 0.95, Davies-Harte) and 4,000 autocorrelated
sinusoids without labels, and for each world 1,000 labelled series for adaptation, 400 for validation, 1,000 for test.
Each series is standardised, so that its amplitude does not tell H. Targets, standardised over the training part: H,
SSC and WAMP in windows of 32 samples (threshold: the median step, over all series) for fBm; SSC, WAMP and log power in
24 bands for sinusoids. SSC, WAMP and band power follow from the signal by a formula, whose error is 0 by definition.
Arms, on one trunk: nots (both chains, box 32-8-2 and fft 1/32-1/8-1/2, one drawn for a batch; both terms), mae (half
of the patches), next (period), famae, vqvae; ablations no_consistency, no_ar_mask, augment, noise_degradation; controls
without training: random weights with the raw readout, and with the sequence readout. 1,500 updates each. An arm's batch
is as large as the floating-point operations of a NoTS step of 16 series allow (counted by torch, forward and backward),
so that steps and operations are equal at once; mae_steps and next_steps have the batch of 16 instead. AdamW, cosine.
Readout: the sequence for narratives, the raw signal for the others (augment sees its elements apart, so that its
sequence is the mean of two alone).
Adaptation, alike for all arms: 150 updates of 32 series at 3e-2, "frozen" (channel map, two prompts a layer, head) and
"full" (the trunk too, at a tenth). That rate was the best of three for random weights on validation series of another
seed, before any arm was trained.
Rates: each arm that is trained has one trial of each of 1e-3, 3e-3 and 1e-2 with a third of the steps, on seed 10,000,
by the mean R2 of H, SSC and WAMP on validation series, frozen.
Primary metric: that mean R2 on test series. Primary contrast: nots minus the strongest (by its mean over seeds) of mae,
next, random_sequence and random at equal operations, frozen and full. Minimum effect 0.01. Gains in per cent: of the
squared error of the standardised targets, over the best baseline of each target, with either denominator; minimum
effect 13 points, half of what the paper prints. Seeds 0 to 4 of mae, next, nots and the controls first, all other arms
after.
Power check: nots beats random weights (raw). Positive controls: Whittle's estimator, DFA and a wavelet slope tell H.
**Differentiation**: see `nots.differentiation`; T = 8, capacities of 1, 4, 16 and 64, five seeds, 300 updates; "does
not fall under T / 2" and "is under 0.1 T" on M that training has not.
**Real series**: see `nots.real`.
Laptop: nots and mae, the strongest control of the recorded run, of seed 0 with the recorded rates, at the full size,
adapted to fBm alone, and differentiation at the smallest capacity; smoke: every arm for two steps, nothing judged.
The paper's scale is the same plan with larger numbers (`--scale paper`: T = 1,024, six elements, 236 k parameters,
40,000 series, 20,000 updates of 32), for a GPU; it was not run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.claims import ClaimResult
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from nots import verdicts
from nots.config import PRESETS
from nots.differentiation import CAPACITIES, FORMS
from nots.experiment import ARMS, CLASSICAL, Job, Sizes, mean_r2, rounded, run, set_threads
from nots.real import run_real

Budget = Literal["smoke", "laptop", "full"]
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED = 10_000
PRIMARY = ("nots", "mae", "next", "random_sequence", "random", CLASSICAL)
LATER = (
    "no_consistency",
    "no_ar_mask",
    "augment",
    "noise_degradation",
    "famae",
    "vqvae",
    "mae_steps",
    "next_steps",
)
UNTRAINED = ("random_sequence", "random", CLASSICAL)
SMALL = Sizes(PRESETS["tiny"], 2, 4, 16, (24, 12, 24), 2)
PAPER = Sizes(PRESETS["nots_243k"], 20_000, 32, 40_000, (4000, 1000, 4000), 500, device="auto")


@dataclass(frozen=True)
class Plan:
    """Which runs a budget has; `rates` None tunes them."""

    seeds: int
    primary: Sequence[str]
    later: Sequence[str]
    sizes: Sizes = field(default_factory=Sizes)
    capacities: Sequence[int] = CAPACITIES
    derivative_seeds: int = 5
    derivative_steps: int = 300
    real_seeds: int = 5
    real_steps: tuple[int, int, int] = (100, 150, 60)
    rates: dict[str, float] | None = None


def recorded_rates() -> dict[str, float]:
    """Return the rates that the recorded run was tuned to."""
    return json.loads(resources.files("nots").joinpath("results", "rates.json").read_text("utf-8"))


def plan_of(budget: Budget) -> Plan:
    """Return the runs of a budget."""
    if budget == "full":
        return Plan(5, PRIMARY, LATER)
    if budget == "laptop":
        return Plan(
            1,
            ("nots", "mae", CLASSICAL),
            (),
            Sizes(worlds=("fbm",)),
            (1,),
            1,
            real_seeds=0,
            rates=recorded_rates(),
        )
    return Plan(1, PRIMARY, LATER, SMALL, (1,), 1, 2, 0, rates=dict.fromkeys(ARMS, 3e-3))


class Rates:
    """Learning rates of arms, each chosen when it is first asked for."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        self.found = dict(plan.rates or {})

    def of(self, arm: str) -> float:
        """Return an arm's rate: the best of its trials, or the one that is given."""
        if arm in UNTRAINED:
            return RATES[0]
        if arm not in self.found:
            trials = [Job(arm, TUNING_SEED, rate, tuning=True) for rate in RATES]
            scores = [mean_r2(run(self.out, job, self.plan.sizes)) for job in trials]
            self.found[arm] = trials[scores.index(max(scores))].rate
            write_json(self.out / "rates.json", self.found)
        return self.found[arm]


def jobs_of(arms: Sequence[str], seeds: int, first: int) -> list[tuple[str, int]]:
    """Return arms and seeds, seed by seed, so that what is done is complete when time is up."""
    return [(arm, seed) for seed in range(first, first + seeds) for arm in arms]


def derivative_runs(out: Path, plan: Plan, seed: int) -> list[dict[str, Any]]:
    """Make the runs of the differentiation claim, going on from those that are done."""
    from nots.differentiation import train_one

    found = []
    for turn in range(seed, seed + plan.derivative_seeds):
        for capacity in plan.capacities:
            for form in FORMS:
                path = out / "derivatives" / f"{form}-{capacity}-{turn}.json"
                if not path.exists():
                    write_json(path, rounded(train_one(form, capacity, turn, plan.derivative_steps)))
                found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def run_all(out: Path, budget: Budget, seed: int, sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """Make all runs of a budget, going on from those that are done."""
    set_threads()
    plan = plan_of(budget)
    sizes = sizes or plan.sizes
    rates = Rates(out, plan)

    def make(arms: Sequence[str]) -> list[dict[str, Any]]:
        todo = progress(jobs_of(arms, plan.seeds, seed), description="runs", unit="runs")
        return [run(out, Job(arm, turn, rates.of(arm)), sizes) for arm, turn in todo]

    runs = make(plan.primary) + derivative_runs(out, plan, seed)
    if plan.real_seeds:
        runs += run_real(out, rates.of, sizes, range(seed, seed + plan.real_seeds), plan.real_steps)
    return runs + make(plan.later)


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms and judge the paper's claims.

    Args:
        out: Existing folder; gets the runs (`BUDGET/`), figures, and in a full run `runs.json`.
        budget: "smoke" (every arm, two steps), "laptop" (two arms, one seed) or "full".
        seed: First seed.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start = time.perf_counter()
    runs = run_all(out / budget, budget, seed)
    if budget == "full":
        keep_runs(out / budget / "runs.json", runs)
    return verdicts.judge(runs, out, budget=budget, seconds=time.perf_counter() - start)


def reproduce_paper(out: Path, *, seed: int) -> list[ClaimResult]:
    """Do the same at the paper's scale, on a GPU where there is one: larger numbers, no other code.

    Args:
        out: Existing folder; its `full` is another one than the CPU scale's, so give each scale its own.
        seed: First seed.
    """
    start = time.perf_counter()
    runs = run_all(out / "full", "full", seed, PAPER)
    keep_runs(out / "full" / "runs.json", runs)
    return verdicts.judge(runs, out, budget="full", seconds=time.perf_counter() - start)


def judge_finished(out: Path) -> list[ClaimResult]:
    """Judge the runs of a full budget that exist, without making any: what a run that was stopped has to say.

    Args:
        out: Folder of `reproduce`.
    """
    folders = ("runs", "derivatives", "real")
    files = [file for folder in folders for file in sorted((out / "full" / folder).glob("*.json"))]
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not runs:
        raise InputError(f"no finished runs in {out / 'full' / 'runs'}; `nots reproduce --budget full` makes them.")
    keep_runs(out / "full" / "runs.json", runs)
    return verdicts.judge(runs, out, budget="full", seconds=sum(run["seconds"] for run in runs))


def keep_runs(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write all runs as one file, a line each; `results/runs.json` is that of the recorded run."""
    with atomic_write(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs) + "\n]\n")
