"""PhysioNet's 2018 challenge ("You Snooze You Win"): .hea, .mat, .arousal, -arousal.mat and age-sex.csv.

A record `tr03-0005` is one subject. Stages and arousals come sample by sample from `-arousal.mat` (HDF5, data/arousals
with 1, 0 and -1 for unscored, data/sleep_stages/* with 0 and 1); without it stages come from `.arousal` (WFDB). Events
such as `(resp_hypopnea ... resp_hypopnea)` are read from `.arousal`. Records of the test part have neither.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

from physiomae.recordings import UNSCORED, Annotation, Recording, stage_number
from physiomae.wfdb_files import read_header, read_wfdb

STAGE_DATASETS = {"wake": "W", "nonrem1": "N1", "nonrem2": "N2", "nonrem3": "N3", "rem": "R", "undefined": "undefined"}
SEXES = {"M": 0.0, "F": 1.0}


@dataclass(frozen=True)
class Labelled:
    """A record with what was scored on it; `arousals` [samples] is None where nothing was."""

    recording: Recording
    arousals: np.ndarray | None
    rate_hz: float


def find_records(source: Path) -> list[Path]:
    """Return the headers of all records, in folders of their own or side by side.

    Raises:
        InputError: There is none.
    """
    found = sorted(path for path in source.rglob("*.hea") if path.with_suffix(".mat").exists())
    if not found:
        raise InputError(f"no records in {source}; expected folders such as tr03-0005 with tr03-0005.hea and .mat.")
    names = [path.stem for path in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"record {twice} is in {source} twice; keep one.")
    return found


def read_age_sex(source: Path) -> dict[str, tuple[float, float]]:
    """Return age in years and sex (0 male, 1 female) by record; nan where the table says something else.

    Raises:
        InputError: The table has other columns.
    """
    path = source / "age-sex.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"Record", "Age", "Sex"} <= set(rows[0]):
        raise InputError(f"{path}: expected columns Record, Age, Sex.")
    return {
        row["Record"].strip(): (_number(row["Age"]), SEXES.get(row["Sex"].strip().upper(), math.nan)) for row in rows
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_record(header: Path, people: dict[str, tuple[float, float]]) -> Labelled:
    """Read one record with its stages, arousals, events, age and sex.

    Args:
        header: Its .hea file.
        people: Of `read_age_sex`.

    Returns:
        The recording; unknown facts are nan.

    Raises:
        InputError: Files that are damaged or contradict each other.
    """
    recording, rate = read_wfdb(header), float(read_header(header).fs)
    age, sex = people.get(header.stem, (math.nan, math.nan))
    recording = replace(recording, subject=header.stem, facts=(("age", age), ("sex", sex)))
    scored, notes = header.with_name(f"{header.stem}-arousal.mat"), header.with_suffix(".arousal")
    stages, events = read_notes(notes) if notes.is_file() else ((), ())
    arousals = None
    if scored.is_file():
        length = len(recording.signals[0].samples)
        arousals, stages = read_scored(scored, length, rate)
    return Labelled(replace(recording, stages=stages, events=events), arousals, rate)


def read_scored(path: Path, length: int, rate_hz: float) -> tuple[np.ndarray, tuple[Annotation, ...]]:
    """Read arousals [samples] and stages of an -arousal.mat file.

    Raises:
        InputError: Not such a file, another length than the record, or a sample with two stages.
    """
    h5py: Any = require_extra("h5py", "files", "physiomae")
    try:
        with h5py.File(path, "r") as file:
            arousals = np.asarray(file["data/arousals"]).ravel()
            flags = {name: np.asarray(file[f"data/sleep_stages/{name}"]).ravel() for name in STAGE_DATASETS}
            unknown = sorted(set(file["data/sleep_stages"]) - set(STAGE_DATASETS))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: not the challenge's -arousal.mat ({error}).") from error
    if unknown:
        raise InputError(f"{path}: unknown stages {', '.join(unknown)}; known are {', '.join(STAGE_DATASETS)}.")
    lengths = {len(arousals), *(len(values) for values in flags.values())}
    if lengths != {length}:
        raise InputError(f"{path}: header and data disagree: {sorted(lengths)} samples, the record has {length}.")
    total = sum(values.astype(np.int16) for values in flags.values())
    if np.max(total) > 1:
        raise InputError(f"{path}: overlapping annotations: sample {int(np.argmax(total > 1))} has two stages.")
    return arousals, tuple(runs_of(flags, rate_hz))


def runs_of(flags: dict[str, np.ndarray], rate_hz: float) -> Iterator[Annotation]:
    """Yield a stage for each stretch in which its flag is 1."""
    for name, values in flags.items():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], values.astype(np.int8), [0]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            yield Annotation(start / rate_hz, (stop - start) / rate_hz, STAGE_DATASETS[name])


def read_notes(path: Path) -> tuple[tuple[Annotation, ...], tuple[Annotation, ...]]:
    """Read stages and events of an .arousal file; a stage lasts until the next one begins.

    Raises:
        InputError: Not readable, or a text that is neither stage nor event.
    """
    wfdb: Any = require_extra("wfdb", "files", "physiomae")
    try:
        notes = wfdb.rdann(str(path.with_suffix("")), "arousal")
        rate = notes.fs or wfdb.rdheader(str(path.with_suffix(""))).fs
    except Exception as error:  # wfdb raises whatever its parser trips over
        raise InputError(f"{path}: not a readable WFDB annotation ({error}).") from error
    seconds = np.asarray(notes.sample) / rate
    texts = [text.strip("\x00 ") for text in notes.aux_note]
    pairs = list(zip(seconds.tolist(), texts, strict=True))
    return tuple(_stages(pairs, path)), tuple(_events(pairs))


def _stages(pairs: list[tuple[float, str]], path: Path) -> Iterator[Annotation]:
    plain = [(start, text) for start, text in pairs if text and not (text.startswith("(") or text.endswith(")"))]
    for place, (start, text) in enumerate(plain):
        try:
            stage_number(text)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        end = plain[place + 1][0] if place + 1 < len(plain) else start + 30.0
        yield Annotation(start, end - start, text)


def _events(pairs: list[tuple[float, str]]) -> Iterator[Annotation]:
    opened: dict[str, float] = {}
    for seconds, text in pairs:
        if text.startswith("("):
            opened[text[1:]] = seconds
        elif text.endswith(")") and (name := text[:-1]) in opened:
            start = opened.pop(name)
            yield Annotation(start, seconds - start, name)


def label_arousals(arousals: np.ndarray | None, rate_hz: float, num: int, window_seconds: float) -> np.ndarray:
    """Return 1 for windows with any arousal, 0 without, -1 where all is unscored or nothing is known [num]."""
    if arousals is None:
        return np.full(num, UNSCORED)
    size = round(window_seconds * rate_hz)
    windows = arousals[: num * size].reshape(num, size)
    return np.where((windows == 1).any(1), 1, np.where((windows == -1).all(1), UNSCORED, 0))
