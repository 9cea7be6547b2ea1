"""The commands that make windows, and what every command has."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

from physiomae.config import PRESETS, PhysioMAEConfig, read_modality

PresetName = Literal["sleep", "sleep_small", "watch", "simulator", "tiny"]


@dataclass(frozen=True)
class Output:
    """Options of every command."""

    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""


@dataclass(frozen=True)
class Prepare(Output):
    """Cut recordings into windows on a common clock, split by subject, and say what was dropped and why.

    For example:

        physiomae prepare cinc2018 training/ windows/ --json
        physiomae prepare files recordings/ windows/ --preset simulator
        physiomae prepare files night.edf windows/ --modalities my-channels.json
    """

    kind: Positional[Literal["cinc2018", "files"]] = "files"
    """cinc2018: PhysioNet's 2018 challenge as downloaded; files: EDF, BDF, WFDB, BrainVision, HDF5, npz, CSV."""
    source: Positional[Path] = Path("recordings")
    """Folder with the recordings."""
    out: Positional[Path] = Path("windows")
    """New folder for shards, index and split."""
    preset: PresetName = "sleep"
    """Whose modalities and lengths to use."""
    modalities: Path | None = None
    """JSON list of modalities (name, channels, rate_hz, unit, band_hz, aliases) in place of the preset's."""
    splits: Path | None = None
    """JSON with lists train, valid, test of subjects; by hash of the subject's name otherwise."""
    seed: int = 0
    """Of the split by hash."""
    skip_bad: bool = False
    """Count recordings that cannot be used and go on, instead of stopping at the first."""
    stages_only: bool = False
    """Drop windows without a stage."""

    def run(self) -> None:
        """Prepare and print the counts."""
        from physiomae.prepare import PrepareOptions, prepare_cinc2018, prepare_files
        from physiomae.splits import read_splits

        splits = read_splits(self.splits) if self.splits else None
        options = PrepareOptions(self.seed, splits, self.skip_bad, self.stages_only, self.quiet)
        work = prepare_cinc2018 if self.kind == "cinc2018" else prepare_files
        found = work(self.source, self.out, read_config(self.preset, self.modalities), options)
        print_result(found if self.json else _counts(found), self.json)


def _counts(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"what": name, "number": found[name]} for name in ("records_read", "windows_written", "windows_dropped")]
    rows += [{"what": f"dropped: {reason}", "number": number} for reason, number in found["dropped"].items()]
    rows += [{"what": f"written: {name}", "number": number} for name, number in found["windows_by_split"].items()]
    rows += [{"what": reason, "number": 1} for reason in found["records_refused"]]
    return rows + [{"what": channel, "number": number} for channel, number in found["channels"].items()]


def read_config(preset: str, modalities: Path | None) -> PhysioMAEConfig:
    """Return a preset, with the modalities of a file in place of its own if there is one."""
    from dataclasses import replace

    if modalities is None:
        return PRESETS[preset]
    try:
        rows = json_module.loads(modalities.read_text(encoding="utf-8"))
        return replace(PRESETS[preset], modalities=tuple(read_modality(row) for row in rows))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{modalities}: no list of modalities: {error}.") from error


@dataclass(frozen=True)
class Simulate(Output):
    """Write synthetic recordings with stages, or print what an oracle can know of them.

    For example:

        physiomae simulate recordings/ --subjects 8 --windows 60
        physiomae simulate --oracle --coupling 0.45 --informativeness graded --json
    """

    out: Positional[Path] = Path("simulated")
    """New folder for .npz recordings."""
    subjects: int = 8
    """Recordings, one a subject."""
    windows: int = 60
    """Windows of 8 s in each."""
    coupling: float = 0.45
    """Correlation of the noise between modalities."""
    informativeness: Literal["even", "graded", "one"] = "graded"
    """How labels' effects spread over modalities."""
    seed: int = 0
    """Of everything."""
    oracle: bool = False
    """Write nothing; print the best possible balanced accuracy for every subset of modalities."""

    def run(self) -> None:
        """Write recordings, or print the oracle's accuracy."""
        from physiomae.simulator import SimulatorConfig

        config = SimulatorConfig(self.coupling, self.informativeness, self.subjects, self.windows, self.seed)
        if self.oracle:
            from physiomae.oracle import oracle_accuracy

            found = oracle_accuracy(config)
            rows = [
                {"available": name, **{task: round(v, 4) for task, v in row.items()}} for name, row in found.items()
            ]
            print_result(rows, self.json)
            return
        from physiomae.recordings_simulated import write_recordings

        print_result({"recordings": write_recordings(config, self.out), "folder": str(self.out)}, self.json)
