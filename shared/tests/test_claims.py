"""Intervals against scipy; verdicts at their edges and on shuffled arms; records that cannot be typed in."""

import json
import math
import random
import statistics
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tenfold_shared.claims import (
    MAX_RECORDED_BYTES,
    ClaimResult,
    Estimate,
    PaperValue,
    paired_interval,
    prediction_interval,
    read_claims,
    read_recorded,
    t_quantile,
    verdict,
    write_claims,
    write_recorded,
)

numbers = st.floats(-1e6, 1e6)
ATTEMPT = {"date": "2026-11-23", "what": "first try", "result": "kept"}


def make_claim(**changes):
    fields: dict[str, Any] = dict(
        paper="mobileclip",
        claim="faster than ViT-B/16",
        primary_metric="speed-up",
        paper_value=PaperValue(2.3, "2.3x", "abstract", "A"),
        ours=[2.0, 2.1, 2.2, 2.1, 2.0],
        control=[1.0, 1.0, 1.1, 1.0, 1.1],
        minimum_effect=0.5,
        budget="full",
        control_name="ViT-B/16",
        evidence="real",
        data="24 photographs",
        commit="abc",
        seconds=12.5,
        figures=("latency.svg",),
    )
    return ClaimResult.compare(**{**fields, **changes})


@pytest.mark.parametrize("df", [*range(1, 61), 100, 1000, 10_000])
def test_t_quantile_equals_scipy(df):
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-8)


def test_t_quantile_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="`df`"):
        t_quantile(0)


@given(st.lists(numbers, min_size=2, max_size=40))
def test_paired_interval_equals_scipy(values):
    mean, low, high = paired_interval(values)
    spread = stats.sem(values)
    if spread == 0:
        assert (low, high) == pytest.approx((mean, mean), rel=1e-12)  # the mean itself is rounded
        return
    expected = stats.t.interval(0.95, len(values) - 1, loc=math.fsum(values) / len(values), scale=spread)
    assert (low, high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_one_value_has_no_interval():
    mean, low, high = paired_interval([3.0])
    assert mean == 3.0 and math.isnan(low) and math.isnan(high)


def test_prediction_interval_holds_95_percent_of_new_values():
    rng = random.Random(0)
    hits = 0
    for _ in range(4000):
        *seen, new = [rng.gauss(5, 2) for _ in range(6)]
        low, high = prediction_interval(seen)
        hits += low <= new <= high
    assert 0.94 < hits / 4000 < 0.96


@given(st.lists(numbers, min_size=2, max_size=8))
def test_prediction_interval_is_its_formula(values):
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) * (1 + 1 / len(values)) ** 0.5
    mean = math.fsum(values) / len(values)
    assert prediction_interval(values) == pytest.approx((mean - half, mean + half), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_prediction_interval_needs_two_values(values):
    with pytest.raises(ValueError, match="at least"):
        prediction_interval(values)


STEADY = [0.0, 0.01, 0.0, -0.01, 0.0]  # spread of the differences: half an interval is 0.0088


@pytest.mark.parametrize(
    ("shift", "pairs", "minimum_effect", "budget", "expected"),
    [
        (1.0, 5, 0.98, "full", "shown"),
        (1.0, 5, 0.98, "laptop", "shown"),
        (1.0, 5, 0.98, "smoke", "not judged"),
        (1.0, 5, 0.9913, "full", "direction only"),  # lower end 0.9912: above zero, below the effect
        (1.0, 4, 0.5, "full", "direction only"),  # large, but one seed short
        (1.0, 1, 0.5, "full", "direction only"),
        (-1.0, 1, 0.5, "full", "not shown"),
        (0.0, 1, 0.0, "full", "not shown"),
        (-1.0, 2, 0.5, "full", "not shown"),  # two pairs, wide interval: see the next row
        (-100.0, 5, 0.5, "full", "contradicted"),
        (-0.005, 5, 0.0, "full", "not shown"),  # interval holds zero
        (0.0, 5, 0.0, "full", "not shown"),
        (0.02, 5, 0.0, "full", "shown"),
    ],
)
def test_verdict(shift, pairs, minimum_effect, budget, expected):
    ours = [shift + wobble for wobble in ([0.0, 0.5] if (shift, pairs) == (-1.0, 2) else STEADY[:pairs])]
    assert verdict(ours, [0.0] * pairs, minimum_effect, budget=budget) == expected


def test_an_end_of_the_interval_on_the_line_does_not_cross_it():
    assert verdict([1.5] * 5, [1.0] * 5, 0.5) == "direction only"
    assert verdict([1.0] * 5, [1.0] * 5, 0.0) == "not shown"


def test_two_agreeing_pairs_can_contradict():
    assert verdict([1.0, 1.0], [2.0, 2.0], 0.1) == "contradicted"


def test_shuffled_arms_are_not_shown():
    """Labels without meaning earn nothing, though the arms they are drawn from are far apart."""
    rng = random.Random(2)
    ours, control = [rng.gauss(1.0, 0.2) for _ in range(8)], [rng.gauss(0.0, 0.2) for _ in range(8)]
    assert verdict(ours, control, 0.3) == "shown"
    found = []
    for _ in range(1000):
        pool = [*ours, *control]
        rng.shuffle(pool)
        found.append(verdict(pool[:8], pool[8:], 0.3))
    assert found[0] == "not shown"
    assert found.count("not shown") >= 940
    assert found.count("shown") <= 5
    # Both errors of a two-sided 95 % interval, with room for the discreteness of sixteen values.
    assert found.count("direction only") <= 35 and found.count("contradicted") <= 35


def test_identical_arms_are_never_shown():
    rng = random.Random(1)
    for _ in range(300):
        arms = [[rng.gauss(0, 1) for _ in range(6)] for _ in range(2)]
        assert verdict(*arms, 1.0) != "shown"


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.randoms())
def test_verdict_does_not_depend_on_the_order_of_seeds(pairs, rng):
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert verdict(*zip(*pairs, strict=True), 0.0) == verdict(*zip(*shuffled, strict=True), 0.0)


