"""`tenfold bench`: run every package's benchmark in a process of its own and collect the rows."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint

from tenfold_shared.commands import print_result
from tenfold_shared.files import write_json

from tenfold_tools.config import BUDGET_SECONDS, BenchConfig
from tenfold_tools.discovery import discover, select
from tenfold_tools.display import Display
from tenfold_tools.experiments import EXIT_FAILED, LOG_FILE, exclusive
from tenfold_tools.process import run_child, worker_command
from tenfold_tools.worker import ROW_KEYS, ROWS_FILE


def run(papers: Sequence[str], config: BenchConfig) -> int:
    """Measure the named papers (all for none), write `benchmarks.json`, print the table.

    Nothing is kept between calls: a benchmark is only worth something when it has just been measured. What
    is done is written after every paper, so that an interruption loses only the one that was running.

    Returns:
        0 when every paper was measured, 1 when one failed.

    Raises:
        ValueError: an unknown paper, or an output folder that cannot be used.
    """
    selected = select(discover("bench"), papers)
    display = Display({entry.name: BUDGET_SECONDS[config.budget] for entry in selected}, quiet=config.quiet)
    rows: list[dict] = []
    failed = False
    with exclusive(config.out):
        for entry in selected:
            found = run_one(entry, config, display)
            failed |= found is None
            rows += found or []
            write_json(config.out / "benchmarks.json", rows)
    if rows or config.json:
        print_result(rows if config.json else [summarise(row) for row in rows], config.json)
    return EXIT_FAILED if failed else 0


def summarise(row: Mapping) -> dict:
    """One line of the printed table: the columns that every row has, and the unit where it says one.

    Example:
        >>> print(*summarise(dict.fromkeys(ROW_KEYS, 2.0) | {"spread": [1.23456, 3.0]}).values())
        2.0 2.0 2.0 2.0 2.0 2.0 1.235 to 3
    """
    line = {key: row[key] for key in (*ROW_KEYS, "unit") if key in row}
    if isinstance(row["spread"], list | tuple):
        line["spread"] = " to ".join(f"{end:.4g}" for end in row["spread"])
    return line


def run_one(entry: EntryPoint, config: BenchConfig, display: Display) -> list[dict] | None:
    """Return the rows of one benchmark, None when it failed."""
    folder = config.out / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROWS_FILE).unlink(missing_ok=True)
    display.start(entry.name)
    outcome = run_child(
        worker_command("bench", entry.name, out=folder, budget=config.budget, seed=config.seed),
        folder / LOG_FILE,
        limit_seconds=config.limit_seconds,
        show=display.line,
        tick=display.tick,
    )
    problem = outcome.problem or ("" if (folder / ROWS_FILE).exists() else "its process wrote no rows")
    display.end(outcome.seconds, f"{problem}; log: {folder / LOG_FILE}" if problem else "")
    return None if problem else json.loads((folder / ROWS_FILE).read_text())
