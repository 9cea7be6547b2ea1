"""Estimators of collections [cases, channels, time]: transformer, classifier, regressor and imputer, on aeon's bases.

aeon's `check_estimator` asks that an estimator inherits from aeon's bases, so these do; the rest of the package does
not need aeon. They are scikit-learn estimators too: aeon's bases are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError, require_extra
from torch import Tensor
from torch.nn import functional

from nots import fitting, windows
from nots.adapt import Adapted, Target, adapt, predict
from nots.fitting import Collection, ModelLike, Saved
from nots.model import NoTS

require_extra("aeon", "aeon", "nots-torch")

from aeon.classification.base import BaseClassifier  # noqa: E402
from aeon.regression.base import BaseRegressor  # noqa: E402
from aeon.transformations.collection.base import BaseCollectionTransformer  # noqa: E402


def tags(**more: Any) -> dict[str, Any]:
    """Return the tags that all estimators of collections share, and more."""
    found = {"X_inner_type": ["np-list", "numpy3D"], "python_dependencies": "torch"}
    return {**found, "capability:multivariate": True, "capability:unequal_length": True, **more}


TEST_PARAMS = {"model": "tiny", "num_steps": 2}


class NoTSTransformer(Saved, BaseCollectionTransformer):
    """Embed series: `fit` pretrains without labels, `transform` gives one row for each series.

    A model of one channel embeds the channels of others one by one, side by side. Series of other lengths are
    resampled to the model's.

    Args:
        model: Preset (`nots presets`), `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`; only the first two are
            pretrained on the series given to `fit`.
        objective: What is learnt, such as "nots", "mae" or "next".
        num_steps: Updates; 0 keeps random weights.
        random_state: Seed, RandomState or None.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(6, 1, 32))
        >>> NoTSTransformer("tiny", num_steps=2, random_state=0).fit_transform(X).shape
        (6, 16)
    """

    _tags = tags(output_data_type="Tabular")

    def __init__(
        self, model: ModelLike = "laptop", objective: str = "nots", num_steps: int = 300, random_state: Any = None
    ) -> None:
        self.model, self.objective, self.num_steps, self.random_state = model, objective, num_steps, random_state
        super().__init__()

    def _fit(self, X: Collection, y: Any = None) -> NoTSTransformer:
        fitting.check_series(X)
        seed = fitting.seed_of(self.random_state)
        trunk = fitting.learn_trunk(self.model, self.objective, self.num_steps, X, seed)
        fitting.check_channels(trunk, np.shape(X[0])[0])
        self.network_ = trunk
        return self

    def _transform(self, X: Collection, y: Any = None) -> np.ndarray:
        trunk: Any = self.network_
        series = fitting.to_series(X, trunk.config.length)
        if trunk.config.num_channels == series.shape[1]:
            return embed(trunk, series, self.objective)
        rows = embed(trunk, series.flatten(0, 1)[:, None], self.objective)
        return rows.reshape(len(series), -1)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return dict(TEST_PARAMS)


def embed(trunk: NoTS, series: Tensor, objective: str, batch_size: int = 256) -> np.ndarray:
    """Return embeddings [n, dim] of standardised series, the last batch included."""
    readout = fitting.readout_of(objective)
    with torch.no_grad():
        return torch.cat([trunk.embed(part, readout) for part in series.split(batch_size)]).numpy()


class NoTSClassifier(Saved, BaseClassifier):
    """Classify series: a pretrained trunk with adaptors of under 1 % of its parameters, or trained whole.

    Args:
        model: Preset, `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`, as for `NoTSTransformer`; a
            pretrained one may have other channels than the series.
        objective: Of the pretraining; narratives are read from the sequence, others from the raw signal.
        num_steps: Updates of the pretraining; 0 keeps random weights, which with `mode` "none" is the supervised trunk.
        mode: "frozen" (adaptors and head), "full" (the trunk too), or "none" (trunk and head without adaptors).
        adapt_steps: Updates of the adaptation.
        random_state: Seed, RandomState or None.

    Example:
        >>> X, y = np.random.default_rng(0).normal(size=(6, 1, 32)), np.arange(6) % 2
        >>> NoTSClassifier("tiny", num_steps=2, adapt_steps=2, random_state=0).fit(X, y).predict(X).shape
        (6,)
    """

    _tags = tags(algorithm_type="deeplearning")

    def __init__(
        self,
        model: ModelLike = "laptop",
        objective: str = "nots",
        num_steps: int = 300,
        mode: str = "full",
        adapt_steps: int = 200,
        random_state: Any = None,
    ) -> None:
        self.model, self.objective, self.num_steps = model, objective, num_steps
        self.mode, self.adapt_steps, self.random_state = mode, adapt_steps, random_state
        super().__init__()

    def _fit(self, X: Collection, y: np.ndarray) -> NoTSClassifier:
        labels = torch.from_numpy(np.searchsorted(self.classes_, y))
        self.network_ = fit_head(self, X, {"class": Target("pooled", len(self.classes_))}, labels)
        return self

    def _predict_proba(self, X: Collection) -> np.ndarray:
        return answer(self.network_, X).softmax(1).double().numpy()

    def _predict(self, X: Collection) -> np.ndarray:
        return np.asarray(self.classes_)[answer(self.network_, X).argmax(1).numpy()]

    def _state(self) -> dict[str, Any]:
        classes = [label.item() if isinstance(label, np.generic) else label for label in self.classes_]
        return {**super()._state(), "classes_": classes, "n_classes_": len(classes)}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.classes_ = np.array(state["classes_"])
        self._class_dictionary = {label: place for place, label in enumerate(self.classes_)}

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {**TEST_PARAMS, "adapt_steps": 2}


class NoTSRegressor(Saved, BaseRegressor):
    """Predict a number for each series, as `NoTSClassifier` does classes.

    Args:
        model: Preset, `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`.
        objective: Of the pretraining.
        num_steps: Updates of the pretraining.
        mode: "frozen", "full" or "none".
        adapt_steps: Updates of the adaptation.
        random_state: Seed, RandomState or None.

    Example:
        >>> X, y = np.random.default_rng(0).normal(size=(6, 1, 32)), np.arange(6.0)
        >>> NoTSRegressor("tiny", num_steps=2, adapt_steps=2, random_state=0).fit(X, y).predict(X).shape
        (6,)
    """

    _tags = tags(algorithm_type="deeplearning")

    def __init__(
        self,
        model: ModelLike = "laptop",
        objective: str = "nots",
        num_steps: int = 300,
        mode: str = "full",
        adapt_steps: int = 200,
        random_state: Any = None,
    ) -> None:
        self.model, self.objective, self.num_steps = model, objective, num_steps
        self.mode, self.adapt_steps, self.random_state = mode, adapt_steps, random_state
        super().__init__()

    def _fit(self, X: Collection, y: np.ndarray) -> NoTSRegressor:
        targets = np.asarray(y, dtype=np.float64)
        if not np.isfinite(targets).all():
            raise InputError("`y` holds nan or infinite values.")
        self.centre_, self.scale_ = float(targets.mean()), float(targets.std()) or 1.0
        standard = torch.from_numpy((targets - self.centre_) / self.scale_).float()[:, None]
        self.network_ = fit_head(self, X, {"value": Target("pooled", 1)}, standard)
        return self

    def _predict(self, X: Collection) -> np.ndarray:
        return answer(self.network_, X)[:, 0].double().numpy() * self.scale_ + self.centre_

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "centre_": self.centre_, "scale_": self.scale_}

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {**TEST_PARAMS, "adapt_steps": 2}


def fit_head(estimator: Any, X: Collection, targets: dict[str, Target], y: Tensor) -> Adapted:
    """Learn an estimator's trunk and adapt it to labels: whole numbers are classes, others are numbers."""
    fitting.check_series(X)
    seed = fitting.seed_of(estimator.random_state)
    trunk = fitting.learn_trunk(estimator.model, estimator.objective, estimator.num_steps, X, seed)
    config = fitting.adapt_config(estimator.mode, estimator.objective, estimator.adapt_steps, seed)
    loss = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    return adapt(trunk, config, targets, (fitting.to_series(X, trunk.config.length), y), loss)


