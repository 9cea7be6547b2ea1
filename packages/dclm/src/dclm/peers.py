"""datatrove beside this package: in a child environment, since it does not fit into ours."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

from dclm.document import Document
from dclm.filters.c4 import CITATION
from dclm.sentences import split_sentences

__all__ = ["DATATROVE", "run_datatrove", "write_rows"]

DATATROVE = "datatrove==0.10.1"
PACKAGES = ("datatrove[processing,io]==0.10.1", "spacy>=3.8", "orjson>=3.10")
NEWEST_PYTHON = 12  # 3.12: datatrove's dependencies have no wheels for later ones
TIMEOUT_SECONDS = 900


def write_rows(path: Path, documents: Sequence[Document]) -> None:
    """Write texts with our words and sentences, for the peer to take.

    Args:
        path: JSON-lines file.
        documents: With text.
    """
    with open(path, "w", encoding="utf-8") as file:
        for number, document in enumerate(documents):
            lines = {CITATION.sub("", line.strip()) for line in document.text.splitlines()}
            row = {
                "id": str(number),
                "text": document.text,
                "words": document.words.strings(),
                "sentences": {line: split_sentences(line) for line in sorted(lines)},
            }
            file.write(json.dumps(row) + "\n")


def run_datatrove(job: str, rows: Path) -> dict[str, Any]:
    """Run a job of `peer_datatrove.py` with `uv run` in an environment of its own.

    Args:
        job: "gopher", "fineweb", "c4" (with "-given": on our words) or "minhash".
        rows: File of `write_rows`.

    Returns:
        `reasons` or `kept`, and `seconds`: CPU time of the whole child, taken by this process. Of that, starting is a
        part; a run on one document tells how large.

    Raises:
        InputError: uv is missing, or the environment cannot be made.
    """
    if shutil.which("uv") is None:
        raise InputError("datatrove runs in a child environment, which needs uv; run: pip install uv")
    python = f"3.{min(sys.version_info.minor, NEWEST_PYTHON)}"
    script = Path(__file__).with_name("peer_datatrove.py")
    packages = [part for package in PACKAGES for part in ("--with", package)]
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", python, *packages]
    command += ["python", str(script), job, str(rows)]
    before = _child_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    seconds = _child_seconds() - before
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"datatrove could not be run ({last}).")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": seconds}


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
