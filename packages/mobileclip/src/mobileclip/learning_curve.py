"""Curves of retrieval over samples seen, and how many samples equal retrieval takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tenfold_shared.files import atomic_write, write_json


@dataclass(frozen=True)
class Curve:
    """Retrieval along a run.

    Args:
        samples: Samples seen at each evaluation.
        ranks: Reciprocal rank of each test icon [evaluations, icons].
        seconds_per_sample: CPU time of training.
    """

    samples: np.ndarray
    ranks: np.ndarray
    seconds_per_sample: float

    @property
    def mrr(self) -> np.ndarray:
        """Mean reciprocal rank at each evaluation."""
        return self.ranks.mean(1)

    def save(self, path: Path) -> None:
        """Write the curve, whole or not at all."""
        with atomic_write(path) as file:
            np.savez(file, samples=self.samples, ranks=self.ranks, seconds=self.seconds_per_sample)

    @classmethod
    def load(cls, path: Path) -> Curve:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["samples"], arrays["ranks"], float(arrays["seconds"]))


def write_curves(path: Path, curves: Mapping[str, Sequence[Curve]], **facts: object) -> None:
    """Write what a comparison measured as JSON: facts, and of each arm the MRR of every seed, in their order."""
    arms = {
        arm: {
            "samples": runs[0].samples.tolist(),
            "mrr": [run.mrr.tolist() for run in runs],
            "seconds_per_sample": [run.seconds_per_sample for run in runs],
        }
        for arm, runs in curves.items()
    }
    write_json(path, {**facts, "arms": arms})


def read_curves(path: Path) -> dict[str, list[Curve]]:
    """Read what `write_curves` wrote; the mean is all that is left of the items, as if there were one."""
    return {
        arm: [
            Curve(np.array(found["samples"]), np.array(mrr)[:, None], seconds)
            for mrr, seconds in zip(found["mrr"], found["seconds_per_sample"], strict=True)
        ]
        for arm, found in json.loads(path.read_text())["arms"].items()
    }


def reciprocal_rank(scores: torch.Tensor) -> np.ndarray:
    """Return 1 / rank of column i in row i."""
    return (1 / (scores >= scores.diag()[:, None]).sum(1)).numpy()


def chance(count: int) -> float:
    """Return the MRR of guessing among so many items."""
    return sum(1 / rank for rank in range(1, count + 1)) / count


def samples_to_reach(target: float, samples: np.ndarray, mrr: np.ndarray) -> tuple[float, bool]:
    """Return the samples at which a curve first reaches a target, and whether it does.

    Interpolated on log samples between evaluations; a curve that stays below gives its last number as a bound.

    Example:
        >>> samples_to_reach(0.2, np.array([100, 1000]), np.array([0.1, 0.3]))[0]  # doctest: +ELLIPSIS
        316.2...
    """
    above = np.flatnonzero(mrr >= target)
    if not len(above):
        return float(samples[-1]), False
    at = int(above[0])
    share = 1.0 if at == 0 else (target - mrr[at - 1]) / (mrr[at] - mrr[at - 1])
    if share == 1:  # without the rounding of a logarithm and back, which would be a difference of its own
        return float(samples[at]), True
    low, high = np.log(samples[at - 1]), np.log(samples[at])
    return float(np.exp(low + share * (high - low))), True


def log_ratio(control: Curve, ours: Curve) -> tuple[float, bool]:
    """Return log10 of how many times fewer samples `ours` needs to reach the control's best, and whether it does."""
    return _log_ratio(control.samples, control.mrr, ours.mrr)


def _log_ratio(samples: np.ndarray, control: np.ndarray, ours: np.ndarray) -> tuple[float, bool]:
    target = float(control.max())
    needed, _ = samples_to_reach(target, samples, control)
    taken, reached = samples_to_reach(target, samples, ours)
    return math.log10(needed / taken), reached


def bootstrap(control: Sequence[Curve], ours: Sequence[Curve], draws: int = 500) -> tuple[float, float]:
    """Return the 95 % interval of `log_ratio` of the mean curves, seeds and test items drawn anew."""
    random = np.random.default_rng(0)
    first, second = (np.stack([curve.ranks for curve in curves]) for curves in (control, ours))
    values = []
    for _ in range(draws):
        seeds = random.integers(len(first), size=len(first))
        items = random.integers(first.shape[2], size=first.shape[2])
        means = [ranks[seeds][:, :, items].mean((0, 2)) for ranks in (first, second)]
        values.append(_log_ratio(control[0].samples, *means)[0])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def with_compute(control: Curve, ours: Curve, teacher_seconds: float) -> float:
    """Return `log_ratio` in CPU time, the teachers' included."""
    ratio, _ = log_ratio(control, ours)
    target = float(control.mrr.max())
    needed, _ = samples_to_reach(target, control.samples, control.mrr)
    taken = needed / 10**ratio
    return math.log10(needed * control.seconds_per_sample / (taken * ours.seconds_per_sample + teacher_seconds))
