"""The experiment's results as claims: what is compared with what, and the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

PAPER = "dataset_decomposition"
FASTER = PaperValue(3.0, "target accuracy 3x faster than the baseline", "abstract", "A")
QUALITY = 0.01  # bits per byte that count
PRIMARY, BASELINE = "DD grow-p2", "C&C"
PACKINGS = (BASELINE, "C&C with mask", "best-fit")
PARTS = (0.25, 0.5, 1.0)  # shares of the documents on which the primary arm is trained
EQUAL_TIME = f"{BASELINE}, equal time"
STABILITY = (BASELINE, "DD grow-p100")
Runs = dict[str, list[dict[str, Any]]]
Rounds = dict[int, list[float]]  # seconds of a step of each row length, one per round

# Claim, ours, control, field of the result, minimum effect; larger is better.
BITS, SHORT, KEYS, RISE = "bits_per_byte", "short", "retrieval", "rise"
PAIRS = (
    ("The length of rows matters: long rows beat short rows of the same text", BASELINE, "chunked 1/8", BITS, QUALITY),
    ("The curriculum matters: grow-p2 beats uniform", PRIMARY, "DD uniform", BITS, QUALITY),
    ("The curriculum matters: grow-p2 beats shrink-p100", PRIMARY, "DD shrink-p100", BITS, QUALITY),
    ("Cycles matter: grow-p2 with 8 cycles beats 1 cycle", PRIMARY, "DD grow-p2, 1 cycle", BITS, QUALITY),
    ("grow-p100 beats shrink-p100", "DD grow-p100", "DD shrink-p100", BITS, QUALITY),
    ("Long context pays: decomposition beats rows of a quarter of its cost", PRIMARY, "C&C short", BITS, QUALITY),
    ("At equal time decomposition is better than concat-and-chunk", PRIMARY, EQUAL_TIME, BITS, QUALITY),
    ("Keys far back are found more often", PRIMARY, BASELINE, KEYS, 0.02),
    (
        "Short rows first are more stable at a high learning rate",
        f"{STABILITY[1]}, high rate",
        f"{STABILITY[0]}, high rate",
        RISE,
        0.1,
    ),
)
PACKED = (
    ("At equal tokens decomposition is better than the best packing", BITS),
    ("Short documents, which decomposition drops, are predicted better than by the best packing", SHORT),
)
METRIC = {
    BITS: "minus bits per byte of held-out documents",
    SHORT: "minus bits per byte of documents under the shortest bucket",
    KEYS: "share of key tokens copied right",
    RISE: "minus the largest rise of the training loss, learning rate 0.03, no clipping",
}


def judge(
    results: Runs, rounds: Rounds, scale: Any, *, budget: Literal["smoke", "laptop", "full"], seconds: float
) -> list[ClaimResult]:
    """Turn the arms' results into claims; a claim whose arms were not run is left out.

    Args:
        results: Runs of each arm, in the order of seeds.
        rounds: Seconds of a step of each row length in each round.
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
        "figures": ("curves.svg", "lengths.svg", "positions.svg"),
        "data": f"functions of sympy and networkx, {scale.tokens / 1e6:g} M tokens, rows of {scale.shortest} to "
        f"{scale.longest}; width {scale.model.dim}, attention {share:.0%} of the compute",
    }
    claims = [_speed(results, medians(rounds), rest), _cost(results, rounds, rest)]
    claims += [_against_packings(results, claim, field, rest) for claim, field in PACKED]
    return claims + [
        ClaimResult.compare(
            claim=claim,
            primary_metric=METRIC[field] + (", equal measured seconds" if control == EQUAL_TIME else ""),
            paper_value=None,
            ours=ours,
            control=theirs,
            control_name=control,
            minimum_effect=effect,
            **rest,
        )
        for claim, arm, control, field, effect in PAIRS
        if {arm, control} <= set(results)
        for ours, theirs in [pair(results[arm], results[control], field)]
    ]


