"""Lists of uids as the authors publish them: structured npy files, one per step, and evaluation pickles."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

UID = np.dtype([("f0", "u8"), ("f1", "u8")])
_HEX = re.compile(r"[0-9a-f]{32}")


def to_uid(name: str) -> bytes:
    """Return 16 bytes for a name: its own where it is 32 hexadecimal digits, else a hash."""
    if _HEX.fullmatch(name):
        return bytes.fromhex(name)
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def to_structured(uids: Sequence[bytes]) -> np.ndarray:
    """Return uids of 16 bytes as the published type, (high, low), sorted and unique."""
    flat = np.frombuffer(b"".join(uids), dtype=">u8").reshape(-1, 2)
    found: Any = np.empty(len(flat), UID)
    found["f0"], found["f1"] = flat[:, 0], flat[:, 1]
    return np.unique(found)


def to_hex(uids: np.ndarray) -> list[str]:
    """Return structured uids as 32 hexadecimal digits each."""
    return [f"{int(high):016x}{int(low):016x}" for high, low in zip(uids["f0"], uids["f1"], strict=True)]


def read_uids(path: Path) -> np.ndarray:
    """Read one npy list; a pickled or differently typed array is refused."""
    try:
        found = np.load(path)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: no list of uids ({error}).") from error
    if found.dtype.kind != "V" or [found.dtype[i] for i in range(len(found.dtype))] != [np.dtype("u8")] * 2:
        raise InputError(f"{path}: expected pairs of u8 as published lists hold, found {found.dtype}.")
    return np.unique(found.view(UID))


def read_step_lists(folder: Path) -> dict[str, np.ndarray]:
    """Read `{step}.npy` of a folder, in the order of the steps' names; a uid in two steps is refused."""
    lists = {path.stem: read_uids(path) for path in sorted(folder.glob("*.npy"))}
    if not lists:
        raise InputError(f"no npy list of uids in {folder}.")
    names = list(lists)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if len(both := np.intersect1d(lists[name], lists[other])):
                raise InputError(f"uid {to_hex(both)[0]} is in the lists of {name} and {other}; one step may hold it.")
    return lists


def check_disjoint(training: Mapping[str, np.ndarray], evaluation: Mapping[str, Any], path: Path) -> None:
    """Refuse training lists that hold an evaluation item."""
    held = to_structured([to_uid(uid) for uid in _flatten(evaluation)])
    for step, uids in training.items():
        if len(both := np.intersect1d(uids, held)):
            raise InputError(
                f"{len(both)} evaluation items of {path} are in the training list of {step} (first {to_hex(both)[0]}); "
                "use the lists without evaluation items."
            )


def _flatten(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [uid for item in value.values() for uid in _flatten(item)]
    return [str(uid) for uid in value]


class _PlainUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, tuples, strings and numbers, and nothing that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(f"it asks for {module}.{name}; only plain containers are read, nothing was run.")

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("it holds a persistent id; only plain containers are read.")


def read_evaluation(path: Path) -> dict[Any, Any]:
    """Read an evaluation pickle, {step: [uid]} or {step: {class: [uid]}}, without running anything in it.

    Raises:
        InputError: The pickle names code, or is no dictionary.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except InputError as error:
        raise InputError(f"{path}: refused: {error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: no pickle of plain containers ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a dictionary by step, found {type(found).__name__}.")
    return found


def write_lists(out: Path, training: Mapping[str, np.ndarray], evaluation: Mapping[str, Sequence[str]]) -> None:
    """Write the official files: `{step}.npy` without evaluation items, `sizes.json`, `retrieval.pkl`."""
    for step, uids in training.items():
        with atomic_write(out / f"{step}.npy") as file:
            np.save(file, uids)
    with atomic_write(out / "retrieval.pkl") as file:
        pickle.dump({step: list(uids) for step, uids in evaluation.items()}, file)
    write_json(out / "sizes.json", {step: len(uids) for step, uids in training.items()})
