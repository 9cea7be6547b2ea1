"""Recipes from names and files, and reports on finished runs."""

from __future__ import annotations

import dataclasses
import json
import runpy
from itertools import chain
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError, unknown_name

from dclm.config import PRESETS, Decontaminate, Recipe, Stage
from dclm.data import read_documents
from dclm.decontaminate import contamination_report
from dclm.storage import exists, find_inputs, join, open_for_reading, write_whole

__all__ = ["load_recipe", "read_statistics", "reason_rows", "with_seed", "write_contamination"]


def load_recipe(name: str) -> Recipe:
    """Return a preset, or the `RECIPE` that a Python file defines.

    Args:
        name: Name of a preset, or a path that ends in `.py`; the file is run, so it must be your own.

    Returns:
        The recipe.

    Raises:
        InputError: No such file, or no recipe in it.
        ValueError: No such preset.
    """
    if not name.endswith(".py"):
        if name not in PRESETS:
            raise unknown_name("recipe", name, list(PRESETS))
        return PRESETS[name]
    if not Path(name).is_file():
        raise InputError(f"no recipe at {name}; give a Python file that defines RECIPE, or a preset.")
    recipe = runpy.run_path(name).get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} defines no RECIPE of type dclm.Recipe.")
    return recipe


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return a recipe whose stages that have a seed have this one added to theirs."""
    return dataclasses.replace(recipe, stages=tuple(_seeded(stage, seed) for stage in recipe.stages))


def _seeded(stage: Stage, seed: int) -> Stage:
    own = getattr(stage, "seed", None)
    return stage if own is None else dataclasses.replace(stage, **{"seed": own + seed})


def read_statistics(folder: str) -> dict[str, Any]:
    """Read the numbers of a finished run.

    Raises:
        InputError: The folder holds none.
    """
    path = join(folder, "statistics.json")
    if not exists(path):
        raise InputError(f"no statistics in {folder}; give the --out of a finished run (--resume finishes one).")
    with open_for_reading(path) as file:
        return json.loads(file.read())


def reason_rows(statistics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per stage and reason, most removed first."""
    rows = []
    for stage in statistics["stages"]:
        kept = {"stage": stage["stage"], "reason": "(kept)", "documents": stage["documents_out"]}
        rows.append({**kept, "characters": stage["characters_out"]})
        reasons = sorted(stage["reasons"].items(), key=lambda pair: -pair[1]["documents"])
        rows += [
            {
                "stage": stage["stage"],
                "reason": reason,
                "documents": found["documents"],
                "characters": found["characters"],
            }
            for reason, found in reasons
        ]
    return rows


def write_contamination(out: str, stage: Decontaminate) -> None:
    """Write `contamination.json`, per task, from the removed documents of a run."""
    files = find_inputs((join(out, "removed", "00-decontaminate"),))
    rows = contamination_report(chain.from_iterable(map(read_documents, files)), stage)
    with write_whole(join(out, "contamination.json")) as file:
        file.write(json.dumps(rows, indent=1).encode())
