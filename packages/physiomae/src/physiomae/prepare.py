"""Recordings to a folder of shards: what was read, what was written, what was dropped and why."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.progress import progress

from physiomae import cinc2018
from physiomae.config import PhysioMAEConfig
from physiomae.preprocess import Windows, cut_windows
from physiomae.readers import read_recording
from physiomae.recordings import Recording
from physiomae.shards import write_index, write_shard
from physiomae.splits import make_splits, owner_of

Read = Callable[[Path], Windows]
_ENDINGS = (".edf", ".bdf", ".hea", ".vhdr", ".h5", ".hdf5", ".npz", ".csv")


@dataclass(frozen=True)
class PrepareOptions:
    """How a folder is prepared.

    Attributes:
        seed: Of the split.
        splits: A record of `splits.read_splits`; None splits by hash.
        skip_bad: Count recordings that cannot be read and go on, instead of stopping at the first.
        stages_only: Drop windows without a stage.
        quiet: No progress.
    """

    seed: int = 0
    splits: Mapping[str, Any] | None = None
    skip_bad: bool = False
    stages_only: bool = False
    quiet: bool = False


@dataclass
class Counts:
    """What became of the recordings."""

    read: int = 0
    refused: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    shards: list[dict[str, Any]] = field(default_factory=list)

    def report(self, splits: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `prepare --json` prints."""
        written = sum(row["windows"] for row in self.shards)
        by_split: Counter[str] = Counter()
        for row in self.shards:
            by_split[owner_of(splits, row["subject"])] += row["windows"]
        return {
            "records_read": self.read,
            "records_refused": self.refused,
            "windows_written": written,
            "windows_dropped": sum(self.dropped.values()),
            "dropped": dict(sorted(self.dropped.items())),
            "windows_by_split": dict(by_split),
            "channels": dict(sorted(self.channels.items())),
            "splits_sha256": splits["sha256"],
        }


def prepare_cinc2018(
    source: str | Path, out: str | Path, config: PhysioMAEConfig, options: PrepareOptions = PrepareOptions()
) -> dict[str, Any]:
    """Prepare records of PhysioNet's 2018 challenge.

    Args:
        source: Folder with records and `age-sex.csv`, as downloaded.
        out: New folder for shards, index and split.
        config: Modalities and lengths.
        options: Split, and what to do with records that cannot be read.

    Returns:
        Records read and refused, windows written, dropped with reasons, channels by how they were matched.

    Raises:
        InputError: A record that cannot be used, unless `skip_bad`; nothing is written then.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}; expected the challenge's records and age-sex.csv.")
    people = cinc2018.read_age_sex(source)

    def read(header: Path) -> Windows:
        labelled = cinc2018.read_record(header, people)
        return _label_arousals(labelled, config, options.stages_only)

    return write_all(cinc2018.find_records(source), read, Path(out), config, options)


def _label_arousals(labelled: cinc2018.Labelled, config: PhysioMAEConfig, stages_only: bool) -> Windows:
    found = cut_windows(labelled.recording, config, stages_only=stages_only)
    num = int(labelled.recording.seconds / config.window_seconds + 1e-9)
    arousals = cinc2018.label_arousals(labelled.arousals, labelled.rate_hz, num, config.window_seconds)
    found.labels["arousal"] = arousals[found.numbers]
    found.labels["event"] = label_events(labelled.recording, num, config.window_seconds)[found.numbers]
    return found


def label_events(recording: Recording, num: int, window_seconds: float) -> np.ndarray:
    """Return 1 for windows that an apnea or hypopnea touches, 0 for others, -1 without any annotation [num]."""
    if not recording.events:
        return np.full(num, -1)
    found = np.zeros(num, int)
    for event in recording.events:
        if "pnea" in event.label:
            found[int(event.start_seconds // window_seconds) : int(event.end_seconds // window_seconds) + 1] = 1
    return found


def prepare_files(
    source: str | Path, out: str | Path, config: PhysioMAEConfig, options: PrepareOptions = PrepareOptions()
) -> dict[str, Any]:
    """Prepare all recordings in a folder that `read_recording` can read; see `prepare_cinc2018`.

    Args:
        source: A folder, searched through, or one file.
        out: New folder.
        config: Modalities and lengths.
        options: Split, and what to do with recordings that cannot be read.

    Returns:
        As `prepare_cinc2018`.
    """
    source = Path(source)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.suffix in _ENDINGS)
    if not files:
        raise InputError(f"no recordings in {source}; these can be read: {', '.join(_ENDINGS)}.")
    return write_all(files, lambda path: cut_windows(read_recording(path), config), Path(out), config, options)


def write_all(
    files: Iterable[Path], read: Read, out: Path, config: PhysioMAEConfig, options: PrepareOptions
) -> dict[str, Any]:
    """Read, cut and write one recording after the other into a folder that appears when all of it is there."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose a new folder.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    counts = Counts()
    try:
        for path in progress(list(files), description="recordings", unit="recordings", quiet=options.quiet):
            _add(partial, path, read, counts, options)
        splits = options.splits or make_splits([row["subject"] for row in counts.shards], options.seed)
        report = counts.report(splits)
        write_index(partial, config, counts.shards, splits)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _add(folder: Path, path: Path, read: Read, counts: Counts, options: PrepareOptions) -> None:
    try:
        windows = read(path)
    except InputError as error:
        if not options.skip_bad:
            raise
        counts.refused.append(str(error))
        return
    counts.read += 1
    counts.dropped.update(windows.dropped)
    counts.channels.update(f"{row['channel']} by {row['matched_by']}, {row['state']}" for row in windows.channels)
    part = sum(row["subject"] == windows.subject for row in counts.shards)
    counts.shards.append(write_shard(folder, windows, part))
