"""Do models that saw a period do better on it than their scores on older data foretell?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

COLUMNS = ("model", "group", "old", "new")


@dataclass(frozen=True)
class Point:
    """One model: its recall on the old period and on the new one, and the group it belongs to."""

    model: str
    group: str
    old: float
    new: float


def fit_groups(points: Sequence[Point], *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Fit new-period recall as a line of old-period recall, in each of two groups of models.

    The paper's figure 1 does so for eight models: OpenAI's (data until 2020) lie below OpenCLIP's at equal recall on
    old data. The gap is the first group's line minus the second's at the mean old-period recall, once with a slope
    each, once with one slope for both, which two points of a group suffice for.

    Args:
        points: Models of two groups, at least two each.
        draws: Bootstrap draws of models within groups, for the interval of the gap with one slope.
        seed: Of the draws.

    Returns:
        `groups` (slope and intercept of each), `at`, `gap`, `gap_one_slope`, `interval`.

    Raises:
        InputError: Not two groups, or one with fewer than two models.
    """
    names = sorted({point.group for point in points})
    parts = [np.array([(p.old, p.new) for p in points if p.group == name]) for name in names]
    if len(names) != 2 or min(map(len, parts)) < 2:
        sizes = dict(zip(names, map(len, parts), strict=True))
        raise InputError(f"two groups with at least two models each are needed; found {sizes}.")
    at = float(np.mean([point.old for point in points]))
    lines = {name: _line(part) for name, part in zip(names, parts, strict=True)}
    values = [slope * at + intercept for slope, intercept in lines.values()]
    generator = np.random.default_rng(seed)
    drawn = [
        _one_slope_gap([part[generator.integers(0, len(part), len(part))] for part in parts]) for _ in range(draws)
    ]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return {
        "groups": {name: {"slope": line[0], "intercept": line[1]} for name, line in lines.items()},
        "at": at,
        "gap": values[0] - values[1],
        "gap_one_slope": _one_slope_gap(parts),
        "interval": (float(low), float(high)),
    }


def _line(part: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept by least squares; a group whose old recalls are equal gets a flat line."""
    x, y = part.T
    spread = ((x - x.mean()) ** 2).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _one_slope_gap(parts: Sequence[np.ndarray]) -> float:
    """Return the first group's height over the second's, with the slope that both share (analysis of covariance)."""
    centred = np.concatenate([part - part.mean(axis=0) for part in parts])
    spread = (centred[:, 0] ** 2).sum()
    slope = (centred[:, 0] * centred[:, 1]).sum() / spread if spread > 0 else 0.0
    heights = [part[:, 1].mean() - slope * part[:, 0].mean() for part in parts]
    return float(heights[0] - heights[1])


def points_of_run(result: dict[str, Any], name: str, old: int, new: int) -> list[Point]:
    """Return a run's models as points: group `seen` trained up to step `new` or later, `unseen` before (from 0)."""
    matrix = result["retrieval"]
    return [
        Point(f"{name} after {step}", "seen" if place >= new else "unseen", matrix[place][old], matrix[place][new])
        for place, step in enumerate(result["steps"])
    ]


def read_points(path: Path) -> list[Point]:
    """Read models from a CSV with the columns model, group, old, new.

    Raises:
        InputError: A missing column, or a recall that is no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}.")
        points = []
        for number, row in enumerate(reader, start=2):
            try:
                points.append(Point(row["model"], row["group"], float(row["old"]), float(row["new"])))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}.") from error
    return points
