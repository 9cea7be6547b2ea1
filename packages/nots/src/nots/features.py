"""Targets of the synthetic benchmark that follow from the signal by a formula: SSC, WAMP and band power."""

from __future__ import annotations

import numpy as np

WINDOW = 32  # samples of a window: 32 windows at the paper's 1,024 samples
POWER_FLOOR = 1e-8


def global_threshold(x: np.ndarray) -> float:
    """Return the threshold of SSC and WAMP: the median step of all series [series, time] (the paper's is unknown)."""
    return float(np.median(np.abs(np.diff(x, axis=-1))))


def slope_sign_changes(x: np.ndarray, threshold: float, window: int = WINDOW) -> np.ndarray:
    """Count in each window the samples at which the slope turns by more than a threshold on one side.

    Args:
        x: [series, time].
        threshold: Of the larger of the two steps.
        window: Samples.

    Returns:
        Share of the window's samples [series, windows].
    """
    before, after = x[:, 1:-1] - x[:, :-2], x[:, 1:-1] - x[:, 2:]
    turns = (before * after > 0) & (np.maximum(np.abs(before), np.abs(after)) > threshold)
    return _share(np.pad(turns, ((0, 0), (1, 1))), window)


def willison_amplitude(x: np.ndarray, threshold: float, window: int = WINDOW) -> np.ndarray:
    """Return the share of each window's steps that exceed a threshold: [series, windows]."""
    steps = np.abs(np.diff(x, axis=-1)) > threshold
    return _share(np.pad(steps, ((0, 0), (0, 1))), window)


def band_power(x: np.ndarray, num_bands: int | None = None) -> np.ndarray:
    """Return the logarithm of the power in equal bands of frequency, the mean left out.

    The paper's 96 bands of 1,024 samples are not defined; ours are linear, three for each 32 samples.

    Args:
        x: [series, time].
        num_bands: 3/32 of the length by default.

    Returns:
        log10 of mean power [series, bands].
    """
    length = x.shape[-1]
    num_bands = num_bands or 3 * length // WINDOW
    power = np.abs(np.fft.rfft(x, axis=-1)[:, 1:]) ** 2 / length
    edges = np.linspace(0, power.shape[1], num_bands + 1).round().astype(int)
    sums = np.add.reduceat(power, edges[:-1], axis=1)
    return np.log10(sums / np.diff(edges) + POWER_FLOOR)


def _share(flags: np.ndarray, window: int) -> np.ndarray:
    if flags.shape[1] % window:
        raise ValueError(f"`window` (={window}) must divide the {flags.shape[1]} samples.")
    return flags.reshape(len(flags), -1, window).mean(-1)
