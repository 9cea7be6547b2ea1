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

from mobileclip.learning_curve import Curve

# The report recolours matplotlib's default colours, black and white for light and dark pages.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "tenfold", "axes.spines.top": False, "axes.spines.right": False}
WIDTH_INCHES = 5.0
Seconds = Mapping[int, Mapping[str, Mapping[str, np.ndarray]]]


def draw_latency(path: Path, seconds: Seconds, labels: Mapping[str, str]) -> None:
    """Draw the median milliseconds of image and text half per model, one panel per number of threads.

    Args:
        path: SVG file to write.
        seconds: Threads -> model -> part -> wall seconds per round.
        labels: Model -> name to print.
    """
    with plt.rc_context(STYLE):
        size = (WIDTH_INCHES, 0.4 + 1.5 * len(seconds))
        figure, axes = plt.subplots(len(seconds), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
        for axis, (threads, times) in zip(axes[:, 0], seconds.items(), strict=True):
            image, text = (
                np.array([1e3 * np.median(parts[part]) for parts in times.values()]) for part in ("image", "text")
            )
            names = [labels[name] for name in times]
            axis.barh(names, image, label="image encoder")
            axis.barh(names, text, left=image, label="text encoder")
            for row, total in enumerate(image + text):
                axis.text(total, row, f" {total:.0f}", va="center")
            axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}", loc="left")
            axis.margins(x=0.12)
            axis.invert_yaxis()
        axes[-1, 0].set_xlabel("milliseconds, median over rounds")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
        description = "Stacked bars: time of the image encoder and of the text encoder for each model."
        _save(figure, path, "Latency of one image and one caption", description)


def draw_speedups(path: Path, claims: Iterable[ClaimResult], labels: Iterable[str]) -> None:
    """Draw each claim's speed-up with its interval, beside the paper's figure where it has one.

    Args:
        path: SVG file to write.
        claims: Rows with `ours`.
        labels: What to print beside each of them.
    """
    with plt.rc_context(STYLE):
        rows = [(claim.ours, claim.paper_value) for claim in claims if claim.ours is not None]
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.22 * len(rows) + 1.1), layout="constrained")
        position = np.arange(len(rows))
        means = np.array([ours.mean for ours, _ in rows])
        ends = np.array([(ours.low, ours.high) for ours, _ in rows]).T
        axis.errorbar(means, position, xerr=np.abs(ends - means), fmt="o", capsize=3, label="ours, 95 % interval")
        paper = [(value.value, row) for row, (_, value) in enumerate(rows) if value]
        axis.scatter(*zip(*paper, strict=True), marker="|", s=160, color="C1", label="paper, on a phone")
        axis.axvline(1, linestyle=":", color="grey")
        axis.set_yticks(position, list(labels))
        axis.invert_yaxis()
        axis.set_xlabel("times faster than the ViT-B/16 model")
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
        description = "One point with an interval per comparison; a bar marks what the paper reports for a phone."
        _save(figure, path, "Speed-up over ViT-B/16", description)


def _save(figure: plt.Figure, path: Path, title: str, description: str) -> None:
    with atomic_write(path) as file:
        words = {"Title": title, "Description": description, "Date": None}
        figure.savefig(file, format="svg", transparent=True, metadata=words)
    plt.close(figure)


def draw_efficiency(path: Path, curves: Mapping[str, Sequence[Curve]], main: Sequence[str]) -> None:
    """Draw retrieval over samples seen, one line per arm: the mean over seeds with its range.

    Args:
        path: SVG file to write.
        curves: Arm -> a curve of every seed.
        main: Arms of the first panel, in order; all others are ablations of the last of them, in a panel below.
    """
    shown = [arm for arm in main if arm in curves]
    others = [arm for arm in curves if arm not in main]
    panels = [shown, [*shown[-1:], *others]] if others else [shown]
    with plt.rc_context(STYLE):
        size = (WIDTH_INCHES, 0.4 + 3.2 * len(panels))
        figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
        for axis, arms in zip(axes[:, 0], panels, strict=True):
            for number, arm in enumerate(arms):
                runs = curves[arm]
                samples, values = runs[0].samples, np.stack([run.mrr for run in runs])
                ablated = arms is not shown and number == 0
                colour = "black" if ablated else f"C{(number - (arms is not shown)) % 10}"
                axis.plot(samples, values.mean(0), marker="o", markersize=3, color=colour, label=arm)
                if arms is shown:
                    axis.fill_between(samples, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            axis.set_ylabel("text-to-image MRR, unseen concepts")
            axis.set_title("main arms, range over seeds" if arms is shown else "ablations, one seed", loc="left")
            axis.legend(frameon=False, fontsize=8)
        axes[0, 0].set_xscale("log")
        axes[-1, 0].set_xlabel("samples seen")
        description = "One line per arm: retrieval rises with the samples seen; above with the range over seeds."
        _save(figure, path, "Learning efficiency", description)
