"""Frozen linear probes: what an embedding holds that a linear map can read, on subjects that were not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json

Kind = Literal["classes", "number"]
RIDGE, INVERSE_STRENGTH, MAX_ITERATIONS = 1.0, 1.0, 300


@dataclass(frozen=True)
class LinearProbe:
    """A standardised, optionally PCA-reduced linear map from features to class scores or a number.

    Attributes:
        mean: Of the training features [D]; takes the place of nan.
        scale: Their standard deviation [D].
        weight: From standardised features to scores [D, K].
        bias: [K].
        classes: Labels of the columns; empty for a number.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[int, ...] = ()

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities of the classes [n, K], or numbers [n].

        A feature that is nan, as those of an absent modality of a late-fusion model, counts as the training mean.
        """
        if features.shape[1] != len(self.mean):
            raise ValueError(f"features have width {features.shape[1]}, the probe was fitted on {len(self.mean)}.")
        filled = np.where(np.isnan(features), self.mean, features)
        raw = (filled - self.mean) / self.scale @ self.weight + self.bias
        if not self.classes:
            return raw[:, 0]
        raw = np.exp(raw - raw.max(1, keepdims=True))
        return raw / raw.sum(1, keepdims=True)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return labels, or numbers."""
        scores = self.scores(features)
        return np.asarray(self.classes)[scores.argmax(1)] if self.classes else scores

    def save(self, path: str | Path) -> None:
        """Write the probe as JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "scale", "weight", "bias")}
        write_json(path, {**arrays, "classes": list(self.classes)})

    @classmethod
    def load(cls, path: str | Path) -> LinearProbe:
        """Read a file of `save`."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no probe at {path}; `physiomae probe` writes one.")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            arrays = [np.array(record[name], dtype=float) for name in ("mean", "scale", "weight", "bias")]
            return cls(*arrays, tuple(record["classes"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no probe: {error!r}; `physiomae probe` writes one.") from error


def fit_probe(
    features: np.ndarray, labels: np.ndarray, *, kind: Kind = "classes", components: int | None = None
) -> LinearProbe:
    """Fit a probe: standardise, reduce by PCA if asked, then logistic regression with balanced classes, or ridge.

    All steps see the training features only.

    Args:
        features: [n, D]; nan is replaced by the column's mean.
        labels: Integers, or numbers, [n].
        kind: What the labels are.
        components: Width after PCA, so that arms with wider features have the same probe width.

    Returns:
        The probe, all steps folded into one map.

    Raises:
        InputError: One class only, or no finite feature in a column.
    """
    if kind == "classes" and len(np.unique(labels)) < 2:
        raise InputError(f"a probe needs two classes, the training labels hold {np.unique(labels).tolist()}.")
    if np.isnan(features).all(0).any():
        raise InputError("a feature is missing in all training windows; train on windows that have every modality.")
    mean = np.nanmean(features, axis=0)
    filled = np.where(np.isnan(features), mean, features)
    scale = filled.std(0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    z = (filled - mean) / scale
    basis = np.eye(z.shape[1])
    if components is not None and components < z.shape[1]:
        basis = np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :components]
    weight, bias, classes = _classify(z @ basis, labels) if kind == "classes" else _regress(z @ basis, labels)
    return LinearProbe(mean, scale, basis @ weight, bias, classes)


def _classify(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the limit is the same for all
        model = LogisticRegression(C=INVERSE_STRENGTH, class_weight="balanced", max_iter=MAX_ITERATIONS)
        model.fit(z, labels)
    coef, bias = model.coef_, model.intercept_
    if len(coef) == 1:  # two classes: one column, so that both get half of the logit
        coef, bias = np.concatenate([-coef, coef]) / 2, np.concatenate([-bias, bias]) / 2
    return coef.T, bias, tuple(int(label) for label in model.classes_)


def _regress(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    centre = labels.mean()
    gram = z.T @ z + RIDGE * np.eye(z.shape[1])
    return np.linalg.solve(gram, z.T @ (labels - centre))[:, None], np.array([centre]), ()


def classification_metrics(truth: np.ndarray, scores: np.ndarray, classes: Sequence[int]) -> dict[str, float]:
    """Return balanced accuracy, macro-F1, Cohen's kappa, and macro AUROC and AUPRC, one class against the rest.

    Args:
        truth: Labels [n].
        scores: Probabilities [n, K].
        classes: Labels of the columns.

    Returns:
        Metrics; classes that do not occur in `truth` count in none of them, and areas are nan where one class occurs.
    """
    from sklearn import metrics

    labels = np.asarray(classes)
    guessed = labels[scores.argmax(1)]
    seen = np.unique(truth)
    recalls = [(guessed[truth == label] == label).mean() for label in seen]
    found = {
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_f1": float(metrics.f1_score(truth, guessed, labels=seen, average="macro", zero_division=0)),
        "kappa": float(metrics.cohen_kappa_score(truth, guessed)) if len(seen) > 1 else float("nan"),
    }
    columns = [(truth == label, scores[:, place]) for place, label in enumerate(labels) if label in seen]
    areas = {"auroc": metrics.roc_auc_score, "auprc": metrics.average_precision_score}
    for name, area in areas.items():
        found[name] = float(np.mean([area(*column) for column in columns])) if len(seen) > 1 else float("nan")
    return found


def number_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return Pearson's correlation (0 for a constant prediction) and R²."""
    spread = truth.std() * predicted.std()
    covariance = ((truth - truth.mean()) * (predicted - predicted.mean())).mean()
    residual = ((truth - predicted) ** 2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-12)
    return {"correlation": float(covariance / spread) if spread > 1e-12 else 0.0, "r2": float(1 - residual)}


def probe_metrics(probe: LinearProbe, features: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the metrics that fit the probe's kind."""
    if probe.classes:
        return classification_metrics(truth, probe.scores(features), probe.classes)
    return number_metrics(truth, probe.predict(features))


def by_subject(
    measure: Callable[[np.ndarray], Mapping[str, float]], subjects: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return metrics of each subject; `measure` gets the subject's windows as a mask.

    Example:
        >>> by_subject(lambda rows: {"windows": float(rows.sum())}, np.array(["a", "b", "a"]))
        {'a': {'windows': 2.0}, 'b': {'windows': 1.0}}
    """
    return {str(subject): dict(measure(subjects == subject)) for subject in np.unique(subjects)}


def label_budgets(
    train: tuple[np.ndarray, np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """Fit a probe on the labels of the first 1, 2, 4, ... subjects and score each.

    Args:
        train: Features, labels and subjects.
        test: Features and labels of other subjects.
        budgets: Numbers of subjects.

    Returns:
        Rows of the number of subjects and windows, and metrics; budgets with a single class are left out.
    """
    features, labels, subjects = train
    order = np.unique(subjects)
    rows = []
    for budget in budgets:
        chosen = np.isin(subjects, order[:budget])
        if len(np.unique(labels[chosen])) > 1:
            probe = fit_probe(features[chosen], labels[chosen])
            found = probe_metrics(probe, test[0], test[1])
            rows.append({"subjects": min(budget, len(order)), "windows": int(chosen.sum()), **found})
    return rows
