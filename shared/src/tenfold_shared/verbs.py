"""What `benchmark` and `reproduce` do in every package: a folder, a file of results, a table or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared.claims import ClaimResult, write_claims
from tenfold_shared.commands import print_result
from tenfold_shared.files import write_json

__all__ = ["report_benchmarks", "report_claims"]

COLUMNS = ("work", "unit", "threads", "ours", "peer_name", "peer", "ratio", "spread", "aim")


def report_claims(reproduce: Callable[[Path], Sequence[ClaimResult]], out: Path, *, json: bool) -> None:
    """Run an experiment, write `claims.json` and print the claims with their verdicts.

    Args:
        reproduce: Takes the output folder, which exists by then.
        out: Folder, made if missing.
        json: Print all of each claim as JSON instead of a table.
    """
    out.mkdir(parents=True, exist_ok=True)
    claims = list(reproduce(out))
    write_claims(out / "claims.json", claims)
    print_result([claim.to_dict() if json else _claim_row(claim) for claim in claims], json)


def _claim_row(claim: ClaimResult) -> dict[str, object]:
    ours, paper = claim.ours, claim.paper_value
    return {
        "claim": claim.claim,
        "paper": "" if paper is None else f"{paper.value:g}",
        "ours": "" if ours is None else f"{ours.mean:.4g} [{ours.low:.4g}, {ours.high:.4g}]",
        "verdict": claim.verdict,
    }


def report_benchmarks(benchmark: Callable[[Path], Sequence[dict[str, Any]]], out: Path, *, json: bool) -> None:
    """Run a benchmark, write `benchmarks.json` and print its rows.

    Args:
        benchmark: Takes the output folder, which exists by then, and returns one row per comparison.
        out: Folder, made if missing.
        json: Print every field as JSON instead of a table.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = list(benchmark(out))
    write_json(out / "benchmarks.json", rows)
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    print_result(rows if json else [{name: row.get(name, "") for name in shown} for row in rows], json)
