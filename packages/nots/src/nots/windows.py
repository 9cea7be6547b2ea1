"""Series in windows of a model's length: cutting, joining by averages, hiding spans, filling what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nots.adapt import predict
from nots.model import SCALE_FLOOR

BATCH = 256


def cut(series: np.ndarray, length: int, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cut a series [channels, time] into windows; the last one ends where the series does, so that nothing is left out.

    Args:
        series: One that is shorter than a window goes on with its last value.
        length: Of a window.
        stride: Half a window by default.

    Returns:
        Windows [n, channels, length], and where each begins.
    """
    time = series.shape[1]
    if time < length:
        series = np.pad(series, ((0, 0), (0, length - time)), mode="edge")
        time = length
    starts = np.arange(0, time - length + 1, stride or max(1, length // 2))
    if starts[-1] != time - length:
        starts = np.append(starts, time - length)
    return np.stack([series[:, start : start + length] for start in starts]), starts


def join(pieces: np.ndarray, starts: np.ndarray, time: int) -> np.ndarray:
    """Average windows [n, channels, length] where they overlap; what is past the end is dropped."""
    length = pieces.shape[-1]
    total = np.zeros((pieces.shape[1], max(time, int(starts[-1]) + length)))
    count = np.zeros(total.shape[1])
    for piece, start in zip(pieces, starts, strict=True):
        total[:, start : start + length] += piece
        count[start : start + length] += 1
    return (total / count)[:, :time]


def interpolate(series: np.ndarray) -> np.ndarray:
    """Fill nan in each channel linearly, at the ends with the nearest value; a channel of nan alone becomes 0."""
    filled = series.copy()
    places = np.arange(series.shape[1])
    for row in filled:
        seen = ~np.isnan(row)
        row[~seen] = np.interp(places[~seen], places[seen], row[seen]) if seen.any() else 0.0
    return filled


def hide_spans(pieces: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Choose in each channel of each window a span of its own: true [n, channels, time] where it is hidden."""
    if not 0 < ratio < 1:
        raise ValueError(f"`mask_ratio` (={ratio}) must be between 0 and 1.")
    num, channels, time = pieces.shape
    span = min(max(1, round(ratio * time)), time - 2)
    starts = rng.integers(1, time - span, (num, channels, 1))
    places = np.arange(time)
    return (places >= starts) & (places < starts + span)


def puzzles(pieces: np.ndarray, hidden: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return interpolated windows, the truth in the same scale, and 1 where it was known and hidden."""
    given = np.where(hidden, np.nan, pieces)
    x, centre, scale = _scaled(np.stack([interpolate(piece) for piece in given]))
    truth = (np.nan_to_num(pieces) - centre) / scale
    weight = hidden & ~np.isnan(pieces)
    return torch.from_numpy(x).float(), torch.from_numpy(truth).float(), torch.from_numpy(weight).float()


def hidden_error(told: Tensor, labels: Tensor) -> Tensor:
    """L1 of the corrections at hidden places; `labels` hold corrections and weights [batch, 2, channels, time]."""
    correction, weight = labels.unbind(1)
    gap = (told.view_as(correction) - correction).abs() * weight
    return gap.sum() / weight.sum().clamp_min(1.0)


def fill(network: Any, series: np.ndarray) -> np.ndarray:
    """Return a series whose nan are filled by an adapted model of `puzzles`."""
    missing = np.isnan(series)
    if not missing.any():
        return series.copy()
    base = interpolate(series)
    pieces, starts = cut(base, network.trunk.config.length)
    x, _, scale = _scaled(pieces)
    told = predict(network, torch.from_numpy(x).float(), BATCH).numpy().reshape(x.shape)
    correction = join(told * scale, starts, series.shape[1])
    return np.where(missing, base + correction, series)


def _scaled(pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centre = pieces.mean(-1, keepdims=True)
    scale = np.maximum(pieces.std(-1, keepdims=True), SCALE_FLOOR)
    return (pieces - centre) / scale, centre, scale
