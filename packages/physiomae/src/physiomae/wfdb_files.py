"""WFDB records: the header through wfdb, signals of format 16 straight from the file, all others through wfdb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

from physiomae.recordings import Recording, Signal

INVALID = -32768  # format 16's mark of a sample that was not recorded


def read_header(path: Path) -> Any:
    """Read a record's header; `path` ends in .hea.

    Raises:
        InputError: No header, or one that cannot be read.
    """
    wfdb = require_extra("wfdb", "files", "physiomae")
    if not path.is_file():
        raise InputError(f"no header {path}; a WFDB record is a .hea file with its data beside it.")
    try:
        return wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:  # wfdb raises whatever its parser trips over
        raise InputError(f"{path}: not a readable WFDB header ({error}).") from error


def read_wfdb(path: Path) -> Recording:
    """Read a WFDB record in physical units.

    Args:
        path: Its .hea file.

    Returns:
        All signals, each at its own rate; samples that were not recorded are nan.

    Raises:
        InputError: Data are missing, truncated or longer than the header says.
    """
    header = read_header(path)
    if getattr(header, "seg_name", None) or not header.n_sig:
        raise InputError(f"{path}: records of several segments, or without signals, cannot be read; convert it first.")
    direct = set(header.fmt) == {"16"} and len(set(header.file_name)) == 1
    signals = read_format_16(path, header) if direct else _through_wfdb(path)
    found = tuple(
        Signal(name, unit or "", header.fs * frames, samples)
        for name, unit, frames, samples in zip(
            header.sig_name, header.units, header.samps_per_frame, signals, strict=True
        )
    )
    return Recording(header.record_name, found, source=str(path))


def read_format_16(path: Path, header: Any) -> list[np.ndarray]:
    """Read interleaved 16-bit samples, such as the challenge's .mat files, whose first bytes are skipped.

    Raises:
        InputError: The file is not as long as the header says, or its first samples do not fit it.
    """
    data, frames = path.parent / header.file_name[0], np.asarray(header.samps_per_frame)
    if not data.is_file():
        raise InputError(f"{path}: its data {data.name} are missing.")
    offset = header.byte_offset[0] or 0
    expected, size = offset + 2 * int(frames.sum()) * header.sig_len, data.stat().st_size
    if size < expected:
        raise InputError(f"{data} is truncated: {path.name} promises {expected} bytes, the file has {size}.")
    if size > expected + 1:
        raise InputError(
            f"{data}: header and data disagree: {path.name} promises {expected} bytes, the file has {size}."
        )
    raw = np.fromfile(data, "<i2", count=int(frames.sum()) * header.sig_len, offset=offset)
    raw = raw.reshape(header.sig_len, -1)
    _check_first(path, header, raw[0], frames)
    edges = np.concatenate([[0], np.cumsum(frames)])
    columns = [raw[:, edges[i] : edges[i + 1]] for i in range(len(frames))]
    pairs = zip(columns, header.adc_gain, header.baseline, strict=True)
    return [_to_physical(column.reshape(-1), gain, baseline) for column, gain, baseline in pairs]


def _check_first(path: Path, header: Any, first: np.ndarray, frames: np.ndarray) -> None:
    """The header names each signal's first sample, which tells a wrong offset or order."""
    starts = np.concatenate([[0], np.cumsum(frames)[:-1]])
    for name, promised, found in zip(header.sig_name, header.init_value, first[starts], strict=True):
        if promised is not None and int(found) != promised:
            raise InputError(
                f"{path}: header and data disagree: {name} begins with {promised} in the header, {found} in the data."
            )


def _to_physical(samples: np.ndarray, gain: float, baseline: int) -> np.ndarray:
    values = samples.astype(np.float32)
    values -= np.float32(baseline)
    values *= np.float32(1 / gain)
    values[samples == INVALID] = np.nan
    return values


def _through_wfdb(path: Path) -> list[np.ndarray]:
    wfdb = require_extra("wfdb", "files", "physiomae")
    try:
        record = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)
    except Exception as error:  # as above
        raise InputError(f"{path}: its data cannot be read ({error}).") from error
    return [np.asarray(samples, np.float32) for samples in record.e_p_signal]
