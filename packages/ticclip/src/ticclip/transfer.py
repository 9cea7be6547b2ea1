"""From the matrix of scores to in-domain, backward and forward transfer, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NAMES = ("in_domain", "backward", "forward")


def transfer_scores(matrix: ArrayLike) -> dict[str, float]:
    """Average a matrix of scores on, below and above its diagonal.

    Section 2 of the paper, the convention of CLEAR: in-domain is the mean of E[i, i], backward the mean of E[i, j]
    over i > j (models on steps before theirs), forward over i < j (on steps they have not seen).

    Args:
        matrix: [steps, steps]; row i is the model after step i, column j the evaluation of step j. Entries that were
            not measured are nan and are left out.

    Returns:
        `in_domain`, `backward` and `forward`; nan where there is no entry, as backward of a single step.

    Raises:
        ValueError: The matrix is not square or empty.

    Example:
        >>> transfer_scores([[0.5, 0.25], [0.75, 1.0]])
        {'in_domain': 0.75, 'backward': 0.75, 'forward': 0.25}
    """
    scores = np.asarray(matrix, dtype=float)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not len(scores):
        raise ValueError(f"`matrix` must be square, [steps, steps], not of shape {scores.shape}.")
    rows, columns = np.indices(scores.shape)
    masks = {"in_domain": rows == columns, "backward": rows > columns, "forward": rows < columns}
    return {name: _mean(scores[mask]) for name, mask in masks.items()}


def _mean(values: np.ndarray) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if found.size else float("nan")


def bootstrap_scores(hits: Sequence[Sequence[ArrayLike]], *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Give 95 % intervals for the three scores by drawing evaluation items again.

    Items of one evaluation are drawn once for all models, so that models stay paired.

    Args:
        hits: `hits[i][j]` are the scores of the items of evaluation j under the model after step i, 0 to 1.
        draws: Bootstrap draws.
        seed: Of the draws.

    Returns:
        For each of the three names `(low, high)`.
    """
    steps = len(hits)
    generator = np.random.default_rng(seed)
    columns = [np.stack([np.asarray(hits[i][j], dtype=float) for i in range(steps)]) for j in range(steps)]
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(draws):
        drawn = [column[:, generator.integers(0, column.shape[1], column.shape[1])].mean(1) for column in columns]
        for name, value in transfer_scores(np.stack(drawn, axis=1)).items():
            found[name].append(value)
    return {name: tuple(np.quantile(values, (0.025, 0.975)).tolist()) for name, values in found.items()}
