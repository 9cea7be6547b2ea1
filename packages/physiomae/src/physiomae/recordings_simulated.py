"""Simulated windows as recordings: one continuous file a subject, with its stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tenfold_shared.commands import InputError

from physiomae.config import STAGES
from physiomae.readers import write_npz
from physiomae.recordings import Annotation, Recording, Signal
from physiomae.simulator import NUM_PATCHES, RATE_HZ, Simulated, SimulatorConfig, simulate

WINDOW_SECONDS = float(NUM_PATCHES)
UNIT = "uV"


def make_recordings(data: Simulated) -> list[Recording]:
    """Return one recording for each subject, its windows in a row."""
    found = []
    for subject in np.unique(data.subject):
        rows = np.flatnonzero(data.subject == subject)
        signals = tuple(
            Signal(name.upper(), UNIT, float(RATE_HZ), array[rows, 0].reshape(-1))
            for name, array in data.signals.items()
        )
        stages = tuple(
            Annotation(place * WINDOW_SECONDS, WINDOW_SECONDS, STAGES[data.stage[row]])
            for place, row in enumerate(rows)
        )
        facts = (("trait", float(data.trait[rows[0]])),)
        found.append(Recording(f"simulated-{subject:03d}", signals, stages, facts=facts))
    return found


def write_recordings(config: SimulatorConfig, out: Path) -> int:
    """Write a simulation's recordings as .npz files into a new folder and return their number."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose a new folder.")
    recordings = make_recordings(simulate(config))
    for recording in recordings:
        write_npz(out / f"{recording.subject}.npz", recording)
    return len(recordings)
