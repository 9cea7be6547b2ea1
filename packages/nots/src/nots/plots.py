"""Figures as SVG files; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra
from tenfold_shared.files import atomic_write

_STYLE = {"svg.hashsalt": "nots", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any, Any]:
    matplotlib = require_extra("matplotlib", "plots", "nots-torch")
    matplotlib.use("agg")
    pyplot = require_extra("matplotlib.pyplot", "plots", "nots-torch")
    matplotlib.rcParams.update(_STYLE)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return pyplot, figure, axes


def _save(path: Path, pyplot: Any, figure: Any) -> None:
    with atomic_write(path, "w") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def draw_narratives(path: Path, groups: np.ndarray, told: np.ndarray, titles: Sequence[str]) -> None:
    """Draw narratives from coarse to raw, and over each element what the model told of it from those before.

    Args:
        path: SVG file.
        groups: [series, elements, time].
        told: [series, elements - 1, time]; the first element is not told.
        titles: One for each series.
    """
    num, elements, _ = groups.shape
    pyplot, figure, axes = _figure(num, elements, (2.1 * elements, 1.5 * num))
    for row, title in enumerate(titles):
        for place in range(elements):
            axis = axes[row, place]
            axis.plot(groups[row, place], color="0.55", linewidth=1.0, label="element")
            if place:
                axis.plot(told[row, place - 1], color="C0", linewidth=0.9, label="told from those before")
            axis.set_xticks([])
            axis.set_yticks([])
            if not row:
                axis.set_title("raw signal" if place == elements - 1 else f"element {place + 1}")
        axes[row, 0].set_ylabel(title)
    axes[0, -1].legend(frameon=False, fontsize=7, loc="best")
    _save(path, pyplot, figure)


def draw_scores(path: Path, scores: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Draw each arm's scores under every condition: a dot for each seed, a bar for the mean.

    Args:
        path: SVG file.
        scores: Condition -> arm -> values.
        label: Of the scores.
    """
    tall = max(2.2, 0.24 * max(len(arms) for arms in scores.values()) + 0.9)
    pyplot, figure, axes = _figure(1, len(scores), (3.1 * len(scores), tall))
    for axis, (condition, arms) in zip(axes[0], scores.items(), strict=True):
        for place, values in enumerate(arms.values()):
            axis.plot(np.mean(values), place, "|", color="C0", markersize=12, markeredgewidth=3)
            axis.plot(values, [place] * len(values), ".", color="C1", alpha=0.6)
        axis.set_yticks(range(len(arms)), arms.keys())
        axis.invert_yaxis()
        axis.set(title=condition, xlabel=label)
    _save(path, pyplot, figure)


def draw_capacities(path: Path, sups: Mapping[str, Mapping[int, Sequence[float]]], periods: int) -> None:
    """Draw the sup error of each form of tokens over capacity, beside the two bounds of the claim.

    Args:
        path: SVG file.
        sups: Form -> capacity -> values.
        periods: T.
    """
    pyplot, figure, axes = _figure(1, 1, (4.6, 2.8))
    axis = axes[0, 0]
    for place, (form, found) in enumerate(sups.items()):
        rows = dict(sorted(found.items()))
        axis.plot(list(rows), [np.mean(v) for v in rows.values()], color=f"C{place}", label=f"tokens of a {form}")
        for capacity, values in rows.items():
            axis.plot([capacity] * len(values), values, ".", color=f"C{place}", alpha=0.6)
    axis.axhline(periods / 2, color="0.4", linestyle="--", linewidth=0.8, label="T / 2")
    axis.axhline(periods / 10, color="0.4", linestyle=":", linewidth=0.8, label="0.1 T")
    axis.set(xscale="log", yscale="log", xlabel="parameters, in multiples of the smallest", ylabel="sup error")
    axis.legend(frameon=False, fontsize=7)
    _save(path, pyplot, figure)
