"""The experiment's two kinds of data, prepared: what an arm is trained on, and what it is scored on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from physiomae.config import PRESETS, ModalityConfig, PhysioMAEConfig
from physiomae.probe import Kind
from physiomae.simulator import Informativeness, Simulated, SimulatorConfig, simulate
from physiomae.watch import WatchData, load_watch

CLIP = 10.0
IQR_OF_NORMAL = 1.349
PLACEBO = "placebo"
TEST_SEED = 50_000  # test subjects of the simulator are drawn apart from all training subjects
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """Windows with labels: arrays by modality, labels by task, and the subject of each window."""

    arrays: Arrays
    labels: dict[str, np.ndarray]
    subject: np.ndarray

    def thin(self, every: int) -> Part:
        """Return each so many windows."""
        arrays = {name: array[::every] for name, array in self.arrays.items()}
        return Part(arrays, {task: labels[::every] for task, labels in self.labels.items()}, self.subject[::every])


@dataclass(frozen=True)
class World:
    """One training and one test part, without a subject in both."""

    config: PhysioMAEConfig
    train: Part
    test: Part
    tasks: dict[str, tuple[Kind, str]]  # task -> kind of label, metric


WATCH_TASKS: dict[str, tuple[Kind, str]] = {
    "activity": ("classes", "balanced_accuracy"),
    "cadence": ("number", "correlation"),
    "gyro RMS": ("number", "correlation"),
}
SIMULATED_TASKS: dict[str, tuple[Kind, str]] = {
    task: ("classes", "balanced_accuracy") for task in ("stage", "event", "trait")
}


@cache
def _watch() -> WatchData:
    return load_watch()


def watch_world(test: int, without: int | None = None, *, placebo: bool = False) -> World:
    """Leave one of the watch's ten subjects out.

    Each channel is scaled by median and interquartile range of the training subjects, since the direction of gravity
    means something here.

    Args:
        test: Subject that is scored, 0 to 9.
        without: A further subject that is in neither part (while tuning, the one that is tested later).
        placebo: Add a third modality of white noise.
    """
    data = _watch()
    chosen = (data.subject != test) & (data.subject != without)
    arrays = dict(data.signals)
    if placebo:
        arrays[PLACEBO] = np.random.default_rng(5).normal(size=arrays["gyro"].shape).astype(np.float32)
    arrays = {name: scale_robust(array, array[chosen]) for name, array in arrays.items()}
    labels = {"activity": data.activity, "cadence": data.cadence_hz, "gyro RMS": data.gyro_rms}
    config = PRESETS["watch"]
    if placebo:
        noise = ModalityConfig(PLACEBO, ("n_x", "n_y", "n_z"), 50, "g")
        config = replace(config, modalities=(*config.modalities, noise))
    return World(
        config,
        _part(arrays, labels, data.subject, chosen),
        _part(arrays, labels, data.subject, data.subject == test),
        WATCH_TASKS,
    )


def _part(arrays: Arrays, labels: dict[str, np.ndarray], subject: np.ndarray, rows: np.ndarray) -> Part:
    chosen = {name: array[rows] for name, array in arrays.items()}
    return Part(chosen, {name: values[rows] for name, values in labels.items()}, subject[rows])


def scale_robust(array: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scale channels [windows, channels, samples] by the median and quartiles of a reference, clipped at 10."""
    low, middle, high = np.percentile(reference, [25, 50, 75], axis=(0, 2), keepdims=True)
    return np.clip((array - middle) / ((high - low) / IQR_OF_NORMAL), -CLIP, CLIP).astype(np.float32)


def simulated_world(
    coupling: float, informativeness: Informativeness, seed: int, sizes: tuple[int, int, int] = (24, 12, 60)
) -> World:
    """Simulate training and test subjects of one seed; recordings are normalised one by one.

    Args:
        coupling: Of the noise.
        informativeness: Of the modalities.
        seed: Of the subjects.
        sizes: Training subjects, test subjects, windows of each.
    """
    config = SimulatorConfig(coupling, informativeness, sizes[0], sizes[2], seed)
    train, test = simulate(config), simulate(replace(config, num_subjects=sizes[1], seed=TEST_SEED + seed))
    return World(PRESETS["simulator"], _simulated_part(train), _simulated_part(test), SIMULATED_TASKS)


def _simulated_part(data: Simulated) -> Part:
    labels = {"stage": data.stage, "event": data.event, "trait": data.trait}
    return Part(normalise_recordings(data.signals, data.subject), labels, data.subject)


def normalise_recordings(signals: Arrays, subject: np.ndarray) -> Arrays:
    """Scale every subject's channels by the subject's own median and quartiles."""
    scaled = {name: np.empty_like(array) for name, array in signals.items()}
    for who in np.unique(subject):
        rows = subject == who
        for name, array in signals.items():
            scaled[name][rows] = scale_robust(array[rows], array[rows])
    return scaled
