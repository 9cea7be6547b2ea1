"""MUSCLE at small scale: language models trained on real text as v1 and v2, three tasks, nine ways to go on from v2.

    muscle reproduce --budget full        (two cores, an hour; needs the training text, see `muscle.corpus`)

Fixed before the run.
Text: leads of English Wikipedia articles and 117,000 glosses of WordNet 3.0, without what is tested or validated on.
Bases: Llama-shaped, 4 layers x 192, BPE of 4,096 tokens, 2.3 M parameters, 2,000 steps of 9,216 tokens, rounded to 8
bits so that the kept files are the models that were used. v2 is trained on one half of the text. v1 is trained on the
other half for as long (regime "alike"), or for a tenth as long (regime "better": v2 is far better).
Tasks: topic (an article's lead, its topic among four, log-likelihood), kind (a noun with its gloss, WordNet's category
as generated text, exact match), short (a lead, Wikidata's short description as generated text, ROUGE-1). 3,000
training and 500 validation examples, 1,000 (topic), 1,500 (kind) and 750 (short) tests, all with published answers.
Adapters: LoRA, rank 16, alpha 32, on all linear layers of the last block, the loss over the answer's tokens (the
paper: all blocks, context and answer): so what is below is computed once, and seeds agree better. Batches of 32, 5
epochs, a constant rate after 50 steps; what is looked at after an epoch is the mean of its steps' weights. v1's and
v2's adapters are new, at 1e-3. That rate, the mean and the last block were chosen on validation examples with seeds of
their own for the power check alone, before any arm was trained: with all blocks and without the mean an update breaks
1.1 to 1.4 times what another seed breaks, with both 2.3 (topic) and 2.8 times (kind).
The arms go on from v2's adapter for as long: cross-entropy continued (the control that the paper lacks), MUSCLE,
MUSCLE + CE (lambda 0.5), both with a second v2 seed in v1's place (wrong teacher), KL to old everywhere, the mask "old
correct", and the two likelihood masks with CE. Noise floor: negative flips from v2 to another seed of v2. Every run's
epoch is that of the lowest validation cross-entropy, as in the paper.
Tuning: each arm and task has one trial each of three learning rates, 3e-4, 1e-3 and 3e-3, in two epochs with a seed of
its own, by the mean score on validation examples; arms that need v1 are tuned in the regime "alike".
Seeds: five, of adapters and order; all arms of a seed share v1, v2 and their data.
Power check, after the task adapters: on each task v2's adapter beats its base by ten points, and plain v2's NFR is
twice the noise floor. Claims say which tasks fail it.
Primary metric: by how many percent the NFR is below plain v2's, paired by seed, mean over three tasks. Strongest
control: cross-entropy continued, at equal level: its NFR where its level, over its epochs, is the arm's. Minimum
effect: 10 % of plain v2's negative flips; one point of level; one point of NFR over errors.
Answers to every test of every run are kept (`results/predictions.npz`). Laptop computes and draws the recorded figures
from them again and trains MUSCLE on one task with one seed from the kept bases and adapters. Smoke trains every arm at
its smallest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult, read_recorded
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, cache_dir, write_json

from muscle import experiment
from muscle.collect import REGIMES, Answers, RunFolder, base_levels, collect, pack_runs, run_name, unpack_runs
from muscle.decoder import Shape
from muscle.experiment import Scale, Setting
from muscle.plots import draw_curves, draw_flips
from muscle.tasks import TASK_NAMES, build_task
from muscle.verdicts import Found, judge, not_attempted, power

Budget = Literal["smoke", "laptop", "full"]
LOG = logging.getLogger(__name__)
SEEDS = (0, 1, 2, 3, 4)
FULL = Scale(Shape(), steps=2000, epochs=5, seeds=SEEDS)
_SMOKE = Scale(Shape(dim=48, num_layers=1, num_heads=2, hidden=96), 2, 1, (0,), 16, 8, rates=(1e-3,))
LAPTOP_TASK, LAPTOP_ARM, CONTROL = "kind", "MUSCLE", "CE continued"
LACKING = "the run ended before it had all of these arms; see the CHANGELOG."
WORKERS = 5
DATA = (
    "leads of Wikipedia and glosses of WordNet; bases of 4 layers x 192 (2.3 M parameters), 3 tasks of 3,000 training "
    "and 750 to 1,500 test examples"
)


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms and judge the paper's claims.

    Finished runs are kept in `out` and not made again.

    Args:
        out: Existing folder; gets `curves.svg`, `flips.svg` and the runs.
        budget: "smoke" (every arm for an epoch), "laptop" (one task and seed from the kept models, and the recorded
            figures computed again) or "full".
        seed: Added to the seeds.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)  # matrices this small are slower on two, above all on a busy machine
    if budget == "laptop":
        with resources.as_file(resources.files("muscle").joinpath("results")) as kept:
            return [*laptop(kept, out, seed), *not_attempted()]
    scale = _SMOKE if budget == "smoke" else FULL
    scale = replace(scale, seeds=tuple(value + seed for value in scale.seeds))
    setting = Setting(out, scale)
    if budget == "full":
        setting = _full_setting(setting)
    try:
        experiment.make_bases(setting)
        experiment.run_stages(setting, lambda: report_power(setting))
    finally:
        experiment.close_workers()
    found = _found(setting)
    draw(out, found)
    bases = base_levels(RunFolder(out / "runs"), _golds(scale))
    claims = judge(found, bases, budget=budget, seconds=time.perf_counter() - start, data=_data(found, bases))
    return [*claims, *not_attempted(found, LACKING)]


def _full_setting(setting: Setting) -> Setting:
    """A GPU where there is one, several processes (`MUSCLE_WORKERS`), and an end by the clock (`MUSCLE_SECONDS`)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    text = cache_dir("muscle", "corpus")
    deadline = time.time() + _from_environment("MUSCLE_SECONDS", float("inf"))
    workers = int(_from_environment("MUSCLE_WORKERS", WORKERS if device == "cuda" else 1))
    return replace(setting, device=device, workers=workers, deadline=deadline, text=text)


