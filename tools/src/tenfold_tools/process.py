"""Run one child process to its end: its output shown live and kept in a log, with a time limit."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK_SECONDS = 0.5
GRACE_SECONDS = 5.0
TAIL_LINES = 30


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `problem` is empty after success, else one sentence; `tail` holds its last lines."""

    seconds: float
    problem: str
    tail: str


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    limit_seconds: float | None,
    show: Callable[[str], None],
    tick: Callable[[float], None],
) -> Outcome:
    """Run `command` in a process group of its own and wait for it.

    The child's standard input is a pipe that nobody writes to: a worker that watches it notices within
    moments that its parent is gone, even after a kill -9. A child that is over its limit gets SIGABRT,
    which makes Python's faulthandler write where it hangs, then SIGKILL. Whatever the child leaves behind
    in its group is killed.

    Args:
        command: program and arguments; no shell is involved.
        log: file that receives everything the child writes, replaced if it exists.
        limit_seconds: wall-clock limit, None for none.
        show: called with each line of output, without its end.
        tick: called about twice a second with the seconds that have passed.

    Raises:
        KeyboardInterrupt: passed on after the child has been stopped.
    """
    start = time.monotonic()
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        try:
            too_long = _follow(child, sink, start, limit_seconds, show, tick)
        except KeyboardInterrupt:
            _stop(child, signal.SIGINT)
            raise
        finally:
            _kill_group(child)
    seconds = time.monotonic() - start
    tail = read_tail(log)
    if too_long:
        return Outcome(seconds, f"stopped after its limit of {limit_seconds:g} s", tail)
    return Outcome(seconds, describe_exit(child.returncode, tail), tail)


def worker_command(kind: str, name: str, *, out: Path, budget: str, seed: int) -> list[str]:
    """Return the command that runs one entry point in a process of its own."""
    options = ["--out", str(out), "--budget", budget, "--seed", str(seed), "--watch-parent"]
    return [sys.executable, "-X", "faulthandler", "-m", "tenfold_tools.worker", kind, name, *options]


def describe_exit(returncode: int, tail: str = "") -> str:
    r"""Put an exit status into words, with the last line of output; empty for success.

    Example:
        >>> describe_exit(-11), describe_exit(1, "Traceback ...\nValueError: no")
        ('killed by signal 11 (Segmentation fault)', 'exit status 1 (ValueError: no)')
    """
    if returncode == 0:
        return ""
    if returncode < 0:
        return f"killed by signal {-returncode} ({signal.strsignal(-returncode) or 'unknown'})"
    last = tail.strip().splitlines()[-1:]
    return f"exit status {returncode}" + "".join(f" ({line.strip()[:200]})" for line in last)


def read_tail(log: Path) -> str:
    """Return the last lines of a log, for the page."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


def _follow(child, sink, start, limit_seconds, show, tick) -> bool:
    """Relay output until the child has ended; True when it had to be stopped for its time."""
    lines = _Lines(sink, show)
    with selectors.DefaultSelector() as selector:
        os.set_blocking(child.stdout.fileno(), False)
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            ended = child.poll() is not None
            for key, _ in selector.select(0 if ended else TICK_SECONDS):
                if not lines.feed(child.stdout):
                    selector.unregister(key.fileobj)
                    _wait(child, TICK_SECONDS)
            # The end of the child counts, not that of the pipe, which a grandchild may hold open for ever.
            if ended:
                lines.feed(child.stdout)
                lines.close()
                return False
            seconds = time.monotonic() - start
            tick(seconds)
            if limit_seconds is not None and seconds > limit_seconds:
                _stop(child, signal.SIGABRT)
                lines.feed(child.stdout)
                lines.close()
                return True


class _Lines:
    """Cut a stream of bytes into lines; a carriage return of a progress bar ends a line too."""

    def __init__(self, sink, show: Callable[[str], None]) -> None:
        self.sink, self.show, self.rest = sink, show, b""

    def feed(self, pipe) -> bool:
        """Take what has arrived; False at the end of the stream."""
        while chunk := pipe.read(65536):
            self.sink.write(chunk)
            self.sink.flush()
            *lines, self.rest = (self.rest + chunk).replace(b"\r", b"\n").split(b"\n")
            self._show(lines)
        return chunk is None

    def close(self) -> None:
        self._show([self.rest])

    def _show(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.strip():
                self.show(line.decode(errors="replace"))


def _stop(child: subprocess.Popen, first: signal.Signals) -> None:
    """Ask politely and wait a little; the caller kills what is left."""
    child.send_signal(first)
    _wait(child, GRACE_SECONDS)


def _wait(child: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def _kill_group(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers the second for a group of zombies
        pass
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
