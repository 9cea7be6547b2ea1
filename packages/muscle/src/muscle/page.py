"""A comparison as Markdown and as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from muscle.comparison import Comparison
from muscle.flips import Flips, SmoothFlips

LABELS = {
    "accuracy_old": "Right, old",
    "accuracy_new": "Right, new",
    "accuracy_change": "Change of the share right",
    "nfr": "Negative flips (NFR)",
    "pfr": "Positive flips (PFR)",
    "nfr_inconsistent": "Wrong and not the old answer (NFR_mc)",
    "churn": "Answers that differ (churn)",
    "btc": "Still right of what was right (BTC)",
    "bec": "Still wrong of what was wrong (BEC)",
    "nfi": "New errors that are negative flips (NFI)",
    "relative_nfr": "NFR over that of independent systems",
    "mcnemar_p": "McNemar, exact p",
    "mean_old": "Mean, old",
    "mean_new": "Mean, new",
    "mean_change": "Change of the mean",
    "mean_gain": "Mean gain of what rose (m_g)",
    "mean_regression": "Mean loss of what fell (m_r)",
}
SHARES = {"accuracy_old", "accuracy_new", "accuracy_change", "nfr", "pfr", "nfr_inconsistent", "churn", "btc", "bec"}
SHARES |= {"nfi"}
MARKDOWN_FLIPS = 10
CLIP = 160


def rate_rows(found: Comparison) -> list[dict[str, str]]:
    """Return name, value and interval of every rate, as text."""
    values: dict[str, float] = found.result.to_dict()
    names = [name for name in LABELS if name in values or name in found.intervals]
    rows = []
    for name in names:
        value = values.get(name, _change(found.result))
        low, high = found.intervals.get(name, (None, None))
        interval = "" if low is None or high is None else f"{_number(name, low)} to {_number(name, high)}"
        rows.append({"rate": LABELS[name], "value": _number(name, value), "95 % interval": interval})
    return rows


def _change(result: Flips | SmoothFlips) -> float:
    if isinstance(result, Flips):
        return result.accuracy_new - result.accuracy_old
    return result.mean_new - result.mean_old


def _number(name: str, value: float) -> str:
    if value != value:
        return "undefined"
    if name == "mcnemar_p":
        return f"{value:.2g}"
    return f"{100 * value:.2f} %" if name in SHARES else f"{value:.4f}"


def slice_rows(parts: Mapping[Any, Flips | SmoothFlips]) -> list[dict[str, str]]:
    """Return size, NFR, PFR and level of every slice, as text."""
    rows = []
    for key, part in parts.items():
        before, after = (
            (part.accuracy_old, part.accuracy_new) if isinstance(part, Flips) else (part.mean_old, part.mean_new)
        )
        rows.append(
            {
                "slice": str(key),
                "examples": str(part.num),
                "old": f"{100 * before:.1f} %",
                "new": f"{100 * after:.1f} %",
                "NFR": f"{100 * part.nfr:.2f} %",
                "PFR": f"{100 * part.pfr:.2f} %",
            }
        )
    return rows


def to_markdown(found: Comparison, verdicts: Sequence[str] = ()) -> str:
    """Return the comparison for a pull request or a step summary: gate, rates, slices and the first flips."""
    lines = [f"### Negative flips: `{found.old}` → `{found.new}`", ""]
    lines += [f"{found.result.num} examples, {_cell(found.metric)}.", ""]
    lines += [f"- {line}" for line in verdicts] + [""] * bool(verdicts)
    lines += _markdown_table(rate_rows(found))
    for name, parts in found.slices.items():
        lines += ["", f"**By {_cell(name)}**", "", *_markdown_table(slice_rows(parts))]
    if found.listed:
        shown = found.listed[:MARKDOWN_FLIPS]
        lines += ["", f"**Right or better before** ({len(shown)} of the negative flips)", ""]
        lines += _markdown_table([{key: _clip(value) for key, value in row.items()} for row in shown])
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _clip(value: Any) -> str:
    text = " ".join((f"{value:.4g}" if isinstance(value, float) else str(value)).split())
    return text if len(text) <= CLIP else text[: CLIP - 1] + "…"


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d9dee4; --ground: #fff; --card: #f6f8fa;
  --good: #12703a; --bad: #b3261e; --good-ground: #e5f4ea; --bad-ground: #fbe9e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #343b43; --ground: #14171a;
  --card: #1d2126; --good: #7bd49b; --bad: #ff9d94; --good-ground: #16301f; --bad-ground: #3a1c19; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
.gate { border-left: 4px solid; padding: .4rem .8rem; margin: .8rem 0; background: var(--card); }
.gate.kept { border-color: var(--good); } .gate.over { border-color: var(--bad); }
.quadrants { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
.quadrant { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; background: var(--card); }
.quadrant strong { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.quadrant.good { background: var(--good-ground); } .quadrant.good strong { color: var(--good); }
.quadrant.bad { background: var(--bad-ground); } .quadrant.bad strong { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td + td { white-space: nowrap; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding-right: .5rem; } }
details { border-bottom: 1px solid var(--line); padding: .45rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .5rem; margin: .5rem 0; }
.answers > div { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .6rem; background: var(--card);
  white-space: pre-wrap; overflow-wrap: anywhere; }
.answers b { display: block; font-size: .8rem; color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; font-size: .85rem; color: var(--soft); }
"""