def _from_environment(name: str, default: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value >= 1:
        raise InputError(f"the environment's {name} (={text}) must be a number from 1 up.")
    return value


def _golds(scale: Scale) -> dict[str, list[Any]]:
    return {task: build_task(task, scale.num_train, scale.num_test).gold for task in TASK_NAMES}


def _found(setting: Setting) -> Found:
    return collect(RunFolder(setting.out / "runs"), _golds(setting.scale), len(setting.scale.seeds))


def report_power(setting: Setting) -> None:
    """Write the power check of both regimes, and log it."""
    found, golds = _found(setting), _golds(setting.scale)
    levels = base_levels(RunFolder(setting.out / "runs"), golds)
    rows = [{"regime": regime, **row} for regime in REGIMES for row in power(found, levels, regime)]
    write_json(setting.out / "power.json", rows)
    for row in rows:
        LOG.info("power check: %s", row)


def _data(found: Found, levels: dict[str, float]) -> str:
    weak = [row["task"] for row in power(found, levels) if not row["passed"]]
    return DATA + (f"; the power check failed on {' and '.join(weak)}" if weak else "")


def draw(out: Path, found: Found) -> None:
    """Draw both figures."""
    draw_curves(out / "curves.svg", found)
    draw_flips(out / "flips.svg", found)


def laptop(kept: Path, out: Path, seed: int) -> list[ClaimResult]:
    """Compute and draw the recorded figures again from the kept answers, and train one arm anew with one seed.

    Args:
        kept: Folder of `keep_results`.
        out: Folder for runs and figures.
        seed: Of the order of the examples.

    Raises:
        FileNotFoundError: Nothing is kept.
        RuntimeError: The kept answers do not give the recorded figures.
    """
    start, recorded = time.perf_counter(), read_recorded("muscle")
    if not (kept / "predictions.npz").is_file():
        raise FileNotFoundError(f"no kept run in {kept}; make one with `muscle reproduce --budget full`.")
    with np.load(kept / "predictions.npz", allow_pickle=False) as arrays:
        runs = unpack_runs(arrays)
    golds = _golds(FULL)
    whole = collect(runs, golds, len(SEEDS))
    if recorded is not None:
        check_recorded(whole, base_levels(runs, golds), recorded)
    draw(out, whole)
    found = retrain(kept, runs, out, seed)
    return judge(found, {}, budget="laptop", seconds=time.perf_counter() - start, data=DATA)


def check_recorded(found: Found, bases: dict[str, float], recorded: dict[str, Any]) -> None:
    """Hold the claims of kept answers against the recorded ones."""
    again = {claim.claim: claim for claim in judge(found, bases, budget="full", seconds=0.0, data="")}
    for row in recorded["claims"]:
        if row["ours"] is None:
            continue
        ours, control = again[row["claim"]].ours, again[row["claim"]].control
        for name, estimate in (("ours", ours), ("control", control)):
            if estimate is None or not np.allclose(estimate.per_seed, row[name]["per_seed"], atol=1e-9):
                raise RuntimeError(f"the kept answers do not give {name} of {row['claim']!r}.")


def retrain(kept: Path, runs: dict[str, Answers], out: Path, seed: int) -> Found:
    """Train MUSCLE on one task with one seed from the kept models; the control's answers are the kept ones."""
    rate = json.loads((kept / "rates.json").read_text(encoding="utf-8"))[LAPTOP_TASK][LAPTOP_ARM]
    setting = Setting(out, replace(FULL, seeds=(seed,), rates=(rate,)))
    (out / "runs").mkdir(exist_ok=True)
    for name in ("a", "b"):
        shutil.copyfile(kept / f"base-{name}.npz", out / f"base-{name}.npz")
        run = run_name(LAPTOP_TASK, "task", name)
        shutil.copyfile(kept / f"{run}.npz", out / "runs" / f"{run}.npz")
    control = run_name(LAPTOP_TASK, CONTROL)
    with atomic_write(out / "runs" / f"{control}.npz") as file:
        np.savez(file, **{key: value[:, :1] for key, value in runs[control].items()})
    experiment.run_all(setting, [experiment.arm_job(setting, LAPTOP_TASK, LAPTOP_ARM, ("alike",))])
    return collect(RunFolder(out / "runs"), _golds(FULL), 1)


def keep_results(out: Path, kept: Path) -> None:
    """Put what the package keeps of a full run into a folder: answers, rates, two bases, one seed's adapters."""
    setting, runs = Setting(out, FULL), RunFolder(out / "runs")
    kept.mkdir(exist_ok=True)
    with atomic_write(kept / "predictions.npz") as file:
        np.savez_compressed(file, **pack_runs(runs))
    tuned = {
        task: {
            arm: experiment.best_rate(setting, task, arm)
            for arm in experiment.ARMS
            if len(FULL.rates) == 1 or experiment.tuning_job(setting, task, arm).names[0] in runs
        }
        for task in TASK_NAMES
    }
    write_json(kept / "rates.json", tuned)
    for name in ("a", "b"):
        shutil.copyfile(out / f"base-{name}.npz", kept / f"base-{name}.npz")
        run = run_name(LAPTOP_TASK, "task", name)
        with atomic_write(kept / f"{run}.npz") as file:
            np.savez_compressed(file, **{key: value[:, :1] for key, value in runs[run].items()})


def train_all(out: Path, seconds: float) -> None:
    """Make the runs of the full budget and no claims, for a machine that holds little more than torch."""
    os.environ["MUSCLE_SECONDS"] = str(seconds)
    setting = _full_setting(Setting(out, FULL))
    try:
        experiment.make_bases(setting)
        experiment.run_stages(setting, lambda: report_power(setting))
    finally:
        experiment.close_workers()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = Path(sys.argv[1])
    train_all(folder, float(sys.argv[2]))
    keep_results(folder, folder / "kept")
