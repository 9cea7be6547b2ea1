"""Classical estimators of the Hurst exponent of fractional Brownian motion, for many paths at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

GRID = np.arange(0.02, 0.981, 0.005)
ALIASES = 50


def whittle(paths: np.ndarray) -> np.ndarray:
    """Estimate H by Whittle's likelihood of the steps' periodogram, the scale profiled out (Whittle 1953).

    Near the Cramér-Rao bound: what is left to learn for a model of such paths is nothing.

    Args:
        paths: [paths, time]; shift and scale do not matter.

    Returns:
        [paths], on a grid of 0.005 refined by a parabola.
    """
    steps = np.diff(paths, axis=1)
    periodogram = np.abs(np.fft.rfft(steps, axis=1)[:, 1 : (steps.shape[1] + 1) // 2]) ** 2
    density = _densities(steps.shape[1])
    score = np.log((periodogram @ (1 / density).T) / density.shape[1]) + np.log(density).mean(1)
    best = score.argmin(1).clip(1, len(GRID) - 2)
    rows = np.arange(len(paths))
    left, middle, right = (score[rows, best + shift] for shift in (-1, 0, 1))
    curve = left - 2 * middle + right
    shift = np.where(curve > 0, 0.5 * (left - right) / np.where(curve > 0, curve, 1), 0).clip(-1, 1)
    return np.clip(GRID[best] + shift * (GRID[1] - GRID[0]), GRID[0], GRID[-1])


@lru_cache(maxsize=8)
def _densities(num: int) -> np.ndarray:
    """Spectral density of fractional Gaussian noise for each H of the grid, up to a factor, aliases summed."""
    frequency = 2 * np.pi * np.arange(1, (num + 1) // 2) / num
    h = GRID[:, None, None]
    terms = np.abs(frequency[:, None] + 2 * np.pi * np.arange(-ALIASES, ALIASES + 1)) ** (-2 * h - 1)
    rest = 2 * (2 * np.pi * (ALIASES + 0.5)) ** (-2 * GRID[:, None]) / (2 * np.pi * 2 * GRID[:, None])
    return (1 - np.cos(frequency)) * (terms.sum(-1) + rest)


def dfa(paths: np.ndarray, order: int = 1) -> np.ndarray:
    """Estimate H by detrended fluctuation analysis: the slope of log residual against log window (Peng 1994).

    Args:
        paths: [paths, time].
        order: Of the polynomial that is taken out of each window.
    """
    length = paths.shape[1]
    sizes = np.unique(np.logspace(np.log10(4 + order), np.log10(length // 4), 10).astype(int))
    spread = np.stack([_fluctuation(paths, int(size), order) for size in sizes], axis=1)
    return _slope(np.log(sizes), np.log(np.maximum(spread, 1e-12)))


def _fluctuation(paths: np.ndarray, size: int, order: int) -> np.ndarray:
    count = paths.shape[1] // size
    windows = paths[:, : count * size].reshape(len(paths), count, size)
    basis, _ = np.linalg.qr(np.vander(np.arange(size) / size, order + 1))
    rest = windows - (windows @ basis) @ basis.T
    return np.sqrt((rest**2).mean((1, 2)))


def wavelet_slope(paths: np.ndarray) -> np.ndarray:
    """Estimate H by the slope of the energy of Haar-smoothed second differences over scales: 2 H + 1 per octave.

    Weighted by the number of coefficients (Abry and Veitch 1998), with the wavelet of two vanishing moments that two
    differences of block means are.
    """
    scales, energy, weight = [], [], []
    size = 1
    while paths.shape[1] // size >= 8:
        count = paths.shape[1] // size
        means = paths[:, : count * size].reshape(len(paths), count, size).mean(2)
        second = means[:, 2:] - 2 * means[:, 1:-1] + means[:, :-2]
        scales.append(np.log2(size))
        energy.append(np.log2(np.maximum((second**2).mean(1), 1e-24)))
        weight.append(second.shape[1])
        size *= 2
    skip = 1 if len(scales) > 3 else 0  # samples are points, not means: the finest scale is biased
    return _slope(np.array(scales[skip:]), np.stack(energy[skip:], 1), np.array(weight[skip:], float)) / 2


def _slope(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    weight = np.ones(len(x)) if weight is None else weight
    centred = x - np.average(x, weights=weight)
    return ((y - y.mean(1, keepdims=True)) * centred * weight).sum(1) / (centred**2 * weight).sum()


ESTIMATORS = {"Whittle": whittle, "DFA": dfa, "wavelet slope": wavelet_slope}
