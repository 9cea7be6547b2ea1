"""A polysomnography simulator whose best possible accuracy is known: synthetic only.

FROZEN on 27 November 2026, before any model was trained on it; `tests/test_simulator.py` holds its numbers. A change is
another simulator with another name.

Four modalities of one channel (16 Hz; windows of 8 s, 8 patches of 1 s). Modality m shows two oscillations, b = low and
high, whose log amplitude in patch n of a window with stage z is

    A[m, n, b] = s_m mu[m, z, b] + s'_m d e[n] + noise_w[m, b] + noise_p[m, n, b]

e marks an event (three patches in a row, in 30 % of the windows, an arousal). Both oscillations' frequencies are scaled
by 1 + 0.12 s''_m a + 0.06 noise_f[m], a = -1 or 1 being a trait of the subject (age group). Noises are Gaussian with
correlation `coupling` between modalities: a shared drive that no task asks for, aligned in time. `informativeness` sets
s: "even", "graded" or "one" (nearly all in one modality), always with the same sum of squares; s' is s reversed and s''
s moved by two places, so that no modality is the best one for every task. Stages follow a Markov chain; subjects have
gains, which per-recording normalisation removes.

`oracle.py` computes the posterior of each label given the amplitudes and frequencies themselves, for any subset of
modalities: no model that sees signals can beat it by more than chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Informativeness = Literal["even", "graded", "one"]
MODALITIES = ("eeg", "eog", "emg", "resp")
RATE_HZ, NUM_PATCHES, PATCH = 16, 8, 16
NUM_STAGES = 5
SIGMA_WINDOW, SIGMA_PATCH, SIGMA_FREQUENCY, SIGMA_GAIN = 0.35, 0.5, 0.06, 0.3
EVENT_SIZE, EVENT_PATCHES, EVENT_PROBABILITY, TRAIT_SHIFT = 1.2, 3, 0.3, 0.12
FREQUENCIES_HZ, NOISE = (1.5, 4.5), 0.3
STRENGTHS: dict[Informativeness, tuple[float, ...]] = {
    "even": (1.0, 1.0, 1.0, 1.0),
    "graded": (1.6, 1.0, 0.6, 0.28),
    "one": (1.97, 0.2, 0.2, 0.2),
}
# mu[modality][stage W, N1, N2, N3, R][low, high]
STAGE_MEANS = np.array(
    [
        [[-0.5, 0.7], [-0.2, 0.3], [0.2, 0.1], [0.9, -0.6], [-0.3, 0.0]],
        [[0.4, 0.5], [0.5, -0.2], [-0.4, -0.2], [-0.6, -0.3], [0.6, 0.3]],
        [[0.2, 0.8], [0.0, 0.3], [0.1, 0.0], [-0.1, -0.1], [-0.3, -0.9]],
        [[0.3, -0.3], [-0.1, -0.2], [-0.4, 0.2], [-0.5, 0.5], [0.6, -0.1]],
    ]
)
TRANSITIONS = np.array(
    [
        [0.80, 0.15, 0.03, 0.00, 0.02],
        [0.10, 0.55, 0.30, 0.00, 0.05],
        [0.03, 0.07, 0.70, 0.15, 0.05],
        [0.02, 0.03, 0.15, 0.80, 0.00],
        [0.05, 0.05, 0.05, 0.00, 0.85],
    ]
)


@dataclass(frozen=True)
class SimulatorConfig:
    """What is simulated.

    Attributes:
        coupling: Correlation of the noise between modalities, 0 to below 1.
        informativeness: How labels' effects spread over modalities.
        num_subjects: Subjects, half of them with each trait.
        num_windows: Windows of each subject.
        seed: Of everything.
    """

    coupling: float = 0.5
    informativeness: Informativeness = "graded"
    num_subjects: int = 24
    num_windows: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.coupling < 1:
            raise ValueError(f"`coupling` (={self.coupling}) must be at least 0 and below 1.")
        if self.informativeness not in STRENGTHS:
            raise ValueError(f"`informativeness` (={self.informativeness!r}) must be one of {', '.join(STRENGTHS)}.")
        if self.num_subjects < 1 or self.num_windows < 1:
            raise ValueError("`num_subjects` and `num_windows` must be at least 1.")


@dataclass(frozen=True)
class Simulated:
    """Windows in order of subject and time.

    Attributes:
        signals: Modality -> [windows, 1, 128].
        subject: Number of the subject [windows].
        stage: 0 to 4 [windows].
        event: 0 or 1 [windows].
        trait: 0 or 1 [windows], the same in all windows of a subject.
        amplitudes: Log amplitudes without the subjects' gains [windows, modalities, patches, 2].
        frequencies: Relative deviations [windows, modalities].
    """

    signals: dict[str, np.ndarray]
    subject: np.ndarray
    stage: np.ndarray
    event: np.ndarray
    trait: np.ndarray
    amplitudes: np.ndarray
    frequencies: np.ndarray


def strengths(informativeness: Informativeness) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what stage, event and trait are multiplied with, each [modalities]; sums of squares are 1."""
    raw = np.array(STRENGTHS[informativeness])
    unit = raw / np.sqrt((raw**2).sum())
    return unit, unit[::-1].copy(), np.roll(unit, 2)


