"""The figure of the experiment (extra `demo`), in the manner of the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tenfold_shared.commands import require_extra

__all__ = ["draw_arms", "draw_shares"]


def draw_shares(path: Path, counted: Sequence[float], guessed: Sequence[float]) -> None:
    """Draw the share of new pages that each filter keeps, a dot per seed.

    Args:
        path: SVG file to write.
        counted: Shares of the filter sized by counting.
        guessed: Shares of the filter sized by a guess, same seeds.
    """
    matplotlib = require_extra("matplotlib", "demo", "dclm")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    settings = {"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": (5.0, 3.2)}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(layout="constrained")
        for place, shares in enumerate((counted, guessed)):
            axes.scatter([place] * len(shares), shares)
        axes.set_xticks([0, 1], ["sized by counting", "sized by a guess"])
        axes.set_xlim(-0.5, 1.5)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("share of new pages kept")
        words = {
            "Title": "New pages that a Bloom filter keeps",
            "Description": f"Mean {sum(counted) / len(counted):.2f} sized by counting, "
            f"{sum(guessed) / len(guessed):.2f} sized by a guess.",
            "Date": None,
        }
        figure.savefig(path, transparent=True, metadata=words)
        plt.close(figure)


def draw_arms(path: Path, values: Mapping[str, Sequence[float]]) -> None:
    """Draw the bits per byte of every arm, a dot per seed, the best arm on top.

    Args:
        path: SVG file to write.
        values: Arm to bits per byte.
    """
    matplotlib = require_extra("matplotlib", "demo", "dclm")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    order = sorted(values, key=lambda arm: -sum(values[arm]) / len(values[arm]))
    settings = {"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": (5.0, 3.4)}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(layout="constrained")
        for place, arm in enumerate(order):
            axes.scatter(values[arm], [place] * len(values[arm]), color="C0")
        axes.set_yticks(range(len(order)), order)
        axes.set_xlabel("bits per byte (B, C and gold answers), lower is better")
        best = order[-1]
        words = {
            "Title": "Bits per byte of models trained on equal tokens of each arm",
            "Description": f"The lowest is {best} with {sum(values[best]) / len(values[best]):.3f} bits per byte.",
            "Date": None,
        }
        figure.savefig(path, transparent=True, metadata=words)
        plt.close(figure)