def pair(ours: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], field: str) -> tuple[list[float], ...]:
    """Return a field of both arms for the seeds that both have, oriented so that larger is better."""
    values = zip(ours, control, strict=False)  # an arm with fewer seeds has the first ones
    first, second = zip(*((_value(a, field), _value(b, field)) for a, b in values), strict=True)
    return list(first), list(second)


def _value(run: dict[str, Any], field: str) -> float:
    if field == KEYS:
        return run[KEYS]
    return -(run["final"][BITS] if field == BITS else run[field])


def medians(rounds: Rounds) -> dict[int, float]:
    """Return the median seconds of a step of each length."""
    return {length: float(np.median(times)) for length, times in rounds.items()}


def clock(run: dict[str, Any], step_seconds: dict[int, float]) -> np.ndarray:
    """Return the seconds until each step's end [steps]."""
    return np.cumsum([step_seconds[length] for length in run["lengths"]])


def time_to(points: Sequence[tuple[float, float]], target: float) -> float:
    """Return the seconds that training to `target` takes, in the logarithm of time between runs.

    Args:
        points: Seconds and final loss of runs on more and more data.
        target: The loss.

    Returns:
        The shortest run's seconds where even that one gets there, infinity where none does.
    """
    before: tuple[float, float] | None = None
    for seconds, value in points:
        if value <= target:
            if before is None:
                return seconds
            share = (before[1] - target) / (before[1] - value)
            return float(before[0] * (seconds / before[0]) ** share)
        before = (seconds, value)
    return float("inf")


def _speed(results: Runs, step_seconds: dict[int, float], rest: dict[str, Any]) -> ClaimResult:
    """The headline: time of the baseline's run over ours to the same loss; 0 where it is not reached."""
    names = [PRIMARY if part == 1 else f"{PRIMARY}, {part:g}" for part in PARTS]
    ratios = []
    for *ours, base in zip(*(results[name] for name in names), results[BASELINE], strict=True):
        points = [(float(clock(run, step_seconds)[-1]), run["final"][BITS]) for run in ours]
        ratios.append(float(clock(base, step_seconds)[-1]) / time_to(points, base["final"][BITS]))
    return ClaimResult.compare(
        claim="Decomposition with a curriculum reaches the baseline's loss sooner",
        primary_metric="speed-up: seconds of the baseline's run over ours to its held-out loss (0: not reached)",
        paper_value=FASTER,
        ours=ratios,
        control=[1.0] * len(ratios),
        control_name=BASELINE,
        minimum_effect=1.0,
        note="The paper's figure is accuracy of models of 1B and more at 8k on web text.",
        **rest,
    )


def _cost(results: Runs, rounds: Rounds, rest: dict[str, Any]) -> ClaimResult:
    """Paired by round of the timing: one order of lengths serves all, since its mean hardly differs between seeds."""
    longest, lengths = max(rounds), results[PRIMARY][0]["lengths"]
    short = np.array(rounds[longest // 4])
    ours = short / np.mean([rounds[n] for n in lengths], axis=0)
    control = short / np.array(rounds[longest])
    return ClaimResult.compare(
        claim="Long context at the cost of short",
        primary_metric="seconds per token of concat-and-chunk at a quarter of the length over ours (1: equal cost)",
        paper_value=PaperValue(1.0, "8k at the cost of 2k, for 1B", "abstract", "A"),
        ours=ours.tolist(),
        control=control.tolist(),
        control_name="C&C at the longest length",
        minimum_effect=float(max(0.0, 1 - np.median(control)) / 2),
        note="Paired by round of the timing. Depends on documents' lengths: here more tokens are in long ones.",
        **rest,
    )


def _against_packings(results: Runs, claim: str, field: str, rest: dict[str, Any]) -> ClaimResult:
    """Equal tokens against whichever of the other ways of filling rows is best in this field on average."""
    means = {arm: np.mean([_value(run, field) for run in results[arm]]) for arm in PACKINGS if arm in results}
    strongest = max(means, key=lambda arm: means[arm])
    ours, control = pair(results[PRIMARY], results[strongest], field)
    return ClaimResult.compare(
        claim=claim,
        primary_metric=METRIC[field] + ", equal tokens",
        paper_value=None,
        ours=ours,
        control=control,
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
