"""Two systems' answers, aligned by id and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

from muscle.flips import Flips, SmoothFlips, bootstrap_flips, bootstrap_smooth, check_types, slice_flips, smooth_flips
from muscle.records import Answers, Columns, read_answers
from muscle.similarity import SIMILARITIES, find_similarity

SHOWN_IDS = 5
TOLERANCE = 1e-12  # a similarity that fell by less is rounding


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        old: Where the old answers come from.
        new: Where the new ones come from.
        metric: What was compared.
        result: Counts and rates; of labels or of a similarity.
        intervals: 95 % intervals of a paired bootstrap, by rate.
        slices: By column, then by value.
        listed: The negative flips, the worst first: id, question, gold, old and new answer, and scores.
        fixed: The positive flips, alike.
    """

    old: str
    new: str
    metric: str
    result: Flips | SmoothFlips
    intervals: dict[str, tuple[float, float]]
    slices: dict[str, dict[Any, Flips | SmoothFlips]] = field(default_factory=dict)
    listed: list[dict[str, Any]] = field(default_factory=list)
    fixed: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "old": self.old,
            "new": self.new,
            "metric": self.metric,
            "result": self.result.to_dict(),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "slices": {
                name: {str(key): part.to_dict() for key, part in parts.items()} for name, parts in self.slices.items()
            },
            "negative_flips": self.listed,
            "positive_flips": self.fixed,
        }


@dataclass(frozen=True)
class Options:
    """How `compare` works.

    Attributes:
        columns: What is read of the files.
        metric: A similarity (see `muscle.similarity`), a metric that the files hold, or empty for what they hold.
        resamples: Draws of the bootstrap.
        seed: Of the bootstrap.
        examples: Most flips that are listed, of each sign.
    """

    columns: Columns = field(default_factory=Columns)
    metric: str = ""
    resamples: int = 10_000
    seed: int = 0
    examples: int = 1000


def compare(old: str | Path | Answers, new: str | Path | Answers, options: Options | None = None) -> Comparison:
    """Compare two systems on the same examples.

    Args:
        old: Answers of the system in use, or their file (see `read_answers`).
        new: Answers of the one that is to replace it.
        options: What is read and how it is compared.

    Returns:
        Rates, intervals, slices and the flips themselves.

    Raises:
        InputError: Files that cannot be read, ids that do not match, labels of other types, one class, or nan.
    """
    options = options or Options()
    computed = options.metric in SIMILARITIES or ":" in options.metric
    columns = options.columns if computed else _with_metric(options.columns, options.metric)
    first, second = (one if isinstance(one, Answers) else read_answers(one, columns) for one in (old, new))
    order = align(first, second)
    scores = _scores(first, second, order, options.metric if computed else "")
    metric = options.metric or first.metric or "label"
    if scores is None or first.choices is not None:
        _refuse_one_class(first)
    if scores is None:
        return _compare_labels(first, second, order, metric, options)
    if set(np.unique(np.concatenate(scores)).tolist()) <= {0.0, 1.0}:
        return _compare_right(first, second, order, (scores[0] == 1, scores[1] == 1), (metric, options))
    return _compare_scores(first, second, order, scores, (metric, options))


def _with_metric(columns: Columns, metric: str) -> Columns:
    return Columns(**{**columns.__dict__, "metric": metric or columns.metric})


def align(old: Answers, new: Answers) -> np.ndarray:
    """Return for every old example the place of the same one in the new answers.

    Raises:
        InputError: Ids that occur twice or on one side only, each kind listed, or content that differs.
    """
    for one in (old, new):
        if not one.ids:
            raise InputError(f"{one.path} is empty; there is nothing to compare.")
    places = {key: place for place, key in enumerate(new.ids)}
    order = np.fromiter((places.get(key, -1) for key in old.ids), dtype=np.int64, count=len(old.ids))
    if len(old.ids) == len(new.ids) == len(places) and (order >= 0).all() and len(np.unique(order)) == len(order):
        _check_hashes(old, new, order)
        return order
    raise InputError(_mismatch(old, new))


def _mismatch(old: Answers, new: Answers) -> str:
    """One sentence with every kind of mismatch, and the first few ids of each."""
    parts, types = [], [{type(key).__name__ for key in one.ids} for one in (old, new)]
    for one in (old, new):
        seen: dict[Any, int] = {}
        for key in one.ids:
            seen[key] = seen.get(key, 0) + 1
        twice = [key for key, count in seen.items() if count > 1]
        if twice:
            parts.append(f"{len(twice)} twice in {one.path} ({_some(twice)})")
    for here, there in ((old, new), (new, old)):
        other = set(there.ids)
        missing = [key for key in dict.fromkeys(here.ids) if key not in other]
        if missing:
            parts.append(f"{len(missing)} missing from {there.path} ({_some(missing)})")
    if types[0] != types[1]:
        parts.append(f"ids are {' and '.join(types[0])} in the old file, {' and '.join(types[1])} in the new")
    return f"ids do not match: {'; '.join(parts)}."


def _some(ids: Sequence[Any]) -> str:
    return ", ".join(map(repr, ids[:SHOWN_IDS])) + (", ..." if len(ids) > SHOWN_IDS else "")


def _check_hashes(old: Answers, new: Answers, order: np.ndarray) -> None:
    if old.hashes is None or new.hashes is None:
        return
    other = [key for key, a, place in zip(old.ids, old.hashes, order, strict=True) if a != new.hashes[place]]
    if other:
        raise InputError(f"ids do not match: {len(other)} name other examples in the two files ({_some(other)}).")


