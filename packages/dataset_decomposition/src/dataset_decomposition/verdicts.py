"""The experiment's results as claims: what is compared with what, and the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

PAPER = "dataset_decomposition"
FASTER = PaperValue(3.0, "target accuracy 3x faster than the baseline", "abstract", "A")
QUALITY = 0.01  # bits per byte that count
PACKINGS = ("C&C", "C&C with mask", "best-fit")
Runs = dict[str, list[dict[str, Any]]]

# Claim, ours, control, field of the result; all are negated or oriented so that larger is better.
PAIRS = (
    (
        "The mixture of lengths matters: long rows beat short rows of the same text",
        "C&C",
        "chunked 1/8",
        "bits_per_byte",
    ),
    ("The curriculum matters: grow-p2 beats uniform", "DD grow-p2", "DD uniform", "bits_per_byte"),
    ("The curriculum matters: grow-p2 beats shrink-p100", "DD grow-p2", "DD shrink-p100", "bits_per_byte"),
    ("Cycles matter: grow-p2 with 8 cycles beats 1 cycle", "DD grow-p2", "DD grow-p2, 1 cycle", "bits_per_byte"),
    ("grow-p100 beats shrink-p100", "DD grow-p100", "DD shrink-p100", "bits_per_byte"),
    ("Short documents, which decomposition drops, do not suffer", "DD grow-p2", "C&C", "bits_per_byte_short"),
    ("Keys far back are found more often", "DD grow-p2", "C&C", "retrieval"),
    ("Short rows first are more stable at a high learning rate", "DD grow-p100", "C&C", "rise"),
)
MINIMUM = {"bits_per_byte": QUALITY, "bits_per_byte_short": 0.0, "retrieval": 0.02, "rise": 0.0}
METRIC = {
    "bits_per_byte": "minus bits per byte of held-out documents, equal tokens",
    "bits_per_byte_short": "minus bits per byte of documents under the shortest bucket, equal tokens",
    "retrieval": "share of key tokens copied right",
    "rise": "minus the largest rise of the training loss, learning rate 0.03, no clipping",
}


def judge(
    results: Runs,
    step_seconds: dict[int, float],
    scale: Any,
    *,
    budget: Literal["smoke", "laptop", "full"],
    seconds: float,
) -> list[ClaimResult]:
    """Turn the arms' results into claims; a claim whose arms were not run is left out.

    Args:
        results: Runs of each arm, in the order of seeds.
        step_seconds: Seconds of a step of each row length.
        scale: Sizes of the run.
        budget: Tier of the run.
        seconds: What the run took.
    """
    share = scale.longest / 2 / (6 * scale.model.dim + scale.longest / 2)
    rest: dict[str, Any] = {
        "paper": PAPER,
        "budget": budget,
        "evidence": "real",
        "seconds": seconds,
        "figures": ("curves.svg", "lengths.svg"),
        "data": f"Python sources of sympy and networkx, {scale.tokens / 1e6:g} M tokens, rows of {scale.shortest} to "
        f"{scale.longest}; width {scale.model.dim}, attention {share:.0%} of the compute",
    }
    claims = [_speed(results, step_seconds, rest), _cost(results, step_seconds, rest), _quality(results, rest)]
    claims.append(_equal_time(results, step_seconds, rest))
    claims += [
        ClaimResult.compare(
            claim=claim,
            primary_metric=METRIC[field],
            paper_value=None,
            ours=_values(results[ours], field),
            control=_values(results[control], field),
            control_name=control,
            minimum_effect=MINIMUM[field],
            **rest,
        )
        for claim, ours, control, field in PAIRS
        if {ours, control} <= set(results) and _has(results, (ours, control), field)
    ]
    return claims


def _has(results: Runs, arms: Sequence[str], field: str) -> bool:
    return all(field in run["final"] or run.get(field) is not None for arm in arms for run in results[arm])


def _values(runs: Sequence[dict[str, Any]], field: str) -> list[float]:
    """Return a field of every seed, oriented so that larger is better."""
    if field == "retrieval":
        return [run["retrieval"] for run in runs]
    return [-(run["rise"] if field == "rise" else run["final"][field]) for run in runs]


def clock(run: dict[str, Any], step_seconds: dict[int, float]) -> np.ndarray:
    """Return the seconds until each step's end [steps]."""
    return np.cumsum([step_seconds[length] for length in run["lengths"]])


