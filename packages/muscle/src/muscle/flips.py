"""What an update broke: negative flips and their relatives, for labels and for any similarity.

Section and table numbers are those of arXiv 2407.09435. Rates are shares from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
EXACT_DRAWS = 5_000_000  # above it the mean of the resampled gains is drawn from its normal limit


@dataclass(frozen=True)
class Flips:
    """An old and a new system on the same examples, by the quadrants of section 3.

    Attributes:
        both_right: Examples that both get right (Q1).
        fixed: Wrong before, right now: positive flips (Q2).
        both_wrong_same: Both wrong with the same answer (Q3).
        both_wrong_other: Both wrong with different answers (Q3, inconsistent).
        broken: Right before, wrong now: negative flips (Q4).
        right_other: Of `both_right`, those whose answers differ, where several are right.
    """

    both_right: int
    fixed: int
    both_wrong_same: int
    both_wrong_other: int
    broken: int
    right_other: int = 0

    @classmethod
    def of(cls, old_right: ArrayLike, new_right: ArrayLike, differ: ArrayLike) -> Flips:
        """Count examples from what is right and which answers differ, boolean [examples] each."""
        old, new, other = (np.asarray(values, dtype=bool) for values in (old_right, new_right, differ))
        if not old.shape == new.shape == other.shape or old.ndim != 1:
            raise ValueError(f"shapes {old.shape}, {new.shape} and {other.shape} must be one and the same [examples].")
        if not old.size:
            raise ValueError("no examples: there is nothing to compare.")
        cells = np.bincount(old * 4 + new * 2 + other, minlength=8)
        return cls(
            both_right=int(cells[6] + cells[7]),
            fixed=int(cells[2] + cells[3]),
            both_wrong_same=int(cells[0]),
            both_wrong_other=int(cells[1]),
            broken=int(cells[4] + cells[5]),
            right_other=int(cells[7]),
        )

    @property
    def num(self) -> int:
        """Number of examples."""
        return self.both_right + self.fixed + self.both_wrong_same + self.both_wrong_other + self.broken

    @property
    def accuracy_old(self) -> float:
        """Share that the old system gets right."""
        return (self.both_right + self.broken) / self.num

    @property
    def accuracy_new(self) -> float:
        """Share that the new system gets right: the old one's, less NFR, plus PFR."""
        return (self.both_right + self.fixed) / self.num

    @property
    def nfr(self) -> float:
        """Negative flip rate: right before, wrong now (Yan et al. 2021; Eq. 1)."""
        return self.broken / self.num

    @property
    def pfr(self) -> float:
        """Positive flip rate: wrong before, right now."""
        return self.fixed / self.num

    @property
    def nfr_inconsistent(self) -> float:
        """NFR_mc: the new answer is wrong and not the old one; NFR plus both wrong with different answers."""
        return (self.broken + self.both_wrong_other) / self.num

    @property
    def churn(self) -> float:
        """Share of answers that differ."""
        return (self.broken + self.fixed + self.both_wrong_other + self.right_other) / self.num

    @property
    def btc(self) -> float:
        """Backward trust compatibility (Srivastava et al. 2020): of what was right, the share that still is."""
        return _divide(self.both_right, self.both_right + self.broken)

    @property
    def bec(self) -> float:
        """Backward error compatibility: of the old errors, the share that are still errors; nan without any.

        The denominator differs between write-ups; this is BackwardCompatibilityML's, which gives 0 instead of nan.
        """
        return _divide(self.both_wrong, self.both_wrong + self.fixed)

    @property
    def both_wrong(self) -> int:
        """Examples that both get wrong."""
        return self.both_wrong_same + self.both_wrong_other

    @property
    def nfi(self) -> float:
        """Negative flip impact (Cai et al. 2022): the share of the new errors that are negative flips."""
        return _divide(self.broken, self.broken + self.both_wrong)

    @property
    def relative_nfr(self) -> float:
        """NFR over what independent systems of these accuracies would have (Yan et al. 2021)."""
        return _divide(self.nfr, self.accuracy_old * (1 - self.accuracy_new))

    @property
    def mcnemar_p(self) -> float:
        """Two-sided exact p-value of McNemar's test that fixes and breaks are as likely."""
        return mcnemar(self.broken, self.fixed)

    def to_dict(self) -> dict[str, float]:
        """Return the counts and every rate by name."""
        counts = "num both_right fixed both_wrong_same both_wrong_other broken"
        rates = "accuracy_old accuracy_new nfr pfr nfr_inconsistent churn btc bec nfi relative_nfr mcnemar_p"
        return {name: getattr(self, name) for name in (*counts.split(), *rates.split())}