def simulate(config: SimulatorConfig) -> Simulated:
    """Draw subjects, their stages and events, and the signals."""
    draw = np.random.default_rng([config.seed, 18102])
    total = config.num_subjects * config.num_windows
    subject = np.repeat(np.arange(config.num_subjects), config.num_windows)
    stage = np.concatenate([_draw_stages(draw, config.num_windows) for _ in range(config.num_subjects)])
    starts = np.where(
        draw.random(total) < EVENT_PROBABILITY, draw.integers(0, NUM_PATCHES - EVENT_PATCHES + 1, total), -1
    )
    trait = draw.permutation(np.arange(config.num_subjects) % 2)[subject]
    amplitudes, frequencies = _draw_latents(draw, config, stage, starts, trait)
    gains = draw.normal(0, SIGMA_GAIN, (config.num_subjects, len(MODALITIES)))[subject]
    shown = amplitudes + gains[:, :, None, None]
    signals = {
        name: _render(draw, shown[:, m], frequencies[:, m])[:, None].astype(np.float32)
        for m, name in enumerate(MODALITIES)
    }
    return Simulated(signals, subject, stage, (starts >= 0).astype(int), trait, amplitudes, frequencies)


def _draw_stages(draw: np.random.Generator, num: int) -> np.ndarray:
    stages = [int(draw.integers(NUM_STAGES))]
    for _ in range(num - 1):
        stages.append(int(draw.choice(NUM_STAGES, p=TRANSITIONS[stages[-1]])))
    return np.array(stages)


def _draw_latents(
    draw: np.random.Generator, config: SimulatorConfig, stage: np.ndarray, starts: np.ndarray, trait: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    by_stage, by_event, by_trait = strengths(config.informativeness)
    total, num = len(stage), len(MODALITIES)

    def noise(*shape: int) -> np.ndarray:
        """Standard normal [windows, modalities, ...], correlated over modalities."""
        shared = draw.normal(size=(total, 1, *shape))
        own = draw.normal(size=(total, num, *shape))
        return np.sqrt(config.coupling) * shared + np.sqrt(1 - config.coupling) * own

    amplitudes = (by_stage[:, None, None] * STAGE_MEANS)[:, stage].transpose(1, 0, 2)[:, :, None]
    amplitudes = amplitudes + SIGMA_WINDOW * noise(1, 2) + SIGMA_PATCH * noise(NUM_PATCHES, 2)
    amplitudes += EVENT_SIZE * by_event[:, None, None] * event_patches(starts)[:, None, :, None]
    frequencies = TRAIT_SHIFT * by_trait * (2 * trait[:, None] - 1) + SIGMA_FREQUENCY * noise()
    return amplitudes, frequencies


def event_patches(starts: np.ndarray) -> np.ndarray:
    """Return 1 where an event is, 0 elsewhere [windows, patches]; a start of -1 is no event."""
    places = np.arange(NUM_PATCHES) - starts[:, None]
    return ((starts[:, None] >= 0) & (places >= 0) & (places < EVENT_PATCHES)).astype(float)


def _render(draw: np.random.Generator, amplitudes: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return signals [windows, samples] of log amplitudes [windows, patches, 2]."""
    seconds = np.arange(NUM_PATCHES * PATCH) / RATE_HZ
    signal = NOISE * draw.normal(size=(len(amplitudes), len(seconds)))
    for band, base in enumerate(FREQUENCIES_HZ):
        phase = draw.uniform(0, 2 * np.pi, (len(amplitudes), 1))
        wave = np.sin(2 * np.pi * base * (1 + frequencies[:, None]) * seconds + phase)
        signal += np.exp(np.repeat(amplitudes[:, :, band], PATCH, axis=1)) * wave
    return signal
