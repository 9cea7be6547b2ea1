"""Claims of the filtering experiment, from what `filtering_experiment` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenfold_shared.claims import Budget, ClaimResult, PaperValue

from dclm.filtering_data import ARMS

__all__ = ["filtering_claims", "full_claims"]

MINIMUM_EFFECT = 0.02
SMALL_SIZE = ", at a size that one core trains"
METRIC = "minus bits per byte, mean of source B, source C and gold answers"
RECORDS = "exp_data evaluations of mlfoundations/dclm, CORE v1"
SPECIFICATION = "Arms, sources, metric, seeds, tuning and the power check are fixed in `filtering_experiment`."
KEY = "Model-based filtering is key to assembling a high-quality training set"
FIXED = "The classifier's tenth trains better than a random tenth, both at one learning rate fixed before"
NAMES = {
    "classifier": "classifier's best tenth",
    "random": "a random tenth of the filtered, deduplicated pool",
    "shuffled": "the best tenth by a classifier with shuffled labels",
    "dedup": "the filtered, deduplicated pool without a model",
    "perplexity": "the tenth least surprising to a bigram model of source A",
    "refinedweb": "RefinedWeb's rules alone",
    "raw": "the raw pool",
    "mix": "three quarters of the classifier's tenth, one quarter source A",
}
# Claim, our arm, control (None: the strongest one on validation), what the paper's records say.
ROWS: tuple[tuple[str, str, str | None, PaperValue | None], ...] = (
    (KEY, "classifier", None, PaperValue(0.027, "27.5 to 30.2", RECORDS, "V")),
    ("The classifier's labels matter: it beats one trained on shuffled labels", "classifier", "shuffled", None),
    (
        "The fastText classifier filters better than perplexity",
        "classifier",
        "perplexity",
        PaperValue(0.012, "29.0 to 30.2", RECORDS, "V"),
    ),
    ("RefinedWeb's rules improve the raw pool", "refinedweb", "raw", None),
    (
        "Deduplication improves what the rules keep",
        "dedup",
        "refinedweb",
        PaperValue(0.034, "24.1 to 27.5", RECORDS, "V"),
    ),
    (
        "Mixing a curated source into the filtered pool does not help",
        "classifier",
        "mix",
        PaperValue(0.016, "29.5 with the mix, 31.1 without", RECORDS, "V"),
    ),
)


def filtering_claims(found: Mapping[str, Any], *, budget: Budget, data: str, where: str = "") -> list[ClaimResult]:
    """Return one row per comparison whose arms were run.

    Args:
        found: What `summarize` returned.
        budget: Of the run.
        data: What was trained on, in one line.
        where: Added to the claims' words, where the pool is another one.

    Returns:
        Rows; without a seed there are none. Where the run was cut off after one, which gives a direction at most, a row
        more compares with `random` at the one fixed rate of which there are several seeds.
    """
    if not found["seeds"]:
        return []
    rows: list[ClaimResult] = []
    compared: set[tuple[str, str]] = set()
    for claim, ours, control, paper in ROWS:
        other = control or found["control"]
        if {ours, other} <= set(found["values"]) and (ours, other) not in compared:
            compared.add((ours, other))
            rows.append(_row(found, (claim + where, ours, other), paper=paper, budget=budget, data=data))
    if len(found["seeds"]) == 1 and len(found["fixed_rate"]["seeds"]) > 1:
        rows.append(_fixed_rate(found, FIXED + where, budget=budget, data=data))
    return rows


def _row(
    found: Mapping[str, Any], words: tuple[str, str, str], *, paper: PaperValue | None, budget: Budget, data: str
) -> ClaimResult:
    claim, ours, control = words
    values = found["values"]
    return ClaimResult.compare(
        paper="dclm",
        claim=claim,
        primary_metric=METRIC,
        paper_value=paper,
        ours=[-value for value in values[ours]["primary"]],
        control=[-value for value in values[control]["primary"]],
        control_name=NAMES[control],
        minimum_effect=MINIMUM_EFFECT,
        budget=budget,
        evidence="real",
        data=data,
        seconds=found["seconds"],
        note=note(found, ours, control),
        specification=SPECIFICATION,
    )


def _fixed_rate(found: Mapping[str, Any], claim: str, *, budget: Budget, data: str) -> ClaimResult:
    pairs = found["fixed_rate"]
    return ClaimResult.compare(
        paper="dclm",
        claim=claim,
        primary_metric=METRIC,
        paper_value=None,
        ours=[-value for value in pairs["classifier"]],
        control=[-value for value in pairs["random"]],
        control_name=NAMES["random"],
        minimum_effect=MINIMUM_EFFECT,
        budget=budget,
        evidence="real",
        data=data,
        seconds=found["seconds"],
        note=f"The run was cut off before its judged seeds: these are its runs at one fixed rate (seeds "
        f"{', '.join(map(str, pairs['seeds']))}). At tuned rates: {note(found, 'classifier', 'random')}",
        specification=SPECIFICATION,
    )


def note(found: Mapping[str, Any], ours: str, control: str) -> str:
    """Say what the mean hides: its parts, rates, passes and the power check."""
    parts = []
    for name, title in (("b_test", "B"), ("c_test", "C"), ("gold", "gold answers"), ("centered", "centered accuracy")):
        means = [sum(found["values"][arm][name]) / len(found["seeds"]) for arm in (ours, control)]
        parts.append(f"{title} {means[0]:.3f} against {means[1]:.3f}")
    rates = ", ".join(f"{arm} {found['rates'][arm]:g}" for arm in (ours, control) if arm in found["rates"])
    power = found["power"]
    passed = {True: "passed", False: "failed", None: "not run"}[power["passed"]]
    if power["passed"] is not None:
        passed += f" (gap {power['gap']:.3f}, spread {power['spread']:.3f}, oracle {power['oracle']:.3f})"
    repeated = "each token once" if found["passes"] <= 1 else f"tokens repeated {found['passes']:.1f} times"
    number = len(found["seeds"])
    seeds = "one seed, that of the tuning" if number == 1 else f"{number} seeds"
    return (
        f"{seeds.capitalize()}. Bits per byte: {'; '.join(parts)}. {found['steps']} updates, {repeated}; learning "
        f"rates {rates}; power check {passed}. A paper's number is CORE, in points over a hundred."
    )


def full_claims(found: Mapping[str, Any], figures: Path | None = None, where: str = "") -> list[ClaimResult]:
    """Return the rows of a full run, and draw the arms.

    Args:
        found: Content of `filtering.json`.
        figures: Folder for `arms.svg`.
        where: Added to the claims' words, for a run of another size.
    """
    arms = found["facts"]["arms"]
    tokens = arms["raw"]["tokens"]
    data = (
        f"a pool of {tokens / 1e6:.0f} M tokens ({arms['raw']['documents']:,} documents of 50 packages: pages, code, "
        f"change logs, mails, dictionaries, novels); {found['facts']['budget_tokens'] / 1e6:.1f} M tokens an arm"
    )
    if where:
        data += f", of which a run draws {found['steps'] * 1024 / 1e6:.1f} M"
    rows = filtering_claims(found, budget="full", data=data, where=where)
    if figures is not None and rows:
        from dataclasses import replace

        from dclm.plots import draw_arms

        draw_arms(
            figures / "arms.svg", {arm: found["values"][arm]["primary"] for arm in ARMS if arm in found["values"]}
        )
        rows[0] = replace(rows[0], figures=("arms.svg",))
    return rows


def recorded_arms(recorded: Mapping[str, Any] | None, where: str = SMALL_SIZE) -> dict[str, list[float]]:
    """Return bits per byte of every arm, by seed, from the recorded claims of one size.

    Args:
        recorded: What `read_recorded` gives; None gives nothing.
        where: What the claims' words end with.
    """
    controls = {name: arm for arm, name in NAMES.items()}
    arms: dict[str, list[float]] = {}
    rows = {row["claim"]: row for row in (recorded or {"claims": []})["claims"]}
    for claim, ours, _, _ in ROWS:
        row = rows.get(claim + where)
        if row is not None and row["ours"] is not None and row["control"] is not None:
            arms[ours] = [-value for value in row["ours"]["per_seed"]]
            arms[controls[row["control_name"]]] = [-value for value in row["control"]["per_seed"]]
    return arms