@dataclass(frozen=True)
class SmoothFlips:
    """An old and a new system by a similarity to the reference, larger is better (section 3.2).

    Attributes:
        num: Number of examples.
        nfr: Share whose similarity fell.
        pfr: Share whose similarity rose.
        mean_gain: m_g, the mean rise of those that rose; 0 without any.
        mean_regression: m_r, the mean fall of those that fell, as a positive number; 0 without any.
        mean_old: The old system's mean similarity.
        mean_new: The new system's: `mean_old + pfr * mean_gain - nfr * mean_regression`.
    """

    num: int
    nfr: float
    pfr: float
    mean_gain: float
    mean_regression: float
    mean_old: float
    mean_new: float

    def to_dict(self) -> dict[str, float]:
        """Return every figure by name."""
        return dict(self.__dict__)


def flips(old: ArrayLike, new: ArrayLike, gold: ArrayLike) -> Flips:
    """Count the flips between two systems' answers.

    Answers are compared with `==`; of another type than the gold labels they would all be wrong, so that is refused.

    Args:
        old: The old system's answers [examples]: labels, choices or strings.
        new: The new system's answers, in the same order.
        gold: The right answers.

    Returns:
        Counts, with every rate as a property.

    Raises:
        ValueError: No examples, lengths that differ, labels of different types, or nan.

    Example:
        >>> result = flips([0, 1, 1, 2], [0, 0, 1, 1], [0, 1, 1, 0])
        >>> result.nfr, result.nfr_inconsistent, result.churn
        (0.25, 0.5, 0.5)
    """
    arrays = [_labels(name, values) for name, values in (("old", old), ("new", new), ("gold", gold))]
    check_types({"old": arrays[0], "new": arrays[1], "gold": arrays[2]})
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"{len(arrays[0])} old, {len(arrays[1])} new and {len(arrays[2])} gold answers do not pair.")
    first, second, truth = arrays
    return Flips.of(_equal(first, truth), _equal(second, truth), ~_equal(first, second))


def smooth_flips(old_scores: ArrayLike, new_scores: ArrayLike) -> SmoothFlips:
    """Count flips of generated text by a similarity such as ROUGE-1 (section 3.2).

    Args:
        old_scores: Similarity of the old system's answers to the references [examples], larger is better.
        new_scores: The new system's, in the same order.

    Returns:
        Rates of rises and falls with their mean sizes.

    Raises:
        ValueError: No examples, lengths that differ, or a score that is not finite.

    Example:
        >>> result = smooth_flips([0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.75, 1.0])
        >>> result.nfr, result.pfr, result.mean_gain, result.mean_regression
        (0.25, 0.5, 0.375, 0.25)
    """
    old, new = scores_of("old_scores", old_scores), scores_of("new_scores", new_scores)
    if old.shape != new.shape:
        raise ValueError(f"{len(old)} old and {len(new)} new scores do not pair.")
    if not old.size:
        raise ValueError("no examples: there is nothing to compare.")
    change = new - old
    rises, falls = change[change > 0], -change[change < 0]
    return SmoothFlips(
        num=len(change),
        nfr=len(falls) / len(change),
        pfr=len(rises) / len(change),
        mean_gain=float(rises.mean()) if len(rises) else 0.0,
        mean_regression=float(falls.mean()) if len(falls) else 0.0,
        mean_old=float(old.mean()),
        mean_new=float(new.mean()),
    )


def scores_of(name: str, values: ArrayLike) -> np.ndarray:
    """Return scores as float64 [examples]; a ValueError names the first that is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"`{name}` has the shape {array.shape}; expected one score per example.")
    broken = np.flatnonzero(~np.isfinite(array))
    if len(broken):
        raise ValueError(f"`{name}` holds {array[broken[0]]} at place {broken[0]}; a failed example has no score.")
    return array


def check_types(answers: Mapping[str, np.ndarray]) -> None:
    """Refuse answers and labels of types that never compare equal, such as "1" and 1."""
    kinds = {name: _kind(array) for name, array in answers.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise ValueError(f"labels of different types never agree ({said}); write them alike.")


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind in "iufb":
        return "numbers"
    if array.dtype.kind in "US":
        return "strings"
    kinds = {str: "strings", int: "numbers", float: "numbers", bool: "numbers"}
    found = sorted({kinds.get(kind, getattr(kind, "__name__", "")) for kind in set(map(type, array.tolist()))})
    return " and ".join(found)


def _labels(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if isinstance(values, list | tuple) and array.dtype.kind in "US" and not all(isinstance(v, str) for v in values):
        array = np.asarray(values, dtype=object)  # numpy would turn a stray number into its text
    if array.ndim != 1:
        raise ValueError(f"`{name}` has the shape {array.shape}; expected one answer per example.")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"`{name}` holds nan at place {int(np.isnan(array).argmax())}; every example needs an answer.")
    return array


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a == b, dtype=bool)


def _divide(a: float, b: float) -> float:
    return a / b if b else math.nan


def mcnemar(broken: int, fixed: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947): a fair coin for every example that flipped.

    Example:
        >>> round(mcnemar(1, 6), 6)
        0.125
    """
    num, few = broken + fixed, min(broken, fixed)
    if num == 0:
        return 1.0
    k = np.arange(1, few + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((num - k + 1) / k))]) - num * math.log(2)
    return float(min(1.0, 2 * np.exp(logs).sum()))


