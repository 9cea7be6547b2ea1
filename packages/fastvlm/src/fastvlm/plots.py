"""The figures of the latency analysis, as SVG with real text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import ScalarFormatter
from tenfold_shared.files import atomic_write

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fastvlm",
}
LABELS = {
    "fastvithd": "FastViTHD",
    "vit_l_14": "ViT-L/14",
    "convnext_l": "ConvNeXt-L",
    "siglip_so400m": "SigLIP-SO400M",
    "effective_resolution": "resolution (pixels a side)",
    "accuracy": "accuracy",
}
MAX_BARS = 24
Rows = Sequence[Mapping[str, Any]]


def draw_pareto(path: Path, rows: Rows, quality: str, source: str = "") -> None:
    """Draw `quality` over the time to first token, one panel per language model, the frontier's points ringed.

    Args:
        path: SVG file to write.
        rows: Rows of `fastvlm.profile`.
        quality: Column on the vertical axis.
        source: Which run the rows are of, where it is not this one.
    """
    models = list(dict.fromkeys(row["llm"] for row in rows))
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    with plt.rc_context(STYLE):
        size = (2.6 * len(models) + 1.2, 3.2)
        figure, axes = plt.subplots(1, len(models), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axis, model in zip(axes[0], models, strict=True):
            for index, encoder in enumerate(encoders):
                chosen = [row for row in rows if row["llm"] == model and row["encoder"] == encoder]
                _scatter(axis, chosen, quality, f"C{index}", LABELS[encoder])
            axis.set_xscale("log")
            axis.set_xlabel("time to first token (s)")
            axis.set_title(model)
        axes[0][0].set_ylabel(LABELS[quality])
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        title = "Time to first token by encoder, resolution and language model; rings mark the Pareto frontier"
        _save(figure, path, title, f"Scatter plots; hollow markers are images in tiles. {source}".strip())


def _scatter(axis: Any, rows: Rows, quality: str, colour: str, label: str) -> None:
    for tiled, marker in ((False, "o"), (True, "s")):
        points = [row for row in rows if (row["tiles"] > 1) == tiled]
        seconds, heights = [row["ttft_ms"] / 1e3 for row in points], [row[quality] for row in points]
        faces = "none" if tiled else colour
        shown = None if tiled and any(row["tiles"] == 1 for row in rows) else label
        axis.scatter(seconds, heights, marker=marker, facecolors=faces, edgecolors=colour, label=shown)
    front = [row for row in rows if row["pareto"]]
    ring = {"facecolors": "none", "edgecolors": "grey", "s": 110, "linewidths": 1.0}
    axis.scatter([row["ttft_ms"] / 1e3 for row in front], [row[quality] for row in front], **ring)


def draw_reading(path: Path, rows: Rows, floors: Mapping[str, float], source: str = "") -> None:
    """Draw exact match over the time to the first token, one panel per language model, one line per way to tokens.

    Args:
        path: SVG file to write.
        rows: Rows of `fastvlm.reading_claims.tabulate`; a line joins the resolutions of an arm.
        floors: Levels to draw across, by name.
        source: Which run the rows are of.
    """
    models = list(dict.fromkeys(row["llm"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    with plt.rc_context(STYLE):
        size = (3.6 * max(1, len(models)) + 1.0, 3.8)
        figure, axes = plt.subplots(
            1, max(1, len(models)), figsize=size, sharey=True, squeeze=False, layout="constrained"
        )
        for axis, model in zip(axes[0], models, strict=False):
            for index, arm in enumerate(arms):
                chosen = [row for row in rows if row["llm"] == model and row["arm"] == arm]
                chosen = sorted(chosen, key=lambda row: row["resolution"])
                axis.plot(*_columns(chosen, "ttft_ms", "accuracy"), "o-", color=f"C{index}", label=arm, markersize=4)
                for row in chosen:
                    axis.annotate(f" {row['resolution']}", (row["ttft_ms"], row["accuracy"]), fontsize=7)
            front = [row for row in rows if row["llm"] == model and row["pareto"]]
            axis.scatter(*_columns(front, "ttft_ms", "accuracy"), facecolors="none", edgecolors="grey", s=110)
            for (name, value), (place, side) in zip(
                floors.items(), cycle([(0.01, "left"), (0.99, "right")]), strict=False
            ):
                axis.axhline(value, color="grey", linewidth=0.8, linestyle=":")
                axis.text(place, value, name, transform=axis.get_yaxis_transform(), ha=side, va="bottom", fontsize=7)
            axis.set(xscale="log", xlabel="time to first token (ms)", title=f"language model: {model}")
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(ScalarFormatter())
        axes[0][0].set_ylabel("exact match, held-out pages")
        if models:
            handles = axes[0][0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
        title = "Which word follows X: exact match over time to first token; rings mark the frontier"
        words = f"Lines join resolutions (pixels beside the points) of synthetic pages. {source}".strip()
        _save(figure, path, title, words)


def _columns(rows: Rows, *names: str) -> list[list[float]]:
    return [[row[name] for row in rows] for name in names]


def draw_ttft(path: Path, rows: Rows) -> None:
    """Draw encoder and prefill time as one bar per setting, for the smallest language model.

    Args:
        path: SVG file to write.
        rows: Rows of `fastvlm.profile`.
    """
    smallest = min(rows, key=lambda row: row["llm_params_b"])["llm"]
    chosen = sorted((row for row in rows if row["llm"] == smallest), key=lambda row: row["ttft_ms"])[:MAX_BARS]
    names = [f"{LABELS[row['encoder']]} {_view(row)}" for row in chosen]
    bars = [(name, row["encoder_ms"] / 1e3, row["prefill_ms"] / 1e3) for name, row in zip(names, chosen, strict=True)]
    draw_bars(path, bars, f"Time to first token with {smallest}")


def draw_table(path: Path, rows: Rows, title: str) -> None:
    """Draw the table of a profile: one line per encoder, resolution and tiling, the frontier's times in bold.

    Args:
        path: SVG file to write.
        rows: Rows of `fastvlm.profile`.
        title: Caption of the figure.
    """
    models = list(dict.fromkeys(row["llm"] for row in rows))
    lines: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for row in rows:
        line = (LABELS[row["encoder"]], _view(row), str(row["image_tokens"]), f"{row['encoder_ms'] / 1e3:.2f}")
        lines.setdefault(line, {})[row["llm"]] = row
    header = ("image encoder", "pixels", "tokens", "encoder, s", *models)
    places = np.cumsum([0.0, 1.5, 1.5, 0.9, 1.1, *[1.2] * len(models)])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(places[-1], 0.22 * (len(lines) + 2)), layout="constrained")
        axis.set_axis_off()
        axis.set(xlim=(0, places[-1]), ylim=(len(lines) + 0.5, -1))
        for place, word in zip(places[:-1], header, strict=True):
            axis.text(place, -0.2, word, style="italic")
        for number, (line, times) in enumerate(lines.items(), start=1):
            cells = [(word, "normal") for word in line]
            cells += [
                (f"{row['ttft_ms'] / 1e3:.2f}", "bold" if row["pareto"] else "normal")
                for row in (times[model] for model in models)
            ]
            for place, (word, weight) in zip(places[:-1], cells, strict=True):
                axis.text(place, number, word, weight=weight)
        _save(figure, path, title, "Seconds to the first token per language model; bold: on the Pareto frontier.")


def _view(row: Mapping[str, Any]) -> str:
    return f"{row['resolution']}" + (f", {row['tiles']} tiles" if row["tiles"] > 1 else "")


def draw_bars(path: Path, bars: Sequence[tuple[str, float, float]], title: str) -> None:
    """Draw (name, encoder seconds, prefill seconds) as stacked bars.

    Args:
        path: SVG file to write.
        bars: One entry per setting, top to bottom.
        title: Caption of the figure.
    """
    names = [name for name, _, _ in bars]
    encoder, prefill = [bar[1] for bar in bars], [bar[2] for bar in bars]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 0.3 * len(bars) + 1.0), layout="constrained")
        axis.barh(names, encoder, label="image encoder")
        axis.barh(names, prefill, left=encoder, label="prefill")
        for row, total in enumerate(a + b for a, b in zip(encoder, prefill, strict=True)):
            axis.text(total, row, f" {total:.1f}", va="center")
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel("seconds (median)")
        axis.legend(frameon=False, loc="lower right")
        _save(figure, path, title, "Stacked bars: image encoder, then prefill of the language model.")


def _save(figure: plt.Figure, path: Path, title: str, description: str) -> None:
    words = {"Title": title, "Description": description, "Date": None}
    with atomic_write(path) as file:
        figure.savefig(file, format="svg", transparent=True, metadata=words)
    plt.close(figure)