def to_html(found: Comparison, verdicts: Sequence[tuple[bool, str]] = ()) -> str:
    """Return the page: gate, quadrants, rates, slices, and every listed flip with both answers; it loads nothing."""
    gate = [f'<p class="gate {"kept" if kept else "over"}">{escape(text)}</p>' for kept, text in verdicts]
    body = [
        "<h1>What the update broke</h1>",
        f'<p class="soft">{escape(found.old)} → {escape(found.new)}</p>',
        f'<p class="soft">{found.result.num:,} examples, {escape(found.metric)}</p>',
        *gate,
        *_quadrants(found.result),
        "<h2>Rates</h2>",
        _html_table(rate_rows(found)),
    ]
    for name, parts in found.slices.items():
        body += [f"<h2>By {escape(name)}</h2>", _html_table(slice_rows(parts))]
    body += _flip_list("Negative flips", found.listed, found.result.nfr * found.result.num)
    body += _flip_list("Positive flips", found.fixed, found.result.pfr * found.result.num)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = "<title>What the update broke</title>"
    top = f'<!doctype html>\n<html lang="en">\n<head>{head}{title}<style>{_STYLE}</style></head>\n<body>'
    return "\n".join([top, *body, "</body>", "</html>", ""])


def _quadrants(result: Flips | SmoothFlips) -> list[str]:
    if isinstance(result, Flips):
        cells = [
            ("", result.both_right, "right before and now"),
            ("bad", result.broken, "right before, wrong now: negative flips"),
            ("good", result.fixed, "wrong before, right now: positive flips"),
            ("", result.both_wrong, f"wrong before and now, {result.both_wrong_other:,} with another answer"),
        ]
    else:
        falls, rises = round(result.nfr * result.num), round(result.pfr * result.num)
        cells = [
            ("bad", falls, f"worse than before, by {result.mean_regression:.3f} in the mean: negative flips"),
            ("good", rises, f"better than before, by {result.mean_gain:.3f} in the mean: positive flips"),
            ("", result.num - falls - rises, "as before"),
        ]
    parts = [
        f'<div class="quadrant {kind}"><strong>{count:,}</strong>{100 * count / result.num:.2f} % {escape(text)}</div>'
        for kind, count, text in cells
    ]
    return ["<h2>Quadrants</h2>", '<div class="quadrants">', *parts, "</div>"]


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(rows[0])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ("<tr>" + "".join(f"<td>{escape(row[name])}</td>" for name in names) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _flip_list(title: str, rows: Sequence[Mapping[str, Any]], total: float) -> Iterable[str]:
    count = round(total)
    yield f"<h2>{title} ({count:,})</h2>"
    if not rows:
        yield "<p>None.</p>"
    if len(rows) < count:
        yield f'<p class="soft">The first {len(rows):,}; all are in the JSON with a larger --examples.</p>'
    for row in rows:
        yield _flip(row)


def _flip(row: Mapping[str, Any]) -> str:
    scores = {"old": row.get("old_score"), "new": row.get("new_score"), "gold": None}
    cards = "".join(
        f"<div><b>{name}{'' if scores[name] is None else f' ({scores[name]:.3f})'}</b>{escape(str(row[name]))}</div>"
        for name in ("gold", "old", "new")
        if name in row
    )
    shown = ("id", "gold", "old", "new", "question", "old_score", "new_score")
    extra = ", ".join(f"{name}: {value}" for name, value in row.items() if name not in shown)
    said = f"{_clip(row['old'])} → {_clip(row['new'])}" if "old" in row else ""
    question = f"<pre>{escape(str(row['question']))}</pre>" if "question" in row else ""
    more = f'<p class="soft">{escape(extra)}</p>' if extra else ""
    summary = f"<summary><b>{escape(str(row['id']))}</b> {escape(said)}</summary>"
    return f'<details>{summary}{question}<div class="answers">{cards}</div>{more}</details>'
