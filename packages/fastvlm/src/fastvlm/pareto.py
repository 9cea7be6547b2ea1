"""Which settings are worth having: the Pareto frontier over any columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def pareto_front(
    rows: Sequence[Mapping[str, Any]], *, minimize: Sequence[str], maximize: Sequence[str] = ()
) -> list[int]:
    """Return the rows that no other row beats: as good in every column and better in one.

    The paper compares encoders by such frontiers over (resolution, language model), accuracy against time to first
    token (Sec. 3.2). Without trained weights, resolution and size of the language model stand for what accuracy
    grows with.

    Args:
        rows: One mapping per setting.
        minimize: Columns in which less is better.
        maximize: Columns in which more is better.

    Returns:
        Indices into `rows`, ascending. Equal rows stay together.

    Raises:
        ValueError: No column is named.

    Example:
        >>> rows = [{"ms": 5, "px": 256}, {"ms": 9, "px": 512}, {"ms": 7, "px": 256}]
        >>> pareto_front(rows, minimize=["ms"], maximize=["px"])
        [0, 1]
    """
    if not minimize and not maximize:
        raise ValueError("`minimize` and `maximize` are both empty; name at least one column.")
    costs = [(*(row[name] for name in minimize), *(-row[name] for name in maximize)) for row in rows]
    return [index for index, cost in enumerate(costs) if not any(_beats(other, cost) for other in costs)]


def _beats(one: tuple, other: tuple) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
