"""Is model-based filtering key? One pool, eight ways to choose from it, equal tokens, five seeds.

    python -m dclm.filtering_experiment DATA OUT --minutes 5 --workers 4        (one GPU; DATA from filtering_arms)

Fixed before the run. Pool, arms, sources A, B and C: `filtering_pool` and `filtering_arms`. Every arm gets the same
number of tokens, at most the unique tokens of the smallest arm, each seen once (`passes` in the results says so).
Model: OpenLM of 4 layers, width 256, 8,192 words, contexts of 256; batches of 16 contexts. Primary metric: bits per
byte, mean of source B's test text, source C's test text and the gold answers of four task files; lower is better, so
claims compare its negative. Secondary: accuracy on the tasks, centered, which is at chance at this size. Tuning: every
arm tries the same four rates with a seed of its own (`TUNING_SEED`), judged by the bits per byte of the validation text
of B and C. Seeds: `SEEDS`, of weights and order; arms are interleaved, so that a run that is cut off has whole seeds.

`SMALL` is the same, arms and seeds and power check included, at a size that one core trains in an hour: width 96, three
layers, 300,000 tokens drawn anew for every seed, batches of 4 contexts, a tenth of the evaluation, three rates.

Primary claim: `classifier` against the strongest of the controls `random`, `shuffled` and `dedup` on validation.
Minimum effect: 0.02 bits per byte. Power check, run first: `classifier` and `random` with two seeds at one fixed rate;
it passes if the gap exceeds twice the spread over seeds, both models are better than a unigram model, and
the positive control `oracle` (trained on other documents of B and C) is best. It is printed and kept, and stops nothing
by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.files import write_json

from dclm.filtering_data import ARMS, Prepared, load_prepared
from dclm.scales import ModelConfig, TrainConfig

__all__ = ["EXPERIMENT", "Experiment", "run_experiment", "summarize"]

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
TUNING_SEED = 100
SEEDS = (0, 1, 2, 3, 4)
CONTROLS = ("random", "shuffled", "dedup")
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Experiment:
    """Sizes of one budget.

    Args:
        config: Model and schedule; rate and seed are set for each run.
        arms: In the order in which a seed goes through them.
        seeds: Of the judged runs.
        rates: Tried for every arm.
        power_rate: Of the power check, which runs first; None for none.
        max_tokens: Of a run, drawn from its arm by the seed; None for all.
        evaluation_share: Of every evaluation text and task.
    """

    config: TrainConfig
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = SEEDS
    rates: tuple[float, ...] = RATES
    power_rate: float | None = 4e-3
    max_tokens: int | None = None
    evaluation_share: float = 1.0


EXPERIMENT = Experiment(
    TrainConfig(
        ModelConfig(256, 4, 4, vocab_size=8192, context_length=256, hidden_multiple=64),
        num_tokens=1,
        batch_size=16,
        warmup_steps=20,
        precision="float32",
        scan_layers=False,
    )
)


SMALL = Experiment(
    replace(EXPERIMENT.config, model=replace(EXPERIMENT.config.model, dim=96, num_layers=3, num_heads=3), batch_size=4),
    rates=(8e-3, 16e-3, 32e-3),
    power_rate=8e-3,
    max_tokens=300_000,
    evaluation_share=0.1,
)


@dataclass(frozen=True)
class Task:
    """One training run of the experiment."""

    kind: str
    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its result's file."""
        return f"{self.kind}-{self.arm}-{self.rate:g}-{self.seed}"


def power_tasks(experiment: Experiment) -> list[Task]:
    """Return the runs of the power check."""
    if experiment.power_rate is None:
        return []
    pairs = [("classifier", 50), ("random", 50), ("oracle", 50), ("classifier", 51), ("random", 51)]
    return [Task("power", arm, experiment.power_rate, seed) for arm, seed in pairs]


def tuning_tasks(experiment: Experiment) -> list[Task]:
    """Return the runs that choose every arm's rate."""
    return [Task("tune", arm, rate, TUNING_SEED) for arm in experiment.arms for rate in experiment.rates]


def seed_tasks(experiment: Experiment, rates: dict[str, float]) -> list[Task]:
    """Return the judged runs, one seed after the other."""
    return [Task("seed", arm, rates[arm], seed) for seed in experiment.seeds for arm in experiment.arms]


