"""Token arrays of the filtering experiment, as one packed file; numpy only, so that they train anywhere."""

from __future__ import annotations

import io
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

__all__ = ["ARMS", "Prepared", "load_prepared", "save_prepared"]

ARMS = ("classifier", "random", "shuffled", "dedup", "perplexity", "refinedweb", "raw", "mix")
ARRAYS, FACTS = "arms.npz.xz", "arms.json"


@dataclass(frozen=True)
class Prepared:
    """Token arrays of an experiment.

    Attributes:
        arms: uint16 [rows, context] by arm.
        evaluation: The same for `b_test`, `b_valid`, `c_test`, `c_valid`.
        num_bytes: UTF-8 bytes of every id.
        tasks: By task: rows, lengths, starts, items, options, gold, bytes.
        facts: Counts: documents and tokens of every arm before the cut, hashes.
    """

    arms: dict[str, NDArray[np.uint16]]
    evaluation: dict[str, NDArray[np.uint16]]
    num_bytes: NDArray[np.uint16]
    tasks: dict[str, dict[str, NDArray[Any]]]
    facts: dict[str, Any]


def save_prepared(prepared: Prepared, out: Path) -> None:
    """Write `arms.npz.xz` and `arms.json`."""
    plain: dict[str, Any] = {f"arms/{name}": rows for name, rows in prepared.arms.items()}
    plain |= {f"evaluation/{name}": rows for name, rows in prepared.evaluation.items()}
    plain["num_bytes"] = prepared.num_bytes
    for task, columns in prepared.tasks.items():
        plain |= {f"tasks/{task}/{name}": values for name, values in columns.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **plain)
    with atomic_write(out / ARRAYS) as file:
        file.write(lzma.compress(buffer.getvalue(), preset=6))
    write_json(out / FACTS, prepared.facts)


def load_prepared(folder: Path) -> Prepared:
    """Read what `save_prepared` wrote.

    Raises:
        InputError: Nothing there.
    """
    if not (folder / ARRAYS).is_file():
        raise InputError(f"no prepared arms in {folder}; make them with python -m dclm.filtering_arms.")
    content = lzma.decompress((folder / ARRAYS).read_bytes())
    arms: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name in arrays.files:
            kind, _, rest = name.partition("/")
            if kind == "arms":
                arms[rest] = arrays[name]
            elif kind == "evaluation":
                evaluation[rest] = arrays[name]
            elif kind == "tasks":
                task, _, column = rest.partition("/")
                tasks.setdefault(task, {})[column] = arrays[name]
        counts = arrays["num_bytes"]
    return Prepared(arms, evaluation, counts, tasks, json.loads((folder / FACTS).read_text("utf-8")))
