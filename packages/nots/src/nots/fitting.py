"""What all estimators do alike: series to tensors, a trunk from a preset, a folder or a model, saved tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from sklearn.utils import check_random_state
from tenfold_shared.commands import InputError, unknown_name
from tenfold_shared.files import plain_json, write_json
from torch import Tensor

from nots.adapt import Adapted, Head, Target
from nots.checkpoint import from_pretrained, load_state, read_config, read_tensors, write_tensors
from nots.config import OBJECTIVES, PRESETS, AdaptConfig, NoTSConfig, ObjectiveName, Readout, TrainConfig
from nots.model import NoTS, resample, standardise
from nots.objectives import NARRATIVES, trunk_config
from nots.train import build, fit

Collection = np.ndarray | Sequence[np.ndarray]
ModelLike = str | Path | NoTSConfig | NoTS
MAX_SEED = 2**31 - 1
ADAPT_RATE = 1e-2


def seed_of(random_state: Any) -> int:
    """Return a whole number of a seed, a RandomState or None, as scikit-learn understands them."""
    return int(check_random_state(random_state).randint(MAX_SEED))


def check_series(series: Collection) -> None:
    """Raise with the place of the first series that is too short or not finite, or if all are constant."""
    alive = False
    for place, one in enumerate(series):
        values = np.asarray(one, dtype=np.float64)
        if values.shape[-1] < 2:
            raise InputError(f"series {place} has length {values.shape[-1]}; at least 2 samples are needed.")
        if not np.isfinite(values).all():
            raise InputError(f"series {place} holds nan or infinite values; `NoTSImputer` fills missing ones.")
        alive = alive or bool((values.max(-1) > values.min(-1)).any())
    if not alive:
        raise InputError("every series is constant: there is nothing to learn from.")


def to_series(series: Collection, length: int) -> Tensor:
    """Return standardised series [n, channels, length]; those of other lengths are resampled."""
    rows = [torch.from_numpy(np.array(one, dtype=np.float32)) for one in series]
    return standardise(torch.cat([resample(row[None], length) for row in rows]))


def fitted_config(config: NoTSConfig, num_channels: int, longest: int) -> NoTSConfig:
    """Return a preset for data: its channels, and no more patches than the longest series fills."""
    if config.tokenizer == "itransformer":
        return replace(config, num_channels=num_channels)
    patches = min(config.num_patches, max(2, -(-longest // config.patch)))
    length = patches * config.patch
    schedules = config.schedules if length == config.length else ()
    return replace(config, num_channels=num_channels, length=length, schedules=schedules)


def resolve(model: ModelLike) -> NoTSConfig | NoTS:
    """Return a preset's configuration, or the trunk that a folder or a model is."""
    if isinstance(model, NoTSConfig | NoTS):
        return model
    if isinstance(model, str) and model in PRESETS:
        return PRESETS[model]
    if Path(model).is_dir():
        return from_pretrained(model)
    raise unknown_name("preset or folder", str(model), list(PRESETS))


def check_objective(name: str) -> ObjectiveName:
    """Return an objective's name; an unknown one is an error with the nearest."""
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, list(OBJECTIVES))
    return cast(ObjectiveName, name)


def readout_of(objective: str) -> Readout:
    """Return what a trunk of an objective is read from."""
    return "sequence" if objective in NARRATIVES else "raw"


def learn_trunk(model: ModelLike, objective: str, num_steps: int, series: Collection, seed: int) -> NoTS:
    """Return a trunk: a copy of a pretrained one, or one that is pretrained on the series themselves.

    Args:
        model: Preset, configuration, folder or trunk.
        objective: Of the pretraining.
        num_steps: Updates; 0 leaves random weights. A pretrained trunk is taken as it is.
        series: [channels, time] each.
        seed: Of weights and order.
    """
    found = resolve(model)
    if isinstance(found, NoTS):
        return copy.deepcopy(found)
    shapes = [np.shape(one) for one in series]
    config = fitted_config(found, shapes[0][0], max(shape[1] for shape in shapes))
    name = check_objective(objective)
    train = TrainConfig(name, max(1, num_steps), min(32, len(series)), 3e-3, max(1, num_steps // 20), seed=seed)
    if num_steps < 1:
        return build(trunk_config(config, name), train).model.eval()
    return fit(config, train, to_series(series, config.length))


def adapt_config(mode: str, objective: str, num_steps: int, seed: int) -> AdaptConfig:
    """Return the settings of an estimator's adaptation."""
    return AdaptConfig(cast(Any, mode), readout_of(objective), num_steps=num_steps, learning_rate=ADAPT_RATE, seed=seed)


def check_channels(trunk: NoTS, num_channels: int) -> None:
    """Raise unless a trunk can embed series without an adaptor: its own channels, or one at a time."""
    if trunk.config.num_channels not in (1, num_channels):
        raise InputError(
            f"series of {num_channels} channels for a model of {trunk.config.num_channels}; a classifier or regressor "
            "learns a map of channels, a transformer does not."
        )


class Saved:
    """Estimators as `config.json` and `model.safetensors`; every tensor is accounted for."""

    network_: NoTS | Adapted

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a fitted estimator.

        Args:
            folder: Made if missing; files are replaced one by one, each atomically.
        """
        cast(Any, self)._check_is_fitted()
        folder, network = Path(folder), self.network_
        trunk = network.trunk if isinstance(network, Adapted) else network
        params = cast(Any, self).get_params(deep=False)
        if not isinstance(params.get("model"), str):
            params["model"] = str(folder)
        if not isinstance(params.get("random_state"), int | None):
            params["random_state"] = None
        described: dict[str, Any] = {"class": type(self).__name__, "params": params, "state": self._state()}
        if isinstance(network, Adapted):
            targets = {name: [target.kind, target.size] for name, target in network.head.targets.items()}
            described |= {"adapt": vars(network.config), "targets": targets}
            described["num_channels"] = network.mixer.shape[1] if hasattr(network, "mixer") else None
        write_tensors(folder / "model.safetensors", network.state_dict(), {"format": "pt"})
        record = {"model": trunk.config.to_dict(), "estimator": described}
        write_json(folder / "config.json", plain_json(record))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read an estimator of `save_pretrained`.

        Args:
            folder: With `config.json` and `model.safetensors`.

        Raises:
            FileNotFoundError: A file is missing.
            InputError: A file is damaged, of another estimator, or tensors do not match; the counts are named.
        """
        folder = Path(folder)
        record = read_config(folder)
        described = record.get("estimator") or {}
        if described.get("class") != cls.__name__:
            raise InputError(f"{folder} holds {described.get('class') or 'a bare model'}, not a {cls.__name__}.")
        estimator = cls(**described["params"])
        trunk = NoTS(NoTSConfig.from_dict(record["model"]))
        network: NoTS | Adapted = trunk
        if "adapt" in described:
            targets = {name: Target(kind, size) for name, (kind, size) in described["targets"].items()}
            head = Head(targets, trunk.config.dim, trunk.config.num_patches)
            channels = described["num_channels"] or trunk.config.num_channels
            network = Adapted(trunk, AdaptConfig(**described["adapt"]), head, channels)
        load_state(network, read_tensors(folder / "model.safetensors"), str(folder))
        estimator.network_ = network.eval()
        estimator._restore(json.loads(json.dumps(described["state"])))
        cast(Any, estimator).is_fitted = True
        return estimator

    def _state(self) -> dict[str, Any]:
        return {"metadata_": _plain(cast(Any, self).metadata_)}

    def _restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
