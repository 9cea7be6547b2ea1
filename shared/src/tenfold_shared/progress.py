"""Progress with time left: a bar on a terminal, a line every few seconds in a log, silence when short."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

__all__ = ["progress"]

SILENT_SECONDS = 2.0  # work that ends sooner shows nothing
LINE_SECONDS = 5.0


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    description: str,
    unit: str = "it",
    quiet: bool = False,
) -> Any:
    """Show on stderr how far the work is.

    Use it around an iterable, or as a context manager whose `update(n)` counts. Ranks other than 0
    (environment variable RANK) stay silent.

    Args:
        iterable: What to go through; None to call `update` by hand.
        total: Number of units; the iterable's length where it has one.
        description: What is being done.
        unit: What is counted, such as "images".
        quiet: Show nothing.

    Example:
        >>> with progress(total=3, description="adding") as bar:
        ...     bar.update(3)
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    quiet = quiet or os.environ.get("RANK", "0") != "0"
    if quiet or not sys.stderr.isatty():
        return _Lines(iterable, total, description, unit, quiet)
    return tqdm(
        iterable, total=total, desc=description, unit=f" {unit}", delay=SILENT_SECONDS, dynamic_ncols=True
    )


class _Lines:
    """The part of tqdm's interface that `progress` promises, as lines of a log."""

    def __init__(self, iterable: Any, total: int | None, description: str, unit: str, quiet: bool) -> None:
        self._iterable, self._total, self._quiet = iterable, total, quiet
        self._description, self._unit = description, unit
        self._count = 0
        self._start = time.monotonic()
        self._next = self._start + SILENT_SECONDS
        self._printed = 0

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self._iterable:
                yield item
                self.update(1)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._printed and self._printed != self._count:
            self._print()

    def update(self, n: int = 1) -> None:
        self._count += n
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._next = now + LINE_SECONDS
            self._print()

    def _print(self) -> None:
        seconds = time.monotonic() - self._start
        rate = self._count / seconds
        done = f"{self._count}" if self._total is None else f"{self._count}/{self._total}"
        left = ""
        if self._total is not None and rate > 0:
            left = f", {tqdm.format_interval(max(0, self._total - self._count) / rate)} left"
        text = f"{self._description}: {done} {self._unit}, {rate:.3g} {self._unit}/s{left}"
        print(text, file=sys.stderr, flush=True)
        self._printed = self._count
