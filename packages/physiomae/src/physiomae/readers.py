"""`read_recording`: one function for EDF, BDF, WFDB, BrainVision, HDF5, npz and CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write

from physiomae.edf import read_edf
from physiomae.recordings import Annotation, Recording, Signal
from physiomae.wfdb_files import read_wfdb

TIME = "seconds"


def read_recording(path: str | Path) -> Recording:
    """Read a recording by the ending of its name.

    EDF and BDF (.edf, .bdf), WFDB (.hea), BrainVision (.vhdr, needs the extra `brainvision`), HDF5 (.h5, .hdf5), .npz
    and .csv. HDF5 and npz hold `signals/NAME`, `rate_hz/NAME`, `unit/NAME`, optionally `subject`, `stages/start`,
    `stages/seconds`, `stages/label`; a CSV has a column `seconds` and columns such as `ECG [mV]`, an empty cell being
    a gap.

    Args:
        path: The file; of a WFDB or BrainVision record its header.

    Returns:
        Signals in their units, gaps as nan.

    Raises:
        InputError: Unknown ending, or a file that is damaged, truncated or contradicts itself.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'a name without ending'}; these: {', '.join(_READERS)}.")
    if not path.is_file():
        raise FileNotFoundError(f"no recording at {path}.")
    return reader(path)


def read_brainvision(path: Path) -> Recording:
    """Read a BrainVision record through mne; markers become events."""
    mne = require_extra("mne", "brainvision", "physiomae")
    try:
        raw = mne.io.read_raw_brainvision(path, preload=True, verbose="error")
    except Exception as error:  # mne raises whatever its parser trips over
        raise InputError(f"{path}: not a readable BrainVision header ({error}).") from error
    rate = float(raw.info["sfreq"])
    volts = {kind for kind in ("eeg", "eog", "ecg", "emg")}
    signals = []
    for name, kind, samples in zip(raw.ch_names, raw.get_channel_types(), raw.get_data(), strict=True):
        factor, unit = (1e6, "uV") if kind in volts else (1.0, "")
        signals.append(Signal(name, unit, rate, (samples * factor).astype(np.float32)))
    events = [
        Annotation(float(note["onset"]), float(note["duration"]), str(note["description"])) for note in raw.annotations
    ]
    return Recording(path.stem, tuple(signals), events=tuple(events), source=str(path))


def read_npz(path: Path) -> Recording:
    """Read an .npz file of `write_npz`'s layout; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _from_entries({name: file[name] for name in file.files}, path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: {error}") from error


def read_hdf5(path: Path) -> Recording:
    """Read an HDF5 file with the same names as an .npz file."""
    h5py = require_extra("h5py", "files", "physiomae")
    entries: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            entries[name] = item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}).") from error
    return _from_entries(entries, path)


def _from_entries(entries: Mapping[str, Any], path: Path) -> Recording:
    names = [key.removeprefix("signals/") for key in entries if key.startswith("signals/")]
    for name in names:
        missing = [f"{part}/{name}" for part in ("rate_hz", "unit") if f"{part}/{name}" not in entries]
        if missing:
            raise InputError(f"{path}: header and data disagree: signals/{name} without {' and '.join(missing)}.")
    signals = tuple(
        Signal(name, str(entries[f"unit/{name}"]), float(entries[f"rate_hz/{name}"]), _samples(entries, name, path))
        for name in names
    )
    parts = [np.atleast_1d(entries.get(f"stages/{part}", ())) for part in ("start", "seconds", "label")]
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(str(len(part)) for part in parts)
        raise InputError(f"{path}: header and data disagree: stages have {counts} starts, seconds and labels.")
    stages = tuple(Annotation(float(a), float(b), str(c)) for a, b, c in zip(*parts, strict=True))
    facts = tuple((key[6:], float(value)) for key, value in entries.items() if key.startswith("facts/"))
    return Recording(str(entries.get("subject", path.stem)), signals, stages, facts=facts, source=str(path))


def _samples(entries: Mapping[str, Any], name: str, path: Path) -> np.ndarray:
    samples = np.asarray(entries[f"signals/{name}"])
    if samples.ndim != 1 or samples.dtype.kind not in "fiu":
        raise InputError(f"{path}: signals/{name} is {samples.dtype} {samples.shape}; expected numbers in one row.")
    return samples.astype(np.float32)


def write_npz(path: str | Path, recording: Recording) -> None:
    """Write a recording as .npz; `read_recording` gives it back."""
    entries: dict[str, Any] = {"subject": recording.subject}
    for signal in recording.signals:
        entries |= {f"signals/{signal.name}": signal.samples, f"unit/{signal.name}": signal.unit}
        entries[f"rate_hz/{signal.name}"] = signal.rate_hz
    entries |= {f"facts/{name}": value for name, value in recording.facts}
    for part, field in (("start", "start_seconds"), ("seconds", "seconds"), ("label", "label")):
        entries[f"stages/{part}"] = np.array([getattr(stage, field) for stage in recording.stages])
    with atomic_write(path) as file:
        np.savez(file, **entries)


def read_csv(path: Path) -> Recording:
    """Read a CSV with a column `seconds` and one for each signal, its unit in brackets."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 3 or TIME not in rows[0]:
        raise InputError(f"{path}: expected a heading with `{TIME}` and at least two rows.")
    width = len(rows[0])
    if wrong := next((number for number, row in enumerate(rows, 1) if len(row) != width), None):
        raise InputError(
            f"{path}: header and data disagree: line {wrong} has {len(rows[wrong - 1])} cells, not {width}."
        )
    try:
        table = np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows[1:]])
    except ValueError as error:
        raise InputError(f"{path}: a cell is no number ({error}).") from error
    seconds = table[:, rows[0].index(TIME)]
    steps = np.diff(seconds)
    if not (steps > 0).all() or np.ptp(steps) > 0.01 * steps.mean():
        raise InputError(f"{path}: rates do not fit: `{TIME}` must rise in equal steps; leave cells of a gap empty.")
    rate = round((len(seconds) - 1) / (seconds[-1] - seconds[0]), 6)
    columns = [(name, place) for place, name in enumerate(rows[0]) if name != TIME]
    signals = tuple(Signal(*_name_and_unit(name), rate, table[:, place].astype(np.float32)) for name, place in columns)
    return Recording(path.stem, signals, source=str(path))


def _name_and_unit(heading: str) -> tuple[str, str]:
    name, _, unit = heading.partition("[")
    return name.strip(), unit.strip().removesuffix("]")


_READERS: dict[str, Callable[[Path], Recording]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
    ".hea": read_wfdb,
    ".vhdr": read_brainvision,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".npz": read_npz,
    ".csv": read_csv,
}
