"""The best that can be known of a simulated window's labels, for any subset of its modalities.

Given stage, event and trait the amplitudes are Gaussian with known mean and covariance, so that posteriors are exact.
They see amplitudes and frequencies themselves, which a model has to estimate from noisy signals: an upper bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from physiomae.simulator import (
    EVENT_PATCHES,
    EVENT_SIZE,
    MODALITIES,
    NUM_PATCHES,
    NUM_STAGES,
    SIGMA_FREQUENCY,
    SIGMA_PATCH,
    SIGMA_WINDOW,
    STAGE_MEANS,
    TRAIT_SHIFT,
    Simulated,
    SimulatorConfig,
    event_patches,
    simulate,
    strengths,
)

NUM_ORACLE_SUBJECTS, NUM_ORACLE_WINDOWS = 100, 100


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all non-empty subsets, small ones first."""
    return [found for size in range(1, len(names) + 1) for found in itertools.combinations(names, size)]


def oracle_accuracy(config: SimulatorConfig) -> dict[str, dict[str, float]]:
    """Return the balanced accuracy of the exact posterior for each task and each subset of modalities.

    Labels are taken as equally likely, as balanced accuracy does. 10,000 windows are drawn: the standard error is
    below 0.005.

    Args:
        config: Coupling, informativeness and seed; its sizes are not used.

    Returns:
        `{"eeg+emg": {"stage": 0.7, "event": 0.8, "trait": 0.9}, ...}`.
    """
    data = simulate(replace(config, num_subjects=NUM_ORACLE_SUBJECTS, num_windows=NUM_ORACLE_WINDOWS))
    found = {}
    for subset in subsets(MODALITIES):
        guesses = guess(data, config, [MODALITIES.index(name) for name in subset])
        truth = {"stage": data.stage, "event": data.event, "trait": data.trait}
        found["+".join(subset)] = {task: _balanced(truth[task], guesses[task]) for task in truth}
    return found


def guess(data: Simulated, config: SimulatorConfig, places: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the most likely label of every window for each task, seeing the modalities at `places` only."""
    scores = amplitude_scores(data.amplitudes[:, places], config, places)  # [windows, stages, event starts]
    no_event, event = scores[:, :, 0], _log_mean(scores[:, :, 1:], 2)
    stage = np.logaddexp(np.log(0.7) + no_event, np.log(0.3) + event)
    trait = frequency_scores(data.frequencies[:, places], config, places)
    return {
        "stage": stage.argmax(1),
        "event": (_log_mean(event, 1) > _log_mean(no_event, 1)).astype(int),
        "trait": trait.argmax(1),
    }


def amplitude_scores(amplitudes: np.ndarray, config: SimulatorConfig, places: Sequence[int]) -> np.ndarray:
    """Return log densities, up to a constant, given stage and event start (first: none)."""
    by_stage, by_event, _ = strengths(config.informativeness)
    starts = np.arange(-1, NUM_PATCHES - EVENT_PATCHES + 1)
    events = EVENT_SIZE * by_event[places, None] * event_patches(starts)[:, None]  # [starts, modalities, patches]
    over_time = SIGMA_WINDOW**2 * np.ones((NUM_PATCHES, NUM_PATCHES)) + SIGMA_PATCH**2 * np.eye(NUM_PATCHES)
    precision = np.linalg.inv(np.kron(_between(config.coupling, len(places)), over_time))
    found = np.zeros((len(amplitudes), NUM_STAGES, len(starts)))
    for stage, start in np.ndindex(found.shape[1:]):
        mean = (by_stage[places, None] * STAGE_MEANS[places, stage])[:, None] + events[start][:, :, None]
        rest = (amplitudes - mean).reshape(len(amplitudes), -1, 2)
        found[:, stage, start] = -0.5 * np.einsum("wib,ij,wjb->w", rest, precision, rest, optimize=True)
    return found


def frequency_scores(frequencies: np.ndarray, config: SimulatorConfig, places: Sequence[int]) -> np.ndarray:
    """Return log densities, up to a constant, given the trait [windows, 2]."""
    shift = TRAIT_SHIFT * strengths(config.informativeness)[2][places]
    precision = np.linalg.inv(SIGMA_FREQUENCY**2 * _between(config.coupling, len(places)))
    rest = np.stack([frequencies + shift, frequencies - shift], axis=1)
    return -0.5 * np.einsum("wti,ij,wtj->wt", rest, precision, rest)


def _between(coupling: float, num: int) -> np.ndarray:
    """Correlation of the noise between modalities."""
    return coupling * np.ones((num, num)) + (1 - coupling) * np.eye(num)


def _log_mean(values: np.ndarray, axis: int) -> np.ndarray:
    return np.logaddexp.reduce(values, axis=axis) - np.log(values.shape[axis])


def _balanced(truth: np.ndarray, guessed: np.ndarray) -> float:
    return float(np.mean([(guessed[truth == label] == label).mean() for label in np.unique(truth)]))
