"""Caption quality x pretraining pairs x labelled pictures: train and transfer at every place, then the ratios."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenfold_shared.files import append_jsonl, read_jsonl

from qualityclip.backbone import as_backbone
from qualityclip.checkpoint import from_pretrained
from qualityclip.config import DenseConfig, TrainConfig
from qualityclip.curve import curves_of, iso_performance_ratio
from qualityclip.dense import DenseData, transfer
from qualityclip.dense_data import open_dense
from qualityclip.plots import draw_curve
from qualityclip.readers import Sample
from qualityclip.train import RunOptions, train

logger = logging.getLogger(__name__)
SCORES = {"segmentation": "mean_iou", "depth": "rmse", "detection": "ap"}


@dataclass(frozen=True)
class Grid:
    """What is trained.

    Args:
        pairs: Numbers of pretraining pairs, rising; the first ones of each arm's samples.
        labels: Numbers of labelled pictures, rising; the first ones.
        seeds: Paired over arms.
        dense_data: Of `open_dense`.
    """

    pairs: tuple[int, ...]
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    dense_data: str


@dataclass(frozen=True)
class _First:
    """The first pictures of a set."""

    data: DenseData
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.data))

    def __getitem__(self, place: int) -> Any:
        return self.data[place]


def run_grid(
    out: Path, arms: Mapping[str, Sequence[Sample]], grid: Grid, config: TrainConfig, dense: DenseConfig, *, device: str
) -> list[dict[str, Any]]:
    """Return one row for each arm, seed, number of pairs and of labels; rows that `rows.jsonl` has are not made again.

    Args:
        out: Folder for rows.jsonl and the models.
        arms: Samples of each kind of captions.
        grid: Sizes and seeds.
        config: Of pretraining.
        dense: Of the dense task; a backbone is read anew for every number of labels.
        device: Where.
    """
    file = out / "rows.jsonl"
    rows = read_jsonl(file) if file.exists() else []
    done = {(row["arm"], row["seed"], row["pairs"], row["labels"]) for row in rows}
    jobs = [(seed, arm, pairs) for seed in grid.seeds for arm in arms for pairs in grid.pairs]
    for seed, arm, pairs in jobs:
        left = [labels for labels in grid.labels if (arm, seed, pairs, labels) not in done]
        if not left:
            continue
        folder = out / "models" / f"{arm}-{pairs}-{seed}"
        if not (folder / "model" / "config.json").exists():
            options = RunOptions(device=device, quiet=True)
            train(replace(config, seed=seed), arms[arm][:pairs], folder, resume=True, options=options)
        for labels in left:
            row: dict[str, Any] = {"arm": arm, "seed": seed, "pairs": pairs, "labels": labels}
            row |= _judge(folder / "model", grid, replace(dense, seed=seed), labels, device)
            append_jsonl(file, row)
            rows.append(row)
            logger.info("%s, %d pairs, %d labels: %s", arm, pairs, labels, row[SCORES[dense.task]])
    return rows


def _judge(model: Path, grid: Grid, dense: DenseConfig, labels: int, device: str) -> dict[str, float]:
    clip = from_pretrained(model)
    vision = clip.config.vision
    labelled = _First(open_dense(grid.dense_data, dense, vision, "train"), labels)
    test = open_dense(grid.dense_data, dense, vision, "test")
    return transfer(as_backbone(clip), labelled, test, dense, device=device)


def fit_ratios(
    rows: Sequence[Mapping[str, Any]], arms: tuple[str, str], score: str, out: Path | None = None
) -> list[dict[str, Any]]:
    """Return the iso-performance ratio along each axis that has at least two sizes, and draw both curves.

    Along one axis only the rows with the largest size of the other count.

    Args:
        rows: Of `run_grid`, or your own with arm, seed, pairs, labels and the score.
        arms: Ours and the control.
        score: Name of the score; of rmse smaller is better.
        out: Folder for curve-pairs.svg and curve-labels.svg.
    """
    sign = -1.0 if score in ("rmse", "abs_rel") else 1.0
    found = []
    for axis, other in (("pairs", "labels"), ("labels", "pairs")):
        largest = max(row[other] for row in rows)
        chosen = [{**row, score: sign * row[score]} for row in rows if row[other] == largest]
        sizes, ours, control = curves_of(chosen, axis, score, arms)
        if len(sizes) < 2:
            continue
        ratio = iso_performance_ratio(sizes, ours, control)
        row: dict[str, Any] = {"axis": axis, "ours": arms[0], "control": arms[1], "seeds": len(ours)}
        row |= {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "at_least": ratio.at_least}
        found.append(row)
        if out is not None:
            curves = {arms[0]: sign * ours, arms[1]: sign * control}
            draw_curve(out / f"curve-{axis}.svg", sizes, curves, (axis, score))
    return found
