"""Figures of the experiment's runs, by which arms are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Run = dict[str, Any]
Measure = Callable[[Run], float]
Arms = dict[str, dict[int, Run]]
OURS = "nots"
BASELINES = ("mae", "next", "famae", "vqvae")


def arrange(runs: Sequence[Run]) -> Arms:
    """Return the synthetic runs by arm and seed."""
    found: Arms = {}
    for run in runs:
        if "scores" in run:
            found.setdefault(run["arm"], {})[run["seed"]] = run
    return found


def r2(mode: str, world: str, target: str | None = None) -> Measure:
    """Mean R2 of a world's targets, or that of one."""

    def measure(run: Run) -> float:
        scores = run["scores"][mode][world]
        return float(np.mean([scores[name]["r2"] for name in ([target] if target else scores)]))

    return measure


def squared(mode: str, world: str, target: str) -> Measure:
    """Squared error x100 of one standardised target."""
    return lambda run: float(run["scores"][mode][world][target]["mse"])


def gains(arms: Arms, mode: str, world: str, targets: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return per cent of squared error saved over each target's best baseline, mean over targets, by denominator.

    The best baseline of a target is the one with the lowest mean over the seeds that all have.

    Args:
        arms: Runs.
        mode: Of the adaptation.
        world: "fbm" or "sinusoids".
        targets: That are averaged.

    Returns:
        "ours" (the paper's) and "baseline" -> seed -> per cent.
    """
    there = [name for name in BASELINES if name in arms]
    seeds = sorted(set(arms.get(OURS, {})).intersection(*(arms[name] for name in there))) if there else []
    found: dict[str, dict[int, float]] = {"ours": {}, "baseline": {}}
    if not seeds:
        return found
    best = {t: min(there, key=lambda n: np.mean([squared(mode, world, t)(arms[n][s]) for s in seeds])) for t in targets}
    for seed in seeds:
        pairs = [
            (squared(mode, world, t)(arms[OURS][seed]), squared(mode, world, t)(arms[best[t]][seed])) for t in targets
        ]
        found["ours"][seed] = 100 * float(np.mean([(base - ours) / ours for ours, base in pairs]))
        found["baseline"][seed] = 100 * float(np.mean([(base - ours) / base for ours, base in pairs]))
    return found


def strongest(arms: Arms, names: Sequence[str], measure: Measure) -> str:
    """Return the arm with the highest mean of a measure among those that are there."""
    there = [name for name in names if name in arms]
    return max(there, key=lambda name: np.mean([measure(run) for run in arms[name].values()])) if there else ""


def sups(runs: Sequence[Run]) -> dict[str, dict[int, dict[int, float]]]:
    """Return sup errors of the differentiation runs: form -> capacity -> seed -> value."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for run in runs:
        if "capacity" in run:
            found.setdefault(run["form"], {}).setdefault(run["capacity"], {})[run["seed"]] = run["sup"]
    return found


def table(arms: Arms, mode: str) -> list[dict[str, Any]]:
    """Return the benchmark's table: mean squared error x100 of each target for each arm, and its R2.

    Args:
        arms: Runs.
        mode: Of the adaptation.
    """
    rows = []
    for name, runs in arms.items():
        modes: Mapping[str, Any] = next(iter(runs.values()))["scores"]
        if mode not in modes:
            continue
        row: dict[str, Any] = {"arm": name, "seeds": len(runs)}
        for world, targets in modes[mode].items():
            for target in targets:
                for kind in ("mse", "mae", "r2"):
                    values = [run["scores"][mode][world][target][kind] for run in runs.values()]
                    row[f"{world} {target} {kind}"] = float(np.mean(values))
        rows.append(row)
    return rows
