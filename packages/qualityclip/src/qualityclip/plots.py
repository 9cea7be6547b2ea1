"""Figures: scores of captions, and curves of dense performance over data (extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra
from tenfold_shared.files import atomic_write

INK, OTHERS = "#1a6fb5", ("#1a6fb5", "#c44e1e", "#3a8f3a", "#8050a0", "#777777")


def _axes(count: int) -> tuple[Any, Any]:
    require_extra("matplotlib", "plots", "qualityclip").use("agg")
    pyplot = require_extra("matplotlib.pyplot", "plots", "qualityclip")
    figure, axes = pyplot.subplots(1, count, figsize=(3.4 * count, 2.8), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    figure.tight_layout()
    with atomic_write(path) as file, matplotlib.rc_context({"svg.hashsalt": "qualityclip"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def draw_scores(path: Path, rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> None:
    """Draw a histogram of each measure, one line for each kind of caption.

    Args:
        path: SVG file.
        rows: Of `score_samples`.
        measures: What is drawn, where rows have it.
    """
    shown = [name for name in measures if any(np.isfinite(row.get(name, np.nan)) for row in rows)]
    figure, axes = _axes(max(len(shown), 1))
    for axis, name in zip(axes, shown, strict=False):
        values = {kind: [row[name] for row in rows if row["kind"] == kind and name in row] for kind in _kinds(rows)}
        finite = {kind: np.array(each)[np.isfinite(each)] for kind, each in values.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins=20)
        for (kind, each), colour in zip(finite.items(), OTHERS, strict=False):
            if len(each):
                axis.hist(each, edges, histtype="step", label=kind, color=colour)
        axis.set_xlabel(name)
    axes[0].set_ylabel("captions")
    axes[0].legend(frameon=False)
    _save(figure, path)


def _kinds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["kind"] for row in rows})


def draw_curve(
    path: Path, sizes: Sequence[float], curves: Mapping[str, np.ndarray], labels: tuple[str, str], title: str = ""
) -> None:
    """Draw scores over data sizes, the mean over seeds with their range.

    Args:
        path: SVG file.
        sizes: Data sizes, rising; drawn on a logarithmic axis.
        curves: Scores [seeds, sizes] of each arm.
        labels: Of both axes.
        title: Above the figure.
    """
    figure, (axis,) = _axes(1)
    for (name, scores), colour in zip(curves.items(), OTHERS, strict=False):
        scores = np.atleast_2d(scores)
        axis.plot(sizes, scores.mean(0), marker="o", ms=3, color=colour, label=name)
        axis.fill_between(sizes, scores.min(0), scores.max(0), color=colour, alpha=0.15, lw=0)
    axis.set_xscale("log")
    axis.set_xticks(list(sizes), [f"{size:g}" for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False)
    _save(figure, path)


def draw_bars(path: Path, values: Mapping[str, Sequence[float]], label: str, title: str = "") -> None:
    """Draw the mean of each arm with a point for every seed.

    Args:
        path: SVG file.
        values: Scores of each arm's seeds.
        label: Of the axis.
        title: Above the figure.
    """
    figure, (axis,) = _axes(1)
    places = np.arange(len(values))
    axis.barh(places, [np.mean(each) for each in values.values()], color=INK, alpha=0.3)
    for place, each in zip(places, values.values(), strict=True):
        axis.plot(each, [place] * len(each), "|", color=INK)
    axis.set_yticks(places, list(values), fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_title(title, fontsize=9)
    _save(figure, path)
