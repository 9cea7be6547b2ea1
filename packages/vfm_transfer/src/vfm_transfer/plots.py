"""Figures of the experiment as SVG in the report's style."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import require_extra
from tenfold_shared.intervals import paired_interval

from vfm_transfer.verdicts import WORDS, Runs, Select

DIST = "vfm-transfer"
ARMS = ("teacher", "oriented", "cosine", "mse", "contrastive", "logits", "self", "scratch")
SCENES = ("teacher", "oriented", "patch", "self", "scratch")
BUDGETS = (5, 10, 25)
KINDS = ("in-domain", "query-balanced", "global", "random", "generic", "out-of-domain")
SHORT = WORDS | {"oriented": "oriented", "logits": "ImageNet logits", "teacher": "teacher", "self": "self-training"}


@contextmanager
def _figure(path: Path, title: str, description: str) -> Generator[Any]:
    matplotlib = require_extra("matplotlib", "demo", DIST)
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": (6.5, 3.2)}):
        figure = plt.figure(layout="constrained")
        yield figure.subplots()
        words = {"Title": title, "Description": description, "Date": None}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata=words)
        plt.close(figure)


def draw_all(out: Path, runs: Runs, prefix: str = "") -> list[str]:
    """Draw what the runs have; return the files' names."""
    drawn = {
        f"{prefix}arms.svg": [(SHORT[arm], _mean(Select(arm).of(runs))) for arm in ARMS],
        f"{prefix}sets.svg": [(kind, _mean(Select("oriented", kind).of(runs))) for kind in KINDS],
        f"{prefix}fashion.svg": [(SHORT[arm], _mean(Select(arm, world="fashion").of(runs))) for arm in ARMS],
        f"{prefix}scenes.svg": [(SHORT[arm], _mean(Select(arm, "scenes", world="fashion").of(runs))) for arm in SCENES],
    }
    titles = ("Arms on CIFAR-10, 10 labels a class", "Transfer sets on CIFAR-10", "Arms on Fashion-MNIST",
              "Segmentation of composed scenes")  # fmt: skip
    files = []
    for (name, bars), title in zip(drawn.items(), titles, strict=True):
        if shown := [(label, value) for label, value in bars if value is not None]:
            metric = "mean IoU" if name.endswith("scenes.svg") else "test accuracy"
            draw_bars(out / name, shown, f"{prefix.rstrip('-')} {title}".strip(), metric)
            files.append(name)
    if found := over_budgets(runs):
        draw_budgets(out / f"{prefix}budgets.svg", found)
        files.append(f"{prefix}budgets.svg")
    if curve := curves(runs):
        draw_curve(out / f"{prefix}compute.svg", curve)
        files.append(f"{prefix}compute.svg")
    return files


def _mean(values: dict[int, float]) -> tuple[float, float] | None:
    """Mean and half of its 95 % interval; nothing without values."""
    if not values:
        return None
    mean, low, _ = paired_interval(list(values.values()))
    return mean, 0.0 if np.isnan(low) else mean - low


def draw_bars(path: Path, bars: Sequence[tuple[str, tuple[float, float]]], title: str, metric: str) -> None:
    """Draw one bar for each arm, with the 95 % interval over draws."""
    with _figure(path, title, f"Bars: {metric} over label draws, mean and 95 % interval.") as axes:
        names, values = [name for name, _ in bars], np.array([value for _, value in bars])
        axes.barh(names, values[:, 0], xerr=values[:, 1], height=0.7)
        for row, (mean, _) in enumerate(values):
            axes.text(0.5, row, f"{mean:.1f}", va="center", fontsize="x-small", color="white")
        axes.tick_params(labelsize="x-small")
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}, %")


def over_budgets(runs: Runs) -> dict[str, list[tuple[int, float, float]]]:
    """Return (labels a class, accuracy, half of its interval) of every arm that has more than one budget."""
    found = {}
    for arm in ARMS:
        points = [(budget, _mean(Select(arm, budget=budget).of(runs))) for budget in BUDGETS]
        if len(points := [(budget, *value) for budget, value in points if value is not None]) > 1:
            found[arm] = points
    return found


def draw_budgets(path: Path, found: dict[str, list[tuple[int, float, float]]]) -> None:
    """Draw accuracy over the labels of a class."""
    words = "Lines: mean test accuracy over label draws with its 95 % interval, for 5, 10 and 25 labels a class."
    with _figure(path, "Accuracy over labels on CIFAR-10", words) as axes:
        for arm, points in found.items():
            labels, means, halves = zip(*points, strict=True)
            axes.errorbar(labels, means, yerr=halves, marker="o", capsize=2, label=SHORT[arm])
        axes.set_xscale("log")
        axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axes.minorticks_off()
        axes.set_xlabel("labels a class")
        axes.set_ylabel("test accuracy, %")
        axes.legend(fontsize="x-small")


def curves(runs: Runs) -> dict[str, list[tuple[float, float]]]:
    """Return (operations of the whole run, accuracy) over steps of the middle step, mean over the draws all have."""
    found: dict[str, list[tuple[float, float]]] = {}
    for arm in ("oriented", "mse"):
        scores = {steps: Select(arm, steps=steps).of(runs) for steps in (0.2, 0.5, 1.0, 3.0)}
        if draws := set.intersection(*(set(values) for values in scores.values())):
            bills = {
                steps: [sum(r["flops"].values()) for r in runs if _is(r, arm, steps) and r["draw"] in draws]
                for steps in scores
            }
            found[arm] = [(float(np.mean(bills[s])), float(np.mean([scores[s][d] for d in draws]))) for s in scores]
    return found


def _is(run: Any, arm: str, steps: float) -> bool:
    place = (run["arm"], run["steps"], run["kind"], run["budget"], run["world"], run["teacher"])
    return place == (arm, steps, "in-domain", 10, "cifar", "lite0")


def draw_curve(path: Path, found: dict[str, list[tuple[float, float]]]) -> None:
    """Draw accuracy over operations."""
    words = "Lines: test accuracy over all operations of a run, for a fifth, half, one and three times the steps."
    with _figure(path, "Accuracy over compute", words) as axes:
        for name, points in found.items():
            axes.plot([x / 1e12 for x, _ in points], [y for _, y in points], marker="o", label=SHORT[name])
        axes.set_xlim(left=0)
        axes.set_xlabel("operations of teacher, head and student, 10^12")
        axes.set_ylabel("test accuracy, %")
        axes.legend(fontsize="x-small")
