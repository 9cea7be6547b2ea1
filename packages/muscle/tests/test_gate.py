"""Budgets: exit status, pytest helper, step summary, and the page."""

import json
import re
import subprocess

import pytest
from muscle import assert_no_regression, compare
from muscle.comparison import Options
from muscle.gate import Budget, judge, parse_budget, write_step_summary
from muscle.page import to_html, to_markdown
from muscle.records import Columns


@pytest.fixture
def files(write):
    old = [{"id": i, "topic": "a|b"[i % 3], "prediction": i % 2, "gold": i % 2} for i in range(10)]
    new = [{**row, "prediction": 7 if row["id"] in (2, 5) else row["prediction"]} for row in old]
    return write("old.jsonl", old), write("new.jsonl", new)


@pytest.mark.parametrize(
    ("text", "budget"),
    [("nfr=2%", Budget("nfr", 0.02)), ("churn=0.5", Budget("churn", 0.5)), ("nfr=0", Budget("nfr", 0.0))],
)
def test_budgets_as_text(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("nfr", "must look like"), ("nfr=x", "must look like"), ("nfr=-1%", "at least 0"), ("nfr=nan", "at least 0")],
)
def test_budgets_that_are_none(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_budget(text)
    with pytest.raises(ValueError, match="did you mean 'nfr'"):
        parse_budget("nfrr=1")


def test_a_budget_is_kept_up_to_its_limit(files):
    found = compare(*files)
    limits = [Budget("nfr", 0.2), Budget("nfr", 0.199), Budget("accuracy_drop", 0.2), Budget("churn", 0.1)]
    assert [kept for kept, _ in judge(found, limits)] == [True, False, True, False]
    with pytest.raises(ValueError, match="no mean_regression in a comparison"):
        judge(found, [Budget("mean_regression", 0.1)])


def test_assert_no_regression(files):
    assert assert_no_regression(*files, nfr=0.2).result.broken == 2
    with pytest.raises(AssertionError) as error:
        assert_no_regression(*files, nfr=0.1)
    assert "nfr is 0.2, over the budget of 0.1." in str(error.value)
    assert "2: 0 -> 7" in str(error.value) and "5: 1 -> 7" in str(error.value)
    with pytest.raises(AssertionError):
        assert_no_regression(*files)
    assert assert_no_regression(files[0], files[0]).result.nfr == 0
    with pytest.raises(ValueError, match="unknown rate"):
        assert_no_regression(*files, nfrs=0.1)


def test_the_step_summary_is_appended_where_there_is_one(files, tmp_path, monkeypatch):
    found = compare(*files, Options(Columns(slices=("topic",))))
    verdicts = judge(found, [Budget("nfr", 0.1)])
    assert not write_step_summary(found, verdicts)
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert write_step_summary(found, verdicts)
    text = summary.read_text()
    assert text.startswith("before\n### Negative flips") and "nfr is 0.2, over the budget" in text
    assert "| Negative flips (NFR) | 20.00 % |" in text and "**By topic**" in text and "| \\| |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (4, 6, 7) for line in tables)


def test_markdown_of_similarities(write):
    rows = [{"id": i, "score": i / 10} for i in range(5)]
    files = [write("a.jsonl", rows), write("b.jsonl", [{**row, "score": 0.2} for row in rows])]
    text = to_markdown(compare(*files))
    assert "Mean loss of what fell (m_r) | 0.1500" in text and "old_score" in text


def test_the_page_loads_nothing_and_escapes(write):
    evil = "<script>alert(1)</script>"
    old = [{"id": evil, "prediction": "x", "gold": "x"}, {"id": "b", "prediction": "y", "gold": "y"}]
    new = [{"id": evil, "prediction": evil, "gold": "x"}, {"id": "b", "prediction": "y", "gold": "y"}]
    html = to_html(compare(write("a.jsonl", old), write("b.jsonl", new)), [(False, "nfr over <budget>")])
    assert "<script" not in html and "&lt;script&gt;" in html and "over &lt;budget&gt;" in html
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", html)
    assert html.count("<details>") == 1 and "Negative flips (1)" in html and "Positive flips (0)" in html


@pytest.mark.browser
def test_the_page_fits_a_phone(files, tmp_path):
    """Chromium at 390 px: nothing is wider than the window but tables, which scroll on their own."""
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "page.html"
    page_file.write_text(to_html(compare(*files, Options(Columns(slices=("topic",))))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium())
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("summary >> nth=0")
        assert page.is_visible("text=old")
        browser.close()


def _chromium():
    return subprocess.run(["which", "chromium"], capture_output=True, text=True, check=True).stdout.strip()


def test_everything_is_plain_json(files):
    json.dumps(compare(*files).to_dict(), allow_nan=True)
