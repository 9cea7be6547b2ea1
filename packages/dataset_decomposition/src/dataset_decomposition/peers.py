"""Packing of TRL in an environment of its own, beside which the benchmark is measured."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

PACKAGES = ("trl==1.16.0", "datasets", "numpy")
STRATEGIES = ("bfd", "bfd_split", "wrapped")
TIMEOUT_SECONDS = 600


def run_trl(strategy: str, folder: Path, length: int, repeats: int) -> dict[str, Any]:
    """Pack the documents in a folder with `uv run` in an environment of its own.

    Args:
        strategy: One of `STRATEGIES`.
        folder: With `tokens.npy` and `offsets.npy`.
        length: Tokens of a row.
        repeats: How often they are packed; 0 measures what starting and loading take.

    Returns:
        `rows`, `tokens` and `first` (sum of the ids of the first row) of the last packing, and `seconds`: CPU time of
        the whole child, taken by this process.

    Raises:
        InputError: uv is missing, or the environment cannot be made.
    """
    if shutil.which("uv") is None:
        raise InputError("TRL runs in a child environment, which needs uv; run: pip install uv")
    script = Path(__file__).with_name("peer_trl.py")
    packages = [part for package in PACKAGES for part in ("--with", package)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", python, *packages]
    command += ["python", str(script), strategy, str(folder), str(length), str(repeats)]
    before = _child_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    seconds = _child_seconds() - before
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"TRL could not be run ({last}).")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": seconds}


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
