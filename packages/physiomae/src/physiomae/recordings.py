"""A recording: named signals with units and own rates, and what was annotated on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tenfold_shared.commands import InputError, unknown_name

from physiomae.config import STAGES

UNSCORED = -1
_TOLERANCE = 1e-6  # seconds by which two annotations may touch
# Names of stages in EDF+ hypnograms, R&K numbers and the challenge's annotations.
_STAGE_NAMES = {
    **{name: place for place, name in enumerate(STAGES)},
    **{"REM": 4, "WAKE": 0, "0": 0, "1": 1, "2": 2, "3": 3, "4": 3, "5": 4, "S1": 1, "S2": 2, "S3": 3, "S4": 3},
    **{"NREM1": 1, "NREM2": 2, "NREM3": 3, "NONREM1": 1, "NONREM2": 2, "NONREM3": 3},
    **dict.fromkeys(("?", "UNDEFINED", "UNKNOWN", "M", "MOVEMENT TIME", "UNSCORED"), UNSCORED),
}


@dataclass(frozen=True)
class Signal:
    """One channel.

    Attributes:
        name: As in the file.
        unit: As in the file.
        rate_hz: Samples per second.
        samples: [samples]; nan is a gap.
    """

    name: str
    unit: str
    rate_hz: float
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class Annotation:
    """Something that lasts: a stage, an arousal, an event."""

    start_seconds: float
    seconds: float
    label: str

    @property
    def end_seconds(self) -> float:
        """Where it ends."""
        return self.start_seconds + self.seconds


@dataclass(frozen=True)
class Recording:
    """Signals of one subject.

    Attributes:
        subject: Name of the subject, by which everything is split.
        signals: In the file's order.
        stages: Sleep stages, by any name that `stage_number` knows.
        events: Other annotations.
        facts: Numbers about the subject, such as age and sex.
        source: Where it was read, for messages.
    """

    subject: str
    signals: tuple[Signal, ...]
    stages: tuple[Annotation, ...] = ()
    events: tuple[Annotation, ...] = ()
    facts: tuple[tuple[str, float], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.signals:
            raise InputError(f"{self.source or self.subject}: no signals.")
        names = [signal.name for signal in self.signals]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.source or self.subject}: {twice[0]!r} is there {names.count(twice[0])} times.")

    @property
    def seconds(self) -> float:
        """Length that all signals have."""
        return min(signal.seconds for signal in self.signals)


def stage_number(label: str) -> int:
    """Return the place of a stage in `STAGES`, or -1 where it is known to be unscored.

    Raises:
        ValueError: An unknown name, with the nearest that exists.
    """
    name = label.strip().upper().removeprefix("SLEEP STAGE ").strip()
    if name not in _STAGE_NAMES:
        raise unknown_name("stage", label, sorted(_STAGE_NAMES))
    return _STAGE_NAMES[name]


def check_stages(stages: Sequence[Annotation], source: str) -> list[tuple[Annotation, int]]:
    """Return stages in order of time with their numbers.

    Raises:
        InputError: Two overlap, or a name is unknown.
    """
    ordered = sorted(stages, key=lambda stage: stage.start_seconds)
    for one, following in itertools.pairwise(ordered):
        if following.start_seconds < one.end_seconds - _TOLERANCE:
            raise InputError(
                f"{source}: overlapping annotations: {one.label!r} lasts to {one.end_seconds:g} s, "
                f"{following.label!r} begins at {following.start_seconds:g} s."
            )
    try:
        return [(stage, stage_number(stage.label)) for stage in ordered]
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def label_windows(stages: Sequence[tuple[Annotation, int]], num: int, window_seconds: float) -> np.ndarray:
    """Return the stage that covers more than half of each window, -1 where none does [num]."""
    covered = np.zeros((num, len(STAGES)))
    for stage, number in stages:
        if number == UNSCORED:
            continue
        first = max(0, int(stage.start_seconds // window_seconds))
        last = min(num - 1, int(stage.end_seconds // window_seconds))
        for window in range(first, last + 1):
            low, high = window * window_seconds, (window + 1) * window_seconds
            covered[window, number] += max(0.0, min(high, stage.end_seconds) - max(low, stage.start_seconds))
    best = covered.argmax(1)
    return np.where(covered.max(1, initial=0.0) > window_seconds / 2, best, UNSCORED)
