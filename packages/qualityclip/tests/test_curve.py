"""Iso-performance ratios by hand, bounds, and rows as they come."""

import numpy as np
import pytest
from qualityclip import iso_performance_ratio
from qualityclip.curve import curves_of, size_needed


def test_ten_times_by_hand():
    found = iso_performance_ratio([100, 1000, 10_000], [0.1, 0.5, 0.7], [0.0, 0.2, 0.5])
    assert found.ratio == pytest.approx(10) and not found.at_least
    between = iso_performance_ratio([100, 10_000], [0.0, 1.0], [0.0, 0.5])
    assert between.ratio == pytest.approx(10), "half way on a logarithmic axis"


def test_nothing_is_extrapolated():
    assert iso_performance_ratio([1, 10], [0.1, 0.2], [0.1, 0.3]).ratio == 0
    low = iso_performance_ratio([1, 10], [0.5, 0.6], [0.1, 0.3])
    assert low.ratio == 10 and low.at_least


def test_equal_curves_give_one_and_dips_are_bridged():
    assert iso_performance_ratio([1, 10, 100], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]).ratio == pytest.approx(1)
    assert size_needed(np.array([1.0, 10, 100]), np.array([0.1, 0.4, 0.3]), 0.35) == pytest.approx(10 ** (0.25 / 0.3))


def test_the_bootstrap_holds_the_mean_and_widens_with_noise():
    generator = np.random.default_rng(0)
    sizes, curve = [10, 100, 1000], np.array([0.2, 0.4, 0.6])
    quiet, noisy = (curve + generator.normal(0, sd, (8, 3)) for sd in (0.002, 0.03))
    control = np.tile(curve - 0.15, (8, 1))
    narrow, wide = iso_performance_ratio(sizes, quiet, control), iso_performance_ratio(sizes, noisy, control)
    assert narrow.low <= narrow.ratio <= narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low
    assert narrow == iso_performance_ratio(sizes, quiet, control), "the draws are seeded"
    assert len(narrow.per_seed) == 8


@pytest.mark.parametrize("sizes", [[10], [10, 5], [0, 5], [10, 10]])
def test_sizes_must_rise(sizes):
    with pytest.raises(ValueError, match="rise"):
        iso_performance_ratio(sizes, [0.1] * len(sizes), [0.1] * len(sizes))


@pytest.mark.parametrize(
    ("ours", "control", "name"),
    [
        ([0.1, np.nan], [0.1, 0.2], "ours"),
        ([0.1, 0.2], [0.1, np.inf], "control"),
        ([0.1, 0.2, 0.3], [0.1, 0.2], "ours"),
        ([[0.1, 0.2]] * 2, [[0.1, 0.2]], "control"),
        ([[0.1, 0.2]], [[0.1, 0.2]] * 2, "control"),
    ],
)
def test_scores_must_be_finite_and_paired(ours, control, name):
    with pytest.raises(ValueError, match=f"`{name}` must be finite scores"):
        iso_performance_ratio([1, 10], ours, control)


def test_rows_become_curves_of_whole_seeds():
    rows = [
        {"arm": arm, "seed": seed, "pairs": pairs, "score": pairs * (1 + seed) * (arm == "a")}
        for arm in "ab"
        for seed in (0, 1)
        for pairs in (20, 10)
    ]
    sizes, ours, control = curves_of(rows[:-1], "pairs", "score", ("a", "b"))
    assert sizes == [10, 20] and ours.tolist() == [[10, 20]] and control.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="no seed has all"):
        curves_of(rows[:2], "pairs", "score", ("a", "b"))