def bootstrap_flips(result: Flips, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of the rates from a paired bootstrap over examples.

    Every rate depends on an example through its quadrant alone, so that resampling examples is one multinomial draw of
    the six counts: a million examples cost no more than ten.

    Args:
        result: The counts.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Lower and upper end by name; `accuracy_change` is new minus old.
    """
    cells = np.array([result.both_right - result.right_other, result.right_other, result.fixed, result.both_wrong_same,
                      result.both_wrong_other, result.broken])  # fmt: skip
    draws = np.random.default_rng(seed).multinomial(result.num, cells / result.num, size=resamples).T / result.num
    right_same, right_other, fixed, wrong_same, wrong_other, broken = draws
    old, wrong = right_same + right_other + broken, wrong_same + wrong_other
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = {
            "accuracy_old": old,
            "accuracy_new": right_same + right_other + fixed,
            "accuracy_change": fixed - broken,
            "nfr": broken,
            "pfr": fixed,
            "nfr_inconsistent": broken + wrong_other,
            "churn": broken + fixed + wrong_other + right_other,
            "btc": 1 - broken / old,
            "bec": wrong / (wrong + fixed),
            "nfi": broken / (broken + wrong),
            "relative_nfr": broken / (old * (broken + wrong)),
        }
    return {name: _interval(values) for name, values in rates.items()}


def bootstrap_smooth(
    old_scores: ArrayLike, new_scores: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of the smooth rates from a paired bootstrap over examples.

    How many resampled examples rose or fell is multinomial. The mean size of as many rises is then resampled; of very
    many (see `EXACT_DRAWS`) it is drawn from its normal limit.
    """
    change = scores_of("new_scores", new_scores) - scores_of("old_scores", old_scores)
    rises, falls, num = change[change > 0], -change[change < 0], len(change)
    generator = np.random.default_rng(seed)
    shares = np.array([len(falls), len(rises), num - len(falls) - len(rises)]) / num
    counts = generator.multinomial(num, shares, size=resamples)
    regression = _resampled_means(falls, counts[:, 0], generator)
    gain = _resampled_means(rises, counts[:, 1], generator)
    nfr, pfr = counts[:, 0] / num, counts[:, 1] / num
    values = {"nfr": nfr, "pfr": pfr, "mean_gain": gain, "mean_regression": regression}
    values["mean_change"] = pfr * gain - nfr * regression
    return {name: _interval(array) for name, array in values.items()}


def _resampled_means(values: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if not len(values):
        return np.zeros(len(counts))
    if counts.sum() > EXACT_DRAWS:
        return generator.normal(values.mean(), values.std() / np.sqrt(np.maximum(counts, 1)))
    picked = values[generator.integers(0, len(values), counts.sum())]
    owner = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(owner, picked, minlength=len(counts)) / np.maximum(counts, 1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def slice_flips(
    old_right: ArrayLike, new_right: ArrayLike, differ: ArrayLike, keys: Sequence[Hashable]
) -> dict[Any, Flips]:
    """Count flips apart for every value of a key, such as a subject or a length class; the largest slice first.

    Args:
        old_right: Boolean [examples].
        new_right: Boolean [examples].
        differ: Whether the answers differ, boolean [examples].
        keys: Each example's value.
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    arrays = [np.asarray(values, dtype=bool) for values in (old_right, new_right, differ)]
    if len(keys) != len(arrays[0]):
        raise ValueError(f"{len(keys)} keys and {len(arrays[0])} examples do not pair.")
    order = sorted(places, key=lambda key: (-len(places[key]), str(key)))
    return {key: Flips.of(*(array[places[key]] for array in arrays)) for key in order}
