"""The synthetic benchmark's data of one seed: series to learn from, and labelled ones to adapt and to test on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nots.adapt import Target
from nots.features import WINDOW, band_power, global_threshold, slope_sign_changes, willison_amplitude
from nots.model import standardise
from nots.synthetic import ar_sinusoids, fbm_davies_harte

HURST = (0.05, 0.95)
WORLDS = ("fbm", "sinusoids")


@dataclass(frozen=True)
class Part:
    """Standardised series [n, 1, time] and their targets side by side [n, outputs], standardised by the training part.

    Attributes:
        x: Series.
        y: Targets.
        hurst: H of each path; empty for sinusoids.
    """

    x: Tensor
    y: Tensor
    hurst: np.ndarray


@dataclass(frozen=True)
class Task:
    """One world's labelled series.

    Attributes:
        targets: Of the head.
        train: To adapt on.
        valid: To choose rates on.
        test: To report on.
        scales: Deviation of each target over the training part.
    """

    targets: dict[str, Target]
    train: Part
    valid: Part
    test: Part
    scales: dict[str, float]


def draw_series(world: str, num: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw series [num, length] of a world, and their H."""
    if world == "sinusoids":
        return ar_sinusoids(num, length, rng), np.empty(0)
    hurst = rng.uniform(*HURST, num)
    return fbm_davies_harte(hurst, length, rng), hurst


def to_tensor(series: np.ndarray) -> Tensor:
    """Return series [n, time] as standardised float32 [n, 1, time]: their amplitude, which tells H, is gone."""
    return standardise(torch.from_numpy(np.ascontiguousarray(series)).float()[:, None])


def pretraining_series(length: int, num: int, seed: int) -> Tensor:
    """Draw the unlabelled series of a seed, half of each world."""
    rng = np.random.default_rng([seed, 1])
    return torch.cat([to_tensor(draw_series(world, num // 2, length, rng)[0]) for world in WORLDS])


def make_task(world: str, length: int, sizes: tuple[int, int, int], seed: int) -> Task:
    """Draw the labelled series of a seed: training, validation and test parts."""
    rng = np.random.default_rng([seed, 2 + WORLDS.index(world)])
    drawn = [draw_series(world, num, length, rng) for num in sizes]
    series = [to_tensor(x) for x, _ in drawn]
    threshold = global_threshold(series[0][:, 0].numpy())
    raw = [_targets(x[:, 0].numpy(), hurst, threshold) for x, (_, hurst) in zip(series, drawn, strict=True)]
    centre = {name: float(values.mean()) for name, values in raw[0].items()}
    scale = {name: float(values.std()) for name, values in raw[0].items()}
    parts = []
    for x, (_, hurst), values in zip(series, drawn, raw, strict=True):
        columns = [(column - centre[name]) / scale[name] for name, column in values.items()]
        parts.append(Part(x, torch.from_numpy(np.concatenate(columns, axis=1)).float(), hurst))
    windows = length // WINDOW
    kinds = {"H": Target("pooled", 1), "SSC": Target("windows", windows), "WAMP": Target("windows", windows)}
    kinds["band power"] = Target("pooled", raw[0]["band power"].shape[1] if "band power" in raw[0] else 0)
    return Task({name: kinds[name] for name in raw[0]}, *parts, scale)


def _targets(x: np.ndarray, hurst: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    found = {"H": hurst[:, None]} if len(hurst) else {}
    found["SSC"], found["WAMP"] = slope_sign_changes(x, threshold), willison_amplitude(x, threshold)
    return found if len(hurst) else {**found, "band power": band_power(x)}