def config_of(experiment: Experiment, prepared: Prepared, task: Task) -> TrainConfig:
    """Return the configuration of a run: one pass over the tokens that every arm has."""
    rows = min(len(prepared.arms[arm]) for arm in experiment.arms)
    batch = experiment.config.batch_size
    if experiment.max_tokens is not None:
        rows = min(rows, experiment.max_tokens // experiment.config.model.context_length)
    tokens = rows // batch * batch * experiment.config.model.context_length
    return replace(experiment.config, num_tokens=tokens, learning_rate=task.rate, seed=task.seed)


def validation(result: dict[str, Any]) -> float:
    """Return what rates are chosen by."""
    return 0.5 * (result["bits"]["b_valid"] + result["bits"]["c_valid"])


def primary(result: dict[str, Any]) -> float:
    """Return bits per byte, mean of B, C and the gold answers (themselves the mean over the tasks)."""
    gold = float(np.mean(list(result["gold"].values())))
    return (result["bits"]["b_test"] + result["bits"]["c_test"] + gold) / 3


def chosen_rates(experiment: Experiment, results: list[dict[str, Any]]) -> dict[str, float]:
    """Return the best rate of every arm."""
    tuned = [result for result in results if result["kind"] == "tune"]
    return {arm: min((r for r in tuned if r["arm"] == arm), key=validation)["rate"] for arm in experiment.arms}


def strongest_control(experiment: Experiment, results: list[dict[str, Any]]) -> str:
    """Return the control whose best rate is best on validation."""
    tuned = [r for r in results if r["kind"] == "tune" and r["arm"] in CONTROLS and r["arm"] in experiment.arms]
    return min(tuned, key=validation)["arm"]


def run_experiment(
    data: Path, out: Path, *, experiment: Experiment = EXPERIMENT, seconds: float = 300.0, workers: int = 1
) -> dict[str, Any]:
    """Run everything that fits into the time; results are kept run by run, and a second call goes on.

    Args:
        data: Folder of `filtering_arms`.
        out: Gets `runs/*.json` and `filtering.json`.
        experiment: Sizes.
        seconds: Wall time after which no run is started.
        workers: Processes side by side; 0 runs in this one.

    Returns:
        What `filtering.json` holds, see `summarize`.
    """
    (out / "runs").mkdir(parents=True, exist_ok=True)
    for claim in (out / "runs").glob("*.taken"):
        claim.unlink()
    deadline = time.time() + seconds
    if workers:
        command = [sys.executable, "-m", "dclm.filtering_experiment", str(data), str(out)]
        command += ["--deadline", str(deadline)]
        children = [subprocess.Popen([*command, "--worker", str(number)]) for number in range(workers)]
        for child in children:
            child.wait()
    else:
        work(data, out, experiment, deadline)
    found = summarize(experiment, load_prepared(data), read_results(out))
    write_json(out / "filtering.json", found)
    return found


def work(data: Path, out: Path, experiment: Experiment, deadline: float) -> None:
    """Take runs that nobody has taken, in order, until they or the time run out."""
    from dclm.filtering_runs import train_arm

    prepared = shrink(load_prepared(data), experiment.evaluation_share)
    for task in _tasks(experiment, out, deadline):
        if time.time() > deadline or not _take(out, task):
            continue
        result = train_arm(prepared, task.arm, config_of(experiment, prepared, task))
        write_json(out / "runs" / f"{task.name}.json", {"kind": task.kind, **result})
        print(f"{task.name}: {primary(result):.4f} bits per byte, {result['seconds']:.1f} s", flush=True)
        if task.kind == "power":
            print(f"power check: {power_check(read_results(out), prepared)}", flush=True)


def shrink(prepared: Prepared, share: float) -> Prepared:
    """Keep the first part of every evaluation text and task."""
    if share == 1.0:
        return prepared
    evaluation = {name: rows[: max(1, int(share * len(rows)))] for name, rows in prepared.evaluation.items()}
    tasks = {}
    for name, columns in prepared.tasks.items():
        items = np.unique(columns["item"])
        kept = np.isin(columns["item"], items[: max(1, int(share * len(items)))])
        tasks[name] = {column: values[kept] for column, values in columns.items()}
    return replace(prepared, evaluation=evaluation, tasks=tasks)


def _tasks(experiment: Experiment, out: Path, deadline: float) -> Iterator[Task]:
    yield from power_tasks(experiment)
    tuning = tuning_tasks(experiment)
    yield from tuning
    while any(not (out / "runs" / f"{task.name}.json").exists() for task in tuning):
        if time.time() > deadline:
            return
        time.sleep(POLL_SECONDS)
    yield from seed_tasks(experiment, chosen_rates(experiment, read_results(out)))


def _take(out: Path, task: Task) -> bool:
    """Claim a run; a claim without a result stays from a worker that died and is not taken again in this call."""
    if (out / "runs" / f"{task.name}.json").exists():
        return False
    try:
        (out / "runs" / f"{task.name}.taken").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def read_results(out: Path) -> list[dict[str, Any]]:
    """Read the results of all runs that ended."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((out / "runs").glob("*.json"))]


def summarize(experiment: Experiment, prepared: Prepared, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Put results together: per-seed values of whole seeds, rates, the control, the power check.

    Args:
        experiment: Sizes.
        prepared: For its facts.
        results: Of `read_results`.

    Returns:
        `values` (arm to metric to a list over `seeds`), `rates`, `control`, `power`, `facts`, `tuning`, `fixed_rate`. A
        run that was cut off before its first seed has the tuning's seed, at every arm's own rate.
    """
    tuned = [result for result in results if result["kind"] == "tune"]
    judged = [result for result in results if result["kind"] == "seed"]
    tuning = {arm: {f"{r['rate']:g}": validation(r) for r in tuned if r["arm"] == arm} for arm in experiment.arms}
    whole = all(len(found) == len(experiment.rates) for found in tuning.values())
    rates = chosen_rates(experiment, results) if whole else {}
    by_seed = {seed: {r["arm"]: r for r in judged if r["seed"] == seed} for seed in experiment.seeds}
    seeds = [seed for seed, found in by_seed.items() if set(found) >= set(experiment.arms)]
    if whole and not seeds:  # cut off before the first seed: what tuning gave at each arm's own rate is one
        by_seed = {TUNING_SEED: {r["arm"]: r for r in tuned if r["rate"] == rates[r["arm"]]}}
        seeds = [TUNING_SEED]
    values = {arm: _columns([by_seed[seed][arm] for seed in seeds]) for arm in experiment.arms}
    control = strongest_control(experiment, results) if whole else CONTROLS[0]
    return {
        "seeds": seeds,
        "values": values,
        "tuning": tuning,
        "rates": rates,
        "control": control,
        "power": power_check(results, prepared),
        "fixed_rate": fixed_rate_pairs(experiment, results),
        "facts": prepared.facts,
        "steps": max((r["steps"] for r in results), default=0),
        "passes": max((r["passes"] for r in results), default=0.0),
        "seconds": sum(r["seconds"] for r in results),
    }


def fixed_rate_pairs(experiment: Experiment, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the primary metric of `classifier` and `random` at the power check's rate by seed, no judged runs."""
    found: dict[str, dict[int, float]] = {"classifier": {}, "random": {}}
    for result in results:
        if result["kind"] != "seed" and result["rate"] == experiment.power_rate and result["arm"] in found:
            found[result["arm"]][result["seed"]] = primary(result)
    seeds = sorted(set(found["classifier"]) & set(found["random"]))
    return {"seeds": seeds, **{arm: [values[seed] for seed in seeds] for arm, values in found.items()}}


def _columns(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    from dclm.filtering_runs import centered

    columns: dict[str, list[float]] = {"primary": [primary(result) for result in results]}
    for name in ("b_test", "c_test"):
        columns[name] = [result["bits"][name] for result in results]
    columns["gold"] = [float(np.mean(list(result["gold"].values()))) for result in results]
    columns["centered"] = [centered(result["accuracy"]) for result in results]
    return columns


def power_check(results: list[dict[str, Any]], prepared: Prepared) -> dict[str, Any]:
    """Judge the runs of the power check."""
    found = [result for result in results if result["kind"] == "power"]
    ours, control, oracle = (
        [primary(r) for r in found if r["arm"] == arm] for arm in ("classifier", "random", "oracle")
    )
    if not (len(ours) == len(control) == 2 and oracle):
        return {"passed": None}
    gap = float(np.mean(control) - np.mean(ours))
    spread = max(abs(ours[0] - ours[1]), abs(control[0] - control[1]))
    floor = unigram_bits(prepared)
    passed = abs(gap) > 2 * spread and max(*ours, *control) < floor and oracle[0] < min(*ours, *control)
    facts = {"passed": bool(passed), "gap": gap, "spread": spread, "unigram": floor}
    return {**facts, "oracle": oracle[0], "classifier": ours, "random": control}


def unigram_bits(prepared: Prepared) -> float:
    """Return bits per byte of B's and C's test text under word frequencies of `random`."""
    counts = np.bincount(prepared.arms["random"].ravel(), minlength=len(prepared.num_bytes)) + 1.0
    bits = -np.log2(counts / counts.sum())
    values = []
    for name in ("b_test", "c_test"):
        rows = prepared.evaluation[name][:, 1:]
        values.append(bits[rows].sum() / prepared.num_bytes[rows].astype(np.int64).sum())
    return float(np.mean(values))


def main() -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="the size for one core, in this process")
    parser.add_argument("--worker", type=int, default=None)
    parser.add_argument("--deadline", type=float, default=None)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.data, options.out, EXPERIMENT, options.deadline)
        return
    experiment, workers = (SMALL, 0) if options.small else (EXPERIMENT, options.workers)
    seconds = 60 * options.minutes
    found = run_experiment(options.data, options.out, experiment=experiment, seconds=seconds, workers=workers)
    print(json.dumps({name: found[name] for name in ("power", "seeds", "rates", "control")}))


if __name__ == "__main__":
    main()
