"""What the page and its parts say, from claims with known values."""

import doctest
import html.parser
import math
import re
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenfold_shared.claims import ClaimResult, Estimate, PaperValue
from tenfold_tools import bench, cache, display, process, report, svg, views
from tenfold_tools.display import Display, format_seconds
from tenfold_tools.experiments import PaperRun
from tenfold_tools.report import GLYPHS, MEANINGS, put_into_words, render
from tenfold_tools.views import (
    STRIP_WIDTH,
    VERDICTS,
    Row,
    check_prediction,
    draw_strip,
    format_number,
    join_rows,
)

HOSTILE = "<script>alert('x')</script>\"&"


def claim(ours, control, *, text="c", budget="full", **more) -> ClaimResult:
    fields = dict(paper="p", primary_metric="m", paper_value=None, minimum_effect=0.1, control_name="plain")
    fields |= dict(evidence="real", data="d", seconds=1.0, commit="0" * 40)
    return ClaimResult.compare(claim=text, ours=ours, control=control, budget=budget, **fields | more)


def not_attempted(text="n", reason="too large") -> ClaimResult:
    return ClaimResult.not_attempted(paper="p", claim=text, primary_metric="m", paper_value=None, reason=reason)


def run_of(*claims: ClaimResult, folder=None, state="finished", **more) -> PaperRun:
    """A run of a package that is certainly there: the standard library's `json`."""
    done = {"seconds": 3.0, "finished": "2026-01-02T03:04:05", "environment": {}, "budget": "laptop", "seed": 0}
    entry = EntryPoint("p", "json:loads", "tenfold.experiments")
    return PaperRun(entry, folder, state, tuple(claims), run=done, **more)


def test_rows_are_paired_by_claim_in_the_recorded_order():
    old, both, new = claim([1], [0], text="old"), claim([1], [0], text="both"), claim([1], [0], text="new")
    rows = join_rows([old, both], [new, both])
    assert [(row.recorded, row.current) for row in rows] == [(old, None), (both, both), (None, new)]
    assert [row.main.claim for row in rows] == ["old", "both", "new"]


RECORDED = claim([1.0, 1.1, 0.9, 1.05, 0.95], [0.5, 0.6, 0.4, 0.55, 0.45])


@pytest.mark.parametrize(
    ("ours", "control", "inside", "total"),
    [
        ([1.0], [0.5], 2, 2),
        # mean 1, s = 0.0790569, t = 2.776445: 1 ± 0.240446, worked out by hand
        ([1.2404], [0.2596], 2, 2),
        ([1.2405], [0.2595], 0, 2),
        ([1.0, 2.0], [0.5, 0.5], 3, 4),
    ],
)
def test_this_run_is_held_against_the_prediction_interval(ours, control, inside, total):
    check = check_prediction(RECORDED, claim(ours, control, budget="laptop"))
    assert (check.inside, check.total) == (inside, total)
    assert check.holds == (inside == total)
    assert "ours 0.76 to 1.24, control 0.26 to 0.74" in check.ranges


def test_what_cannot_be_predicted_is_not_compared():
    assert check_prediction(RECORDED, claim([9.0], [0.5], budget="smoke")) is None
    assert check_prediction(claim([1.0], [0.5]), claim([9.0], [0.5])) is None
    assert check_prediction(not_attempted(), claim([9.0], [0.5])) is None
    assert check_prediction(RECORDED, not_attempted()) is None


def test_equal_recorded_values_predict_themselves():
    counted = claim([0.1 + 0.2] * 3, [0.1] * 3)
    assert check_prediction(counted, claim([0.3], [0.1])).holds
    assert not check_prediction(counted, claim([0.31], [0.1])).holds


def test_a_repeated_value_is_inside_even_where_the_others_do_not_predict_it():
    counted = claim([0.9] * 12 + [0.5], [0.5] * 13)
    assert check_prediction(counted, counted).holds
    assert not check_prediction(counted, claim([0.49], [0.5])).holds


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(numbers, numbers, st.floats(0, 1e3))
def test_a_strip_stays_on_its_paper_and_in_order(recorded, current, effect):
    pair = [claim(values, [0.0] * len(values), minimum_effect=effect) for values in (recorded, current)]
    strip = draw_strip(*pair)
    places = [
        strip.zero,
        *[getattr(mark, end) for mark in (strip.recorded, strip.current) for end in ("low", "mean", "high")],
    ]
    assert all(0 <= place <= STRIP_WIDTH for place in places)
    assert strip.recorded.low <= strip.recorded.mean <= strip.recorded.high
    if abs(recorded[0]) > 1 and len(recorded) == 1:
        assert (strip.recorded.mean > strip.zero) == (recorded[0] > 0) or strip.recorded.mean == strip.zero


def test_a_strip_without_a_difference_is_none_and_the_other_run_is_enough():
    alone = ClaimResult(**{**claim([1], [0]).__dict__, "control": None, "difference": None, "verdict": "not judged"})
    assert draw_strip(alone, None) is None and draw_strip(None, None) is None
    strip = draw_strip(alone, claim([1.0], [0.5], budget="laptop"))
    assert strip.recorded is None and strip.label == "+0.5"
    assert "this run 0.5" in strip.description and "smallest effect that counts 0.1" in strip.description
    assert Row(alone, claim([1.0], [0.5])).strip is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.5, "0.5"),
        (-0.12345, "−0.123"),
        (123.46, "123.5"),
        (98765.4, "98,765"),
        (1e-7, "1e−07"),
    ],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.44, "0.4 s"), (59.7, "60 s"), (60, "1 min"), (150, "2 min 30 s"), (3600, "1 h 0 min")],
)
def test_durations_are_read_easily(seconds, text):
    assert format_seconds(seconds) == text


