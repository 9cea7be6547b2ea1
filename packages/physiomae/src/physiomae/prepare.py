"""Recordings to a folder of shards: what was read, what was written, what was dropped and why."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import append_jsonl, read_jsonl, write_json
from tenfold_shared.progress import progress

from physiomae import cinc2018
from physiomae.config import PhysioMAEConfig
from physiomae.preprocess import Windows, cut_windows
from physiomae.readers import read_recording
from physiomae.recordings import Recording
from physiomae.shards import write_index, write_shard
from physiomae.splits import make_splits, owner_of

Read = Callable[[Path], Windows]
PLAN, DONE = "plan.json", "done.jsonl"  # of a run that is going on
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

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one recording: `refused`, or `dropped`, `channels` and `shard`."""
        if "refused" in row:
            self.refused.append(row["refused"])
            return
        self.read += 1
        self.dropped.update(row["dropped"])
        self.channels.update(row["channels"])
        self.shards.append(row["shard"])

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
        InputError: A record that cannot be used, unless `skip_bad`; when it was mended, the same call goes on with it.
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
    """Read, cut and write one recording after the other into a folder that appears when all of it is there.

    Until then it is a hidden folder beside `out`; the same call goes on in it after what a stopped one has written.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose a new folder.")
    files, partial = list(files), out.with_name(f".{out.name}.partial")
    counts, done = _go_on(partial, files, _settings(config, options))
    for path in progress(files[done:], description="recordings", unit="recordings", quiet=options.quiet):
        try:
            _add(partial, path, read, counts, options)
        except InputError:
            if not counts.read:
                shutil.rmtree(partial)
            raise
    splits = options.splits or make_splits([row["subject"] for row in counts.shards], options.seed)
    report = counts.report(splits)
    write_index(partial, config, counts.shards, splits)
    for name in (PLAN, DONE):
        (partial / name).unlink(missing_ok=True)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return report


def _settings(config: PhysioMAEConfig, options: PrepareOptions) -> dict[str, Any]:
    """What decides the shards beside the recordings."""
    plain = {"stages_only": options.stages_only, "skip_bad": options.skip_bad, "config": config.to_dict()}
    return json.loads(json.dumps(plain))


def _identity(path: Path) -> list[Any]:
    return [str(path), path.stat().st_size, path.stat().st_mtime_ns]


def _go_on(partial: Path, files: Sequence[Path], settings: Mapping[str, Any]) -> tuple[Counts, int]:
    """Return the counts of a stopped run, and how many recordings it had done.

    With other settings, or where a recording that was done has changed, all begins anew.
    """
    counts, path, done = Counts(), partial / PLAN, partial / DONE
    same = path.is_file() and json.loads(path.read_text(encoding="utf-8")) == settings
    rows = read_jsonl(done) if same and done.is_file() else []
    if not same or [row["file"] for row in rows] != [_identity(file) for file in files[: len(rows)]]:
        shutil.rmtree(partial, ignore_errors=True)
        write_json(path, settings)
        rows = []
    for row in rows:
        counts.add(row)
    return counts, len(rows)


def _add(folder: Path, path: Path, read: Read, counts: Counts, options: PrepareOptions) -> None:
    """Prepare one recording; its line in the list of those that are done comes last."""
    row: dict[str, Any]
    try:
        windows = read(path)
    except InputError as error:
        if not options.skip_bad:
            raise
        row = {"refused": str(error)}
    else:
        channels = [f"{place['channel']} by {place['matched_by']}, {place['state']}" for place in windows.channels]
        part = sum(row["subject"] == windows.subject for row in counts.shards)
        shard = write_shard(folder, windows, part)
        row = {"dropped": dict(windows.dropped), "channels": channels, "shard": shard}
    counts.add(row)
    append_jsonl(folder / DONE, {"file": _identity(path), **row})
