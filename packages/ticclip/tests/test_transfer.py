"""The three scores, on matrices computed by hand."""

import numpy as np
import pytest
from ticclip import transfer_scores
from ticclip.transfer import bootstrap_scores


def test_a_matrix_by_hand():
    found = transfer_scores([[0.5, 0.2, 0.1], [0.6, 0.7, 0.3], [0.4, 0.8, 0.9]])
    assert found == pytest.approx(
        {"in_domain": (0.5 + 0.7 + 0.9) / 3, "backward": (0.6 + 0.4 + 0.8) / 3, "forward": (0.2 + 0.1 + 0.3) / 3}
    )


@pytest.mark.parametrize("steps", range(1, 8))
def test_the_denominators_are_the_papers(steps):
    matrix = np.random.default_rng(steps).random((steps, steps))
    found = transfer_scores(matrix)
    pairs = [(i, j) for i in range(steps) for j in range(steps)]
    assert found["in_domain"] == pytest.approx(np.trace(matrix) / steps)
    if steps == 1:
        assert np.isnan(found["backward"]) and np.isnan(found["forward"])
        return
    factor = 2 / (steps * (steps - 1))
    assert found["backward"] == pytest.approx(factor * sum(matrix[i, j] for i, j in pairs if i > j))
    assert found["forward"] == pytest.approx(factor * sum(matrix[i, j] for i, j in pairs if i < j))


def test_a_sequence_that_forgets_has_low_backward():
    forgets, keeps = np.eye(4), np.tril(np.ones((4, 4)))
    assert transfer_scores(forgets) == {"in_domain": 1.0, "backward": 0.0, "forward": 0.0}
    assert transfer_scores(keeps) == {"in_domain": 1.0, "backward": 1.0, "forward": 0.0}


def test_missing_entries_are_left_out():
    assert transfer_scores([[np.nan, 0.5], [0.25, 1.0]]) == {"in_domain": 1.0, "backward": 0.25, "forward": 0.5}


@pytest.mark.parametrize("matrix", [[], [1.0], [[1.0, 2.0]], np.zeros((2, 2, 2))])
def test_only_square_matrices(matrix):
    with pytest.raises(ValueError, match="square"):
        transfer_scores(matrix)


def test_the_intervals_hold_the_scores_and_shrink_with_items():
    generator = np.random.default_rng(0)

    def hits(items):
        return [[generator.random(items) < 0.5 for _ in range(2)] for _ in range(2)]

    few, many = bootstrap_scores(hits(20)), bootstrap_scores(hits(2000))
    for name in ("in_domain", "backward", "forward"):
        assert few[name][1] - few[name][0] > 3 * (many[name][1] - many[name][0])
        assert many[name][0] < 0.5 < many[name][1]


def test_models_stay_paired_on_the_same_items():
    values = np.random.default_rng(1).random(50)
    hits = [[values, values], [values, values]]
    found = bootstrap_scores(hits, draws=50)
    single = bootstrap_scores([[values]], draws=50)
    assert found["in_domain"] != found["backward"], "two evaluations are drawn apart"
    assert single["in_domain"][0] < values.mean() < single["in_domain"][1]