def answer(network: Any, X: Collection) -> Tensor:
    """Return a network's outputs for series of any length."""
    return predict(network, fitting.to_series(X, network.trunk.config.length))


class NoTSImputer(Saved, BaseCollectionTransformer):
    """Fill missing values: the model corrects a linear interpolation where values are nan, and changes nothing else.

    It learns on spans of each channel that are hidden from it. Series are looked at in windows of the model's length,
    never resampled; overlapping answers are averaged.

    Args:
        model: Preset, `NoTSConfig`, a folder of `save_pretrained`, or a `NoTS`.
        objective: Of the pretraining.
        num_steps: Updates of the pretraining.
        adapt_steps: Updates on hidden spans.
        mask_ratio: Share of each channel that is hidden while learning.
        random_state: Seed, RandomState or None.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(6, 1, 32))
        >>> X[:, :, 5:9] = np.nan
        >>> bool(np.isnan(NoTSImputer("tiny", num_steps=2, adapt_steps=2).fit_transform(X)).any())
        False
    """

    _tags = tags(**{"capability:missing_values": True, "removes_missing_values": True})

    def __init__(
        self,
        model: ModelLike = "laptop",
        objective: str = "nots",
        num_steps: int = 300,
        adapt_steps: int = 200,
        mask_ratio: float = 0.25,
        random_state: Any = None,
    ) -> None:
        self.model, self.objective, self.num_steps = model, objective, num_steps
        self.adapt_steps, self.mask_ratio, self.random_state = adapt_steps, mask_ratio, random_state
        super().__init__()

    def _fit(self, X: Collection, y: Any = None) -> NoTSImputer:
        seed = fitting.seed_of(self.random_state)
        whole = [windows.interpolate(np.asarray(one, dtype=np.float64)) for one in X]
        fitting.check_series(whole)
        trunk = fitting.learn_trunk(self.model, self.objective, self.num_steps, whole, seed)
        length, rng = trunk.config.length, np.random.default_rng(seed)
        pieces = np.concatenate([windows.cut(np.asarray(one, dtype=np.float64), length)[0] for one in X])
        hidden = windows.hide_spans(pieces, self.mask_ratio, rng)
        x, truth, weight = windows.puzzles(pieces, hidden)
        config = fitting.adapt_config("full", self.objective, self.adapt_steps, seed)
        labels = torch.stack([truth - x, weight], dim=1)
        channels = {f"channel {place}": Target("series", length) for place in range(x.shape[1])}
        self.network_ = adapt(trunk, config, channels, (x, labels), windows.hidden_error)
        return self

    def _transform(self, X: Collection, y: Any = None) -> Collection:
        network: Any = self.network_
        filled = [windows.fill(network, np.asarray(one, dtype=np.float64)) for one in X]
        return np.stack(filled) if isinstance(X, np.ndarray) else filled

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {**TEST_PARAMS, "adapt_steps": 2}
