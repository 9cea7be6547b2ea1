"""Pages of one file that load nothing from elsewhere; here the one that says what each stage removed and why."""

from __future__ import annotations

from html import escape
from typing import Any

__all__ = ["render_document", "render_page"]

STYLE = """
:root { color-scheme: light dark; --bar: #4477aa; --gone: #cc6677; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.w { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=descending] button::after { content: " ↓"; }
th[aria-sort=ascending] button::after { content: " ↑"; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line); padding-left: .75rem; }
details { margin: .25rem 0; }
svg { max-width: 100%; height: auto; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
BAR_WIDTH, BAR_HEIGHT = 26, 110


def render_page(statistics: dict[str, Any]) -> str:
    """Render the statistics of a run.

    Args:
        statistics: What `statistics.json` holds.

    Returns:
        A whole HTML document.
    """
    stages = statistics["stages"]
    first, last = stages[0], stages[-1]
    title = f"{last['documents_out']:,} of {first['documents_in']:,} documents kept"
    parts = [f"<h1>{title}</h1>", f"<p>{statistics['num_shards']:,} shards.</p>", _overview(stages)]
    parts += [_stage(stage) for stage in stages]
    return render_document(title, "".join(parts))


def render_document(title: str, body: str, script: str = "") -> str:
    """Return a whole HTML document.

    Args:
        title: Plain text.
        body: HTML.
        script: A script of its own, which the page's policy then allows.
    """
    policy = POLICY + ("; script-src 'unsafe-inline'" if script else "")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>dclm: {escape(title)}</title><style>{STYLE}</style></head><body>{body}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )


def _overview(stages: list[dict[str, Any]]) -> str:
    rows = [
        f'<tr><td><a href="#{escape(stage["stage"])}">{escape(stage["stage"])}</a></td>'
        + _numbers(stage["documents_in"], stage["documents_out"], stage["characters_in"], stage["characters_out"])
        + f'<td class="n">{_share(stage["documents_out"], stage["documents_in"])}</td></tr>'
        for stage in stages
    ]
    head = "".join(
        f"<th>{name}</th>" for name in ("stage", "documents in", "out", "characters in", "out", "documents kept")
    )
    note = "<p>Characters in of an extraction are bytes of HTML.</p>"
    return f"<h2>Stages</h2><table><tr>{head}</tr>{''.join(rows)}</table>{note}"


def _numbers(*values: int) -> str:
    return "".join(f'<td class="n">{value:,}</td>' for value in values)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _stage(stage: dict[str, Any]) -> str:
    reasons = sorted(stage["reasons"].items(), key=lambda pair: (-pair[1]["documents"], pair[0]))
    rows = [
        f"<tr><td>{escape(reason)}</td>{_numbers(found['documents'], found['characters'])}"
        f'<td class="n">{_share(found["documents"], stage["documents_in"])}</td></tr>'
        for reason, found in reasons
    ]
    head = "<tr><th>reason</th><th>documents removed</th><th>characters</th><th>of documents in</th></tr>"
    table = f"<table>{head}{''.join(rows)}</table>" if rows else "<p>Nothing was removed.</p>"
    examples = "".join(_examples(reason, found["examples"]) for reason, found in reasons)
    name = escape(stage["stage"])
    return f'<h2 id="{name}">{name}</h2>{table}{_histogram(stage)}{examples}'


def _examples(reason: str, examples: list[dict[str, str]]) -> str:
    shown = "".join(f"<p>{escape(entry['name'])}</p><pre>{escape(entry['text'])}</pre>" for entry in examples)
    return f"<details><summary>Examples of {escape(reason)}</summary>{shown}</details>" if shown else ""


def _histogram(stage: dict[str, Any]) -> str:
    """Draw how long documents are, kept and removed, in bins that double."""
    kept, gone = stage["kept_lengths"], stage["removed_lengths"]
    used = [index for index, pair in enumerate(zip(kept, gone, strict=True)) if any(pair)]
    if not used:
        return ""
    low, high = used[0], used[-1] + 1
    top = max(max(kept), max(gone))
    bars = []
    for index in range(low, high):
        for place, (count, colour) in enumerate(((kept[index], "--bar"), (gone[index], "--gone"))):
            height = BAR_HEIGHT * count / top
            x = (index - low) * BAR_WIDTH * 2 + place * (BAR_WIDTH - 4)
            bars.append(
                f'<rect x="{x}" y="{BAR_HEIGHT - height:.1f}" width="{BAR_WIDTH - 5}" height="{height:.1f}" '
                f'fill="var({colour})"><title>{2**index:,} to {2 ** (index + 1):,}: {count:,}</title></rect>'
            )
        bars.append(f'<text x="{(index - low) * BAR_WIDTH * 2}" y="{BAR_HEIGHT + 15}">{_short(2**index)}</text>')
    width = (high - low) * BAR_WIDTH * 2
    return (
        f'<figure><svg viewBox="0 0 {width} {BAR_HEIGHT + 22}" width="{width}" role="img" font-size="11" '
        f'fill="currentColor" aria-label="Lengths of documents, kept and removed">{"".join(bars)}</svg>'
        "<figcaption>Documents by length in characters, from the number on: kept (first bar), removed (second)."
        "</figcaption></figure>"
    )


def _short(number: int) -> str:
    return f"{number >> 20}M" if number >= 1 << 20 else f"{number >> 10}k" if number >= 1 << 10 else str(number)