@pytest.mark.parametrize(
    ("ours", "control", "effect", "message"),
    [
        ([1.0], [1.0, 2.0], 0.0, "do not pair"),
        ([math.nan], [1.0], 0.0, "`ours` holds a value that is not finite"),
        ([1.0], [math.inf], 0.0, "`control` holds a value that is not finite"),
        ([], [], 0.0, "no values"),
        ([1.0], [1.0], -0.1, "`minimum_effect`"),
        ([1.0], [1.0], math.nan, "`minimum_effect`"),
    ],
)
def test_verdict_refuses(ours, control, effect, message):
    with pytest.raises(ValueError, match=message):
        verdict(ours, control, effect, budget="smoke")


def test_verdict_refuses_unknown_budget():
    with pytest.raises(ValueError, match="`budget` \\(='tiny'\\) must be one of 'smoke'"):
        verdict([1.0], [0.0], 0.0, budget="tiny")  # ty: ignore[invalid-argument-type]


def test_compare_fills_the_record():
    claim = make_claim()
    assert claim.verdict == "shown"
    assert claim.difference.mean == pytest.approx(1.04)
    assert claim.ours.per_seed == (2.0, 2.1, 2.2, 2.1, 2.0)
    assert claim.ours.low < 2.08 < claim.ours.high


@pytest.mark.parametrize(
    "claim",
    [
        make_claim(),
        make_claim(ours=[2.0], control=[1.0]),
        make_claim(budget="smoke"),
        make_claim(paper_value=None, figures=()),
        ClaimResult.not_attempted(
            paper="p", claim="c", primary_metric="m", paper_value=None, reason="no GPU", commit="x"
        ),
    ],
)
def test_round_trip(claim, tmp_path):
    write_claims(tmp_path / "results.json", [claim, claim])
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert read_claims(tmp_path / "results.json") == [claim, claim]


def test_not_attempted_keeps_the_reason():
    claim = ClaimResult.not_attempted(
        paper="p",
        claim="c",
        primary_metric="m",
        paper_value=None,
        reason="no GPU",
        commit="x",
        data="ImageNet",
    )
    assert (claim.verdict, claim.note, claim.ours, claim.data) == (
        "not attempted",
        "no GPU",
        None,
        "ImageNet",
    )
    with pytest.raises(ValueError, match="`reason`"):
        ClaimResult.not_attempted(paper="p", claim="c", primary_metric="m", paper_value=None, reason=" ")


