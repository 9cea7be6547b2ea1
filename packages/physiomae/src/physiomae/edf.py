"""EDF and BDF through edfio, with what it takes for granted checked first: whole records that follow on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

from physiomae.recordings import Annotation, Recording, Signal

HEADER, PER_SIGNAL = 256, 256
_STAGE = re.compile(r"sleep stage ", re.IGNORECASE)
_ONSET = re.compile(rb"([+-][0-9.]+)\x14")


@dataclass(frozen=True)
class Layout:
    """What the header promises: bytes of header and of a record, records, seconds of one, samples of each signal."""

    header_bytes: int
    record_bytes: int
    num_records: int
    record_seconds: float
    samples: tuple[int, ...]
    labels: tuple[str, ...]
    discontinuous: bool
    sample_bytes: int


def read_edf(path: Path) -> Recording:
    """Read an EDF(+) or BDF(+) file; EDF+ annotations named "Sleep stage ..." are stages, others events.

    Gaps between the records of a discontinuous file become nan.

    Args:
        path: Ends in .edf or .bdf.

    Returns:
        All signals in physical units.

    Raises:
        InputError: Truncated, or header and data disagree.
    """
    layout = read_layout(path)
    edfio: Any = require_extra("edfio", "files", "physiomae")
    reader = edfio.read_bdf if layout.sample_bytes == 3 else edfio.read_edf
    try:
        edf = reader(path)
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: not a readable EDF file ({error}).") from error
    onsets = record_onsets(path, layout) if layout.discontinuous else None
    signals = []
    for signal in edf.signals:
        samples = signal.data.astype(np.float32)
        if onsets is not None:
            samples = spread(samples, signal.samples_per_data_record, onsets, layout.record_seconds)
        signals.append(Signal(signal.label, signal.physical_dimension, signal.sampling_frequency, samples))
    notes = [Annotation(note.onset, note.duration or 0.0, note.text) for note in edf.annotations]
    stages = tuple(note for note in notes if _STAGE.match(note.label))
    events = tuple(note for note in notes if not _STAGE.match(note.label))
    return Recording(path.stem, tuple(signals), stages, events, source=str(path))


def read_layout(path: Path) -> Layout:
    """Read the header and hold the file's size against it.

    Raises:
        InputError: No EDF, truncated, or longer than the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER)
        if len(head) < HEADER or head[:8].strip() not in (b"0", b"\xffBIOSEMI"):
            raise InputError(f"{path}: not an EDF or BDF file (no version 0 at its start).")
        try:
            header_bytes, num_records, num = int(head[184:192]), int(head[236:244]), int(head[252:256])
            seconds = float(head[244:252])
            rest = file.read(num * PER_SIGNAL)
            samples = tuple(int(rest[num * 216 + 8 * i : num * 216 + 8 * i + 8]) for i in range(num))
        except ValueError as error:
            raise InputError(f"{path}: the EDF header is damaged ({error}).") from error
    labels = tuple(rest[16 * i : 16 * i + 16].decode("latin-1").strip() for i in range(num))
    width = 3 if head[:1] == b"\xff" else 2
    record_bytes = width * sum(samples)
    found = Layout(header_bytes, record_bytes, num_records, seconds, samples, labels, head[192:197] == b"EDF+D", width)
    _check_size(path, found, size)
    return found


def _check_size(path: Path, layout: Layout, size: int) -> None:
    if layout.num_records < 0:
        raise InputError(f"{path}: the header says that it is still being recorded (-1 records); close it first.")
    expected = layout.header_bytes + layout.num_records * layout.record_bytes
    if layout.header_bytes != HEADER + len(layout.samples) * PER_SIGNAL:
        raise InputError(
            f"{path}: header and data disagree: {len(layout.samples)} signals, {layout.header_bytes} bytes."
        )
    if size < expected:
        raise InputError(
            f"{path} is truncated: the header promises {layout.num_records} records, {expected} bytes, and the file "
            f"has {size}; copy it again."
        )
    if size > expected:
        raise InputError(
            f"{path}: header and data disagree: {layout.num_records} records are {expected} bytes, the file has {size}."
        )


def record_onsets(path: Path, layout: Layout) -> np.ndarray:
    """Return the second at which each record of a discontinuous file begins, from its timekeeping annotations."""
    place = next((i for i, label in enumerate(layout.labels) if label.endswith("Annotations")), None)
    if place is None:
        raise InputError(f"{path}: header and data disagree: discontinuous, but without annotations that say when.")
    start = layout.sample_bytes * sum(layout.samples[:place])
    stop = start + layout.sample_bytes * layout.samples[place]
    content = path.read_bytes()[layout.header_bytes :]
    onsets = []
    for number in range(layout.num_records):
        record = content[number * layout.record_bytes : (number + 1) * layout.record_bytes]
        match = _ONSET.match(record[start:stop])
        if match is None:
            raise InputError(f"{path}: record {number} does not say when it begins.")
        onsets.append(float(match.group(1)))
    return np.array(onsets)


def spread(samples: np.ndarray, per_record: int, onsets: np.ndarray, record_seconds: float) -> np.ndarray:
    """Put records at their times, with nan in between."""
    rate = per_record / record_seconds
    starts = np.round((onsets - onsets[0]) * rate).astype(int)
    whole = np.full(starts[-1] + per_record, np.nan, np.float32)
    for start, record in zip(starts, samples.reshape(-1, per_record), strict=True):
        whole[start : start + per_record] = record
    return whole
