"""A scikit-learn transformer: `fit` pretrains on windows without labels, `transform` embeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from tenfold_shared.commands import InputError, unknown_name

from physiomae.batch import MultimodalBatch
from physiomae.config import OBJECTIVES, PRESETS, ObjectiveName, PhysioMAEConfig, TrainConfig
from physiomae.evaluate import embed_windows
from physiomae.sources import ArraySource
from physiomae.train import build, fit

Windows = np.ndarray | Mapping[str, np.ndarray]


class PhysioEncoder(TransformerMixin, BaseEstimator):
    """Masked autoencoding as a step of a scikit-learn pipeline.

    Windows are one array [windows, channels, samples], the channels of all modalities one after the other (where they
    have one rate), or a mapping from modality to such an array. nan is what is missing, also a whole modality at
    `transform`. The same seed gives the same embeddings.

    Args:
        config: Modalities and sizes, or the name of a preset.
        objective: What is learnt, by name.
        num_steps: Updates.
        batch_size: Windows of an update; less where there are fewer.
        learning_rate: Peak.
        seed: Of weights, order and masks.

    Example:
        >>> windows = np.random.default_rng(0).normal(size=(8, 2, 64))
        >>> PhysioEncoder("tiny", num_steps=2).fit_transform(windows).shape
        (8, 16)
    """

    def __init__(
        self,
        config: PhysioMAEConfig | str = "watch",
        objective: ObjectiveName = "mae_drop",
        num_steps: int = 400,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        self.config, self.objective, self.num_steps = config, objective, num_steps
        self.batch_size, self.learning_rate, self.seed = batch_size, learning_rate, seed

    def fit(self, X: Windows, y: Any = None) -> PhysioEncoder:
        """Pretrain on windows; `y` is not looked at."""
        config = self._config()
        if self.objective not in OBJECTIVES:
            raise unknown_name("objective", self.objective, list(OBJECTIVES))
        arrays = self._arrays(X, config)
        count = len(next(iter(arrays.values())))
        train = TrainConfig(
            OBJECTIVES[self.objective],
            self.num_steps,
            min(self.batch_size, count),
            self.learning_rate,
            max(1, self.num_steps // 10),
            seed=self.seed,
        )
        self.model_ = build(config, train)
        fit(self.model_, ArraySource(config, arrays), train)
        return self

    def transform(self, X: Windows, available: Sequence[str] | None = None) -> np.ndarray:
        """Return embeddings [windows, width], from some of the modalities if asked."""
        check_is_fitted(self, "model_")
        batch = MultimodalBatch.from_arrays(self.model_.config, self._arrays(X, self.model_.config))
        return embed_windows(self.model_, batch, available)

    def _config(self) -> PhysioMAEConfig:
        if isinstance(self.config, PhysioMAEConfig):
            return self.config
        if self.config not in PRESETS:
            raise unknown_name("preset", self.config, list(PRESETS))
        return PRESETS[self.config]

    @staticmethod
    def _arrays(windows: Windows, config: PhysioMAEConfig) -> dict[str, np.ndarray]:
        if isinstance(windows, Mapping):
            return dict(windows)
        if len({modality.rate_hz for modality in config.modalities}) > 1:
            raise InputError("modalities have different rates; give a mapping from modality to windows.")
        counts = [len(modality.channels) for modality in config.modalities]
        array = np.asarray(windows, dtype=np.float32)
        if array.ndim != 3 or array.shape[1] != sum(counts):
            raise InputError(f"windows have shape {array.shape}; expected [windows, {sum(counts)} channels, samples].")
        parts = np.split(array, np.cumsum(counts)[:-1], axis=1)
        return dict(zip(config.names, parts, strict=True))
