"""Readers of series: `.ts` files of the UCR and UEA archives, `.npz`, `.npy`, and tables of numbers in CSV.

Whatever is wrong is said with the place: the line of a `.ts` file or table, the number of a series. Nothing is
unpickled.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tenfold_shared.commands import InputError

MISSING = ("?", "NaN", "nan", "")
SUFFIXES = (".ts", ".npz", ".npy", ".csv")


@dataclass(frozen=True)
class Collected:
    """Series and what belongs to them.

    Attributes:
        series: [channels, time] each; nan where a value is missing.
        labels: One for each series; empty without.
    """

    series: list[np.ndarray]
    labels: np.ndarray

    @property
    def num_channels(self) -> int:
        """Channels, the same in all series."""
        return self.series[0].shape[0]


def read_series(path: str | Path) -> Collected:
    """Read a collection from a file.

    Args:
        path: `.ts`; `.npz` with `series` [n, channels, time] and maybe `labels`; `.npy` [n, channels, time] or
            [n, time]; `.csv` with a header, rows of time and columns of channels, one series.

    Returns:
        The series, missing values as nan.

    Raises:
        FileNotFoundError: No such file.
        InputError: The file is damaged or of another kind; the sentence names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a {', '.join(SUFFIXES)} file.")
    if path.suffix == ".ts":
        return read_ts(path)
    if path.suffix == ".csv":
        return Collected([read_table(path).T.copy()], np.empty(0))
    if path.suffix in (".npz", ".npy"):
        return _read_arrays(path)
    raise InputError(f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(SUFFIXES)}.")


def _read_arrays(path: Path) -> Collected:
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"series": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no whole array file without objects ({error}).") from error
    if "series" not in arrays:
        raise InputError(f"{path} has {', '.join(arrays) or 'nothing'}; expected `series` [n, channels, time].")
    series = arrays["series"]
    series = series[:, None] if series.ndim == 2 else series
    if series.ndim != 3 or series.dtype.kind not in "fiu" or not len(series):
        raise InputError(f"`series` of {path} is {series.dtype} {series.shape}; expected numbers [n, channels, time].")
    labels = arrays.get("labels", np.empty(0))
    if len(labels) not in (0, len(series)):
        raise InputError(f"{path} has {len(series)} series and {len(labels)} labels.")
    return Collected([one.astype(np.float64) for one in series], labels)


def read_ts(path: str | Path) -> Collected:
    """Read a `.ts` file as aeon and sktime write them.

    Args:
        path: Channels are divided by colons, values by commas; the label or target comes last.

    Returns:
        Series and labels, which are numbers where `@targetLabel` is true.

    Raises:
        InputError: A line that is damaged, by its number.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    facts, first = _ts_header(path, lines)
    series, labels = [], []
    labelled = facts.get("classlabel", "false").startswith("true") or facts.get("targetlabel", "false") == "true"
    classes = facts.get("classlabel", "").split()[1:]
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        parts = line.strip().split(":")
        if labelled and len(parts) < 2:
            raise InputError(f"{path} line {number}: no label after the last colon.")
        label = parts.pop().strip() if labelled else ""
        if classes and label not in classes:
            raise InputError(f"{path} line {number}: label {label!r} is none of the header's: {', '.join(classes)}.")
        series.append(_ts_case(f"{path} line {number}", parts, series[0].shape[0] if series else 0))
        labels.append(label)
    if not series:
        raise InputError(f"{path} line {len(lines)}: no series after @data.")
    return Collected(series, _ts_labels(path, labels, facts) if labelled else np.empty(0))


def _ts_header(path: Path, lines: list[str]) -> tuple[dict[str, str], int]:
    facts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith(("#", "%")):
            continue
        if not text.startswith("@"):
            raise InputError(f"{path} line {number}: {text[:40]!r} before @data is no header line.")
        name, _, value = text[1:].partition(" ")
        if name.lower() == "data":
            if facts.get("timestamps", "false").lower() == "true":
                raise InputError(f"{path} line {number}: series with time stamps are not read; write values alone.")
            return facts, number
        facts[name.lower()] = value.strip()
    raise InputError(f"{path} line {len(lines)}: the file ends without @data.")


def _ts_case(place: str, parts: list[str], num_channels: int) -> np.ndarray:
    rows = []
    for channel, part in enumerate(parts):
        try:
            rows.append([math.nan if item.strip() in MISSING else float(item) for item in part.split(",")])
        except ValueError as error:
            raise InputError(f"{place}: channel {channel} holds a value that is no number ({error}).") from error
    if num_channels and len(rows) != num_channels:
        raise InputError(f"{place}: {len(rows)} channels where the first series has {num_channels}.")
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{place}: channels have {', '.join(str(len(row)) for row in rows[:6])} values.")
    return np.array(rows, dtype=np.float64)


def _ts_labels(path: Path, labels: list[str], facts: dict[str, str]) -> np.ndarray:
    if facts.get("targetlabel", "false") != "true":
        return np.array(labels)
    try:
        return np.array([float(label) for label in labels])
    except ValueError as error:
        raise InputError(f"{path}: a target is no number ({error}).") from error


def read_table(path: str | Path, *, skip: tuple[str, ...] = ("date", "timestamp", "datetime_gmt")) -> np.ndarray:
    """Read a CSV table of numbers with a header: [rows, columns].

    Args:
        path: Rows of one length each.
        skip: Columns that are left out, in any case of letters; others must be numbers.

    Returns:
        Numbers, empty cells as nan.

    Raises:
        InputError: A row of another length, or a column that holds something else than numbers; both are named.
    """
    path = Path(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        raise InputError(f"{path} has {len(rows)} lines; expected a header and rows.")
    names = rows[0]
    kept = [place for place, name in enumerate(names) if name.strip().lower() not in skip]
    table = np.empty((len(rows) - 1, len(kept)))
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise InputError(f"{path} line {number}: {len(row)} values where the header has {len(names)} (unequal).")
        for column, place in enumerate(kept):
            table[number - 2, column] = _number(path, number, names[place], row[place])
    return table


def _number(path: Path, line: int, name: str, text: str) -> float:
    if text.strip() in MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path} line {line}: column {name!r} holds {text!r}, which is no number.") from error
