"""Packing of TRL in an environment of its own, beside which the benchmark is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

PACKAGES = ("trl==1.16.0", "datasets", "numpy")
REPEATS = {"bfd": 1, "bfd_split": 1, "wrapped": 10}  # by strategy; the last takes little more than the clock's tick
Pack = Callable[[str], tuple[dict[str, int], float]]


@contextmanager
def trl_packer(folder: Path, length: int) -> Generator[Pack]:
    """Start a child with TRL by `uv run` and yield a function that packs the documents in a folder there.

    It takes a strategy of `REPEATS` and returns `rows`, `tokens` and `first` (sum of the ids of the first row),
    and the CPU seconds that the child spent on one packing: what the system says of it after, less what it said before,
    so that starting and loading do not count.

    Args:
        folder: With `tokens.npy` and `offsets.npy`.
        length: Tokens of a row.

    Raises:
        InputError: uv is missing, or the environment cannot be made.
    """
    if shutil.which("uv") is None:
        raise InputError("TRL runs in a child environment, which needs uv; run: pip install uv")
    packages = [part for package in PACKAGES for part in ("--with", package)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", python, *packages]
    # -P: modules beside the script are not to be found before those of the environment (`tokenizers`).
    command += ["python", "-P", str(Path(__file__).with_name("peer_trl.py")), str(folder), str(length)]
    log = folder / "trl.log"
    with (
        open(log, "wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        try:
            pid = _ask(child, None, log)["pid"]
            yield lambda strategy: _pack(child, pid, strategy, log)
        finally:
            child.stdin.close()  # the child ends when nothing more is asked


def _pack(child: Any, pid: int, strategy: str, log: Path) -> tuple[dict[str, int], float]:
    before = cpu_seconds(pid)
    found = _ask(child, f"{strategy} {REPEATS[strategy]}\n", log)
    return found, (cpu_seconds(pid) - before) / REPEATS[strategy]


def _ask(child: Any, question: str | None, log: Path) -> dict[str, int]:
    """Send a line, if any, and read the answer."""
    if question:
        child.stdin.write(question)
        child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise InputError(f"TRL could not be run ({last}).")
    return json.loads(answer)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a running process: from /proc, where there is none from `ps`."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.is_file():
        # Behind the command's name, which may hold anything but a closing bracket: fields 14 and 15 of proc(5).
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    text = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    days, _, clock = text.strip().rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    return 86_400 * float(days or 0) + seconds
