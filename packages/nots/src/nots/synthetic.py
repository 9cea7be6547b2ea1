"""Synthetic series: fractional Brownian motion, exactly by two methods, and autocorrelated sinusoids."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

NOISE = 0.05
COMPONENTS = (20, 16, 10, 8, 4)


def fgn_covariance(hurst: ArrayLike, length: int) -> np.ndarray:
    """Return the autocovariance of unit fractional Gaussian noise at lags 0 to length - 1: [..., length]."""
    h = np.asarray(hurst, dtype=np.float64)[..., None]
    lag = np.arange(length, dtype=np.float64)
    return 0.5 * (np.abs(lag + 1) ** (2 * h) - 2 * lag ** (2 * h) + np.abs(lag - 1) ** (2 * h))


def fbm_cholesky(hurst: float, num: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw paths of fractional Brownian motion by the Cholesky factor of their covariance, the paper's method.

    Args:
        hurst: Between 0 and 1.
        num: Paths.
        length: Samples, the first at time 1.
        rng: Source of chance.

    Returns:
        [num, length], with variance t^(2H).
    """
    _check(np.asarray(hurst), length)
    t = np.arange(1, length + 1, dtype=np.float64)
    covariance = 0.5 * (
        t[:, None] ** (2 * hurst) + t[None] ** (2 * hurst) - np.abs(t[:, None] - t[None]) ** (2 * hurst)
    )
    return rng.standard_normal((num, length)) @ np.linalg.cholesky(covariance).T


def fbm_davies_harte(hurst: ArrayLike, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a path of fractional Brownian motion for each H, exactly, in O(n log n) (Davies and Harte 1987).

    The noise's covariance is embedded in a circulant of twice the length, whose eigenvalues are not negative for any H.

    Args:
        hurst: [paths], each between 0 and 1.
        length: Samples, the first at time 1.
        rng: Source of chance.

    Returns:
        [paths, length].
    """
    h = np.atleast_1d(np.asarray(hurst, dtype=np.float64))
    _check(h, length)
    row = fgn_covariance(h, length + 1)
    circulant = np.concatenate([row, row[:, -2:0:-1]], axis=1)
    eigenvalues = np.fft.rfft(circulant, axis=1).real.clip(min=0)
    white = np.fft.rfft(rng.standard_normal(circulant.shape), axis=1)
    noise = np.fft.irfft(white * np.sqrt(eigenvalues), n=circulant.shape[1], axis=1)
    return noise[:, :length].cumsum(axis=1)


def ar_sinusoids(num: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw sums of sinusoids whose frequencies are autocorrelated.

    Five processes, one for each B of 20, 16, 10, 8, 4; series are shared out evenly. A random stable AR(B/2) process
    draws B values, whose ranks' normal probabilities become B frequencies between 1 and length / 8 periods. Amplitude
    is 1 / f, phases are uniform, the noise is 0.05 N(0, 1). How the process gives frequencies is not printed: ours.

    Args:
        num: Series.
        length: Samples.
        rng: Source of chance.

    Returns:
        [num, length].
    """
    parts = [_sinusoids(count, components, length, rng) for count, components in _shares(num)]
    return np.concatenate(parts)[rng.permutation(num)]


def _shares(num: int) -> list[tuple[int, int]]:
    counts = [num // len(COMPONENTS) + (place < num % len(COMPONENTS)) for place in range(len(COMPONENTS))]
    return [(count, components) for count, components in zip(counts, COMPONENTS, strict=True) if count]


def _sinusoids(num: int, components: int, length: int, rng: np.random.Generator) -> np.ndarray:
    frequencies = 1 + (length / 8 - 1) * _autocorrelated(num, components, rng)
    phases = rng.uniform(0, 2 * np.pi, (num, components, 1))
    t = np.arange(length) / length
    waves = np.cos(2 * np.pi * frequencies[..., None] * t + phases) / frequencies[..., None]
    return waves.sum(1) + NOISE * rng.standard_normal((num, length))


def _autocorrelated(num: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return values between 0 and 1 [num, count] along a random stable autoregressive process of order count / 2."""
    order = count // 2
    radius, angle = rng.uniform(0.5, 0.95, (order + 1) // 2), rng.uniform(0, np.pi, (order + 1) // 2)
    roots = (radius * np.exp(1j * angle)).tolist()
    roots = [root for pair in roots for root in (pair, pair.conjugate())][:order]
    if order % 2:
        roots[-1] = complex(radius[-1])
    weights = -np.poly(roots).real[1:]
    burn = 50
    values = np.zeros((num, burn + count))
    shocks = rng.standard_normal(values.shape)
    for place in range(burn + count):
        past = values[:, max(0, place - order) : place][:, ::-1]
        values[:, place] = shocks[:, place] + past @ weights[: past.shape[1]]
    last = values[:, burn:]
    scale = last.std()
    return 1 / (1 + np.exp(-1.7 * last / scale))


def _check(hurst: np.ndarray, length: int) -> None:
    if not ((hurst > 0) & (hurst < 1)).all():
        raise ValueError(f"`hurst` (={hurst.min()} to {hurst.max()}) must be between 0 and 1.")
    if length < 2:
        raise ValueError(f"`length` (={length}) must be at least 2.")
