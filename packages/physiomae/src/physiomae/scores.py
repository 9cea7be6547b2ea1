"""Figures of one run of the experiment, by which arms are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from physiomae.worlds import PLACEBO

Run = dict[str, Any]
Measure = Callable[[Run], float]
OURS = "mae_drop"


def whole(run: Run) -> Mapping[str, float]:
    """Return the scores of all tasks with all modalities."""
    return run["scores"][max(run["scores"], key=lambda subset: subset.count("+"))]


def score_all(run: Run) -> float:
    """Mean over tasks with all modalities."""
    return float(np.mean(list(whole(run).values())))


def score_missing(run: Run) -> float:
    """Mean over tasks and over all subsets that lack a modality; noise is none."""
    real = {subset: scores for subset, scores in run["scores"].items() if PLACEBO not in subset}
    most = max(subset.count("+") for subset in real)
    return float(np.mean([list(scores.values()) for subset, scores in real.items() if subset.count("+") < most]))


def score_task(task: str) -> Measure:
    """Score of one task with all modalities."""
    return lambda run: whole(run)[task]


def look(name: str, matched: bool = False) -> Measure:
    """A figure of the analyses, at the end or where the validation loss was that of our arm."""

    def measure(run: Run) -> float:
        value = (run["matched"] if matched and "matched" in run else run)[name]
        return float(np.mean(list(value.values()))) if isinstance(value, Mapping) else float(value)

    return measure
