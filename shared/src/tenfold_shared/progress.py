"""Progress with time left: a bar on a terminal, a line every few seconds in a log, silence when short."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress"]

SILENT_SECONDS = 2.0  # work that ends sooner shows nothing
LINE_SECONDS = 5.0
QUIET_VARIABLE = "TENFOLD_QUIET"  # of the environment, so that worker processes are silent too


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    description: str,
    unit: str = "it",
    quiet: bool = False,
) -> tqdm:
    """Show on stderr how far the work is.

    Use it around an iterable, or as a context manager whose `update(n)` counts. Ranks other than 0
    (environment variable RANK) stay silent, and so does everything after `setup_logging(quiet=True)`.

    Args:
        iterable: What to go through; None to call `update` by hand.
        total: Number of units; the iterable's length where it has one.
        description: What is being done.
        unit: What is counted, in the plural.
        quiet: Show nothing.

    Example:
        >>> with progress(total=3, description="adding") as bar:
        ...     bar.update(3)
    """
    silent = quiet or os.environ.get(QUIET_VARIABLE) == "1" or os.environ.get("RANK", "0") != "0"
    shown: dict[str, Any] = dict(total=total, desc=description, unit=f" {unit}", disable=silent)
    if sys.stderr.isatty():
        return tqdm(iterable, **shown, delay=SILENT_SECONDS, dynamic_ncols=True)
    return _Lines(iterable, **shown, delay=SILENT_SECONDS, mininterval=LINE_SECONDS, miniters=1)


class _Lines(tqdm):
    """tqdm that writes whole lines; the last one gives the mean rate."""

    monitor_interval = 0  # no watching thread: every update looks at the clock

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        state = self.format_dict
        text = self.format_meter(**{**state, "bar_format": "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}"})
        left = "" if self.disable else self.format_meter(**{**state, "bar_format": ", {remaining} left\n"})
        self.fp.write(text + left)  # at the end tqdm itself ends the line
        self.fp.flush()
