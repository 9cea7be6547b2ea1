"""Subjects to training, validation and test: by hash, written down with a hash of its own, never a subject twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

SPLITS = ("train", "valid", "test")
DEFAULT_SHARES = (0.8, 0.1, 0.1)


def split_of(subject: str, seed: int = 0, shares: Sequence[float] = DEFAULT_SHARES) -> str:
    """Return the split of a subject, which depends on its name and the seed alone.

    New subjects never move old ones.

    Args:
        subject: Name.
        seed: Of the whole split.
        shares: Of training, validation and test, together 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"`shares` (={tuple(shares)}) must be three numbers of at least 0 that add up to 1.")
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares[0]:
        return "train"
    return "valid" if place < shares[0] + shares[1] else "test"


def make_splits(subjects: Iterable[str], seed: int = 0, shares: Sequence[float] = DEFAULT_SHARES) -> dict[str, Any]:
    """Return the record of a split: seed, shares, subjects of each part and the hash of all that."""
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for subject in sorted(set(subjects)):
        parts[split_of(subject, seed, shares)].append(subject)
    return seal({"seed": seed, "shares": list(shares), **parts})


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of parts with its hash.

    Raises:
        InputError: A subject is in two parts, or twice in one.
    """
    owner: dict[str, str] = {}
    for name in SPLITS:
        for subject in record.get(name, []):
            if subject in owner:
                raise InputError(
                    f"subject {subject!r} is in two splits, {owner[subject]} and {name}; it may be in one."
                )
            owner[subject] = name
    return {**record, "sha256": _hash(record)}


def _hash(record: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_splits(path: str | Path) -> dict[str, Any]:
    """Read a file of splits: one of ours, or an object with lists `train`, `valid`, `test`.

    Raises:
        InputError: No such object, a subject in two splits, or a content that its hash does not fit.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not any(isinstance(record.get(name), list) for name in SPLITS):
            raise InputError(f"{path}: expected an object with lists {', '.join(SPLITS)}.")
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    sealed = seal(record)
    if record.get("sha256", sealed["sha256"]) != sealed["sha256"]:
        raise InputError(f"{path} was changed after it was hashed; take out `sha256` if that was meant.")
    return sealed


def owner_of(record: Mapping[str, Any], subject: str) -> str:
    """Return the part that a subject is in; one that is in none is an InputError."""
    for name in SPLITS:
        if subject in record.get(name, []):
            return name
    raise InputError(f"subject {subject!r} is in none of the splits; add it to one.")
