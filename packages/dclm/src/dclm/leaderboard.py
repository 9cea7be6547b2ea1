"""A leaderboard of evaluation records: one row per model, one page that sorts and filters without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

from dclm.page import render_document
from dclm.scores import aggregate, read_record
from dclm.tasks import Version

__all__ = ["leaderboard_rows", "render_leaderboard"]

SIZE = re.compile(r"(?<![a-z0-9])(411m|400m|1b|3b|7b)(?![a-z0-9])", re.IGNORECASE)
WIDTHS = {"1024": "400m", "2048": "1b", "2560": "3b", "4096": "7b"}
WIDTH = re.compile(r"-d=(\d+)")
MULTIPLIER = re.compile(r"mult=(\d+)")
HEAD = re.compile(r"^evaluation_")
TAIL = re.compile(r"[-_]open_lm.*$|-d=\d+_l=.*$|_heavy$")
COLUMNS = ("model", "scale", "track", "core", "extended", "mmlu", "date")
SCORES = ("core", "extended", "mmlu")
OWN = "evaluation"  # what `dclm run` and `dclm evaluate` call their records' files
# Clicking a heading sorts by it, clicking again turns the order round; the lists keep one scale and one track.
SCRIPT = """
const body = document.querySelector("tbody"), heads = [...document.querySelectorAll("th")];
const key = (row, at) => row.cells[at].dataset.value;
heads.forEach((head, at) => head.querySelector("button").onclick = () => {
  const up = head.getAttribute("aria-sort") === "descending";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const order = (a, b) => key(a, at).localeCompare(key(b, at), undefined, {numeric: true}) * (up ? 1 : -1);
  body.append(...[...body.rows].sort(order));
});
const selects = [...document.querySelectorAll("select")];
const keep = () => [...body.rows].forEach(row => {
  row.hidden = selects.some((select, at) => select.value !== "" && key(row, at + 1) !== select.value);
});
selects.forEach(select => select.onchange = keep);
"""


def leaderboard_rows(paths: Sequence[Path], version: Version = "v2") -> list[dict[str, Any]]:
    """Return one row per evaluation record, the best CORE first.

    The scale ("7b-1x") is read from the model's name or width and the multiplier in the record's file name; where the
    record has a field `scale` or `track`, that counts.

    Args:
        paths: Evaluation records.
        version: Of the baselines of chance.

    Returns:
        `model`, `scale`, `track`, `core`, `extended`, `mmlu`, `date`, `uuid`, `file`; models without a CORE come last.

    Raises:
        InputError: A file is no record, has no uuid, or has that of another file.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = read_record(path)
        uuid = record.get("uuid")
        if not isinstance(uuid, str) or not uuid:
            raise InputError(f"{path} has no `uuid`, by which records are told apart; give it one.")
        if uuid in rows:
            raise InputError(f"{path} and {rows[uuid]['file']} have the same uuid {uuid}; leave one of them out.")
        rows[uuid] = _row(path, record, version)
    return sorted(rows.values(), key=lambda row: (row["core"] is None, -(row["core"] or 0.0), row["model"]))


def _row(path: Path, record: dict[str, Any], version: Version) -> dict[str, Any]:
    name = Path(str(record.get("_filename") or path)).stem
    scores = aggregate(record["eval_metrics"]["icl"], version)
    return {
        "model": str(record["model"]) if "model_uuid" in record and name == OWN else TAIL.sub("", HEAD.sub("", name)),
        "scale": record.get("scale") or _scale(f"{record.get('model', '')} {name}".replace("_", " ")),
        "track": record.get("track") or "",
        **{score: scores[score] for score in SCORES},
        "date": str(record.get("creation_date", ""))[:10].replace("_", "-"),
        "uuid": record["uuid"],
        "file": str(path),
    }


def _scale(words: str) -> str:
    size, width, multiplier = SIZE.search(words), WIDTH.search(words), MULTIPLIER.search(words)
    name = size[1].lower().replace("411m", "400m") if size else WIDTHS.get(width[1], "") if width else ""
    return f"{name}-{multiplier[1]}x" if name and multiplier else name


def render_leaderboard(rows: Sequence[dict[str, Any]], version: Version = "v2") -> str:
    """Return the page of rows of `leaderboard_rows`."""
    selects = " ".join(_select(name, sorted({row[name] for row in rows if row[name]})) for name in COLUMNS[1:3])
    heads = "".join(
        f"<th{' aria-sort=descending' if name == 'core' else ''}><button>{escape(name)}</button></th>"
        for name in COLUMNS
    )
    lines = "".join(f"<tr>{''.join(_cell(name, row[name]) for name in COLUMNS)}</tr>" for row in rows)
    body = (
        f"<h1>{len(rows):,} models by CORE</h1><p>Centered accuracies in percent, baselines of chance {version}; MMLU "
        f"is 5-shot and not centered. A dash: tasks are missing.</p><p>{selects}</p><table><thead><tr>{heads}</tr>"
        f"</thead><tbody>{lines}</tbody></table>"
    )
    return render_document("leaderboard", body, SCRIPT)


def _select(name: str, values: Sequence[str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return f"<label>{name.title()} <select><option value=''>all</option>{options}</select></label>"


def _cell(name: str, value: Any) -> str:
    if name not in SCORES:
        wraps = " class=w" if name == "model" else ""
        return f'<td{wraps} data-value="{escape(value)}">{escape(value)}</td>'
    shown, order = ("–", 0) if value is None else (f"{100 * value:.1f}", round(1e6 * (2 + value)))
    return f'<td class="n" data-value="{order}">{shown}</td>'
