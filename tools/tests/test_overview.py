"""The top README's tables: which claim stands for a paper, and what the rows say."""

import json

import pytest
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_tools import overview, tables

FIGURE = PaperValue(2.0, "2x | less", "abstract", "A")


def claim(name, *, figure=None, tried=True, seeds=3):
    facts = {"paper": "alpha", "claim": name, "primary_metric": "ratio", "paper_value": figure}
    if not tried:
        return ClaimResult.not_attempted(reason="no data here.", **facts)
    return ClaimResult.compare(
        ours=[1.0, 1.2, 1.4, 1.2, 1.2][:seeds], control=[1.0] * seeds, control_name="peer", minimum_effect=0.1,
        budget="full", evidence="real", data="x", seconds=1.0, **facts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "chosen"),
    [
        (
            [claim("a", tried=False, figure=FIGURE), claim("b"), claim("c", figure=FIGURE), claim("d", figure=FIGURE)],
            "c",
        ),
        ([claim("a", figure=FIGURE), claim("b", seeds=5), claim("c", figure=FIGURE, seeds=5)], "c"),
        ([claim("a", tried=False, figure=FIGURE), claim("Power check: b"), claim("c")], "c"),
        ([claim("a", tried=False), claim("b", tried=False)], "a"),
    ],
)
def test_the_first_with_a_figure_that_was_tried_with_five_seeds_stands_for_the_paper(claims, chosen):
    assert overview.headline(claims).claim == chosen


def test_the_readme_has_a_row_of_each_package_and_the_counts(tmp_path):
    for name in ("alpha", "beta"):
        results = tmp_path / "packages" / name / "src" / name / "results"
        results.mkdir(parents=True)
        (results.parent / "__init__.py").touch()
        (tmp_path / "packages" / name / "README.md").touch()
        rows = [claim("a", figure=FIGURE).to_dict(), claim("b", tried=False).to_dict()]
        (results / "recorded.json").write_text(json.dumps({"claims": rows}))
    row = {"work": "load", "unit": "MB/s", "ours": 3.0, "peer_name": "tar", "peer": 1.5, "ratio": 2.0}
    alone = {"work": "write", "ours": 7.0, "peer_name": None, "peer": None, "ratio": None}
    (results / "benchmarks.json").write_text(json.dumps({"rows": [row, alone]}))
    blocks = "<!-- {0} -->\nold\n<!-- /{0} -->\n"
    text = overview.fill("# X\n" + blocks.format("claims") + blocks.format("benchmarks"), tmp_path)
    verdict = claim("a", figure=FIGURE).verdict
    for name in ("alpha", "beta"):
        [line] = [line for line in text.splitlines() if line.startswith(f"| [{name}](packages/{name}#reproduce)")]
        assert "| a | 2x \\| less | 1.2 [" in line and line.endswith(f"| {verdict} |")
    assert f"All 4 recorded claims: 2 {verdict}, 2 not attempted." in text and "old" not in text
    assert "| [beta](packages/beta#benchmarks) | load | 3 MB/s | tar: 1.5 | 2 |" in text
    assert "| [beta](packages/beta#benchmarks) | write | 7  |  |  |" in text, "no peer does it"
    assert text == overview.fill(text, tmp_path)


def test_a_row_of_a_table_stays_one_line():
    assert tables.join([("a|b", "c\nd")]) == "| a\\|b | c d |\n"
