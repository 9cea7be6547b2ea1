"""The process in which one experiment or benchmark runs: `python -m tenfold_tools.worker reproduce PAPER
--out DIR`.

`tenfold` starts it; by hand it is the way to run one entry point under a debugger or a profiler.
"""

import argparse
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import get_args

from tenfold_shared.claims import write_claims
from tenfold_shared.environment import environment_report, seed_everything, switch_off_telemetry
from tenfold_shared.files import write_json
from tenfold_shared.logs import setup_logging

from tenfold_tools.cache import CLAIMS_FILE, RUN_FILE, check_claims, top_level
from tenfold_tools.config import Budget
from tenfold_tools.discovery import GROUPS, discover, select

ROWS_FILE = "rows.json"
ROW_KEYS = ("paper", "work", "ours", "peer_name", "peer", "ratio", "spread")


def main(argv: list[str] | None = None) -> None:
    """Run one entry point and write what it returns; an exception is the caller's exit status 1."""
    options = parse(argv)
    if options.watch_parent:
        die_with_parent()
    os.environ.setdefault("MPLBACKEND", "agg")
    switch_off_telemetry()
    [entry] = select(discover(options.kind), [options.paper])
    setup_logging(package=top_level(entry.module))
    seed_everything(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    {"reproduce": run_experiment, "bench": run_benchmark}[options.kind](entry, options)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the worker's own few flags."""
    parser = argparse.ArgumentParser(prog="python -m tenfold_tools.worker", description=__doc__)
    parser.add_argument("kind", choices=sorted(GROUPS))
    parser.add_argument("paper")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", choices=get_args(Budget), default="smoke")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--watch-parent", action="store_true", help="end when standard input is closed")
    return parser.parse_args(argv)


def run_experiment(entry: EntryPoint, options: argparse.Namespace) -> None:
    """Write the claims last: their file is what says that the run is complete."""
    start = time.monotonic()
    claims = entry.load()(options.out, budget=options.budget, seed=options.seed)
    check_claims(claims, entry.name, options.out)
    run = {
        "budget": options.budget,
        "seed": options.seed,
        "seconds": time.monotonic() - start,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment_report(),
    }
    write_json(options.out / RUN_FILE, run)
    write_claims(options.out / CLAIMS_FILE, claims)


def run_benchmark(entry: EntryPoint, options: argparse.Namespace) -> None:
    """Write the rows of one benchmark."""
    rows = entry.load()(options.out, budget=options.budget, seed=options.seed)
    for row in rows:
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise ValueError(f"{entry.value} returned a row without {', '.join(missing)}: {row}")
    write_json(options.out / ROWS_FILE, rows)


def die_with_parent() -> None:
    """Kill this process group as soon as the parent is gone, even when it was killed with signal 9."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
