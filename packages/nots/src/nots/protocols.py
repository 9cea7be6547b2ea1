"""How tasks are scored: detection without point adjustment, channel-wise imputation, forecasting; baselines beside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nots.windows import cut, interpolate


def threshold_of(train_scores: np.ndarray, share: float) -> float:
    """Return the score above which `share` per cent of the training points lie; test scores are not looked at."""
    if not 0 < share < 100:
        raise ValueError(f"`share` (={share}) must be between 0 and 100 per cent.")
    return float(np.percentile(train_scores, 100 - share))


def adjust_points(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mark a whole true segment as found where one of its points was.

    That uses the labels to make predictions, so that scores near chance look good: for comparison with papers only.
    """
    adjusted = found.astype(bool).copy()
    edges = np.flatnonzero(np.diff(np.r_[0, truth.astype(int), 0]))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        adjusted[start:end] |= adjusted[start:end].any()
    return adjusted


def anomaly_scores(found: np.ndarray, truth: np.ndarray, *, point_adjustment: bool = False) -> dict[str, float]:
    """Return precision, recall and F1 of found anomalies.

    Args:
        found: Whether a point is said to be one [time].
        truth: Whether it is one [time].
        point_adjustment: Adjust found points first, see `adjust_points`; off, as it should be.

    Returns:
        The three, 0 where nothing was found.
    """
    if found.shape != truth.shape:
        raise ValueError(f"`found` {found.shape} and `truth` {truth.shape} must have one shape.")
    found = adjust_points(found, truth) if point_adjustment else found.astype(bool)
    hits = int((found & truth.astype(bool)).sum())
    precision, recall = hits / max(1, int(found.sum())), hits / max(1, int(truth.sum()))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under precision over recall, which needs no threshold; ties count together."""
    order = np.argsort(-scores, kind="stable")
    hits, ends = np.cumsum(truth[order]), np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    precision, recall = hits[ends] / (ends + 1), hits[ends] / max(1, int(truth.sum()))
    return float((precision * np.diff(np.r_[0.0, recall])).sum())


def hide_channelwise(shape: tuple[int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Hide one span of each channel, each at a place of its own: [channels, time], the harder variant of imputation.

    The paper does not define its channel-wise mask; a span leaves no neighbour to interpolate from, points would.
    """
    channels, time = shape
    span = min(max(1, round(ratio * time)), time - 2)
    starts = rng.integers(1, time - span, (channels, 1))
    places = np.arange(time)
    return (places >= starts) & (places < starts + span)


def imputation_errors(
    fill: Callable[[np.ndarray], np.ndarray], table: np.ndarray, length: int, ratio: float, seed: int
) -> dict[str, float]:
    """Return errors of imputation over all windows of a table, at hidden places alone.

    Args:
        fill: From a window [channels, time] with nan to one without.
        table: Rows of time [time, channels], in the training part's scale.
        length: Of a window; windows do not overlap but for the last one, which ends with the table.
        ratio: Share of each channel that is hidden.
        seed: Of the places.

    Returns:
        `mse` and `mae`, and those of linear interpolation.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros(5)
    for window in cut(table.T, length, length)[0]:
        hidden = hide_channelwise((window.shape[0], window.shape[1]), ratio, rng)
        given = np.where(hidden, np.nan, window)
        for place, told in ((0, fill(given)), (2, interpolate(given))):
            gap = (told - window)[hidden]
            sums[place] += (gap**2).sum()
            sums[place + 1] += np.abs(gap).sum()
        sums[4] += hidden.sum()
    mse, mae, linear_mse, linear_mae = (sums[:4] / sums[4]).tolist()
    return {"mse": mse, "mae": mae, "linear_mse": linear_mse, "linear_mae": linear_mae}


def forecast_errors(
    predict: Callable[[np.ndarray], float], series: np.ndarray, start: int, horizon: int, season: int = 1
) -> dict[str, float]:
    """Return absolute errors of forecasts of each point from `start` on, beside the naive ones.

    Args:
        predict: From a history [time] to the value `horizon` steps after its end.
        series: [time].
        start: First point that is forecast.
        horizon: Steps ahead.
        season: Of the naive forecast: the last value of the same season that was known.

    Returns:
        `mae`, and `naive_mae` of the seasonal naive forecast.
    """
    ours, naive = [], []
    for point in range(start, len(series)):
        history = series[: point - horizon + 1]
        back = season * -(-horizon // season)
        ours.append(abs(predict(history) - series[point]))
        naive.append(abs(series[point - back] - series[point]))
    return {"mae": float(np.mean(ours)), "naive_mae": float(np.mean(naive))}
