"""What a model has learnt across modalities: where attention goes, when it goes there, and what single units hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physiomae.batch import MultimodalBatch
from physiomae.model import PhysioMAE

ROWS = 128
SILENT = 1e-9  # units whose embedding no swap moves carry no modality


@dataclass(frozen=True)
class AttentionReport:
    """Attention of all blocks, heads and windows.

    Attributes:
        names: Modalities.
        mass: Mean share of a query's attention that goes to each modality [queries' modality, keys'].
        cross: Attention to other modalities over what an even spread over all tokens would give; 1 is chance.
        aligned: Within other modalities, attention to tokens at most one patch away in time over an even spread.
        received: Attention that a modality gets from the others over an even spread, by name.
    """

    names: tuple[str, ...]
    mass: np.ndarray
    cross: float
    aligned: float
    received: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        received = {name: float(value) for name, value in self.received.items()}
        return {
            "names": list(self.names),
            "mass": self.mass.tolist(),
            "cross": self.cross,
            "aligned": self.aligned,
            "received": received,
        }


@torch.no_grad()
def attention_report(model: PhysioMAE, batch: MultimodalBatch) -> AttentionReport:
    """Measure attention between modalities and its alignment in time, against chance given the tokens there are.

    Args:
        model: Joint fusion.
        batch: Windows with at least two modalities; every token is visible.

    Returns:
        Means over windows, queries, heads and blocks.

    Raises:
        ValueError: A late-fusion model, or a single modality: there is no attention between modalities.
    """
    names, num = model.order(batch), model.config.num_patches
    if model.late_fusion or len(names) < 2:
        raise ValueError("attention between modalities needs a joint model and a batch with two modalities or more.")
    count = len(names) * num
    total, chance = torch.zeros(count, count), torch.zeros(count, count)
    queries = torch.zeros(count)
    for start in range(0, len(batch), ROWS):
        encoded = model.encode(batch.rows(slice(start, start + ROWS)), attention=True)
        weights = torch.stack(encoded.attention).mean((0, 2)).cpu()  # [B, K, K]
        index, valid = encoded.index.cpu(), encoded.valid.cpu()
        for row, places, real in zip(weights, index, valid, strict=True):
            kept = places[real]
            total[kept[:, None], kept] += row[real][:, real]
            chance[kept[:, None], kept] += 1 / len(kept)
            queries[kept] += 1
    return _summarise(names, num, total, chance, queries)


def _summarise(names: tuple[str, ...], num: int, total: Tensor, chance: Tensor, queries: Tensor) -> AttentionReport:
    owner = torch.arange(len(names) * num) // num
    time = torch.arange(len(names) * num) % num
    other = owner[:, None] != owner
    near = other & ((time[:, None] - time).abs() <= 1)
    one_hot = torch.nn.functional.one_hot(owner, len(names)).float()
    mass = one_hot.T @ total @ one_hot / (one_hot.T @ queries)[:, None].clamp(min=1)
    aligned = (total[near].sum() / total[other].sum()) / (chance[near].sum() / chance[other].sum())
    received = {
        name: float(total[other & (owner == place)].sum() / chance[other & (owner == place)].sum())
        for place, name in enumerate(names)
    }
    cross = float(total[other].sum() / chance[other].sum())
    return AttentionReport(names, mass.numpy(), cross, float(aligned), received)


@dataclass(frozen=True)
class UnitReport:
    """What each unit of the embedding loses when one modality comes from another window of the same subject.

    Attributes:
        names: Modalities.
        shares: Share of each modality in a unit's change [units, modalities]; rows of silent units are nan.
        distributedness: Entropy of a unit's shares over log M, mean over units: 0 one modality, 1 all alike.
    """

    names: tuple[str, ...]
    shares: np.ndarray
    distributedness: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"names": list(self.names), "distributedness": self.distributedness, "shares": self.shares.tolist()}


def unit_report(model: PhysioMAE, batch: MultimodalBatch, subjects: np.ndarray, seed: int = 0) -> UnitReport:
    """Measure how distributed over modalities the units of the embedding are.

    Modality m of every window is swapped with that of a random other window of the same subject, which keeps its
    distribution and the subject's own traits; a unit's mean squared change is what it takes from m.

    Args:
        model: Any model; in late fusion units are those of the mean over modalities.
        batch: Windows with at least two modalities.
        subjects: Of each window; a subject with one window is swapped with itself and adds nothing.
        seed: Of the swaps.

    Returns:
        Shares and their normalised entropy.
    """
    names = model.order(batch)
    if len(names) < 2:
        raise ValueError("units can only be distributed over two modalities or more.")
    partner = swap_within(subjects, seed)
    plain = _embed(model, batch)
    changes = np.stack([((_embed(model, _swap(batch, name, partner)) - plain) ** 2).mean(0) for name in names], 1)
    total = changes.sum(1, keepdims=True)
    shares = np.where(total > SILENT, changes / np.where(total > SILENT, total, 1.0), np.nan)
    filled = np.clip(np.nan_to_num(shares, nan=1.0), 1e-12, 1.0)
    entropy = -(filled * np.log(filled)).sum(1) / np.log(len(names))
    audible = total[:, 0] > SILENT
    return UnitReport(names, shares, float(entropy[audible].mean()) if audible.any() else 0.0)


def swap_within(subjects: np.ndarray, seed: int) -> np.ndarray:
    """Return for each window another one of the same subject, every window once."""
    draw = np.random.default_rng(seed)
    partner = np.arange(len(subjects))
    for subject in np.unique(subjects):
        rows = draw.permutation(np.flatnonzero(subjects == subject))
        partner[rows] = np.roll(rows, 1)
    return partner


def _swap(batch: MultimodalBatch, name: str, partner: np.ndarray) -> MultimodalBatch:
    index = torch.as_tensor(partner)
    signals = {**batch.signals, name: batch.signals[name][index]}
    return MultimodalBatch(signals, {**batch.present, name: batch.present[name][index]}, batch.labels)


@torch.no_grad()
def _embed(model: PhysioMAE, batch: MultimodalBatch) -> np.ndarray:
    parts = [model.embed(batch.rows(slice(at, at + ROWS))).cpu() for at in range(0, len(batch), ROWS)]
    return torch.cat(parts).numpy().astype(np.float64)
