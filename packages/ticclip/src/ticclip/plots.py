"""Figures as SVG in the report's style."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra

from ticclip.robustness import Point

MATRIX = "Rows: model after a step; columns: evaluation of a step."


@contextmanager
def _figure(path: Path, title: str, description: str, size: tuple[float, float] = (5.0, 3.2)) -> Generator[Any]:
    matplotlib = require_extra("matplotlib", "demo", "ticclip")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": size}):
        figure, axes = plt.subplots(layout="constrained")
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Title": title, "Description": description, "Date": None})
        plt.close(figure)


def draw_matrix(path: Path, matrix: Sequence[Sequence[float]], steps: Sequence[str], title: str) -> None:
    """Draw a matrix of scores as a heat-map: a row for each model, a column for the evaluation of each of `steps`."""
    values = np.array(matrix, dtype=float)[:, : len(steps)]
    with _figure(path, title, MATRIX, (4.2, 3.6)) as axes:
        image = _heat(axes, values, (float(np.nanmin(values)), float(np.nanmax(values))))
        axes.set_xticks(range(values.shape[1]), [step.split(" ")[0] for step in steps[: values.shape[1]]])
        axes.set_yticks(range(values.shape[0]), [step.split(" ")[0] for step in steps[: values.shape[0]]])
        axes.set_xlabel("evaluation of step")
        axes.set_ylabel("model after step")
        axes.set_title(title, fontsize="small")
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _heat(axes: Any, values: np.ndarray, limits: tuple[float, float]) -> Any:
    """Draw one matrix with its scores in per cent."""
    image = axes.imshow(values, cmap="viridis", vmin=limits[0], vmax=limits[1])
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < sum(limits) / 2 else "black"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize="x-small")
    return image


def draw_matrices(path: Path, matrices: Mapping[str, np.ndarray], title: str) -> None:
    """Draw the matrix of each method side by side, all in the same colours."""
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    limits = min(map(np.nanmin, matrices.values())), max(map(np.nanmax, matrices.values()))
    with _figure(path, title, MATRIX, (2.2 * columns, 2.3 * rows)) as first:
        figure = first.figure
        first.remove()
        for place, (name, values) in enumerate(matrices.items()):
            axes = figure.add_subplot(rows, columns, place + 1)
            _heat(axes, values, limits)
            axes.set_title(name, fontsize="small")
            axes.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1), fontsize="x-small")
            axes.set_yticks(range(values.shape[0]), range(1, values.shape[0] + 1), fontsize="x-small")
        figure.suptitle(f"{title}\n{MATRIX}", fontsize="small")


def draw_compute(
    path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], label: str, title: str = "Score and compute"
) -> None:
    """Draw a score over the multiply-accumulates of whole runs, one curve or point for each method."""
    with _figure(path, title, f"{label} over total compute, one line per method.") as axes:
        for name, points in curves.items():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker="o", label=name, linestyle="-" if len(points) > 1 else "")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")  # within one decade minor labels run into each other
        axes.set_xlabel("forward multiply-accumulates of the whole run")
        axes.set_ylabel(label)
        axes.legend(fontsize="x-small")


def draw_points(path: Path, points: Sequence[Point], fit: Mapping[str, Any], title: str = "Old and new period") -> None:
    """Draw models by recall on the old and on the new period, with the line of each group."""
    with _figure(path, title, "One point per model, one line per group.") as axes:
        for name, line in fit["groups"].items():
            mine = np.array([(point.old, point.new) for point in points if point.group == name])
            shown = axes.plot(mine[:, 0], mine[:, 1], marker="o", linestyle="", label=name)
            ends = np.array([mine[:, 0].min(), mine[:, 0].max()])
            axes.plot(ends, line["slope"] * ends + line["intercept"], color=shown[0].get_color())
        axes.set_xlabel("recall on the old period")
        axes.set_ylabel("recall on the new period")
        axes.legend(fontsize="x-small")
