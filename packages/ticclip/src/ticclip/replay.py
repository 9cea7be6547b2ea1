"""What is kept of earlier steps: how many items of each, and which."""

from __future__ import annotations

from collections.abc import Sequence

from tenfold_shared.commands import unknown_name

from ticclip.config import Policy

POLICIES: tuple[Policy, ...] = ("none", "exp", "equal", "all", "fifo", "reservoir", "balanced")


def replay_plan(policy: Policy, step_sizes: Sequence[int], budget: int | None = None) -> list[dict[int, int]]:
    """Say how many items of each earlier step are kept beside the new ones, for every step of a stream.

    A buffer only ever shrinks: what was dropped at one step cannot come back at a later one. Where a step has fewer
    items than its share, the rest goes to the others.

    Policies: `none`; `all` keeps everything, whatever the budget; `exp` gives the last step half of the budget, the
    one before a quarter, and so on, the first step as much as the second (the paper's Cumulative-Exp); `equal` the
    same to each (Cumulative-Equal); `fifo` the newest items; `reservoir` in proportion to the steps' sizes, as a
    uniform draw from the past would; `balanced` as `equal`, and batches then hold as many items of every step.

    The paper's budget is our reading of it: D kept beside D new ones, hence a parameter.

    Args:
        policy: One of the names above.
        step_sizes: Training items of each step.
        budget: Items kept in all; None is the size of the new step.

    Returns:
        One dictionary per step, {earlier step, counted from 1: items kept}; empty for the first step.

    Raises:
        ValueError: An unknown policy, or a negative budget or size.

    Example:
        >>> replay_plan("exp", [8, 8, 8, 8], 8)[3]
        {1: 2, 2: 2, 3: 4}
    """
    if policy not in POLICIES:
        raise unknown_name("replay policy", policy, POLICIES)
    if (budget is not None and budget < 0) or any(size < 0 for size in step_sizes):
        raise ValueError(f"`budget` (={budget}) and `step_sizes` (={list(step_sizes)}) must not be negative.")
    plan: list[dict[int, int]] = [{} for _ in step_sizes[:1]]
    for t in range(2, len(step_sizes) + 1):
        room = step_sizes[t - 1] if budget is None else budget
        held = {**plan[-1], t - 1: step_sizes[t - 2]}
        plan.append({step: kept for step, kept in _keep(policy, held, step_sizes, room).items() if kept})
    return plan


def _keep(policy: Policy, held: dict[int, int], sizes: Sequence[int], room: int) -> dict[int, int]:
    """Shrink what is held to what the policy keeps."""
    if policy == "none":
        return {}
    if policy == "all":
        return held
    if policy == "fifo":
        kept = {}
        for step in sorted(held, reverse=True):
            kept[step] = min(held[step], room - sum(kept.values()))
        return dict(sorted(kept.items()))
    steps = sorted(held)
    if policy == "exp":
        # The newest of n gets 1/2, then 1/4, ...; the oldest as much as the one after it.
        weights = {step: 2.0 ** -min(len(steps) - place, len(steps) - 1) for place, step in enumerate(steps)}
    elif policy == "reservoir":
        weights = {step: float(sizes[step - 1]) for step in steps}
    else:
        weights = dict.fromkeys(steps, 1.0)
    return share_out(room, weights, held)


def share_out(room: int, weights: dict[int, float], limits: dict[int, int]) -> dict[int, int]:
    """Divide `room` by weight under a limit per step; what a limit cuts off goes to the others.

    Args:
        room: Items to give away.
        weights: Weight of each step.
        limits: Most that a step can take.

    Returns:
        Items of each step; they sum to `room` or to all the limits, whichever is less.
    """
    given = dict.fromkeys(weights, 0.0)
    room = min(room, sum(limits.values()))
    left, open_steps = float(room), set(weights)
    while left > 1e-9 and open_steps:
        total = sum(weights[step] for step in open_steps)
        if total <= 0:
            break
        parts = {step: min(left * weights[step] / total, limits[step] - given[step]) for step in open_steps}
        for step, part in parts.items():
            given[step] += part
        left -= sum(parts.values())
        open_steps = {step for step in open_steps if limits[step] - given[step] > 1e-9}
    whole = {step: int(value + 1e-9) for step, value in given.items()}
    by_remainder = sorted(given, key=lambda step: (whole[step] - given[step], -step))
    for step in by_remainder[: round(sum(given.values())) - sum(whole.values())]:
        whole[step] += 1
    return whole
