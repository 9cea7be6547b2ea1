"""Tables of claims and benchmarks in the README files, written from the recorded runs.

    python -m tenfold_tools.tables

fills what stands between `<!-- claims -->` and `<!-- /claims -->`, and between `<!-- benchmarks -->` and
`<!-- /benchmarks -->`, in `packages/*/README.md` and, with a row per paper (`overview`), in the top `README.md`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared.claims import ClaimResult, Estimate

BLOCK = re.compile(r"(<!-- claims -->\n).*?(<!-- /claims -->)", flags=re.DOTALL)
BENCHMARKS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", flags=re.DOTALL)
HEADER = ("Claim", "Paper", "Ours", "Control", "Verdict", "Evidence")


def render(claims: Sequence[ClaimResult]) -> str:
    """Return a Markdown table of claims.

    Args:
        claims: Recorded claims, in the order to show.

    Returns:
        The table with a final newline; a sentence if there is no claim.
    """
    if not claims:
        return "No recorded run yet.\n"
    return join([HEADER, ("---",) * len(HEADER), *map(_row, claims)])


def join(rows: Sequence[Sequence[str]]) -> str:
    """Return the lines of a Markdown table; a cell may hold anything."""
    lines = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _row(claim: ClaimResult) -> tuple[str, ...]:
    paper = "" if claim.paper_value is None else f"{claim.paper_value.text} ({claim.paper_value.mark})"
    control = f"{claim.control_name}: {number(claim.control)}" if claim.control else claim.control_name
    metric = f"{claim.claim} ({claim.primary_metric})"
    return metric, paper, number(claim.ours), control, claim.verdict, claim.evidence or ""


def number(estimate: Estimate | None) -> str:
    """Return an estimate with its interval, four digits each; nothing for None."""
    if estimate is None:
        return ""
    if math.isnan(estimate.low):
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def render_benchmarks(record: Mapping[str, Any]) -> str:
    """Return a Markdown table of recorded benchmarks (`tenfold_tools.benchmarks`) with the machine below it."""
    header = ("Work", "Unit", "Ours", "Peer", "Ratio", "Aim")
    rows = [header, ("---",) * len(header)]
    for row in record["rows"]:
        aim = "" if row.get("aim") is None else f"{row['aim']:g}"
        peer, ratio = beside(row)
        if ratio:
            low, high = row["spread"]
            ratio += f" [{low:.3g}, {high:.3g}]"
        rows.append((row["work"], row.get("unit", ""), f"{row['ours']:.4g}", peer, ratio, aim))
    machine = record["machine"]
    where = f"`{record['command']}`, {record['date']}, {machine['cpu']}, {machine['cores']} cores"
    return f"{join(rows)}\n{where}; a ratio over 1: ours is better; smallest and largest round in brackets.\n"


def beside(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a benchmark's peer with its figure, and the ratio; nothing where no peer does that work."""
    if row["ratio"] is None:
        return "", ""
    return f"{row['peer_name']}: {row['peer']:.4g}", f"{row['ratio']:.3g}"


def fill(readme: str, recorded: Path) -> str:
    """Return a README with its tables as the recorded runs give them.

    Args:
        readme: Text with the markers of the claims, and those of the benchmarks if it likes.
        recorded: The package's `results/recorded.json`; it need not exist, nor `benchmarks.json` beside it.

    Returns:
        The text with new tables.

    Raises:
        ValueError: If the markers of the claims are not there exactly once.
    """
    benchmarks = recorded.with_name("benchmarks.json")
    if benchmarks.exists():
        made = render_benchmarks(json.loads(benchmarks.read_text()))
        readme = BENCHMARKS.sub(lambda match: match.group(1) + made + match.group(2), readme)
    if len(BLOCK.findall(readme)) != 1:
        raise ValueError("a package's README has `<!-- claims -->` and `<!-- /claims -->` once, for its table.")
    rows = json.loads(recorded.read_text())["claims"] if recorded.exists() else []
    table = render([ClaimResult.from_dict(row) for row in rows])
    return BLOCK.sub(lambda match: match.group(1) + table + match.group(2), readme)


def recorded_file(folder: Path) -> Path:
    """Return where a package's recorded run lies.

    Args:
        folder: The package's folder.

    Returns:
        Path of `results/recorded.json` in its import package, which need not exist.
    """
    sources = sorted(path.parent for path in (folder / "src").glob("*/__init__.py"))
    return sources[0] / "results" / "recorded.json"


def main(root: Path) -> None:
    """Write all tables of a repository."""
    from tenfold_tools import overview

    for file in root.glob("packages/*/README.md"):
        file.write_text(fill(file.read_text(), recorded_file(file.parent)))
    top = root / "README.md"
    top.write_text(overview.fill(top.read_text(), root))


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[3])
