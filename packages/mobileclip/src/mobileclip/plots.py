"""The figures of the experiments, as SVG with real text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import numpy as np
from matplotlib import pyplot as plt
from tenfold_shared.claims import ClaimResult
from tenfold_shared.files import atomic_write

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "mobileclip",
}
IMAGE_COLOUR, TEXT_COLOUR, PAPER_COLOUR = "#2563c9", "#8db4ee", "#c2410c"


def draw_latency(
    path: Path, seconds: Mapping[int, Mapping[str, Mapping[str, np.ndarray]]], labels: Mapping[str, str]
) -> None:
    """Draw the median milliseconds of image and text half per model, one panel per number of threads.

    Args:
        path: SVG file to write.
        seconds: Threads -> model -> part -> wall seconds per round.
        labels: Model -> name to print.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(seconds), figsize=(7.2, 2.4), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (threads, times) in zip(axes[0], seconds.items(), strict=True):
            image, text = (
                np.array([1e3 * np.median(parts[part]) for parts in times.values()]) for part in ("image", "text")
            )
            names = [labels[name] for name in times]
            axis.barh(names, image, color=IMAGE_COLOUR, label="image")
            axis.barh(names, text, left=image, color=TEXT_COLOUR, label="text")
            for row, total in enumerate(image + text):
                axis.text(total, row, f" {total:.0f}", va="center")
            axis.set_xlabel("milliseconds (median)")
            axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}")
            axis.margins(x=0.15)
        axes[0][0].invert_yaxis()
        axes[0][-1].legend(frameon=False, loc="lower right")
        _save(figure, path)


def draw_speedups(path: Path, claims: Iterable[ClaimResult]) -> None:
    """Draw each claim's speed-up with its interval, beside the paper's figure where it has one.

    Args:
        path: SVG file to write.
        claims: Rows with `ours`.
    """
    rows = [claim for claim in claims if claim.ours is not None]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 0.34 * len(rows) + 0.9), layout="constrained")
        for row, claim in enumerate(rows):
            ours = claim.ours
            axis.errorbar(
                ours.mean,
                row,
                xerr=[[ours.mean - ours.low], [ours.high - ours.mean]],
                fmt="o",
                color=IMAGE_COLOUR,
                capsize=3,
                label="ours, 95 % interval" if row == 0 else None,
            )
        paper = [(claim.paper_value.value, row) for row, claim in enumerate(rows) if claim.paper_value]
        axis.scatter(*zip(*paper, strict=True), marker="|", s=160, color=PAPER_COLOUR, label="paper (phone)")
        axis.axvline(1, linestyle=":", color="grey")
        axis.set_yticks(range(len(rows)), [claim.claim.replace(" is faster than ", " / ") for claim in rows])
        axis.invert_yaxis()
        axis.set_xlabel("times faster")
        axis.legend(frameon=False, loc="lower right")
        _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)


def draw_efficiency(path: Path, curves: Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]]) -> None:
    """Draw retrieval over samples seen, one line per arm: the mean over seeds with its range.

    Args:
        path: SVG file to write.
        curves: Arm -> samples at each evaluation, and MRR of every seed.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        for number, (arm, (samples, runs)) in enumerate(curves.items()):
            values, colour = np.stack(runs), plt.get_cmap("tab20")(number)
            axis.plot(samples, values.mean(0), marker="o", markersize=3, color=colour, label=arm)
            axis.fill_between(samples, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        axis.set_xlabel("samples seen")
        axis.set_ylabel("text-to-image MRR, unseen concepts")
        axis.legend(frameon=False, fontsize=8, ncols=2)
        _save(figure, path)
