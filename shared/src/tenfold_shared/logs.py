"""Human lines on stderr, and the numbers of a run as rows of `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tenfold_shared.files import append_jsonl, atomic_write, plain_json, read_jsonl
from tenfold_shared.progress import QUIET_VARIABLE

__all__ = ["MetricsWriter", "setup_logging"]


def setup_logging(quiet: bool = False, verbose: bool = False, *, package: str | None = None) -> None:
    """Send log lines to stderr; calling it again replaces the first setup.

    Ranks other than 0 (environment variable RANK) show errors only.

    Args:
        quiet: Warnings and errors only, and no progress; wins over `verbose`.
        verbose: Debug lines too.
        package: Import name; libraries other than it then speak from warnings up.
    """
    os.environ[QUIET_VARIABLE] = "1" if quiet else "0"
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    if os.environ.get("RANK", "0") != "0":
        level = logging.ERROR
    handler = _StderrHandler()
    handler.setFormatter(_Formatter())
    others = level if package is None else max(level, logging.WARNING)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    if package is not None:
        logging.getLogger(package).setLevel(level)


class _Formatter(logging.Formatter):
    """Time and message; the level's name from warnings up."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _StderrHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class MetricsWriter:
    """Appends rows `step`, `time` (seconds since 1970), metrics to a JSON-lines file.

    A resumed run goes on in the same file: call `truncate_after` with the step of its checkpoint first.

    Example:
        >>> import tempfile
        >>> writer = MetricsWriter(Path(tempfile.mkdtemp()) / "metrics.jsonl")
        >>> writer.write(1, {"train/loss": 2.5})
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one row; arrays of one element become numbers, nan becomes null."""
        values = {name: v if isinstance(v, int | str) else float(v) for name, v in metrics.items()}
        append_jsonl(self.path, plain_json({"step": step, "time": round(time.time(), 3), **values}))

    def truncate_after(self, step: int) -> None:
        """Drop rows of later steps, which the resumed run will write again."""
        if not self.path.exists():
            return
        rows = [row for row in read_jsonl(self.path) if row["step"] <= step]
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
