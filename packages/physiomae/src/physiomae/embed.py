"""From a recording to embeddings and stages, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tenfold_shared.commands import InputError

from physiomae.batch import MultimodalBatch
from physiomae.config import STAGES
from physiomae.evaluate import embed_windows
from physiomae.model import PhysioMAE
from physiomae.preprocess import Windows, cut_windows
from physiomae.probe import LinearProbe
from physiomae.recordings import Recording


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a recording.

    Attributes:
        seconds: Where each window begins [windows].
        embeddings: [windows, width].
        windows: The windows themselves, with labels and the report on channels.
    """

    seconds: np.ndarray
    embeddings: np.ndarray
    windows: Windows


def embed_recording(model: PhysioMAE, recording: Recording, available: Sequence[str] | None = None) -> Embedded:
    """Embed a recording's windows from the modalities that it has, or from some of them.

    Args:
        model: Trained.
        recording: Any that fits the model's channel contract in part.
        available: Modalities to look at; all that the recording has by default.

    Returns:
        One embedding for each window that carries a signal.

    Raises:
        InputError: None of the windows does, or the recording does not fit the contract.
    """
    windows = cut_windows(recording, model.config)
    if len(windows) == 0:
        raise InputError(f"{recording.source}: no window left ({dict(windows.dropped)}).")
    batch = MultimodalBatch.from_arrays(model.config, windows.arrays)
    embeddings = embed_windows(model, batch, available)
    return Embedded(windows.numbers * model.config.window_seconds, embeddings, windows)


@dataclass(frozen=True)
class Hypnogram:
    """Stages of a recording.

    Attributes:
        seconds: Where each window begins [windows].
        stages: Places in `STAGES` [windows].
        probabilities: Of each of the probe's classes [windows, classes].
        window_seconds: Length of a window.
    """

    seconds: np.ndarray
    stages: np.ndarray
    probabilities: np.ndarray
    window_seconds: float

    def rows(self) -> list[dict[str, object]]:
        """Return one row for each window: `start_seconds`, `stage`, `probability`."""
        best = self.probabilities.max(1)
        return [
            {"start_seconds": float(start), "stage": STAGES[stage], "probability": round(float(share), 4)}
            for start, stage, share in zip(self.seconds, self.stages, best, strict=True)
        ]


def stage_recording(
    model: PhysioMAE, probe: LinearProbe, recording: Recording, available: Sequence[str] | None = None
) -> Hypnogram:
    """Return the stage of each window of a recording.

    Args:
        model: Trained.
        probe: Fitted on this model's embeddings, labels being places in `STAGES`.
        recording: Any that fits the model's channel contract in part.
        available: Modalities to look at.
    """
    if any(label not in range(len(STAGES)) for label in probe.classes) or not probe.classes:
        raise InputError("this probe does not tell stages; fit one with `physiomae probe --label stage`.")
    found = embed_recording(model, recording, available)
    probabilities = probe.scores(found.embeddings)
    stages = np.asarray(probe.classes)[probabilities.argmax(1)]
    return Hypnogram(found.seconds, stages, probabilities, model.config.window_seconds)
