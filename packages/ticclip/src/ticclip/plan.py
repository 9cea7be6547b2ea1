"""What a run will read and cost, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tenfold_shared.commands import InputError

from ticclip.compute import TEACHER_SHARE, macs
from ticclip.config import Method, Policy, StreamConfig
from ticclip.replay import replay_plan

POLICY_OF: dict[Method, Policy] = {
    "sequential": "none",
    "restart": "none",
    "patching": "none",
    "lwf": "none",
    "cumulative-exp": "exp",
    "cumulative-equal": "equal",
    "cumulative-all": "all",
    "cumulative-all*": "all",
    "cumulative-fifo": "fifo",
    "cumulative-reservoir": "reservoir",
    "cumulative-balanced": "balanced",
    "oracle": "all",
}
FRESH: tuple[Method, ...] = ("restart", "oracle")  # start every step from random weights
LATE_GROWTH = (1.5, 2.0, 3.0)  # of `cumulative-all*`, over the last three steps (the paper's figure)


@dataclass(frozen=True)
class PlanRow:
    """One step of the stream.

    Args:
        step: From 1.
        name: Of the step.
        new: Its training items.
        replay: Kept items of each earlier step.
        updates: Batches.
        samples: Pairs seen.
        repeats: Samples over the pool's size.
        compute: Factor of C.
        macs: Forward multiply-accumulates of the pairs seen, a teacher's share included.
    """

    step: int
    name: str
    new: int
    replay: dict[int, int]
    updates: int
    samples: int
    repeats: float
    compute: float
    macs: float

    @property
    def pool(self) -> int:
        """Items in the pool."""
        return self.new + sum(self.replay.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "replay": {str(step): kept for step, kept in self.replay.items()}, "pool": self.pool}


def plan_stream(config: StreamConfig, step_sizes: Sequence[int], names: Sequence[str] | None = None) -> list[PlanRow]:
    """Say what every step of a stream will read and cost.

    C is `samples_per_step` at the model's forward MACs. `oracle` gets tC at step t (28 C over seven steps),
    `cumulative-all*` 1.5, 2 and 3 C at the last three, all others C; `compute` scales all of it. LwF's teacher adds a
    third of a step's arithmetic (one forward pass beside a forward and a backward pass): with `equal_compute` it
    sees fewer samples instead.

    Args:
        config: Method and budget.
        step_sizes: Training items of each step.
        names: Of the steps; numbers by default.

    Returns:
        One row for each step.

    Raises:
        InputError: A step without data, or a budget under one batch.

    Example:
        >>> config = StreamConfig(method="cumulative-exp", samples_per_step=40960)
        >>> plan_stream(config, [1000, 1000, 1000])[2].replay
        {1: 500, 2: 500}
    """
    names = [str(step + 1) for step in range(len(step_sizes))] if names is None else names
    for name, size in zip(names, step_sizes, strict=True):
        if size < 1:
            raise InputError(f"step {name} has no training data; merge it with another.")
    kept = replay_plan(POLICY_OF[config.method], step_sizes, config.replay_budget)
    return [_row(config, step, (names[step], step_sizes[step], kept[step], len(names))) for step in range(len(names))]


def _row(config: StreamConfig, step: int, facts: tuple[str, int, dict[int, int], int]) -> PlanRow:
    name, new, replay, num_steps = facts
    factor = config.compute * _growth(config.method, step, num_steps)
    taught = config.method == "lwf" and step > 0
    share = 1 + TEACHER_SHARE if taught else 1.0
    size = config.train.batch_size
    updates = int(factor * config.samples_per_step / (share if config.equal_compute else 1) / size + 1e-9)
    if updates < 1:
        raise InputError(
            f"the budget of step {name} ({factor * config.samples_per_step:g} samples) is under one batch of {size}; "
            "raise `samples_per_step` or lower `batch_size`."
        )
    pool = new + sum(replay.values())
    cost = updates * size * macs(config.model) * share
    return PlanRow(step + 1, name, new, replay, updates, updates * size, updates * size / pool, factor, cost)


def _growth(method: Method, step: int, num_steps: int) -> float:
    """Return the factor of C at a step, counted from 0."""
    if method == "oracle":
        return float(step + 1)
    late = step - (num_steps - len(LATE_GROWTH))
    return LATE_GROWTH[late] if method == "cumulative-all*" and late >= 0 and step > 0 else 1.0
