"""The figure of the experiment (extra `demo`), in the manner of the report page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tenfold_shared.commands import require_extra

__all__ = ["draw_shares"]


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
