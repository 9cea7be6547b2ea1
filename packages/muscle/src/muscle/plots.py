"""Figures as SVG in the report's style."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra

from muscle.records import DIST
from muscle.verdicts import CONTINUED, PLAIN, Arms, Found, fewer

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tenfold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
CURVES = (CONTINUED, "MUSCLE", "MUSCLE + CE", "KL to old")


@contextmanager
def _figure(path: Path, title: str, description: str, width: float = 6.5) -> Generator[Any]:
    matplotlib = require_extra("matplotlib", "demo", DIST)
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({**STYLE, "figure.figsize": (width, 3.2)}):
        figure = plt.figure(layout="constrained")
        yield figure
        words = {"Title": title, "Description": description, "Date": None}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata=words)
        plt.close(figure)


def draw_curves(path: Path, found: Found) -> None:
    """Draw level against NFR, one line of epochs per arm, for each task of the regime of like accuracies."""
    tasks = [(task, arms) for (regime, task), arms in found.items() if regime == "alike"]
    words = "For each task, level against negative flip rate, from plain v2 over every epoch of each arm."
    with _figure(path, "Flips at equal level", words) as figure:
        panels, named = np.atleast_1d(figure.subplots(1, len(tasks))), set()
        for axes, (task, arms) in zip(panels, tasks, strict=True):
            for place, name in enumerate(CURVES):
                if name in arms:
                    level, nfr = _path(arms, name)
                    label = None if name in named else name
                    named.add(name)
                    axes.plot(100 * level, 100 * nfr, marker=".", color=f"C{place}", label=label)
            axes.set_title(task, fontsize="small")
            axes.set_xlabel("level, %")
        panels[0].set_ylabel("NFR, %")
        if named:
            figure.legend(loc="outside upper center", ncols=4, fontsize="x-small")


def _path(arms: Arms, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over seeds, beginning with plain v2."""
    plain, arm = arms[PLAIN], arms[name]
    level = np.append(plain.at_best("level").mean(), arm.level.mean(axis=1))
    return level, np.append(plain.at_best().mean(), arm.nfr.mean(axis=1))


def draw_flips(path: Path, found: Found) -> None:
    """Draw for every arm by how much its NFR is below plain v2's, mean over tasks, one bar per regime."""
    regimes: Sequence[str] = list(dict.fromkeys(regime for regime, _ in found))
    names = list(dict.fromkeys(name for arms in found.values() for name in arms if name not in (PLAIN, "noise floor")))
    words = "Bars: share of plain v2's negative flips that each arm avoids, by regime; ticks: its seeds."
    with _figure(path, "Negative flips avoided", words) as figure:
        axes = figure.subplots()
        for shift, regime in enumerate(regimes):
            seeds = [_avoided(found, regime, name) for name in names]
            places = np.arange(len(names)) + 0.4 * shift
            axes.barh(places, [values.mean() for values in seeds], height=0.38, label=f"v1: {regime}", alpha=0.5)
            for place, values in zip(places, seeds, strict=True):
                axes.plot(values, np.full(len(values), place), "|", color=f"C{shift}")
        axes.set_yticks(np.arange(len(names)) + 0.2 * (len(regimes) - 1), names, fontsize="x-small")
        axes.invert_yaxis()
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_xlabel("negative flips fewer than plain v2, %")
        figure.legend(loc="outside upper center", ncols=2, fontsize="x-small")


def _avoided(found: Found, regime: str, name: str) -> np.ndarray:
    """Return the share of plain v2's flips that an arm avoids, mean over tasks, for each seed; nan without any."""
    tasks = [arms for (which, _), arms in found.items() if which == regime and name in arms]
    values = [fewer(arms, arms[name].at_best()) for arms in tasks]
    return np.mean([row[: min(map(len, values))] for row in values], axis=0) if values else np.full(1, np.nan)
