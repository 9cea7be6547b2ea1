"""The command `compare`, and what every command has."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError, print_result
from tenfold_shared.files import atomic_write, plain_json, write_json
from tyro.conf import Positional, UseAppendAction


@dataclass(frozen=True)
class Output:
    """Options of every command."""

    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""


@dataclass(frozen=True)
class Compare(Output):
    """Compare two systems on the same examples, and hold the update against budgets.

    Exit status 0: every budget is kept; 1: one is not; 2: bad input.

    For example:

        muscle compare old/samples_piqa.jsonl new/samples_piqa.jsonl --budget nfr=2%
        muscle compare old.csv new.csv --slices subject --page report.html
        muscle compare old.jsonl new.jsonl --metric rouge1 --budget mean_regression=0.05
    """

    old: Positional[Path] = Path("old.jsonl")
    """Answers of the system in use: lm-evaluation-harness samples (file or folder), JSON lines, CSV or parquet."""
    new: Positional[Path] = Path("new.jsonl")
    """Answers of the one that is to replace it."""
    budget: UseAppendAction[tuple[str, ...]] = ()
    """The most a rate may be, such as nfr=2% or mean_regression=0.05; once for each."""
    metric: str = ""
    """exact_match, rouge1, rouge2, rougeL, bleu, chrf, module:function, or a metric that the files hold."""
    slices: UseAppendAction[tuple[str, ...]] = ()
    """A column to count apart, in samples a field of `doc`; once for each."""
    id: str = ""
    """Column with the example's id."""
    prediction: str = ""
    """Column with the answer."""
    gold: str = ""
    """Column with the right answer, or a list of them."""
    filter: str = ""
    """Filter of lm-evaluation-harness, where a task has several."""
    page: Path | None = None
    """Write one self-contained page here."""
    markdown: Path | None = None
    """Write Markdown here."""
    out: Path | None = None
    """Write all results as JSON here."""
    examples: int = 1000
    """Most flips that are listed, of each sign."""
    seed: int = 0
    """Seed of the bootstrap."""

    def run(self) -> int:
        """Compare, write what was asked for, print the rates and judge the budgets."""
        from muscle.comparison import Options, compare
        from muscle.gate import judge, parse_budget, write_step_summary
        from muscle.records import Columns

        budgets = [parse_budget(text) for text in self.budget]
        if self.examples < 0:
            raise InputError(f"--examples (={self.examples}) must be at least 0.")
        columns = Columns(self.id, self.prediction, self.gold, "", self.filter, self.slices)
        found = compare(self.old, self.new, Options(columns, self.metric, seed=self.seed, examples=self.examples))
        verdicts = judge(found, budgets)
        self._write(found, verdicts)
        write_step_summary(found, verdicts)
        self._print(found, verdicts)
        return 0 if all(kept for kept, _ in verdicts) else 1

    def _write(self, found: Any, verdicts: list[tuple[bool, str]]) -> None:
        from muscle.page import to_html, to_markdown

        if self.page:
            with atomic_write(self.page, "w") as file:
                file.write(to_html(found, verdicts))
        if self.markdown:
            with atomic_write(self.markdown, "w") as file:
                file.write(to_markdown(found, [text for _, text in verdicts]))
        if self.out:
            write_json(self.out, plain_json(found.to_dict() | _gate(verdicts)))

    def _print(self, found: Any, verdicts: list[tuple[bool, str]]) -> None:
        from muscle.page import rate_rows, slice_rows

        if self.json:
            print_result(found.to_dict() | _gate(verdicts), True)
            return
        print_result(rate_rows(found), False)
        for name, parts in found.slices.items():
            print_result([{f"by {name}": row.pop("slice"), **row} for row in slice_rows(parts)], False)
        for _, text in verdicts:
            sys.stdout.write(text + "\n")


def _gate(verdicts: list[tuple[bool, str]]) -> dict[str, Any]:
    return {"gate": [{"kept": kept, "budget": text} for kept, text in verdicts]}
