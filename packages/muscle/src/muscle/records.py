"""Answers of one system, read from lm-evaluation-harness's samples, JSON lines, CSV or parquet.

Columns, not rows: a million answers are a handful of arrays.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

DIST = "muscle-torch"
# The names a column may have, the first that is there counts.
NAMES = {
    "id": ("id", "uid", "example_id", "sample_id", "doc_id", "question_id", "index"),
    "prediction": ("prediction", "pred", "answer", "output", "response"),
    "gold": ("gold", "label", "target", "reference", "references", "expected"),
    "score": ("score",),
    "text": ("question", "prompt", "input", "text"),
}
HARD_METRICS = ("acc", "exact_match", "em", "pass@1")


@dataclass(frozen=True)
class Columns:
    """What of a file is read; an empty name is found by `NAMES`.

    Attributes:
        id: Column with the example's id.
        prediction: Column with the answer.
        gold: Column with the right answer, or a list of them.
        metric: lm-evaluation-harness's metric to read.
        filter: lm-evaluation-harness's filter to read, where a task has several.
        slices: Columns to count apart; in samples a field of `doc`.
    """

    id: str = ""
    prediction: str = ""
    gold: str = ""
    metric: str = ""
    filter: str = ""
    slices: tuple[str, ...] = ()


@dataclass
class Answers:
    """A system's answers in the order of its file.

    Attributes:
        path: Where they come from.
        ids: Unique name of each example.
        predictions: The answers, None where the file holds scores alone.
        gold: Right answers, or None.
        scores: The file's own score of each answer, or None.
        metric: Name of that score.
        texts: What was asked, or None.
        slices: Values to count apart, by column.
        hashes: Hash of each example's content, or None.
        choices: What answers that are places stand for, or None.
    """

    path: str
    ids: list[Any]
    predictions: Sequence[Any] | None = None
    gold: Sequence[Any] | None = None
    scores: np.ndarray | None = None
    metric: str = ""
    texts: Sequence[str] | None = None
    slices: dict[str, Sequence[Any]] = field(default_factory=dict)
    hashes: Sequence[str] | None = None
    choices: Sequence[Sequence[str]] | None = None


def read_answers(path: str | Path, columns: Columns | None = None) -> Answers:
    """Read one system's answers; the format is told by content and suffix.

    Args:
        path: A `samples_*.jsonl` of lm-evaluation-harness, the folder that holds them, or a JSON-lines, CSV or
            parquet file with one example per row.
        columns: Which columns to read.

    Returns:
        The answers as columns, in the order of the file.

    Raises:
        InputError: A missing, empty or broken file, or one without the columns.
    """
    path, columns = Path(path), columns or Columns()
    if path.is_dir():
        return _read_folder(path, columns)
    if not path.is_file():
        raise InputError(f"no answers at {path}; give a file of lm-evaluation-harness, JSON lines, CSV or parquet.")
    if path.suffix == ".parquet":
        return _from_table(path, _read_parquet(path), columns)
    if path.suffix in (".csv", ".tsv"):
        return _from_table(path, _read_csv(path), columns)
    rows = read_lines(path)
    if {"doc_id", "filtered_resps", "target"} <= rows[0].keys():
        return _from_samples(path, rows, columns)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _from_table(path, {name: [row.get(name) for row in rows] for name in names}, columns)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; an InputError names the line that is not one."""
    rows = []
    with open(path, encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise InputError(f"{path}, line {number}: not a JSON object.")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text at byte {error.start}.") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}).") from error
    if not rows:
        raise InputError(f"{path} is empty; expected one example per line.")
    return rows


def _read_parquet(path: Path) -> dict[str, Sequence[Any]]:
    require_extra("pyarrow", "data", DIST)
    parquet, arrow = require_extra("pyarrow.parquet", "data", DIST), require_extra("pyarrow", "data", DIST)
    try:
        table = parquet.read_table(path)
    except arrow.ArrowException as error:
        raise InputError(f"{path}: not a parquet file ({str(error).splitlines()[0]}).") from error
    if not table.num_rows:
        raise InputError(f"{path} is empty; expected one example per row.")
    nested = [name for name in table.column_names if arrow.types.is_nested(table.schema.field(name).type)]
    return {name: table[name].to_pylist() if name in nested else table[name].to_numpy() for name in table.column_names}


