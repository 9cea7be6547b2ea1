"""General metrics as mergeable states: sums and counts that add up over batches, workers and ranks.

Every function that returns a state counts its batch; `a + b` merges, `compute()` gives the number.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Mean", "MeanIoU", "RootMean", "Rouge", "accuracy", "auroc", "bits_per_byte", "mean_iou", "recall_at_k",
    "rmse", "rouge_l", "rouge_n",
]  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A sum and what it is divided by.

    Example:
        >>> (Mean.of([1, 2]) + Mean.of([6])).compute()
        3.0
    """

    total: float = 0.0
    count: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Count all values of an array."""
        array = np.asarray(values, dtype=np.float64)
        return cls(float(array.sum()), float(array.size))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """Return the mean; nan when nothing was counted."""
        return self.total / self.count if self.count else math.nan


class RootMean(Mean):
    """A mean of squares whose `compute` takes the root."""

    def compute(self) -> float:
        """Return the root of the mean; nan when nothing was counted."""
        return math.sqrt(super().compute())


@dataclass(frozen=True)
class MeanIoU:
    """A confusion matrix [classes, classes], rows the truth, columns the prediction."""

    confusion: np.ndarray

    def __add__(self, other: MeanIoU) -> MeanIoU:
        return MeanIoU(self.confusion + other.confusion)

    def compute(self) -> float:
        """Return the mean over the classes that occur in truth or prediction; nan without any."""
        hits = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else math.nan


class Rouge(NamedTuple):
    """Precision, recall and their harmonic mean, each from 0 to 1."""

    precision: float
    recall: float
    fmeasure: float


def accuracy(predictions: ArrayLike, targets: ArrayLike) -> Mean:
    """Count the labels, of any one shape, that are the targets; top-k of scores is `recall_at_k`."""
    return Mean.of(np.equal(*_pair(predictions, targets)))


def recall_at_k(similarity: ArrayLike, k: int, targets: ArrayLike) -> Mean:
    """Count the queries with a target among their k most similar candidates: R@k, top-k accuracy.

    A tie with a wrong candidate counts against the target, so that a collapsed model gets no credit.

    Args:
        similarity: Scores [queries, candidates], larger is closer; no nan.
        k: 1 to the number of candidates.
        targets: Column of each query's target [queries], or a boolean mask [queries, candidates] of
            several right answers, of which one is enough.
    """
    scores, right = np.asarray(similarity), np.asarray(targets)
    if np.isnan(scores).any():
        raise ValueError("`similarity` holds nan; a broken embedding has no rank.")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"`k` (={k}) must be from 1 to the {scores.shape[1]} candidates.")
    if right.dtype != bool:
        right = np.arange(scores.shape[1]) == right[:, None]
    if right.shape != scores.shape or not right.any(axis=1).all():
        raise ValueError(f"`targets` must give each of the {len(scores)} queries a column of `similarity`.")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = ((scores >= best) & ~right).sum(axis=1)
    return Mean.of(ahead < k)


def mean_iou(
    predictions: ArrayLike, targets: ArrayLike, num_classes: int, *, ignore_index: int | None = None
) -> MeanIoU:
    """Count a batch of label maps for the mean intersection over union of the classes.

    Args:
        predictions: Integer labels from 0 to `num_classes` - 1, any shape.
        targets: Integer labels, same shape.
        num_classes: Number of labels.
        ignore_index: Target label that is left out, such as 255.
    """
    found, truth = (array.ravel() for array in _pair(predictions, targets))
    if ignore_index is not None:
        found, truth = found[truth != ignore_index], truth[truth != ignore_index]
    for name, labels in (("predictions", found), ("targets", truth)):
        _check_labels(name, labels, num_classes)
    # One count of pairs in one array: quicker than picking out the pixels that agree.
    cells = np.multiply(truth, num_classes, dtype=np.int64)
    cells += found.astype(np.int64, copy=False)
    return MeanIoU(np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes))


def _check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    if labels.dtype.kind not in "iub":
        raise ValueError(f"`{name}` must hold integer labels, found {labels.dtype}.")
    # A negative number is one beyond the type's largest without its sign, so one pass finds both kinds of wrong labels.
    unsigned = labels.view(labels.dtype.str.replace("i", "u"))
    limit = min(num_classes, np.iinfo(labels.dtype).max + 1) if labels.dtype.kind == "i" else num_classes
    if labels.size and unsigned.max() >= limit:
        raise ValueError(f"`{name}` {labels.min()}..{labels.max()} must be from 0 to {num_classes - 1}.")


def rmse(predictions: ArrayLike, targets: ArrayLike) -> RootMean:
    """Count squared errors for the root mean squared error, in the units of the targets."""
    found, truth = _pair(predictions, targets)
    return RootMean.of((found.astype(np.float64) - truth) ** 2)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the exact area under the ROC curve; a tie counts half (Mann and Whitney 1947).

    It is no sum over examples, so there is no state: gather the scores first. `scores` [examples]
    grow with the chance of a positive, `labels` [examples] are 0 or 1 and both occur.

    Example:
        >>> auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
        0.875
    """
    values, positive = _pair(scores, labels)
    positive = positive.astype(bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative or np.isnan(values).any():
        raise ValueError("`labels` must hold both classes and `scores` no nan.")
    negatives = np.sort(values[~positive])
    below = np.searchsorted(negatives, values[positive], side="left")
    ties = np.searchsorted(negatives, values[positive], side="right") - below
    return float((below.sum() + ties.sum() / 2) / (num_positive * num_negative))


def bits_per_byte(token_losses: ArrayLike, num_bytes: int) -> Mean:
    """Count a text's loss in bits over its UTF-8 bytes, which no tokenizer can improve by counting tokens.

    `token_losses` are negative log-likelihoods in nats, padding left out; `num_bytes` is at least 1.
    """
    if num_bytes < 1:
        raise ValueError(f"`num_bytes` (={num_bytes}) must be at least 1.")
    return Mean(Mean.of(token_losses).total / math.log(2), float(num_bytes))


def rouge_n(prediction: str, reference: str, *, n: int = 1) -> Rouge:
    """Score shared n-grams (Lin 2004, section 2), as the `rouge-score` package does without stemming."""
    if n < 1:
        raise ValueError(f"`n` (={n}) must be at least 1.")
    found, wanted = (_count_ngrams(_words(text), n) for text in (prediction, reference))
    return _rouge((found & wanted).total(), found.total(), wanted.total())


def rouge_l(prediction: str, reference: str) -> Rouge:
    """Score the longest common subsequence (Lin 2004, section 3.1), as `rouge-score` without stemming."""
    found, wanted = _words(prediction), _words(reference)
    return _rouge(_common_length(found, wanted), len(found), len(wanted))


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} must be the same; nothing is broadcast.")
    return a, b


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _count_ngrams(words: list[str], n: int) -> collections.Counter[Hashable]:
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence; one big-integer row per word of `a` (Hyyrö 2004)."""
    places: dict[Hashable, int] = collections.defaultdict(int)
    for position, word in enumerate(b):
        places[word] |= 1 << position
    full = (1 << len(b)) - 1
    row = full
    for word in a:
        matches = row & places[word]
        row = ((row + matches) | (row - matches)) & full
    return len(b) - row.bit_count()


def _rouge(shared: int, num_found: int, num_wanted: int) -> Rouge:
    precision, recall = shared / max(num_found, 1), shared / max(num_wanted, 1)
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall) if shared else 0.0)
