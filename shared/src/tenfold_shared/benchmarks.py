"""Timing of several functions in one run, and the row that a benchmark makes of it.

In every package a row's ratio is the peer's cost over ours: over 1 means that ours is better.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

__all__ = ["Seconds", "comparison", "interleave"]

Name = TypeVar("Name", bound=Hashable)
SHORTEST = 1e-6  # seconds; a clock may tick more slowly than a call returns, and nothing is divided by zero


class Seconds(float):
    """What a function returns that let another process work: how long it took there."""


def interleave(
    calls: Mapping[Name, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.process_time,
    on_round: Callable[[], object] = lambda: None,
) -> dict[Name, np.ndarray]:
    """Time each function once per round, so that a change of the machine's speed hits all of them.

    Args:
        calls: Functions by name. Each is called once before anything counts, then once in every round; the order
            is drawn anew for each round, alike in every run. One that returns `Seconds` is taken at its word.
        rounds: Counted calls of each function.
        clock: CPU seconds of this process; `time.perf_counter` where waiting counts, and where others do the work.
        on_round: Called after each round that counts, for a progress bar.

    Returns:
        Seconds of each function, one per round, at least a microsecond.
    """
    order, shuffle = list(calls), random.Random(0).shuffle
    seconds: dict[Name, list[float]] = {name: [] for name in order}
    for turn in range(rounds + 1):
        shuffle(order)
        for name in order:
            spent = max(_time(calls[name], clock), SHORTEST)
            if turn:
                seconds[name].append(spent)
        if turn:
            on_round()
    return {name: np.array(values) for name, values in seconds.items()}


def _time(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    result = call()
    if isinstance(result, Seconds):
        return float(result)
    del result  # to free what a function made is part of its work, not of the next one's
    return clock() - start


def comparison(
    work: str,
    costs: Mapping[str, np.ndarray | float],
    peer: str,
    unit: str,
    *,
    amount: float | None = None,
    aim: float | None = None,
) -> dict[str, Any]:
    """Compare our cost with a peer's: a benchmark's row, to which a package adds `paper`, `threads`, `input_hash`.

    Args:
        work: What both do.
        costs: Seconds, bytes, or anything of which less is better, of "ours" and of the peer: one value per round
            or a single number.
        peer: Name of the peer in `costs`.
        unit: Of what the row shows.
        amount: How much was done at that cost; the row then shows rates, `amount` over cost.
        aim: The ratio that was to be reached.

    Returns:
        `work, ours, peer_name, peer, ratio, spread, unit, aim`: medians over rounds, and of the ratios (over 1: ours is
        better) the smallest and largest too.

    Example:
        >>> row = comparison("sums", {"ours": np.array([1.0, 2.0, 4.0]), "loop": 4.0}, "loop", "sums/s", amount=8)
        >>> row["ours"], row["peer"], row["ratio"], row["spread"]
        (4.0, 2.0, 2.0, [1.0, 4.0])
    """
    ours, other = (np.asarray(costs[name], float) for name in ("ours", peer))
    ratios = other / ours
    shown = [float(np.median(cost if amount is None else amount / cost)) for cost in (ours, other)]
    return {
        "work": work,
        "ours": shown[0],
        "peer_name": peer,
        "peer": shown[1],
        "ratio": float(np.median(ratios)),
        "spread": [float(ratios.min()), float(ratios.max())],
        "unit": unit,
        "aim": aim,
    }