def _read_csv(path: Path) -> dict[str, Sequence[Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        try:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a CSV file ({error}).") from error
    if len(rows) < 2:
        raise InputError(f"{path} is empty; expected a line of names and one example per line.")
    ragged = next((n for n, row in enumerate(rows, start=1) if len(row) != len(rows[0])), None)
    if ragged is not None:
        raise InputError(f"{path}, line {ragged}: {len(rows[ragged - 1])} fields, the first line has {len(rows[0])}.")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}


def _from_table(path: Path, table: Mapping[str, Sequence[Any]], columns: Columns) -> Answers:
    def pick(kind: str, asked: str, needed: bool = True) -> str:
        name = asked or next((name for name in NAMES[kind] if name in table), "")
        if name in table or not (needed or asked):
            return name
        raise InputError(
            f"{path}: no column {asked or ' or '.join(map(repr, NAMES[kind]))} for the {kind}; it has "
            f"{', '.join(map(repr, table))}; name it with --{kind}."
        )

    score = pick("score", columns.metric, needed=False) if columns.metric in ("", *table) else ""
    prediction = pick("prediction", columns.prediction, needed=not score)
    gold, text = pick("gold", columns.gold, needed=bool(prediction) and not score), pick("text", "", needed=False)
    missing = [name for name in columns.slices if name not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} to slice by; it has {', '.join(map(repr, table))}.")
    return Answers(
        str(path),
        list(table[pick("id", columns.id)]),
        table[prediction] if prediction else None,
        table[gold] if gold else None,
        _numbers(path, score, table[score]) if score else None,
        score,
        list(map(str, table[text])) if text else None,
        {name: list(table[name]) for name in columns.slices},
    )


def _numbers(path: Path, name: str, values: Iterable[Any]) -> np.ndarray:
    try:
        array = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: column {name!r} holds what is not a number ({error}).") from error
    broken = np.flatnonzero(~np.isfinite(array))
    if len(broken):
        raise InputError(f"{path}: {name!r} is {array[broken[0]]} in example {broken[0] + 1}; every one needs a score.")
    return array


def _read_folder(path: Path, columns: Columns) -> Answers:
    """Read the newest samples of every task in a results folder; ids get the task's name before them."""
    newest: dict[str, Path] = {}
    for file in sorted(path.rglob("samples_*.jsonl"), key=lambda p: p.name):
        newest[_task_of(file)] = file
    if not newest:
        raise InputError(f"{path}: no samples_*.jsonl; run lm-evaluation-harness with --log_samples.")
    parts = [(task, _from_samples(file, read_lines(file), columns)) for task, file in sorted(newest.items())]
    joined = Answers(str(path), [f"{task}/{i}" for task, part in parts for i in part.ids])
    joined.predictions = [value for _, part in parts for value in part.predictions or ()]
    joined.gold = [value for _, part in parts for value in part.gold or ()]
    joined.scores = np.concatenate([part.scores for _, part in parts if part.scores is not None])
    joined.metric = " and ".join(sorted({part.metric for _, part in parts}))
    joined.texts = [value for _, part in parts for value in part.texts or ()]
    joined.hashes = [value for _, part in parts for value in part.hashes or ()]
    if all(part.choices is not None for _, part in parts):
        joined.choices = [value for _, part in parts for value in part.choices or ()]
    joined.slices = {name: [v for _, part in parts for v in part.slices[name]] for name in columns.slices}
    joined.slices["task"] = [task for task, part in parts for _ in part.ids]
    return joined


def _task_of(file: Path) -> str:
    """samples_TASK_2026-11-26T20-01-02.123456.jsonl names its task; the time is not part of it."""
    return re.sub(r"_\d{4}-\d{2}-\d{2}T[\d\-:.]+$", "", file.stem.removeprefix("samples_"))


def _from_samples(path: Path, rows: list[dict[str, Any]], columns: Columns) -> Answers:
    filters = sorted({str(row.get("filter", "none")) for row in rows})
    if columns.filter and columns.filter not in filters:
        raise InputError(f"{path}: no filter {columns.filter!r}; it has {', '.join(filters)}.")
    if len(filters) > 1 and not columns.filter:
        raise InputError(f"{path}: several filters ({', '.join(filters)}); choose one with --filter.")
    rows = [row for row in rows if not columns.filter or str(row.get("filter")) == columns.filter]
    metric = _metric(path, rows[0], columns.metric)
    missing = [name for name in columns.slices if name not in rows[0].get("doc", {})]
    if missing:
        raise InputError(
            f"{path}: `doc` has no {missing[0]!r} to slice by; it has {', '.join(rows[0].get('doc', {}))}."
        )
    return Answers(
        str(path),
        [row["doc_id"] for row in rows],
        [_prediction(row) for row in rows],
        [_gold(row) for row in rows],
        _numbers(path, metric, (row.get(metric) for row in rows)),
        metric,
        [_question(row) for row in rows],
        {name: [row["doc"].get(name) for row in rows] for name in columns.slices},
        [str(row.get("doc_hash", "")) for row in rows],
        [_choices(row) for row in rows] if _is_choice(rows[0]) else None,
    )


def _metric(path: Path, row: Mapping[str, Any], asked: str) -> str:
    listed = [name for name in row.get("metrics", ()) if name in row] or [n for n in HARD_METRICS if n in row]
    if asked:
        if asked not in row:
            raise InputError(f"{path}: no metric {asked!r}; it has {', '.join(listed)}.")
        return asked
    if not listed:
        raise InputError(f"{path}: no metric in its rows; name one with --metric.")
    return next((name for name in HARD_METRICS if name in listed), listed[0])


def _is_choice(row: Mapping[str, Any]) -> bool:
    """Whether the responses are log-likelihoods, one pair (value, greedy) per choice."""
    found = row["filtered_resps"]
    return len(found) > 1 and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in found)


def _prediction(row: Mapping[str, Any]) -> Any:
    found = row["filtered_resps"]
    if _is_choice(row):
        return int(np.argmax([float(value) for value, _ in found]))
    return found[0] if len(found) == 1 else json.dumps(found)


def _choices(row: Mapping[str, Any]) -> list[str]:
    """The continuations that were ranked."""
    pairs = row.get("arguments") or {}
    found = [list(pair.values()) if isinstance(pair, dict) else pair for pair in _values(pairs)]
    return [str(pair[1]).strip() for pair in found if len(pair) > 1]


def _values(arguments: Any) -> list[Any]:
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)


def _gold(row: Mapping[str, Any]) -> Any:
    target = row["target"]
    if _is_choice(row) and isinstance(target, str) and target.isdecimal():
        return int(target)
    return target


def _question(row: Mapping[str, Any]) -> str:
    """What the first request asked."""
    found = _values(row.get("arguments") or {})
    first = found[0] if found else ""
    parts = list(first.values()) if isinstance(first, dict) else first
    return str(parts[0]) if isinstance(parts, list) and parts else str(parts)
