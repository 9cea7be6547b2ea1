"""Recorded benchmarks: rows that a package's benchmark gave once, for its README and the report.

    python -m tenfold_tools.benchmarks packages/fastvlm fastvlm-benchmark/benchmarks.json "fastvlm benchmark"

writes `results/benchmarks.json` in the import package with the machine and the commit, and fills the README's table.
The run has to be of this commit, on this machine.
"""

import datetime
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tenfold_shared.commands import InputError, run_command
from tenfold_shared.environment import environment_report
from tenfold_shared.files import atomic_write, plain_json, write_json

from tenfold_tools import tables
from tenfold_tools.worker import ROW_KEYS

KEYS = {"command", "date", "commit", "machine", "versions", "rows"}


@dataclass(frozen=True)
class BenchmarksConfig:
    """Options of the command.

    Attributes:
        package: Folder of the package, such as packages/mobileclip.
        rows: `benchmarks.json` of a run.
        command: The line that made it.
    """

    package: Path
    rows: Path
    command: str


def run(config: BenchmarksConfig) -> int:
    """Write the recorded file and the README's table.

    Returns:
        0.

    Raises:
        InputError: A row lacks a field.
    """
    rows = json.loads(config.rows.read_text(encoding="utf-8"))
    for row in rows:
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise InputError(f"{config.rows}: a row lacks {', '.join(missing)}.")
    machine = environment_report()
    record = {
        "command": config.command,
        "date": datetime.date.today().isoformat(),
        "commit": machine.pop("commit"),
        "versions": machine.pop("versions"),
        "machine": machine,
        "rows": plain_json(rows),
    }
    file = tables.recorded_file(config.package).with_name("benchmarks.json")
    write_json(file, record)
    readme = config.package / "README.md"
    with atomic_write(readme, "w") as text:
        text.write(tables.fill(readme.read_text(), tables.recorded_file(config.package)))
    print(f"{file}: {len(rows)} rows")
    return 0


def read_benchmarks(package: str) -> dict[str, Any] | None:
    """Return the benchmarks that are recorded in an import package, or None.

    Raises:
        ValueError: The file is no such record.
    """
    file = importlib.resources.files(package).joinpath("results", "benchmarks.json")
    if not file.is_file():
        return None
    record = json.loads(file.read_text("utf-8"))
    if not isinstance(record, Mapping) or set(record) != KEYS:
        raise ValueError(f"{package}/results/benchmarks.json is no record of benchmarks.")
    return dict(record)


if __name__ == "__main__":
    run_command(lambda: run(tyro.cli(Annotated[BenchmarksConfig, tyro.conf.PositionalRequiredArgs])))
