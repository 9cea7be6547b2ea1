"""The experiment's runs side by side: what of them is kept in the package, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.files import write_json

from ticclip import verdicts
from ticclip.config import Boundary, Method
from ticclip.plots import draw_compute, draw_matrices, draw_points
from ticclip.robustness import fit_groups, points_of_run

KEPT = ("retrieval", "steps", "transfer", "total_macs")
DIGITS = 5


@dataclass(frozen=True)
class Arm:
    """One way of training on one stream."""

    method: Method
    compute: float = 1.0
    boundary: Boundary = "rewarm"
    stream: Literal["material", "openmoji", "family"] = "material"


def keep_runs(path: Path, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write every run's matrix, steps, scores and compute; `results/runs.json` is that file of the recorded run."""
    rows = {arm: [{name: run[name] for name in KEPT} for run in runs] for arm, runs in results.items()}
    for runs in rows.values():
        for run in runs:
            run["retrieval"] = np.round(np.array(run["retrieval"], dtype=float), DIGITS).tolist()
    write_json(path, rows)


def recorded_runs() -> dict[str, list[dict[str, Any]]]:
    """Return the runs of the recorded experiment, for each arm in the order of its seeds."""
    return json.loads(resources.files("ticclip").joinpath("results", "runs.json").read_text("utf-8"))


def draw_runs(
    out: Path, arms: Mapping[str, tuple[Arm, Sequence[Mapping[str, Any]]]], run: Literal["", "recorded"] = ""
) -> list[str]:
    """Draw a heat-map for each method at C, score over compute, and the robustness fit of the first seed.

    Args:
        out: Folder.
        arms: What each arm is, and its runs; all steps of them.
        run: "recorded" says so in names and titles.

    Returns:
        The files' names.
    """
    prefix, title = (f"{run}-", f"{run} run: ") if run else ("", "")
    shown = {name: runs for name, (arm, runs) in arms.items() if arm.compute == 1 and arm.boundary == "rewarm"}
    matrices = {
        name: np.mean([one["retrieval"] for one in runs], axis=0)[:, : len(runs[0]["steps"])]
        for name, runs in shown.items()
    }
    files = [f"{prefix}matrices.svg", f"{prefix}compute.svg"]
    draw_matrices(out / files[0], matrices, f"{title}recall@1, %, mean over seeds")
    draw_compute(out / files[1], _curves(arms), "averaged recall@1", f"{title}score and compute")
    points = [
        point
        for name, (arm, runs) in arms.items()
        if arm.stream == "material" and arm.method != "oracle"
        for point in points_of_run(dict(runs[0]), name, 0, len(runs[0]["steps"]) - 1)
    ]
    if sum(point.group == "seen" for point in points) > 1:
        files.append(f"{prefix}robustness.svg")
        draw_points(out / files[-1], points, fit_groups(points, draws=10), f"{title}old and new period")
    return files


def _curves(arms: Mapping[str, tuple[Arm, Sequence[Mapping[str, Any]]]]) -> dict[str, list[tuple[float, float]]]:
    """Return (compute of the whole run, averaged score) of the methods on the Material stream."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for arm, runs in arms.values():
        if arm.stream == "material" and arm.boundary == "rewarm":
            score = float(np.mean([verdicts.scores(one)["averaged"] for one in runs]))
            curves.setdefault(arm.method, []).append((runs[0]["total_macs"], score))
    return {name: sorted(points) for name, points in curves.items()}
