"""How much data better captions are worth: the ratio of sizes at equal performance, with a bootstrap over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class IsoRatio:
    """A ratio of data sizes with its interval.

    Args:
        ratio: Of the curves' means over seeds; 0 where the control's performance is never reached.
        low: 2.5th percentile of the bootstrap.
        high: 97.5th percentile.
        at_least: The smallest size measured was enough already, so that the ratio is a lower bound.
        per_seed: The ratio of each pair of seeds.
    """

    ratio: float
    low: float
    high: float
    at_least: bool
    per_seed: tuple[float, ...]


def iso_performance_ratio(
    sizes: Sequence[float], ours: ArrayLike, control: ArrayLike, *, num_draws: int = 1000, seed: int = 0
) -> IsoRatio:
    """Return how many times less data ours needs for what the control reaches with all of its data.

    The control's score at its largest size is the target. Ours, made monotone by its running maximum, is interpolated
    between sizes on a logarithmic axis. Nothing is extrapolated: a target that is not reached gives 0, one that the
    smallest size reaches gives a lower bound. The bootstrap draws pairs of seeds.

    Args:
        sizes: Data sizes, rising.
        ours: Scores [seeds, sizes] or [sizes], larger is better.
        control: The same for the control, paired by seed.
        num_draws: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        The ratio of the mean curves with its interval, and that of each pair of seeds.

    Raises:
        ValueError: Sizes do not rise, shapes differ, or a score is not finite.

    Example:
        >>> iso_performance_ratio([10, 100, 1000], [0.2, 0.4, 0.6], [0.1, 0.2, 0.4]).ratio
        10.0
    """
    steps = np.asarray(sizes, dtype=np.float64)
    if len(steps) < 2 or not (steps > 0).all() or not (np.diff(steps) > 0).all():
        raise ValueError(f"`sizes` (={list(sizes)}) must be at least two positive numbers that rise.")
    curves = [np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (ours, control)]
    for name, values in zip(("ours", "control"), curves, strict=True):
        if values.shape != (len(curves[0]), len(steps)) or not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite scores [seeds, {len(steps)}], found shape {values.shape}.")
    better, worse = curves
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(better), size=(num_draws, len(better)))
    ratios = [_ratio(steps, better[rows].mean(0), worse[rows].mean(0)) for rows in draws]
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    middle = _ratio(steps, better.mean(0), worse.mean(0))
    per_seed = tuple(_ratio(steps, a, b) for a, b in zip(better, worse, strict=True))
    return IsoRatio(middle, low, high, bool(better.mean(0)[0] >= worse.mean(0)[-1]), per_seed)


def size_needed(sizes: np.ndarray, scores: np.ndarray, target: float) -> float:
    """Return the size at which a curve, made monotone, first reaches a target; infinite where it does not."""
    rising = np.maximum.accumulate(scores)
    place = int(np.argmax(rising >= target))
    if rising[place] < target:
        return float("inf")
    if place == 0:
        return float(sizes[0])
    share = (target - rising[place - 1]) / (rising[place] - rising[place - 1])
    if share == 1:
        return float(sizes[place])
    return float(np.exp(np.log(sizes[place - 1]) + share * np.log(sizes[place] / sizes[place - 1])))


def _ratio(sizes: np.ndarray, ours: np.ndarray, control: np.ndarray) -> float:
    return float(sizes[-1] / size_needed(sizes, ours, float(control[-1])))


def curves_of(
    rows: Iterable[Mapping[str, Any]], axis: str, score: str, arms: tuple[str, str]
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Return sizes and both arms' scores [seeds, sizes] of rows with `arm`, `seed`, the axis and the score.

    Only seeds that have every size of both arms count; of further axes the rows must hold one value each.

    Raises:
        ValueError: There is no such seed.
    """
    found: dict[tuple[str, int], dict[float, float]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["seed"]), {})[float(row[axis])] = float(row[score])
    sizes = sorted({size for (arm, _), points in found.items() if arm in arms for size in points})
    seeds = sorted({seed for arm, seed in found if arm == arms[0]})
    whole = [seed for seed in seeds if all(set(found.get((arm, seed), ())) == set(sizes) for arm in arms)]
    if not whole:
        raise ValueError(f"no seed has all {axis} {sizes} of both {arms[0]!r} and {arms[1]!r}.")
    first, second = (np.array([[found[arm, seed][size] for size in sizes] for seed in whole]) for arm in arms)
    return sizes, first, second
