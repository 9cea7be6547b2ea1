"""Figures as SVG files; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra
from tenfold_shared.files import atomic_write

from physiomae.config import STAGES
from physiomae.embed import Hypnogram

DARK = 0.6  # of the strongest colour, from which on numbers are white
_SHOWN = ("W", "R", "N1", "N2", "N3")  # from the top, as hypnograms are drawn
_STYLE = {"svg.hashsalt": "physiomae", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any, Any]:
    matplotlib = require_extra("matplotlib", "plots", "physiomae")
    matplotlib.use("agg")
    pyplot = require_extra("matplotlib.pyplot", "plots", "physiomae")
    matplotlib.rcParams.update(_STYLE)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return pyplot, figure, axes


def _save(path: Path, pyplot: Any, figure: Any) -> None:
    with atomic_write(path, "w") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def draw_hypnogram(path: Path, found: Hypnogram, scored: np.ndarray | None = None) -> None:
    """Draw stages over hours, with a scorer's beside them where there is one, and the probe's certainty below.

    Args:
        path: SVG file.
        found: Of `stage_recording`.
        scored: Places in `STAGES`, -1 unknown [windows].
    """
    pyplot, figure, axes = _figure(2, 1, (8, 3.6))
    hours = found.seconds / 3600
    for name, stages, colour in (("scored", scored, "0.6"), ("probe", found.stages, "C0")):
        if stages is not None:
            height = np.array([_SHOWN.index(STAGES[s]) if s >= 0 else np.nan for s in stages])
            axes[0, 0].step(hours, height, where="post", color=colour, label=name, linewidth=1.2)
    axes[0, 0].set_yticks(range(len(_SHOWN)), _SHOWN)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(loc="upper right", frameon=False)
    axes[1, 0].fill_between(hours, found.probabilities.max(1), step="post", alpha=0.6)
    axes[1, 0].set(xlabel="hours", ylabel="certainty", ylim=(0, 1))
    _save(path, pyplot, figure)


def draw_attention(path: Path, reports: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> None:
    """Draw for each model the share of attention from one modality (rows) to another (columns).

    Args:
        path: SVG file.
        reports: Title -> modalities and mass [modalities, modalities].
    """
    pyplot, figure, axes = _figure(1, len(reports), (2.6 * len(reports), 2.6))
    for axis, (title, (names, mass)) in zip(axes[0], reports.items(), strict=True):
        axis.imshow(mass, vmin=0, vmax=1, cmap="viridis")
        axis.set(title=title, xlabel="to", ylabel="from")
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
        for row, values in enumerate(np.asarray(mass).tolist()):
            for column, value in enumerate(values):
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k")
    _save(path, pyplot, figure)


def draw_units(path: Path, shares: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Draw how each unit divides its change among modalities, units in order of their largest share.

    Args:
        path: SVG file.
        shares: Title -> [units, modalities].
        names: Modalities.
    """
    pyplot, figure, axes = _figure(1, len(shares), (3.2 * len(shares), 2.6))
    for axis, (title, values) in zip(axes[0], shares.items(), strict=True):
        ordered = values[np.argsort(values[:, 0])]
        bottom = np.zeros(len(ordered))
        for place, name in enumerate(names):
            axis.bar(range(len(ordered)), ordered[:, place], 1.0, bottom, label=name)
            bottom += np.nan_to_num(ordered[:, place])
        axis.set(title=title, xlabel="units, sorted", ylabel="share of change")
    axes[0, 0].legend(frameon=False, fontsize=7)
    _save(path, pyplot, figure)


def draw_scores(path: Path, scores: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Draw each arm's scores under every condition: a dot for each seed or subject, a bar for the mean.

    Args:
        path: SVG file.
        scores: Condition -> arm -> values.
        label: Of the scores.
    """
    pyplot, figure, axes = _figure(1, len(scores), (3.2 * len(scores), 3.2))
    for axis, (condition, arms) in zip(axes[0], scores.items(), strict=True):
        for place, values in enumerate(arms.values()):
            axis.plot(np.mean(values), place, "|", color="C0", markersize=16, markeredgewidth=3)
            axis.plot(values, [place] * len(values), ".", color="C1", alpha=0.6)
        axis.set_yticks(range(len(arms)), arms.keys())
        axis.invert_yaxis()
        axis.set(title=condition, xlabel=label)
    _save(path, pyplot, figure)


def draw_map(path: Path, maps: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw differences over two settings as tables of colours.

    Args:
        path: SVG file.
        maps: Title -> [rows, columns].
        rows: Names of the rows.
        columns: Names of the columns.
    """
    pyplot, figure, axes = _figure(1, len(maps), (3.4 * len(maps), 3.0))
    for axis, (title, values) in zip(axes[0], maps.items(), strict=True):
        most = max(1e-6, float(np.nanmax(np.abs(values))))
        axis.imshow(values, vmin=-most, vmax=most, cmap="RdBu")
        axis.set(title=title, xlabel="coupling", ylabel="informativeness")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(rows)), rows)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > DARK * most else "black"
            axis.text(column, row, f"{value:+.3f}", ha="center", va="center", color=colour)
    _save(path, pyplot, figure)
