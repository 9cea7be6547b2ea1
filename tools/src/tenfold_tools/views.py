"""What the report page says about claims: rows, comparisons, little plots of differences."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from tenfold_shared.claims import ClaimResult, Estimate, Verdict, prediction_interval

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

STRIP_WIDTH, STRIP_MARGIN = 150.0, 8.0
MAX_STRIP_REACH = 3.0  # an interval of two seeds can be twelve times its spread; the strip cuts it off


@dataclass(frozen=True)
class Check:
    """How many of this run's values, of both arms, fall into the recorded seeds' 95 % prediction interval."""

    inside: int
    total: int
    ranges: str

    @property
    def holds(self) -> bool:
        """Whether all of them do."""
        return self.inside == self.total


@dataclass(frozen=True)
class Mark:
    """A measured difference in a strip: horizontal positions of its mean and of its interval's ends."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Strip:
    """A small plot of differences to the control; positions in pixels of a drawing `STRIP_WIDTH` wide.

    `label` is the main difference as a number, `description` both in words.
    """

    zero: float
    effect: float | None
    recorded: Mark | None
    current: Mark | None
    label: str
    description: str


@dataclass(frozen=True)
class Row:
    """One claim of one paper with what is recorded and what this run gave; either may be missing."""

    recorded: ClaimResult | None
    current: ClaimResult | None

    @property
    def main(self) -> ClaimResult:
        """The result that stands for the claim: the recorded one, since it has the larger budget."""
        result = self.recorded or self.current
        assert result is not None
        return result

    @property
    def check(self) -> Check | None:
        """This run held against the recorded prediction intervals."""
        return check_prediction(self.recorded, self.current) if self.recorded and self.current else None

    @property
    def strip(self) -> Strip | None:
        """The plot of both differences."""
        return draw_strip(self.recorded, self.current)


def join_rows(recorded: Sequence[ClaimResult], current: Sequence[ClaimResult]) -> list[Row]:
    """Pair recorded claims with this run's by their text, in the recorded order; what is new comes last."""
    ran = {claim.claim: claim for claim in current}
    rows = [Row(claim, ran.pop(claim.claim, None)) for claim in recorded]
    return rows + [Row(None, claim) for claim in ran.values()]


def count_verdicts(rows: Iterable[Row]) -> dict[Verdict, int]:
    """Count the rows by verdict, in the verdicts' own order, zeros included."""
    counts = Counter(row.main.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def check_prediction(recorded: ClaimResult, current: ClaimResult) -> Check | None:
    """Hold a run against the recorded one, arm by arm; None where there is nothing to hold against.

    A smoke run is not compared, since it trains less. An arm with one recorded seed predicts nothing. A value that the
    recorded run also has is inside: of many, one or another lies outside of what the rest of them predict.
    """
    arms = [("ours", recorded.ours, current.ours), ("control", recorded.control, current.control)]
    inside = total = 0
    ranges = []
    for name, known, new in arms:
        if current.budget == "smoke" or known is None or new is None or len(known.per_seed) < 2:
            continue
        low, high = prediction_interval(known.per_seed)
        slack = 1e-9 * max(abs(low), abs(high))  # equal values leave an interval of no width
        total += len(new.per_seed)
        inside += sum(
            low - slack <= value <= high + slack or any(abs(value - seen) <= slack for seen in known.per_seed)
            for value in new.per_seed
        )
        ranges.append(f"{name} {format_number(low)} to {format_number(high)}")
    return Check(inside, total, ", ".join(ranges)) if total else None


def draw_strip(recorded: ClaimResult | None, current: ClaimResult | None) -> Strip | None:
    """Place a claim's differences on one axis with zero and the minimum effect; None without a difference."""
    pairs = [("recorded", recorded), ("this run", current)]
    known = [(name, claim, claim.difference) for name, claim in pairs if claim and claim.difference]
    if not known:
        return None
    effect = known[0][1].minimum_effect
    left, right = _domain([difference for _, _, difference in known], effect or 0.0)

    def place(value: float) -> float:
        share = (min(max(value, left), right) - left) / (right - left)
        return round(STRIP_MARGIN + share * (STRIP_WIDTH - 2 * STRIP_MARGIN), 1)

    def mark(difference: Estimate) -> Mark:
        mean = place(difference.mean)
        ends = (difference.low, difference.high) if len(difference.per_seed) > 1 else (difference.mean,) * 2
        return Mark(mean, place(ends[0]), place(ends[1]))

    marks = {name: mark(difference) for name, _, difference in known}
    words = [f"{name} {format_estimate(difference)}" for name, _, difference in known]
    least = f"; smallest effect that counts {format_number(effect)}" if effect else ""
    description = f"Difference to the control: {', '.join(words)}{least}"
    return Strip(
        zero=place(0.0),
        effect=place(effect) if effect else None,
        recorded=marks.get("recorded"),
        current=marks.get("this run"),
        label=("+" if known[0][2].mean > 0 else "") + format_estimate(known[0][2]),
        description=description,
    )


def _domain(differences: Sequence[Estimate], effect: float) -> tuple[float, float]:
    """Left and right end of a strip's axis: everything, unless an interval is far wider than the values."""
    points = [0.0, effect, *(difference.mean for difference in differences)]
    reach = MAX_STRIP_REACH * max(map(abs, points)) or 1.0
    ends = [end for difference in differences for end in (difference.low, difference.high) if math.isfinite(end)]
    inside = points + [min(max(end, -reach), reach) for end in ends]
    return min(inside), max(inside) if max(inside) > min(inside) else min(inside) + 1.0


def format_number(value: float | None) -> str:
    """Write a number with three or four significant digits and a real minus sign; a dash for none.

    Example:
        >>> [format_number(x) for x in (0.71234, -3.14159, 12345.6, 0.0, None)]
        ['0.712', '−3.14', '12,346', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{4 if abs(value) >= 100 else 3}g}"
    return text.replace("-", "−")


def format_estimate(estimate: Estimate | None) -> str:
    """Write a mean with its interval.

    Example:
        >>> format_estimate(Estimate.of([1.0, 1.1, 1.2]))
        '1.1 (0.852 to 1.35)'
    """
    if estimate is None:
        return "–"
    if len(estimate.per_seed) < 2:
        return format_number(estimate.mean)
    interval = f"{format_number(estimate.low)} to {format_number(estimate.high)}"
    return f"{format_number(estimate.mean)} ({interval})"