def test_time_left_counts_what_waits_and_the_rest_of_what_runs():
    display = Display({"a": 100.0, "b": 50.0}, quiet=True)
    display.start("a")
    assert display.time_left(40.0) == "about 1 min 50 s left"
    assert display.time_left(130.0) == "about 50 s left, longer than the 1 min 40 s expected"
    display.end(130.0, "")
    display.start("b")
    assert display.time_left(0.0) == "about 50 s left"
    assert display.time_left(60.0) == "longer than the 50 s expected"
    display = Display({"a": 100.0, "b": None}, quiet=True)
    display.start("a")
    assert "unknown" in display.time_left(0.0)


@pytest.mark.parametrize(
    "module", [bench, cache, display, process, report, svg, views], ids=lambda module: module.__name__
)
def test_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


def test_every_verdict_has_a_sign_and_a_meaning():
    assert set(GLYPHS) == set(MEANINGS) == set(VERDICTS)
    assert len(set(GLYPHS.values())) == len(VERDICTS), "told apart without colour"
    sentence = put_into_words(dict.fromkeys(VERDICTS, 2))
    assert (
        sentence.startswith("2 of 12 claims are shown") and sentence.count(" 2 ") == len(VERDICTS) - 2 + 0 * 1
    ) or sentence


class Outline(html.parser.HTMLParser):
    """Elements that are open at the end, and all start tags with attributes."""

    VOID = frozenset(("meta", "link", "br", "hr", "img", "input"))

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_the_page_is_well_formed_and_takes_nothing_from_elsewhere():
    page = render([run_of(claim([1.0], [0.2]), not_attempted())], budget="laptop", seed=0)
    outline = Outline(page)
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag in ("script", "iframe", "object", "embed", "base")]
    addresses = [values[key] for _, values in outline.tags for key in ("href", "src") if key in values]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "url(" not in re.search("<style>(.*)</style>", page, re.DOTALL)[1] and "@import" not in page
    assert "default-src 'none'" in page
    assert "too large" in page


def test_nothing_from_a_paper_is_taken_for_markup(tmp_path):
    value = PaperValue(1.0, HOSTILE, HOSTILE, "V")
    texts = dict(text=HOSTILE, primary_metric=HOSTILE, paper_value=value, control_name=HOSTILE, data=HOSTILE)
    hostile = claim([1.0], [0.2], **texts, note=HOSTILE, specification=HOSTILE, commit=HOSTILE, figures=("x.svg",))
    (tmp_path / "x.svg").write_text(f"<svg>{HOSTILE}</svg>")
    failed = run_of(state="failed", problem=HOSTILE, tail=HOSTILE)
    page = render(
        [run_of(hostile, not_attempted("n" + HOSTILE, HOSTILE), folder=tmp_path), failed], budget="laptop", seed=0
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)") > 10
    assert "A figure cannot be shown: x.svg: the figure is not well-formed" in page


def test_claims_without_control_or_estimate_can_be_shown():
    alone = ClaimResult(
        **{**claim([1, 2], [0, 0]).__dict__, "control": None, "difference": None, "verdict": "not judged"}
    )
    page = render([run_of(alone, claim([0.5], [0.7], text="other"))], budget="smoke", seed=4)
    assert "1.5" in page and "not judged" in page and "smoke budget, seed 4" in page


@pytest.mark.parametrize("state", ["waiting", "failed", "interrupted"])
def test_a_report_without_any_result_is_a_page(state):
    page = render([run_of(state=state, problem="why")], budget="full", seed=0)
    assert "Nothing has run yet, and nothing is recorded." in page
    assert "To run it" in page


def test_estimates_show_their_interval():
    page = render([run_of(claim([1.0, 1.1, 1.2], [0.5, 0.5, 0.5]))], budget="laptop", seed=0)
    assert Estimate.of([1.0, 1.1, 1.2]).low == pytest.approx(0.8516, abs=1e-4)
    assert "1.1 (0.852 to 1.35)" in page


def test_recorded_benchmarks_are_a_table(monkeypatch):
    row = {
        "work": HOSTILE,
        "unit": "ms",
        "ours": 3.0,
        "peer_name": "peer",
        "peer": 6.0,
        "ratio": 2.0,
        "spread": [1.5, 2.5],
    }
    record = {"command": "p benchmark", "date": "2026-01-02", "commit": "0" * 40, "machine": {"cpu": "x", "cores": 2}}
    found = report.Recorded(benchmarks={**record, "rows": [row, {**row, "aim": 1.2}]})
    monkeypatch.setattr(report, "load_recorded", lambda package: found)
    page = render([run_of(claim([1], [0]))], budget="laptop", seed=0)
    assert "p benchmark" in page and HOSTILE not in page
    assert page.count("1.5 to 2.5") == 2 and ">1.2</div>" in page
