"""Estimators of one series: anomaly detector and forecaster, on aeon's bases."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError, require_extra
from torch.nn import functional

from nots import fitting, windows
from nots.adapt import Target, adapt, predict
from nots.fitting import ModelLike, Saved
from nots.model import NoTS, resample, standardise

require_extra("aeon", "aeon", "nots-torch")

from aeon.anomaly_detection.series.base import BaseSeriesAnomalyDetector  # noqa: E402
from aeon.forecasting.base import (  # noqa: E402
    BaseForecaster,
    DirectForecastingMixin,
    IterativeForecastingMixin,
)

MIN_HISTORY = 4


def tags(**more: Any) -> dict[str, Any]:
    """Return the tags that both estimators share, and more."""
    return {"X_inner_type": "np.ndarray", "python_dependencies": "torch", **more}


class NoTSAnomalyDetector(Saved, BaseSeriesAnomalyDetector):
    """Score each time point by how badly the model tells the raw signal from its degraded versions.

    `fit` learns on a series taken as normal; windows that overlap are averaged at each point. Scores are returned as
    they are, without point adjustment (`nots.protocols.anomaly_scores` has it as a flag).

    Args:
        model: Preset, `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`.
        objective: Of the pretraining; one whose model tells a next element.
        num_steps: Updates of the pretraining.
        random_state: Seed, RandomState or None.

    Example:
        >>> X = np.sin(np.arange(200.0))[None]
        >>> NoTSAnomalyDetector("tiny", num_steps=2, random_state=0).fit(X).predict(X).shape
        (200,)
    """

    _tags = tags(
        **{
            "capability:multivariate": True,
            "fit_is_empty": False,
            "requires_y": False,
            "learning_type:unsupervised": True,
            "learning_type:semi_supervised": True,
            "anomaly_output_type": "anomaly_scores",
        }
    )

    def __init__(
        self, model: ModelLike = "laptop", objective: str = "nots", num_steps: int = 300, random_state: Any = None
    ) -> None:
        self.model, self.objective, self.num_steps, self.random_state = model, objective, num_steps, random_state
        super().__init__(axis=1)

    def _fit(self, X: np.ndarray, y: Any = None) -> NoTSAnomalyDetector:
        if self.objective not in fitting.NARRATIVES:
            raise ValueError(f"`objective` (={self.objective!r}) must be a narrative: {', '.join(fitting.NARRATIVES)}.")
        series = np.asarray(X, dtype=np.float64)
        fitting.check_series([series])
        found = fitting.resolve(self.model)
        config = found.config if isinstance(found, NoTS) else fitting.fitted_config(found, *series.shape)
        pieces = windows.cut(series, config.length, max(1, config.length // 4))[0]
        trunk = fitting.learn_trunk(found, self.objective, self.num_steps, pieces, fitting.seed_of(self.random_state))
        fitting.check_channels(trunk, series.shape[0])
        self.network_ = trunk
        return self

    def _predict(self, X: np.ndarray) -> np.ndarray:
        network: Any = self.network_
        series = np.asarray(X, dtype=np.float64)
        pieces, starts = windows.cut(series, network.config.length)
        return windows.join(tell_errors(network, pieces), starts, series.shape[1])[0]

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"model": "tiny", "num_steps": 2}


def tell_errors(trunk: NoTS, pieces: np.ndarray) -> np.ndarray:
    """Return the mean absolute error over channels of the raw signal as the model tells it: [windows, 1, time]."""
    x = standardise(torch.from_numpy(pieces).float())
    rows = x if trunk.config.num_channels == x.shape[1] else x.flatten(0, 1)[:, None]
    told = torch.cat([trunk.tell(part)[:, -1] for part in rows.split(windows.BATCH)])
    return (told - rows).abs().view_as(x).mean(1, keepdim=True).numpy()


class NoTSForecaster(Saved, DirectForecastingMixin, IterativeForecastingMixin, BaseForecaster):
    """Forecast a value `horizon` steps ahead of a series.

    The model sees windows of the history, each in its own scale; its answer is added to the window's last value.

    Args:
        horizon: Steps ahead.
        model: Preset, `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`, of one channel.
        num_steps: Updates of the pretraining, on the windows.
        mode: "frozen", "full" or "none".
        adapt_steps: Updates of the adaptation.
        random_state: Seed, RandomState or None.

    Example:
        >>> y = np.sin(np.arange(60.0))
        >>> isinstance(NoTSForecaster(1, "tiny", num_steps=2, adapt_steps=2).forecast(y), float)
        True
    """

    _tags = tags(**{"capability:horizon": True, "capability:exogenous": False, "y_inner_type": "np.ndarray"})

    def __init__(
        self,
        horizon: int = 1,
        model: ModelLike = "laptop",
        num_steps: int = 300,
        mode: str = "full",
        adapt_steps: int = 200,
        random_state: Any = None,
    ) -> None:
        self.model, self.num_steps, self.mode = model, num_steps, mode
        self.adapt_steps, self.random_state = adapt_steps, random_state
        super().__init__(horizon=horizon, axis=1)

    def _fit(self, y: np.ndarray, exog: Any = None) -> NoTSForecaster:
        series = np.asarray(y, dtype=np.float64).reshape(1, -1)
        fitting.check_series([series])
        found = fitting.resolve(self.model)
        longest = (found.config if isinstance(found, NoTS) else found).length
        self.history_ = min(longest, (series.shape[1] - self.horizon) // 2)
        if self.history_ < MIN_HISTORY:
            raise InputError(
                f"{series.shape[1]} samples are too few for `horizon` {self.horizon}: "
                f"{2 * MIN_HISTORY + self.horizon} are needed."
            )
        last = series.shape[1] - self.history_ - self.horizon
        pieces = np.stack([series[:, start : start + self.history_] for start in range(last + 1)])
        ahead = series[0, self.history_ + self.horizon - 1 :][: last + 1]
        seed = fitting.seed_of(self.random_state)
        trunk = fitting.learn_trunk(found, "nots", self.num_steps, pieces, seed)
        scale = np.maximum(pieces[:, 0].std(1), least_scale(series))
        target = torch.from_numpy((ahead - pieces[:, 0, -1]) / scale).float()[:, None]
        x = standardise(resample(torch.from_numpy(pieces).float(), trunk.config.length))
        config = fitting.adapt_config(self.mode, "nots", self.adapt_steps, seed)
        self.network_ = adapt(trunk, config, {"step": Target("pooled", 1)}, (x, target), functional.smooth_l1_loss)
        self.floor_ = least_scale(series)
        return self

    def _predict(self, y: np.ndarray, exog: Any = None) -> float:
        network: Any = self.network_
        series = np.asarray(y, dtype=np.float64).reshape(1, -1)
        piece = series[:, -self.history_ :]
        scale = max(float(piece.std()), self.floor_)
        x = standardise(resample(torch.from_numpy(piece[None]).float(), network.trunk.config.length))
        return float(piece[0, -1] + scale * float(predict(network, x)[0, 0]))

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "history_": self.history_, "floor_": self.floor_}

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"model": "tiny", "num_steps": 2, "adapt_steps": 2}


def least_scale(series: np.ndarray) -> float:
    """Return the least scale of a window: a thousandth of the series' own."""
    return max(1e-3 * float(series.std()), 1e-8)
