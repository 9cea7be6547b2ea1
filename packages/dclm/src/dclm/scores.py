"""CORE, EXTENDED and MMLU of evaluation records, as the authors average them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tenfold_shared.commands import InputError, unknown_name

from dclm.tasks import TASKS, Task, Version

__all__ = ["aggregate", "read_record"]

MMLU = "mmlu_fewshot"


def read_record(path: str | Path) -> dict[str, Any]:
    """Read an evaluation record: a JSON file with accuracies under `eval_metrics.icl`.

    Raises:
        InputError: The file is no such record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    metrics = record.get("eval_metrics") if isinstance(record, dict) else None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("icl"), dict):
        raise InputError(f"{path} is no evaluation record: it lacks accuracies under `eval_metrics`, `icl`.")
    for task, value in metrics["icl"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{path}: the accuracy of {task} is {value!r}, not a number.")
    return record


def aggregate(accuracies: Mapping[str, float], version: Version = "v2") -> dict[str, Any]:
    """Average the accuracies of a model as the authors do.

    Each accuracy is centered: (accuracy - chance) / (1 - chance). CORE is the mean over its 22 tasks, EXTENDED that
    over all 53; with a task missing an average does not exist. Tasks that the table does not know are left out, as
    the older names of the authors' records are.

    Args:
        accuracies: Task to accuracy, 0 to 1.
        version: Of the baselines of chance; "v1" gives the paper's numbers.

    Returns:
        `core`, `extended`, `mmlu` (5-shot, not centered): 0 to 1, or None; `categories`: centered means over the
        tasks that are there; `missing_core`, `missing`: names of tasks.

    Raises:
        ValueError: There is no such version.

    Example:
        >>> aggregate({"mmlu_fewshot": 0.637})["mmlu"]
        0.637
    """
    if version not in get_args(Version):
        raise unknown_name("version", version, list(get_args(Version)))
    core = tuple(task for task in TASKS if task.core)
    names = dict.fromkeys(task.category for task in TASKS)
    categories = {name: _mean([t for t in TASKS if t.category == name], accuracies, version) for name in names}
    return {
        "core": _whole_mean(core, accuracies, version),
        "extended": _whole_mean(TASKS, accuracies, version),
        "mmlu": accuracies.get(MMLU),
        "categories": categories,
        "missing_core": [task.name for task in core if task.name not in accuracies],
        "missing": [task.name for task in TASKS if task.name not in accuracies],
    }


def _whole_mean(tasks: Sequence[Task], accuracies: Mapping[str, float], version: Version) -> float | None:
    return _mean(tasks, accuracies, version) if all(task.name in accuracies for task in tasks) else None


def _mean(tasks: Sequence[Task], accuracies: Mapping[str, float], version: Version) -> float | None:
    values = [task.center(accuracies[task.name], version) for task in tasks if task.name in accuracies]
    return float(np.mean(values)) if values else None  # numpy's order of adding, to the last bit the authors'
