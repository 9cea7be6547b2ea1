"""The experiment's figures, drawn from its runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from physiomae.config import PRESETS
from physiomae.experiment import CELLS, MAIN_CELL, WATCH
from physiomae.plots import draw_attention, draw_map, draw_scores
from physiomae.scores import OURS, score_all, score_missing

COUPLINGS, SPREADS = ("0", "0.45", "0.9"), ("even", "graded", "one")
Runs = Mapping[str, Mapping[str, Mapping[int, dict[str, Any]]]]


def recorded_runs() -> list[dict[str, Any]]:
    """Return the runs of the recorded experiment."""
    return json.loads(resources.files("physiomae").joinpath("results", "runs.json").read_text("utf-8"))


def draw_all(out: Path, found: Runs, prefix: str = "") -> list[str]:
    """Draw what the runs have: scores of all arms, attention, the simulator's map; return the files' names.

    Args:
        out: Folder.
        found: Runs by cell, arm and seed.
        prefix: Of the files' names.
    """
    files = []
    for cell, name in ((WATCH, "watch"), (MAIN_CELL, "simulator")):
        if cell not in found:
            continue
        measures = (("all modalities", score_all), ("some missing", score_missing))
        scores = {
            title: {arm: [measure(run) for run in runs.values()] for arm, runs in found[cell].items()}
            for title, measure in measures
        }
        draw_scores(out / f"{prefix}{name}-scores.svg", scores, "mean score of three probes")
        draw_attention(out / f"{prefix}{name}-attention.svg", attention_of(found[cell], name))
        files += [f"{prefix}{name}-scores.svg", f"{prefix}{name}-attention.svg"]
    if all(cell in found and len(found[cell]) > 1 for cell in CELLS):
        draw_map(out / f"{prefix}map.svg", maps_of(found), SPREADS, COUPLINGS)
        files.append(f"{prefix}map.svg")
    return files


def attention_of(arms: Mapping[str, Any], world: str) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return mean attention between modalities of the arms that have it."""
    names = PRESETS[world].names
    shown = [arm for arm in ("random", "mae", "mae_drop") if arm in arms]
    return {arm: (names, np.mean([run["mass"] for run in arms[arm].values()], axis=0)) for arm in shown}


def maps_of(found: Runs) -> dict[str, np.ndarray]:
    """Return mean differences of our arm from two controls [informativeness, coupling]."""
    titles = {"mae": "with dropout - without", "contrastive_loo": "with dropout - contrastive"}
    maps = {}
    for control, title in titles.items():
        values = np.full((len(SPREADS), len(COUPLINGS)), np.nan)
        for (row, spread), (column, coupling) in itertools.product(enumerate(SPREADS), enumerate(COUPLINGS)):
            arms = found[f"{coupling}-{spread}"]
            seeds = arms.get(OURS, {}).keys() & arms.get(control, {}).keys()
            if seeds:
                values[row, column] = np.mean([score_all(arms[OURS][s]) - score_all(arms[control][s]) for s in seeds])
        maps[title] = values
    return maps
