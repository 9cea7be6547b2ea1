"""Fair timing of several functions in one run: warm-up, then rounds in which each runs once, in changing order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import torch

WARMUP_CALLS = 1


def interleave(
    contenders: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    seed: int = 0,
    on_round: Callable[[int], object] = lambda index: None,
) -> dict[str, list[float]]:
    """Time each function once per round, so that a change of the machine's speed hits all of them.

    Args:
        contenders: Functions of the round's number (to choose an input), by name.
        rounds: Timed calls per function, after one that is not counted.
        seed: Of the order within each round.
        on_round: Called after each round (for progress).

    Returns:
        Wall seconds per call, one list per name, in the order of the rounds.
    """
    order = list(contenders)
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for function in contenders.values():
        for call in range(WARMUP_CALLS):
            function(call)
    for index in range(rounds):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            contenders[name](index)
            seconds[name].append(time.perf_counter() - start)
        on_round(index)
    return seconds


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Let torch use `count` threads inside the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
