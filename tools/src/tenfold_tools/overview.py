"""The tables of the top README: one claim of each paper, and all benchmarks, from the recorded runs."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tenfold_shared.claims import MIN_PAIRS_SHOWN, ClaimResult, Verdict

from tenfold_tools import tables

CLAIMS = ("Package", "Claim", "Paper", "Ours", "Control", "Verdict")
BENCHMARKS = ("Package", "Work", "Ours", "Peer", "Ratio")
NOT_ATTEMPTED = "not attempted"


def headline(claims: Sequence[ClaimResult]) -> ClaimResult:
    """Return the claim that stands for a paper: the first with a figure of the paper that was tried with five seeds.

    Args:
        claims: A recorded run's, in its order.

    Returns:
        One of them. If no claim is like that, the first that was tried and has such a figure; then the first that was
        tried and is no power check; then the first of all.
    """
    tried = [claim for claim in claims if claim.verdict != NOT_ATTEMPTED]
    with_figure = [claim for claim in tried if claim.paper_value is not None]
    with_seeds = [claim for claim in with_figure if claim.ours and len(claim.ours.per_seed) >= MIN_PAIRS_SHOWN]
    others = [claim for claim in tried if "power check" not in claim.claim.lower()]
    return (with_seeds or with_figure or others or list(claims))[0]


def render_claims(recorded: Mapping[str, Sequence[ClaimResult]]) -> str:
    """Return a Markdown table with a row per package, and how many claims have which verdict.

    Args:
        recorded: Claims by package.
    """
    rows = [CLAIMS, ("---",) * len(CLAIMS)]
    for package, claims in recorded.items():
        chosen = headline(claims)
        paper = "" if chosen.paper_value is None else chosen.paper_value.text
        control = f"{chosen.control_name}: {tables.number(chosen.control)}" if chosen.control else chosen.control_name
        link = f"[{package}](packages/{package}#reproduce)"
        rows.append((link, chosen.claim, paper, tables.number(chosen.ours), control, chosen.verdict))
    found = Counter(claim.verdict for claims in recorded.values() for claim in claims)
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in get_args(Verdict) if found[verdict])
    return f"{tables.join(rows)}\nAll {found.total()} recorded claims: {counts}.\n"


def render_benchmarks(recorded: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a Markdown table of all rows.

    Args:
        recorded: Rows of benchmarks by package.
    """
    rows = [BENCHMARKS, ("---",) * len(BENCHMARKS)]
    for package, found in recorded.items():
        link = f"[{package}](packages/{package}#benchmarks)"
        for row in found:
            rows.append((link, row["work"], f"{row['ours']:.4g} {row.get('unit', '')}", *tables.beside(row)))
    return tables.join(rows)


def fill(readme: str, root: Path) -> str:
    """Return the top README with its tables as the recorded runs give them.

    Args:
        readme: Text with `<!-- claims -->` and `<!-- benchmarks -->`, each with its end.
        root: Of the repository.
    """
    claims = {
        name: [ClaimResult.from_dict(row) for row in record["claims"]] for name, record in _records(root, "recorded")
    }
    benchmarks = {name: record["rows"] for name, record in _records(root, "benchmarks")}
    for pattern, made in ((tables.BLOCK, render_claims(claims)), (tables.BENCHMARKS, render_benchmarks(benchmarks))):
        readme = re.sub(pattern, lambda match, made=made: match.group(1) + made + match.group(2), readme)
    return readme


def _records(root: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield folder names of packages and what their `results/NAME.json` holds."""
    for readme in sorted(root.glob("packages/*/README.md")):
        file = tables.recorded_file(readme.parent).with_name(f"{name}.json")
        if file.exists():
            yield readme.parent.name, json.loads(file.read_text())
