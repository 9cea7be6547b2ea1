"""What the commands `probe` and `analyze` do with windows on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError, unknown_name

from physiomae.analyze import attention_report, unit_report
from physiomae.batch import MultimodalBatch
from physiomae.evaluate import embed_windows, finetune, missing_modality_matrix
from physiomae.model import PhysioMAE
from physiomae.probe import LinearProbe, by_subject, classification_metrics, fit_probe, label_budgets
from physiomae.shards import ShardSource


@dataclass(frozen=True)
class Labelled:
    """Windows that have a label."""

    batch: MultimodalBatch
    labels: np.ndarray
    subjects: np.ndarray

    @classmethod
    def read(cls, folder: Path, split: str, label: str) -> Labelled:
        """Read a split; windows whose label is unknown (-1, or nan for a number) are left out."""
        batch, labels, subjects = ShardSource(folder, split).load()
        if label not in labels:
            raise unknown_name("label", label, sorted(labels))
        values = labels[label]
        known = np.flatnonzero(np.isfinite(values) & (values != -1))
        if len(known) == 0:
            raise InputError(f"no window of the split {split!r} in {folder} has the label {label!r}.")
        whole = values[known].astype(int) if np.array_equal(values[known], values[known].astype(int)) else values[known]
        return cls(batch.rows(torch.as_tensor(known)), whole, subjects[known])


def probe_rows(
    model: PhysioMAE, train: Labelled, test: Labelled, options: Any
) -> tuple[list[dict[str, Any]], LinearProbe]:
    """Return the rows of `physiomae probe` and the probe that was fitted on all modalities.

    Args:
        model: Frozen.
        train: Windows to fit on.
        test: Windows of other subjects.
        options: `kind`, `components`, `refit`, `budgets` and `finetune` of the command.
    """
    kind, components = options.kind, options.components
    if kind == "classes" and train.labels.dtype.kind == "f":
        raise InputError("this label holds numbers that are not whole; use --kind number.")
    rows = missing_modality_matrix(
        model,
        (train.batch, train.labels),
        (test.batch, test.labels, test.subjects),
        kind=kind,
        components=components,
        refit=options.refit,
    )
    features = embed_windows(model, train.batch)
    if options.budgets:
        if kind != "classes":
            raise InputError("--budgets needs --kind classes.")
        pair = embed_windows(model, test.batch), test.labels
        for row in label_budgets((features, train.labels, train.subjects), pair, options.budgets):
            rows.append({"available": "all", "trained_on": f"{row.pop('subjects')} subjects", **row})
    if options.finetune:
        rows.append(_finetuned(model, train, test, options.finetune))
        # Fine-tuning has changed the model; the probe below is of the frozen one, whose features are at hand.
    return rows, fit_probe(features, train.labels, kind=kind, components=components)


def _finetuned(model: PhysioMAE, train: Labelled, test: Labelled, steps: int) -> dict[str, Any]:
    if train.labels.dtype.kind == "f" or model.late_fusion:
        raise InputError("--finetune needs classes and a joint model.")
    classes = np.unique(train.labels)
    classifier = finetune(model, train.batch, np.searchsorted(classes, train.labels), num_steps=steps)
    with torch.no_grad():
        scores = torch.softmax(classifier(test.batch), -1).numpy()

    def measure(rows: np.ndarray) -> dict[str, float]:
        return classification_metrics(test.labels[rows], scores[rows], classes.tolist())

    whole = measure(np.ones(len(scores), bool))
    subjects = by_subject(measure, test.subjects)
    return {"available": "all", "trained_on": "all, fine-tuned", **whole, "by_subject": subjects}


def analyze_models(
    models: Mapping[str, PhysioMAE], batch: MultimodalBatch, subjects: np.ndarray, seed: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return a row for each model and for random weights, and what the figures need.

    Args:
        models: Name -> joint model.
        batch: Windows.
        subjects: Of the windows.
        seed: Of random weights and swaps.
    """
    first = next(iter(models.values()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = PhysioMAE(first.config).eval()
    rows, detail = [], {}
    for name, model in {**models, "random": random}.items():
        attention, units = attention_report(model, batch), unit_report(model, batch, subjects, seed)
        row = {"model": name, "cross_attention_over_chance": attention.cross}
        row |= {"aligned_over_chance": attention.aligned, "distributedness": units.distributedness}
        rows.append(row | {f"attention_to_{key}": value for key, value in attention.received.items()})
        detail[name] = {"names": attention.names, "mass": attention.mass, "shares": units.shares}
    return rows, detail
