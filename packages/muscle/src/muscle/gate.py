"""Budgets that an update must keep: for a command's exit status, for pytest, for a step summary."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError, unknown_name

from muscle.comparison import Comparison, Options, compare
from muscle.page import to_markdown

# Rates that are better small.
GATED = ("nfr", "nfr_inconsistent", "churn", "nfi", "relative_nfr", "mean_regression", "accuracy_drop", "mean_drop")
SHOWN = 10


@dataclass(frozen=True)
class Budget:
    """The most that a rate may be.

    Attributes:
        name: One of `GATED`; the drops are old minus new.
        limit: A share, or an amount of the similarity.
    """

    name: str
    limit: float


def parse_budget(text: str) -> Budget:
    """Read `nfr=2%` or `nfr=0.02`.

    Raises:
        InputError: Another form, a limit that is not from 0 up, or an unknown rate.

    Example:
        >>> parse_budget("nfr=2%")
        Budget(name='nfr', limit=0.02)
    """
    name, _, value = text.partition("=")
    try:
        limit = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError as error:
        raise InputError(f"budget {text!r} must look like nfr=2% or nfr=0.02.") from error
    if not (math.isfinite(limit) and limit >= 0):
        raise InputError(f"budget {text!r} must be a finite number of at least 0.")
    if name not in GATED:
        raise unknown_name("rate", name, GATED)
    return Budget(name, limit)


def judge(found: Comparison, budgets: Sequence[Budget]) -> list[tuple[bool, str]]:
    """Return for each budget whether it is kept, and a sentence.

    Raises:
        InputError: A rate that this kind of comparison does not have, or that is undefined here.
    """
    values: dict[str, float] = found.result.to_dict()
    for kind in ("accuracy", "mean"):
        if f"{kind}_old" in values:
            values[f"{kind}_drop"] = values[f"{kind}_old"] - values[f"{kind}_new"]
    verdicts = []
    for budget in budgets:
        value = values.get(budget.name)
        if value is None or math.isnan(value):
            raise InputError(f"no {budget.name} in a comparison of {found.metric}; it has "
                             f"{', '.join(name for name in GATED if name in values)}.")  # fmt: skip
        kept = value <= budget.limit
        said = f"{budget.name} is {value:.4g}, within" if kept else f"{budget.name} is {value:.4g}, over"
        verdicts.append((kept, f"{said} the budget of {budget.limit:.4g}."))
    return verdicts


def assert_no_regression(
    old: str | Path | Any, new: str | Path | Any, *, options: Options | None = None, **budgets: float
) -> Comparison:
    r"""Fail a test when an update is over a budget, and say which examples broke.

    Args:
        old: Answers of the system in use: a file (see `muscle.records`) or `Answers`.
        new: Answers of the one that is to replace it.
        options: What is read and how it is compared.
        **budgets: The most that a rate may be, such as `nfr=0.02`; without any `nfr=0.0`.

    Returns:
        The comparison.

    Raises:
        AssertionError: A budget is not kept.

    Example:
        >>> import json, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> rows = [{"id": i, "prediction": i % 2, "gold": i % 2} for i in range(4)]
        >>> _ = (folder / "old.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> assert_no_regression(folder / "old.jsonl", folder / "old.jsonl", nfr=0.0).result.nfr
        0.0
    """
    for name in budgets:
        if name not in GATED:
            raise unknown_name("rate", name, GATED)
    found = compare(old, new, options)
    verdicts = judge(found, [Budget(name, limit) for name, limit in (budgets or {"nfr": 0.0}).items()])
    over = [text for kept, text in verdicts if not kept]
    if over:
        lines = [f"{row['id']}: {row.get('old', '')!r} -> {row.get('new', '')!r}" for row in found.listed[:SHOWN]]
        raise AssertionError("\n".join([*over, *lines]))
    return found


def write_step_summary(found: Comparison, verdicts: Sequence[tuple[bool, str]]) -> bool:
    """Append the comparison to GitHub's step summary, where a workflow runs; return whether it did."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return False
    with open(path, "a", encoding="utf-8") as file:
        file.write(to_markdown(found, [text for _, text in verdicts]))
    return True
