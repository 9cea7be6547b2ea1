"""Two groups of models, two lines."""

import numpy as np
import pytest
from ticclip.robustness import Point, fit_groups, points_of_run
from ticclip.verdicts import compute_to_equal


def models(gap, slope=1.0, noise=0.0):
    generator = np.random.default_rng(0)
    olds = np.linspace(0.5, 0.8, 4)
    return [
        Point(f"{group}{n}", group, old, slope * old + (gap if group == "a" else 0) + noise * generator.normal())
        for group in "ab"
        for n, old in enumerate(olds)
    ]


def test_lines_by_hand():
    found = fit_groups(models(0.08, slope=0.5), draws=50)
    assert found["groups"]["a"] == pytest.approx({"slope": 0.5, "intercept": 0.08})
    assert found["groups"]["b"] == pytest.approx({"slope": 0.5, "intercept": 0.0}, abs=1e-12)
    assert (found["at"], found["gap"], found["gap_one_slope"]) == pytest.approx((0.65, 0.08, 0.08))


def test_the_papers_figure():
    """Four models on y = x and four eight points lower, at the old recalls that the figure has (60 to 70)."""
    points = [Point(f"m{n}", "OpenCLIP", x, x) for n, x in enumerate((60, 64, 67, 70))]
    points += [Point(f"o{n}", "OpenAI", x, y) for n, (x, y) in enumerate(((60, 53), (64, 56.4), (67, 59), (70, 61)))]
    found = fit_groups(points)
    assert found["gap"] == pytest.approx(-7.9, abs=0.2), "OpenAI minus OpenCLIP, by name"
    assert found["interval"][1] < -7


def test_the_interval_holds_the_gap_and_grows_with_noise():
    low, high = fit_groups(models(0.08, noise=0.01))["interval"]
    assert low < 0.08 < high
    wide = fit_groups(models(0.08, noise=0.05))["interval"]
    assert wide[1] - wide[0] > 2 * (high - low)


def test_groups_of_a_run():
    result = {"retrieval": [[0.5, 0.1], [0.4, 0.6]], "steps": ["x", "y"]}
    assert points_of_run(result, "seq", 0, 1) == [
        Point("seq after x", "unseen", 0.5, 0.1),
        Point("seq after y", "seen", 0.4, 0.6),
    ]


def test_compute_at_equal_score():
    curve = [(0.5, 0.2), (1.0, 0.4), (2.0, 0.6)]
    assert compute_to_equal(curve, 0.5) == pytest.approx(1.5)
    assert compute_to_equal(curve, 0.1) == 0.5
    assert compute_to_equal(curve, 0.7) == float("inf")