def edit(**changes):
    return {**make_claim().to_dict(), **changes}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (edit(extra=1), r"unknown keys \['extra'\], missing keys \[\]"),
        ({k: v for k, v in edit().items() if k != "paper"}, r"missing keys \['paper'\]"),
        ([], "expected an object, found list"),
        (edit(verdict="contradicted"), "its values give 'shown'"),
        (edit(verdict="proven"), "`verdict` .* must be one of"),
        (edit(evidence="hearsay"), "`evidence`"),
        (edit(evidence=None), "`evidence`"),
        (edit(budget="smoke"), "its values give 'not judged'"),
        (edit(ours=None), "its values give 'not attempted'"),
        (edit(control=None), "its values give 'not judged'"),
        (edit(difference=None), "`difference`"),
        (edit(difference=Estimate.of([9.0]).to_dict()), "`difference`"),
        (edit(ours={**Estimate.of([2.0]).to_dict(), "mean": 3.0}), "its values give"),
        (edit(ours={**Estimate.of([2.0]).to_dict(), "per_seed": ["2"]}), "`per_seed` must be a number"),
        (edit(seconds=-1.0), "`seconds`"),
        (edit(seconds="long"), "`seconds`"),
        (edit(figures=["../secret.svg"]), "inside the output folder"),
        (edit(figures=["/etc/x.svg"]), "inside the output folder"),
        (edit(figures=["page.html"]), "inside the output folder"),
        (edit(paper_value={"value": 1.0, "text": "", "source": "", "mark": "B"}), "`mark`"),
        (edit(paper_value={"value": True, "text": "", "source": "", "mark": "A"}), "`value`"),
        (edit(paper_value={"value": 1.0}), "missing keys"),
    ],
)
def test_from_dict_refuses(record, message):
    with pytest.raises(ValueError, match=message):
        ClaimResult.from_dict(record)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", json.dumps([edit(figures=None)])])
def test_read_claims_names_the_file(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json: "):
        read_claims(tmp_path / "results.json")


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """An import package of its own name, so that no other test's is found in its place."""
    name = f"recorded_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / name


def record(package, **changes):
    fields: dict[str, Any] = dict(configuration={"steps": 3}, command="tenfold reproduce", attempts=[ATTEMPT])
    write_recorded(package / "results" / "recorded.json", [make_claim()], **{**fields, **changes})


def test_recorded_round_trip(package):
    assert read_recorded(package.name) is None
    record(package)
    found = read_recorded(package.name)
    assert found
    assert ClaimResult.from_dict(found["claims"][0]) == make_claim()
    assert found["versions"]["numpy"] and found["machine"]["cores"] and found["attempts"] == [ATTEMPT]
    assert set(found) == {
        "schema", "claims", "configuration", "command", "commit", "machine", "versions", "attempts",
    }  # fmt: skip


def test_recorded_keeps_the_environment_it_is_given(package):
    record(package, environment={"cpu": "H100 host", "commit": "feed", "versions": {"torch": "2"}})
    found = read_recorded(package.name)
    assert found
    assert (found["machine"], found["commit"], found["versions"]) == (
        {"cpu": "H100 host"},
        "feed",
        {"torch": "2"},
    )


def test_recorded_is_bounded(package):
    with pytest.raises(ValueError, match="at most 200000"):
        record(package, configuration={"log": "x" * MAX_RECORDED_BYTES})
    assert not (package / "results").exists()


def test_recorded_wants_whole_attempts(package):
    with pytest.raises(ValueError, match=r"missing keys \['result', 'what'\]"):
        record(package, attempts=[{"date": "2026-11-23"}])


@pytest.mark.parametrize("change", [{"schema": 2}, {"claims": [{}]}, {"more": 1}])
def test_damaged_record_is_refused(package, change):
    record(package)
    file = package / "results" / "recorded.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=r"results/recorded\.json: "):
        read_recorded(package.name)


def test_no_record_is_installed_with_shared_itself():
    assert read_recorded("tenfold_shared") is None
    assert resources.files("tenfold_shared").joinpath("py.typed").is_file()


def test_a_counted_value_decides_alone_but_only_one():
    assert verdict([2.8], [1.0], 0.9, evidence="arithmetic") == "shown"
    assert verdict([2.8], [1.0], 2.0, evidence="arithmetic") == "direction only"
    assert verdict([0.5], [1.0], 0.1, evidence="arithmetic") == "contradicted"
    assert verdict([2.8], [1.0], 0.9) == "direction only"
    counted = dict(ours=[2.8], control=[1.0], minimum_effect=0.9)
    assert make_claim(**counted, evidence="arithmetic").verdict == "shown"
    assert make_claim(**counted, evidence="real").verdict == "direction only"
