"""Write the report page: one HTML file that needs no network, no script and no font from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from tenfold_shared.claims import ClaimResult, Verdict, read_recorded
from tenfold_shared.files import atomic_write

from tenfold_tools.benchmarks import read_benchmarks
from tenfold_tools.cache import top_level
from tenfold_tools.config import BUDGET_SECONDS, Budget
from tenfold_tools.display import format_seconds
from tenfold_tools.svg import Figure, inline_svg
from tenfold_tools.views import (
    STRIP_WIDTH,
    Row,
    count_verdicts,
    format_estimate,
    format_number,
    join_rows,
)

if TYPE_CHECKING:
    from tenfold_tools.experiments import PaperRun

GLYPHS = {
    "shown": "✓",
    "direction only": "↗",
    "contradicted": "✗",
    "not shown": "○",
    "not attempted": "–",
    "not judged": "·",
}
MEANINGS = {
    "shown": "at least five paired seeds, and the whole 95 % interval of the difference to the strongest "
    "control lies above the smallest effect that counts",
    "direction only": "the difference is above zero, but smaller than that effect or from fewer seeds",
    "contradicted": "the whole interval lies below zero",
    "not shown": "neither: the interval contains zero",
    "not attempted": "could not be tried here; the row says why",
    "not judged": "measured, but without a control or at smoke budget",
}
MARKS = {
    "V": "read in the authors' code or files",
    "A": "stated in the abstract",
    "D": "stated in a model card or a discussion",
}


@dataclass(frozen=True)
class Recorded:
    """The run that is installed with a package; `problem` says why a damaged one cannot be shown."""

    claims: tuple[ClaimResult, ...] = ()
    details: Mapping | None = None
    benchmarks: Mapping | None = None
    problem: str = ""


@dataclass(frozen=True)
class Section:
    """Everything that the page says about one paper."""

    run: PaperRun
    recorded: Recorded
    rows: list[Row]
    figures: list[Figure]
    damaged_figures: list[str]

    @property
    def name(self) -> str:
        """The paper's name."""
        return self.run.name

    @property
    def counts(self) -> dict[Verdict, int]:
        """Claims by verdict, without zeros."""
        return {verdict: count for verdict, count in count_verdicts(self.rows).items() if count}

    @property
    def summary(self) -> str:
        """One line about the package, from its metadata."""
        return (self.run.entry.dist.metadata["Summary"] or "") if self.run.entry.dist else ""


def write_report(path: Path, runs: Sequence[PaperRun], *, budget: Budget, seed: int) -> None:
    """Render the page and put it in place in one step.

    Args:
        path: the HTML file.
        runs: all papers in the order of the page, whether they have run or not.
        budget: of this report; `runs` hold results of this budget only.
        seed: of this report.
    """
    with atomic_write(path, "w") as file:
        file.write(render(runs, budget=budget, seed=seed))


def render(runs: Sequence[PaperRun], *, budget: Budget, seed: int) -> str:
    """Return the page."""
    sections = [make_section(run) for run in runs]
    rows = [row for section in sections for row in section.rows]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tenfold_tools"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "estimate": format_estimate,
        "seconds": format_seconds,
    }
    checks = [row.check for row in rows if row.check]
    return environment.get_template("report.html").render(
        sections=sections,
        counts=count_verdicts(rows),
        lead=put_into_words(count_verdicts(rows)),
        checks_held=sum(check.holds for check in checks),
        checks_total=len(checks),
        failed=[section for section in sections if section.run.state == "failed"],
        states={state: sum(run.state == state for run in runs) for state in ("finished", "failed")},
        budget=budget,
        budget_seconds=BUDGET_SECONDS[budget],
        seed=seed,
        written=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        glyphs=GLYPHS,
        meanings=MEANINGS,
        marks=MARKS,
        strip_width=STRIP_WIDTH,
    )


def make_section(run: PaperRun) -> Section:
    """Gather a paper's rows and figures; a damaged recorded run or figure becomes a sentence on the page."""
    recorded = load_recorded(top_level(run.entry.module))
    figures, damaged = [], []
    for index, name in enumerate(dict.fromkeys(name for claim in run.claims for name in claim.figures)):
        try:
            text = (run.folder / name).read_text()
            figures.append(inline_svg(text, prefix=f"{run.name}-{index}", fallback_title=name_figure(name)))
        except (OSError, ValueError) as error:
            damaged.append(f"{name}: {error}")
    return Section(run, recorded, join_rows(recorded.claims, run.claims), figures, damaged)


def name_figure(file: str) -> str:
    """Make a caption for a figure that brings none.

    Example:
        >>> name_figure("plots/loss_by-step.svg")
        'Loss by step'
    """
    return re.sub(r"[-_.]+", " ", Path(file).stem).strip().capitalize()


def load_recorded(package: str) -> Recorded:
    """Read the recorded run of a package, whatever state the package is in."""
    try:
        details = read_recorded(package)
        claims = [ClaimResult.from_dict(claim) for claim in details["claims"]] if details else []
        benchmarks = read_benchmarks(package)
    except Exception as error:  # importing a foreign package can raise anything, and the page goes on
        return Recorded(problem=f"{type(error).__name__}: {error}")
    return Recorded(tuple(claims), details, benchmarks)


def put_into_words(counts: Mapping[Verdict, int]) -> str:
    """Say in one sentence what held.

    Example:
        >>> put_into_words({"shown": 2, "not shown": 1, "direction only": 0, "not attempted": 0})
        '2 of 3 claims are shown; 1 is not shown.'
    """
    words: dict[Verdict, tuple[str, str]] = {
        "direction only": ("holds in direction only", "hold in direction only"),
        "contradicted": ("is contradicted", "are contradicted"),
        "not shown": ("is not shown", "are not shown"),
        "not judged": ("is not judged", "are not judged"),
        "not attempted": ("was not attempted", "were not attempted"),
    }
    shown, total = counts.get("shown", 0), sum(counts.values())
    if not total:
        return "Nothing has run yet, and nothing is recorded."
    rest = [f"{counts[name]} {words[name][counts[name] > 1]}" for name in words if counts.get(name)]
    first = f"{shown} of {total} claims {'is' if shown == 1 else 'are'} shown"
    return "; ".join([first, ", ".join(rest)] if rest else [first]) + "."