def time_to(run: dict[str, Any], target: float, step_seconds: dict[int, float]) -> float:
    """Return the seconds until a run's curve reaches `target`, between checkpoints linearly; infinite if never."""
    times = clock(run, step_seconds)
    before: tuple[float, float] | None = None
    for step, value in run["curve"]:
        now = float(times[step - 1])
        if value <= target:
            if before is None or value == before[1]:
                return now
            return before[0] + (before[1] - target) / (before[1] - value) * (now - before[0])
        before = (now, value)
    return float("inf")


def _speed(results: Runs, step_seconds: dict[int, float], rest: dict[str, Any]) -> ClaimResult:
    """The headline: time of the baseline's whole run over ours to the same loss; 0 where it is not reached."""
    ratios = [
        float(clock(base, step_seconds)[-1]) / time_to(ours, base["curve"][-1][1], step_seconds)
        for ours, base in zip(results["DD grow-p2"], results["C&C"], strict=True)
    ]
    return ClaimResult.compare(
        claim="Decomposition with a curriculum reaches the baseline's loss sooner",
        primary_metric="speed-up: seconds of the baseline's run over ours to its final held-out loss (0: not reached)",
        paper_value=FASTER,
        ours=ratios,
        control=[1.0] * len(ratios),
        control_name="C&C",
        minimum_effect=1.0,
        note="The paper's figure is accuracy of models of 1B and more at 8k on web text.",
        **rest,
    )


def value_at(run: dict[str, Any], seconds: float, step_seconds: dict[int, float]) -> float:
    """Return a run's held-out bits per byte after so many seconds, between checkpoints linearly."""
    times = clock(run, step_seconds)
    return float(
        np.interp(seconds, [times[step - 1] for step, _ in run["curve"]], [value for _, value in run["curve"]])
    )


def _equal_time(results: Runs, step_seconds: dict[int, float], rest: dict[str, Any]) -> ClaimResult:
    """Both arms after the seconds of the shorter of the two runs."""
    ours, control = [], []
    for run, base in zip(results["DD grow-p2"], results["C&C"], strict=True):
        seconds = min(float(clock(run, step_seconds)[-1]), float(clock(base, step_seconds)[-1]))
        ours.append(-value_at(run, seconds, step_seconds))
        control.append(-value_at(base, seconds, step_seconds))
    return ClaimResult.compare(
        claim="At equal time decomposition is better than concat-and-chunk",
        primary_metric="minus bits per byte of held-out documents, equal measured seconds",
        paper_value=None,
        ours=ours,
        control=control,
        control_name="C&C",
        minimum_effect=QUALITY,
        note="The slower run is looked at before its learning rate has come down.",
        **rest,
    )


def _cost(results: Runs, step_seconds: dict[int, float], rest: dict[str, Any]) -> ClaimResult:
    longest = max(step_seconds)
    short = step_seconds[longest // 4]
    ours = [short / float(np.mean([step_seconds[n] for n in run["lengths"]])) for run in results["DD grow-p2"]]
    return ClaimResult.compare(
        claim="Long context at the cost of short",
        primary_metric="seconds per token of concat-and-chunk at a quarter of the length over ours (1: equal cost)",
        paper_value=PaperValue(1.0, "8k at the cost of 2k, for 1B", "abstract", "A"),
        ours=ours,
        control=[short / step_seconds[longest]] * len(ours),
        control_name="C&C at the longest length",
        minimum_effect=0.0,
        note="Depends on how long the documents are: Python sources are longer than web pages.",
        **rest,
    )


def _quality(results: Runs, rest: dict[str, Any]) -> ClaimResult:
    """Equal tokens against the best of the other ways of filling rows."""
    means = {arm: np.mean(_values(results[arm], "bits_per_byte")) for arm in PACKINGS if arm in results}
    strongest = max(means, key=lambda arm: means[arm])
    return ClaimResult.compare(
        claim="At equal tokens decomposition is better than the best packing",
        primary_metric=METRIC["bits_per_byte"],
        paper_value=None,
        ours=_values(results["DD grow-p2"], "bits_per_byte"),
        control=_values(results[strongest], "bits_per_byte"),
        control_name=strongest,
        minimum_effect=QUALITY,
        **rest,
    )


def not_attempted() -> list[ClaimResult]:
    """Rows for what cannot be tried here."""
    return [
        ClaimResult.not_attempted(
            paper=PAPER,
            claim="Accuracy of models of 410M and more on 14 benchmarks rises over concat-and-chunk",
            primary_metric="mean of 13 benchmarks, %",
            paper_value=PaperValue(51.8, "51.8 against 49.7 (410M, RefinedWeb, 2^40 tokens)", "README", "V"),
            reason="needs 2^40 tokens of web text on a cluster.",
        )
    ]
