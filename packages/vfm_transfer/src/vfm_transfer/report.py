"""The comparison of arms as a page and as Markdown."""

from __future__ import annotations

import html
import math
from typing import Any

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #8886 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
svg text { fill: currentColor; font-size: 12px }
"""
WIDTH, ROW, LEFT = 640, 26, 130


def table_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each arm, as it is printed."""
    rows = []
    for row in found["rows"]:
        ahead = "" if row["arm"] == found["reference"] else interval_text(row)
        rows.append(
            {
                "arm": row["arm"],
                found["metric"]: f"{100 * row['score']:.1f} %",
                f"{found['reference']} ahead by, points [95 %]": ahead,
                "operations": f"{row['flops']:.3g}",
            }
        )
    return rows


def interval_text(row: dict[str, Any]) -> str:
    """Return a difference with its paired interval, in points; one draw has no interval."""
    if row["low"] is None or math.isnan(row["low"]):
        return f"{100 * row['ahead']:+.1f} (one draw)"
    return f"{100 * row['ahead']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def to_markdown(found: dict[str, Any]) -> str:
    """Return the table with what it was measured on."""
    rows = table_rows(found)
    lines = [f"# Arms over {len(found['seeds'])} label draws", "", "| " + " | ".join(rows[0]) + " |"]
    lines += ["|" + " --- |" * len(rows[0]), *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)]
    return "\n".join([*lines, "", _words(found), ""])


def _words(found: dict[str, Any]) -> str:
    return (
        f"Differences are {found['reference']} minus the arm, paired by draw (seeds "
        f"{', '.join(map(str, found['seeds']))}), with 95 % t intervals. Operations are those of teacher, head and "
        "student, forward and backward, a multiply-add as two."
    )


def to_html(found: dict[str, Any]) -> str:
    """Return one self-contained page."""
    rows = table_rows(found)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Arms compared</title><style>{STYLE}</style><h1>Arms over {len(found['seeds'])} label draws</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_svg(found)}<p>{html.escape(_words(found))}</p>"
        "</html>\n"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    """Table cells; all but the first are numbers."""
    return [f'<td class="{"number" if n else "name"}">{html.escape(str(v))}</td>' for n, v in enumerate(row.values())]


def _svg(found: dict[str, Any]) -> str:
    """Draw the scores of every draw, one line of dots an arm."""
    scores = [score for row in found["rows"] for score in row["per_seed"]]
    low, high = min(scores), max(scores)
    scale = (WIDTH - LEFT - 60) / ((high - low) or 1.0)
    parts = []
    for number, row in enumerate(found["rows"]):
        y = ROW * number + 18
        parts.append(f'<text x="0" y="{y + 4}">{html.escape(row["arm"])}</text>')
        parts += [
            f'<circle cx="{LEFT + (score - low) * scale:.1f}" cy="{y}" r="4" fill="currentColor" opacity=".45"/>'
            for score in row["per_seed"]
        ]
        x = LEFT + (row["score"] - low) * scale
        parts.append(f'<path d="M{x:.1f} {y - 9}v18" stroke="currentColor" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 48}" y="{y + 4}">{100 * row["score"]:.1f} %</text>')
    height = ROW * len(found["rows"]) + 10
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" style="max-width:100%"><title>Scores by draw; the bar is the '
        f"mean</title>{''.join(parts)}</svg>"
    )
