"""Figures as SVG in the report's style."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra

from dataset_decomposition.readers import DIST


@contextmanager
def _figure(path: Path, title: str, description: str, width: float = 6.5) -> Generator[Any]:
    matplotlib = require_extra("matplotlib", "demo", DIST)
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": (width, 3.2)}):
        figure, axes = plt.subplots(layout="constrained")
        yield axes
        words = {"Title": title, "Description": description, "Date": None}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata=words)
        plt.close(figure)


def draw_cost(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw context against cost, one point per method of `simulate`."""
    with _figure(path, "Context and cost", "One point per method: cost per token and same-document context.") as axes:
        for row in rows:
            axes.plot([row["cost"]], [row["context"]], marker="o", linestyle="", label=row["method"])
        axes.set_xlabel("cost per token, concat-and-chunk = 1")
        axes.set_ylabel("same-document context, tokens")
        axes.figure.legend(loc="outside right upper", fontsize="x-small")


def draw_steps(path: Path, lengths: Mapping[str, np.ndarray], windows: int = 24, span: str = "cycle") -> None:
    """Draw the mean row length over the steps of a cycle or a run, one curve per curriculum."""
    with _figure(path, f"Row length over a {span}", "Curves of the mean row length, by curriculum.") as axes:
        for name, values in lengths.items():
            means = [part.mean() for part in np.array_split(values, min(windows, len(values)))]
            axes.plot(np.linspace(0, 1, len(means)), means, label=name)
        axes.set_xlabel(f"share of the {span}")
        axes.set_ylabel("mean row length, tokens")
        axes.figure.legend(loc="outside right upper", fontsize="x-small")


def draw_curves(
    path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, title: str
) -> None:
    """Draw held-out bits per byte, one curve per arm."""
    with _figure(path, title, "Held-out bits per byte of each arm; lower is better.") as axes:
        for name, (x, y) in curves.items():
            axes.plot(x, y, marker=".", label=name)
        axes.set_xlabel(x_label)
        axes.set_ylabel("bits per byte")
        axes.figure.legend(loc="outside right upper", fontsize="x-small")


def draw_positions(path: Path, losses: Mapping[str, Mapping[str, float]]) -> None:
    """Draw held-out bits per byte by position in the document, one curve per arm; keys end in <from>-<to>."""
    with _figure(path, "Loss by position", "Held-out bits per byte by position of the token, by arm.") as axes:
        for name, values in losses.items():
            axes.plot([key.rsplit("/", 1)[1] for key in values], list(values.values()), marker=".", label=name)
        axes.set_xlabel("position in the document, tokens")
        axes.set_ylabel("bits per byte")
        axes.figure.legend(loc="outside right upper", fontsize="x-small")
