"""What a trained model can do: embeddings, missing-modality matrix, reconstruction of what is hidden, fine-tuning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from physiomae.batch import MultimodalBatch
from physiomae.config import ObjectiveConfig
from physiomae.loss import mean_over_modalities, reconstruction_sums
from physiomae.masking import draw, hide_tokens
from physiomae.model import PhysioMAE
from physiomae.probe import Kind, by_subject, fit_probe, probe_metrics

ROWS = 256
VALIDATION_SEED = 77


@torch.no_grad()
def embed_windows(model: PhysioMAE, batch: MultimodalBatch, available: Sequence[str] | None = None) -> np.ndarray:
    """Return embeddings [windows, width]: means over tokens, or in late fusion one for each modality side by side.

    Args:
        model: Any model.
        batch: Windows.
        available: Modalities to look at.
    """
    device = next(model.parameters()).device
    parts = [
        model.embed(part.to(device), available, by_modality=model.late_fusion).float().cpu() for part in _parts(batch)
    ]
    return torch.cat(parts).numpy().astype(np.float64)


def _parts(batch: MultimodalBatch) -> Iterator[MultimodalBatch]:
    for start in range(0, len(batch), ROWS):
        yield batch.rows(slice(start, start + ROWS))


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all non-empty subsets, small ones first."""
    return [found for size in range(1, len(names) + 1) for found in itertools.combinations(names, size)]


def missing_modality_matrix(
    model: PhysioMAE,
    train: tuple[MultimodalBatch, np.ndarray],
    test: tuple[MultimodalBatch, np.ndarray, np.ndarray],
    *,
    kind: Kind = "classes",
    components: int | None = None,
    refit: bool = True,
) -> list[dict[str, Any]]:
    """Score a probe on every subset of modalities: fitted once on all of them, and fitted again on the subset.

    Args:
        model: Frozen.
        train: Windows and labels to fit on.
        test: Windows, labels and subjects to score on; no subject of both.
        kind: What the labels are.
        components: Width after PCA.
        refit: Also fit a probe for each subset.

    Returns:
        Rows `available`, `trained_on` ("all" or "same"), metrics over all windows, and `by_subject`.
    """
    names = model.order(train[0])
    whole = fit_probe(embed_windows(model, train[0]), train[1], kind=kind, components=components)
    rows = []
    for subset in subsets(names):
        features = embed_windows(model, test[0], subset)
        probes = {"all": whole}
        if refit:
            seen = embed_windows(model, train[0], subset)
            known = ~np.isnan(seen).all(0)
            again = fit_probe(np.where(known, seen, 0.0), train[1], kind=kind, components=components)
            probes["same"] = again
        for trained_on, probe in probes.items():
            used = features if trained_on == "all" else np.where(known, features, 0.0)
            row = {"available": "+".join(subset), "trained_on": trained_on, **probe_metrics(probe, used, test[1])}
            row["by_subject"] = by_subject(lambda m, p=probe, u=used: probe_metrics(p, u[m], test[1][m]), test[2])
            rows.append(row)
    return rows


@torch.no_grad()
def validation_loss(model: PhysioMAE, batch: MultimodalBatch, mask_ratio: float = 0.5) -> float:
    """Return the error on masked tokens of windows with all their modalities, with masks that never change."""
    objective = ObjectiveConfig("own" if model.late_fusion else "all", mask_ratio)
    totals = None
    for part, number in zip(_parts(batch), itertools.count()):
        available = model.available(part)
        visible, asked = hide_tokens(available, objective, draw(tuple(available.shape), VALIDATION_SEED, number))
        predicted = model.decode(model.encode(part, visible))
        found = torch.stack(reconstruction_sums(predicted, model.targets(part), asked, part.present))
        totals = found if totals is None else totals + found
    assert totals is not None
    return float(mean_over_modalities(totals[0], totals[1]))


@torch.no_grad()
def hidden_r2(model: PhysioMAE, batch: MultimodalBatch) -> dict[str, float]:
    """Return for each modality R² of its log spectrum, reconstructed from all the others while it is hidden whole.

    The variance is that around the mean of every channel and frequency, so that 0 is what a constant gives.
    """
    names = model.order(batch)
    found = {}
    for place, name in enumerate(names):
        errors, targets = [], []
        for part in _parts(batch):
            visible = model.available(part)
            visible[:, place] = False
            guess = model.decode(model.encode(part, visible))[name].float()
            target = model.targets(part)[name]
            first = (2 * target.shape[-1] - 1) // 3
            there = part.present[name]
            errors.append((guess - target)[..., first:][there])
            targets.append(target[..., first:][there])
        error, target = torch.cat(errors), torch.cat(targets)
        found[name] = float(1 - error.square().sum() / (target - target.mean(0)).square().sum())
    return found


def finetune(
    model: PhysioMAE,
    batch: MultimodalBatch,
    labels: np.ndarray,
    *,
    num_steps: int = 200,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Train the encoder on with a linear head on labels; the model itself is changed.

    Args:
        model: Joint fusion.
        batch: Training windows with all their modalities.
        labels: Classes from 0 [windows].
        num_steps: Updates of 64 windows.
        learning_rate: Of AdamW.
        seed: Of head and order.

    Returns:
        A module that maps a batch to class scores.
    """
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(model.config.dim, int(labels.max()) + 1)
    with torch.no_grad():
        head.weight.copy_(0.01 * torch.randn(head.weight.shape, generator=generator))
        head.bias.zero_()
    classifier = Classifier(model, head)
    targets = torch.as_tensor(labels)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=learning_rate)
    model.train()
    for _ in range(num_steps):
        rows = torch.randint(0, len(batch), (min(64, len(batch)),), generator=generator)
        loss = nn.functional.cross_entropy(classifier(batch.rows(rows)), targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    return classifier


class Classifier(nn.Module):
    """A model with a linear head on its embedding."""

    def __init__(self, model: PhysioMAE, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, batch: MultimodalBatch, available: Sequence[str] | None = None) -> torch.Tensor:
        """Return class scores [B, K] from any subset of the modalities."""
        return self.head(self.model.embed(batch, available))


def paired_difference(ours: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]], metric: str):
    """Return one metric's differences over the subjects that both have, see `probe.by_subject`."""
    shared = sorted(ours.keys() & other.keys())
    return np.array([ours[subject][metric] - other[subject][metric] for subject in shared])
