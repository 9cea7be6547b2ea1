"""Intervals from a few seeds: Student's t in the standard library, so that claims need nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["paired_interval", "prediction_interval", "t_quantile"]

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T_TABLE = (
    12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836, 2.446911851, 2.364624252, 2.306004135,
    2.262157163, 2.228138852, 2.200985160, 2.178812830, 2.160368656, 2.144786688, 2.131449546, 2.119905299,
    2.109815578, 2.100922040, 2.093024054, 2.085963447, 2.079613845, 2.073873068, 2.068657610, 2.063898562,
    2.059538553, 2.055529439, 2.051830516, 2.048407142, 2.045229642, 2.042272456,
)  # fmt: skip
_Z = 1.959963984540054  # the same quantile of the normal distribution


def t_quantile(df: int) -> float:
    """Return the 97.5 % quantile of Student's t, the factor of a two-sided 95 % interval.

    A table to 30 degrees of freedom; beyond it the Cornish-Fisher expansion in 1/df (Abramowitz and
    Stegun 26.7.5), whose error there is below 1e-6.

    Args:
        df: Degrees of freedom, one less than the number of seeds; at least 1.
    """
    if df < 1:
        raise ValueError(f"`df` (={df}) must be at least 1; use two values or more.")
    if df <= len(_T_TABLE):
        return _T_TABLE[df - 1]
    z = _Z
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    # Rounded, so that the same seeds give the same record on every machine.
    return round(z + g1 / df + g2 / df**2 + g3 / df**3 + g4 / df**4, 9)


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of the differences and the ends of its 95 % t interval.

    One number has no interval: both ends are nan. None, or one that is not finite, is a ValueError.

    Example:
        >>> [round(x, 2) for x in paired_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48]
    """
    mean, spread = _mean_and_spread(differences)
    if len(differences) == 1:
        return mean, math.nan, math.nan
    half = t_quantile(len(differences) - 1) * spread / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval in which one new seed should fall: mean ± t s sqrt(1 + 1/n).

    Wider than the interval of the mean: it is what a rerun on another machine is held against.
    Fewer than two values, or one that is not finite, is a ValueError.

    Example:
        >>> [round(x, 2) for x in prediction_interval([1.0, 2.0, 3.0])]
        [-2.97, 6.97]
    """
    mean, spread = _mean_and_spread(values)
    if len(values) < 2:
        raise ValueError("a prediction interval needs at least 2 values, got 1; record more seeds.")
    half = t_quantile(len(values) - 1) * spread * math.sqrt(1 + 1 / len(values))
    return mean - half, mean + half


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value) of checked numbers."""
    if len(values) == 0:
        raise ValueError("no values: an estimate needs at least one seed.")
    broken = [float(v) for v in values if not math.isfinite(v)]
    if broken:
        raise ValueError(f"values must be finite, got {broken[0]}; a failed seed is no measurement.")
    mean = math.fsum(values) / len(values)
    squares = math.fsum((v - mean) ** 2 for v in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0
