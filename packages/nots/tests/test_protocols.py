"""Scores by hand, and windows that leave nothing out."""

import numpy as np
import pytest
from nots import protocols, windows
from sklearn.metrics import average_precision_score, f1_score


def test_detection_by_hand_and_by_scikit_learn():
    truth = np.array([0, 0, 1, 1, 1, 0, 0, 1, 0, 0], dtype=bool)
    found = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    plain = protocols.anomaly_scores(found, truth)
    assert plain == {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(f1_score(truth, found))}
    adjusted = protocols.adjust_points(found, truth)
    assert adjusted.astype(int).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert protocols.anomaly_scores(found, truth, point_adjustment=True)["recall"] == 0.75
    assert protocols.anomaly_scores(np.zeros(10, bool), truth)["f1"] == 0.0
    scores = np.random.default_rng(0).integers(0, 4, 10).astype(float)
    assert protocols.average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_point_adjustment_flatters_chance():
    rng = np.random.default_rng(0)
    truth = np.zeros(2000, bool)
    truth[300:600] = truth[1500:1700] = True
    found = rng.random(2000) < 0.02
    assert protocols.anomaly_scores(found, truth)["f1"] < 0.1
    assert protocols.anomaly_scores(found, truth, point_adjustment=True)["f1"] > 0.9


def test_thresholds_come_from_training_scores():
    assert (np.arange(1000) > protocols.threshold_of(np.arange(1000.0), 1.0)).sum() == 10
    with pytest.raises(ValueError, match="per cent"):
        protocols.threshold_of(np.arange(3.0), 0)


def test_each_channel_hides_a_span_of_its_own():
    hidden = protocols.hide_channelwise((6, 40), 0.25, np.random.default_rng(0))
    assert hidden.sum(1).tolist() == [10] * 6
    assert len({row.argmax() for row in hidden}) > 1
    assert not hidden[:, [0, -1]].any(), "the ends are known"
    assert all((np.diff(np.flatnonzero(row)) == 1).all() for row in hidden)


def test_imputation_counts_hidden_places_of_all_windows():
    table = np.stack([np.arange(50.0), np.sin(np.arange(50))], axis=1)
    found = protocols.imputation_errors(windows.interpolate, table, 20, 0.25, 0)
    assert found["mse"] == found["linear_mse"] > 0
    seen = []
    protocols.imputation_errors(lambda w: seen.append(w) or windows.interpolate(w), table, 20, 0.25, 0)
    assert len(seen) == 3, "two whole windows, and the last one ends with the table"


def test_forecasts_see_the_past_alone():
    series = np.arange(30.0)
    seen = []
    found = protocols.forecast_errors(lambda past: seen.append(len(past)) or past[-1] + 3, series, 20, 3, 4)
    assert found == {"mae": 0.0, "naive_mae": 4.0}
    assert seen == list(range(18, 28))


def test_windows_come_back_as_the_series():
    series = np.random.default_rng(0).normal(size=(2, 53))
    pieces, starts = windows.cut(series, 16, 5)
    assert starts[-1] == 53 - 16
    np.testing.assert_allclose(windows.join(pieces, starts, 53), series)
    short, first = windows.cut(series[:, :10], 16)
    np.testing.assert_allclose(windows.join(short, first, 10), series[:, :10])


def test_interpolation_and_puzzles():
    row = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan], [np.nan] * 5])
    assert windows.interpolate(row).tolist() == [[1.0, 1.0, 2.0, 3.0, 3.0], [0.0] * 5]
    pieces = np.random.default_rng(0).normal(size=(4, 1, 20))
    pieces[0, 0, 5] = np.nan
    hidden = windows.hide_spans(pieces, 0.5, np.random.default_rng(1))
    x, truth, weight = windows.puzzles(pieces, hidden)
    assert not weight[0, 0, 5]
    seen = ~(hidden | np.isnan(pieces))
    np.testing.assert_allclose(x.numpy()[seen], truth.numpy()[seen], atol=1e-6)
    assert float(weight.sum()) == hidden.sum() - hidden[0, 0, 5]
