"""The experiment's figures, drawn from its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from nots.checkpoint import from_pretrained
from nots.differentiation import PERIODS
from nots.model import NoTS
from nots.plots import draw_capacities, draw_narratives, draw_scores
from nots.scores import Run, arrange, r2, sups
from nots.tasks import example_series


def recorded_runs() -> list[Run]:
    """Return the runs of the recorded experiment; none where none is recorded."""
    file = resources.files("nots").joinpath("results", "runs.json")
    return json.loads(file.read_text("utf-8")) if file.is_file() else []


def draw_all(out: Path, runs: Sequence[Run], budget: str) -> list[str]:
    """Draw narratives, scores of all arms, and sup errors over capacity; return the files' names.

    Args:
        out: Folder; `BUDGET/trunks` in it has pretrained trunks.
        runs: Of this run.
        budget: Of this run; beside other than full ones, the recorded arms are drawn too.
    """
    files = []
    trunks = sorted((out / budget / "trunks").glob("nots-*"))
    if trunks:
        draw_example(out / "narratives.svg", from_pretrained(trunks[0]))
        files.append("narratives.svg")
    files += draw_runs(out, runs, "")
    recorded = recorded_runs() if budget != "full" else []
    return files + (draw_runs(out, recorded, "recorded-") if recorded else [])


def draw_runs(out: Path, runs: Sequence[Run], prefix: str) -> list[str]:
    """Draw the scores and the sup errors of runs."""
    arms = {name: found for name, found in arrange(runs).items() if "frozen" in next(iter(found.values()))["scores"]}
    worlds = next(iter(next(iter(arms.values())).values()))["scores"]["frozen"]
    scores = {
        f"{world}, {mode}": {name: [r2(mode, world)(run) for run in found.values()] for name, found in arms.items()}
        for world in worlds
        for mode in ("frozen", "full")
    }
    draw_scores(out / f"{prefix}scores.svg", scores, "mean R2 of three targets")
    capacities = {form: {c: list(v.values()) for c, v in rows.items()} for form, rows in sups(runs).items()}
    if not capacities:
        return [f"{prefix}scores.svg"]
    draw_capacities(out / f"{prefix}differentiation.svg", capacities, PERIODS)
    return [f"{prefix}scores.svg", f"{prefix}differentiation.svg"]


def draw_example(path: Path, trunk: NoTS) -> None:
    """Draw narratives of a smooth path, a rough one and sinusoids, and what a trunk tells of them."""
    from nots.degradation import narrate

    x, titles = example_series(trunk.config.length, 3, 0)
    groups = narrate(x, trunk.config.schedules[0])
    draw_narratives(path, groups[:, :, 0].numpy(), trunk.tell(x)[:, :, 0].numpy(), titles)