def _scores(old: Answers, new: Answers, order: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    if metric:
        measure = find_similarity(metric)
        for one in (old, new):
            if one.predictions is None or one.gold is None:
                raise InputError(f"{one.path}: {metric} needs answers and references; name their columns.")
        first, second = (
            np.array(
                [measure(str(a), _references(g)) for a, g in zip(one.predictions or (), one.gold or (), strict=True)]
            )
            for one in (old, new)
        )
        return first, second[order]
    if old.scores is None or new.scores is None:
        return None
    if old.metric != new.metric:
        raise InputError(f"{old.path} holds {old.metric}, {new.path} {new.metric}; name one with --metric.")
    return old.scores, new.scores[order]


def _references(gold: Any) -> list[str]:
    return [str(one) for one in gold] if isinstance(gold, list | tuple) else [str(gold)]


def _array(values: Sequence[Any], order: np.ndarray | None = None) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iufbUSO" or array.ndim != 1 or not isinstance(values, np.ndarray):
        array = np.empty(len(values), dtype=object)
        array[:] = values
    return array if order is None else array[order]


def _compare_labels(old: Answers, new: Answers, order: np.ndarray, metric: str, options: Options) -> Comparison:
    gold, gold_new = _array(_list(old.gold)), _array(_list(new.gold), order)
    answers = _array(_list(old.predictions)), _array(_list(new.predictions), order)
    for one, values in ((old, answers[0]), (new, answers[1]), (old, gold)):
        _refuse_missing(one, values)
    try:
        check_types({"old answers": answers[0], "new answers": answers[1], "gold": gold})
    except ValueError as error:
        raise InputError(str(error)) from error
    if not (gold == gold_new).all():
        place = int(np.argmin(gold == gold_new))
        raise InputError(f"example {old.ids[place]!r} has the gold answer {gold[place]!r} in {old.path} and "
                         f"{gold_new[place]!r} in {new.path}.")  # fmt: skip
    return _compare_right(old, new, order, (answers[0] == gold, answers[1] == gold), (metric, options))


def _refuse_one_class(one: Answers) -> None:
    gold = one.gold
    if gold is not None and len(gold) > 1 and all(value == gold[0] for value in gold):
        raise InputError(f"{one.path}: one class: every gold answer is {_plain(gold[0])!r}, so no rate says anything.")


def _list(values: Sequence[Any] | None) -> Sequence[Any]:
    return [] if values is None else values


def _refuse_missing(one: Answers, values: np.ndarray) -> None:
    if values.dtype.kind in "iubUS":
        return
    missing = values != values if values.dtype.kind == "f" else np.array([v is None or v != v for v in values])
    if missing.any():
        raise InputError(f"{one.path}: example {one.ids[int(missing.argmax())]!r} has no answer (empty or nan).")


def _compare_right(
    old: Answers, new: Answers, order: np.ndarray, right: tuple[np.ndarray, np.ndarray], how: tuple[str, Options]
) -> Comparison:
    metric, options = how
    before, after = (np.asarray(values, dtype=bool) for values in right)
    differ = before != after
    if old.predictions is not None and new.predictions is not None:
        differ = np.asarray(_array(old.predictions) != _array(new.predictions, order), dtype=bool)
    result = Flips.of(before, after, differ)
    found = Comparison(old.path, new.path, metric, result, _intervals(result, options))
    for name, values in old.slices.items():
        found.slices[name] = dict(slice_flips(before, after, differ, values))
    found.listed = [_row(old, new, order, i) for i in np.flatnonzero(before & ~after)[: options.examples]]
    found.fixed = [_row(old, new, order, i) for i in np.flatnonzero(~before & after)[: options.examples]]
    return found


def _intervals(result: Flips, options: Options) -> dict[str, tuple[float, float]]:
    return bootstrap_flips(result, resamples=options.resamples, seed=options.seed)


def _compare_scores(
    old: Answers, new: Answers, order: np.ndarray, scores: tuple[np.ndarray, np.ndarray], how: tuple[str, Options]
) -> Comparison:
    metric, options = how
    before, after = scores
    after = np.where(np.abs(after - before) < TOLERANCE, before, after)
    intervals = bootstrap_smooth(before, after, resamples=options.resamples, seed=options.seed)
    found = Comparison(old.path, new.path, metric, smooth_flips(before, after), intervals)
    for name, values in old.slices.items():
        counts = Counter(values)
        keys = sorted(counts, key=lambda key: (-counts[key], str(key)))
        found.slices[name] = {
            key: smooth_flips(before[where], after[where]) for key in keys for where in [[v == key for v in values]]
        }
    worst = np.argsort(after - before, kind="stable")
    falls = [i for i in worst[: options.examples] if after[i] < before[i]]
    rises = [i for i in worst[::-1][: options.examples] if after[i] > before[i]]
    for listed, places in ((found.listed, falls), (found.fixed, rises)):
        for i in places:
            listed.append(_row(old, new, order, i) | {"old_score": float(before[i]), "new_score": float(after[i])})
    return found


def _row(old: Answers, new: Answers, order: np.ndarray, place: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": _plain(old.ids[place])}
    if old.texts is not None:
        row["question"] = old.texts[place]
    named = old.choices[place] if old.choices is not None else None
    if old.gold is not None:
        row["gold"] = _name(old.gold[place], named)
    if old.predictions is not None and new.predictions is not None:
        row |= {"old": _name(old.predictions[place], named), "new": _name(new.predictions[order[place]], named)}
    return row | {name: _plain(values[place]) for name, values in old.slices.items()}


def _name(value: Any, choices: Sequence[str] | None) -> Any:
    """A place among choices as the choice itself, for reading."""
    known = choices is not None and isinstance(value, int) and value < len(choices)
    return choices[value] if choices is not None and known else _plain(value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
