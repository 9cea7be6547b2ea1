"""Progress over several papers on stderr: a status line on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Mapping

LINE_EVERY_SECONDS = 15.0


class Display:
    """Say what runs, what is done and how long the rest takes.

    Args:
        expected: expected seconds of each paper still to run, None where nothing is known.
        quiet: print failures only.
    """

    def __init__(self, expected: Mapping[str, float | None], *, quiet: bool) -> None:
        self.expected, self.quiet = dict(expected), quiet
        self.total, self.current = len(expected), ""
        self.live = sys.stderr.isatty() and not quiet
        self.last = 0.0

    def start(self, name: str) -> None:
        """Announce the next paper."""
        self.current, self.last = name, 0.0
        self.say(f"{self._place()}: started, {self.time_left(0.0)}")

    def line(self, text: str) -> None:
        """Show one line that the running paper wrote."""
        self.say(f"  {self.current} | {text}")

    def tick(self, seconds: float) -> None:
        """Show that it is still alive."""
        text = f"{self._place()}: {format_seconds(seconds)}, {self.time_left(seconds)}"
        if self.live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        elif seconds - self.last >= LINE_EVERY_SECONDS:
            self.last = seconds
            self.say(text)

    def end(self, seconds: float, problem: str) -> None:
        """Announce how the running paper ended."""
        text = f"FAILED, {problem}" if problem else f"done in {format_seconds(seconds)}"
        self.say(f"{self._place()}: {text}", always=bool(problem))
        self.expected.pop(self.current, None)

    def say(self, text: str, *, always: bool = False) -> None:
        """Print one line, the status line moved out of its way."""
        if always or not self.quiet:
            clear = "\r\x1b[K" if self.live else ""
            print(f"{clear}{text}", file=sys.stderr, flush=True)

    def time_left(self, seconds: float) -> str:
        """Put the time left into words, given how long the running paper has taken."""
        waiting = [expected for name, expected in self.expected.items() if name != self.current]
        current = self.expected.get(self.current)
        if current is None or None in waiting:
            return "time left unknown until it has run once"
        rest = max(current - seconds, 0.0) + sum(filter(None, waiting))
        late = [f"longer than the {format_seconds(current)} expected"] if seconds > current else []
        return ", ".join(([f"about {format_seconds(rest)} left"] if rest else []) + late)

    def _place(self) -> str:
        return f"[{self.total - len(self.expected) + 1}/{self.total}] {self.current}"


def format_seconds(seconds: float) -> str:
    """Write a duration the way people say it.

    Example:
        >>> format_seconds(4.24), format_seconds(75), format_seconds(7300)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
