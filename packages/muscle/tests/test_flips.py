"""Flips by their laws, against hand-made counts and against scipy."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muscle import Flips, flips, smooth_flips
from muscle import flips as function
from muscle.flips import EXACT_DRAWS, bootstrap_flips, bootstrap_smooth, mcnemar, slice_flips
from scipy.stats import binomtest

triples = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60)
scores = st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=60)


def close(a, b):
    return math.isclose(a, b, abs_tol=1e-12)


@given(triples)
def test_identities_of_labels(rows):
    old, new, gold = (np.array(column) for column in zip(*rows, strict=True))
    found = flips(old, new, gold)
    wrong = (old != gold) & (new != gold)
    assert close(found.accuracy_old, (old == gold).mean()) and close(found.accuracy_new, (new == gold).mean())
    assert close(found.accuracy_new, found.accuracy_old - found.nfr + found.pfr)
    assert close(found.nfr_inconsistent, found.nfr + (wrong & (old != new)).mean())
    assert close(found.nfr_inconsistent, ((new != gold) & (old != new)).mean())
    assert found.nfr <= min(found.accuracy_old, 1 - found.accuracy_new) + 1e-12
    assert close(found.churn, (old != new).mean())
    assert found.both_right + found.fixed + found.both_wrong + found.broken == found.num == len(rows)
    if found.accuracy_old:
        assert close(found.btc, 1 - found.nfr / found.accuracy_old)
    else:
        assert math.isnan(found.btc)
    if found.accuracy_old < 1:
        assert close(found.bec, wrong.sum() / (old != gold).sum())
    if found.accuracy_new < 1:
        assert close(found.nfi, found.nfr / (1 - found.accuracy_new))


@given(triples)
def test_going_back_swaps_the_flips(rows):
    old, new, gold = zip(*rows, strict=True)
    there, back = flips(old, new, gold), flips(new, old, gold)
    assert (there.broken, there.fixed) == (back.fixed, back.broken)
    assert (there.churn, there.mcnemar_p) == (back.churn, back.mcnemar_p)
    order = np.random.default_rng(0).permutation(len(rows))
    assert flips(*(np.array(column)[order] for column in (old, new, gold))) == there


@given(scores)
def test_identities_of_similarities(rows):
    old, new = (np.array(column) for column in zip(*rows, strict=True))
    found = smooth_flips(old, new)
    assert close(found.mean_new, found.mean_old + found.pfr * found.mean_gain - found.nfr * found.mean_regression)
    assert found.nfr == (new < old).mean() and found.pfr == (new > old).mean()
    back = smooth_flips(new, old)
    assert (back.nfr, back.mean_gain) == (found.pfr, found.mean_regression)


@given(triples)
def test_right_or_wrong_as_a_similarity_gives_the_same_rates(rows):
    old, new, gold = (np.array(column) for column in zip(*rows, strict=True))
    hard, smooth = flips(old, new, gold), smooth_flips(old == gold, new == gold)
    assert (hard.nfr, hard.pfr) == (smooth.nfr, smooth.pfr)
    assert smooth.mean_regression == (1.0 if hard.broken else 0.0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_test(broken, fixed):
    expected = binomtest(broken, broken + fixed).pvalue if broken + fixed else 1.0
    assert mcnemar(broken, fixed) == pytest.approx(expected, abs=1e-9)


def test_mcnemar_of_many():
    assert mcnemar(50_000, 50_600) == pytest.approx(binomtest(50_000, 100_600).pvalue, abs=1e-9)
    assert 0 <= mcnemar(0, 5000) < 1e-300


def test_by_hand():
    found = flips(list("aabbcd"), list("abbacc"), list("aabcca"))
    assert (found.both_right, found.broken, found.fixed) == (3, 1, 0)
    assert (found.both_wrong_same, found.both_wrong_other) == (0, 2)
    assert (found.nfr, found.nfr_inconsistent, found.churn) == (1 / 6, 0.5, 0.5)
    assert (found.btc, found.bec, found.nfi) == (0.75, 1.0, 1 / 3)
    assert found.relative_nfr == pytest.approx((1 / 6) / (0.5 * 4 / 6))
    assert set(found.to_dict()) >= {"nfr", "pfr", "nfr_inconsistent", "churn", "btc", "bec", "mcnemar_p"}


def test_the_name_stays_a_function():
    import muscle
    import muscle.flips

    assert muscle.flips is function and callable(muscle.flips)


def test_several_right_answers_can_differ():
    found = Flips.of([True, True], [True, True], [True, False])
    assert (found.nfr, found.churn, found.both_right) == (0, 0.5, 2)


REFUSED = {
    "other types": (([1, 2], ["1", "2"], [1, 2]), "labels of different types"),
    "mixed": (([1, "2"], [1, 2], [1, 2]), "labels of different types"),
    "lengths": (([1, 2], [1], [1, 2]), "do not pair"),
    "nothing": (([], [], []), "no examples"),
    "nan": (([1.0, math.nan], [1.0, 2.0], [1.0, 2.0]), "holds nan at place 1"),
    "two axes": (([[1]], [[1]], [[1]]), "one answer per example"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_flips_refuses(case):
    arguments, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        flips(*arguments)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ([0.1, math.nan], [0.1, 0.2], "`old_scores` holds nan at place 1"),
        ([0.1], [math.inf], "`new_scores` holds inf"),
        ([0.1], [0.1, 0.2], "do not pair"),
        ([], [], "no examples"),
    ],
)
def test_what_smooth_flips_refuses(old, new, sentence):
    with pytest.raises(ValueError, match=sentence):
        smooth_flips(old, new)


def naive_bootstrap(old, new, measure, draws=4000):
    generator = np.random.default_rng(1)
    places = generator.integers(0, len(old), (draws, len(old)))
    return np.quantile([measure(old[row], new[row]) for row in places], [0.025, 0.975])


def test_the_bootstrap_of_counts_is_the_bootstrap_of_examples():
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 3, 400)
    old, new = (np.where(generator.random(400) < p, gold, generator.integers(0, 3, 400)) for p in (0.6, 0.7))
    intervals = bootstrap_flips(flips(old, new, gold))
    rows = np.arange(400)
    for name in ("nfr", "btc", "accuracy_new", "nfi", "relative_nfr", "churn"):
        low, high = naive_bootstrap(rows, rows, lambda a, b, n=name: getattr(flips(old[a], new[a], gold[a]), n))
        assert intervals[name] == pytest.approx((low, high), rel=0.08, abs=0.004)


@pytest.mark.parametrize("limit", [EXACT_DRAWS, 0])
def test_the_bootstrap_of_scores_is_the_bootstrap_of_examples(monkeypatch, limit):
    monkeypatch.setattr(sys.modules["muscle.flips"], "EXACT_DRAWS", limit)
    generator = np.random.default_rng(0)
    old, new = generator.random(500).round(1), generator.random(500).round(1)
    intervals = bootstrap_smooth(old, new, resamples=4000)
    for name in ("nfr", "mean_gain", "mean_regression"):
        low, high = naive_bootstrap(old, new, lambda a, b, n=name: getattr(smooth_flips(a, b), n))
        assert intervals[name] == pytest.approx((low, high), rel=0.05, abs=0.004)
    assert bootstrap_smooth([1.0], [1.0])["mean_gain"] == (0.0, 0.0)


@settings(max_examples=30)
@given(triples)
def test_slices_add_up(rows):
    old, new, gold = (np.array(column) for column in zip(*rows, strict=True))
    parts = slice_flips(old == gold, new == gold, old != new, gold.tolist())
    assert sum(part.broken for part in parts.values()) == flips(old, new, gold).broken
    assert [part.num for part in parts.values()] == sorted((part.num for part in parts.values()), reverse=True)


def test_slices_need_a_key_for_each():
    with pytest.raises(ValueError, match="1 keys and 2 examples"):
        slice_flips([True, True], [True, True], [False, False], ["a"])
