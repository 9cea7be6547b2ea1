"""The benchmark at its smallest: rows as the report wants them, and checks that bite."""

import math

import pytest
from muscle import benchmark as module
from muscle.benchmark import benchmark, count_rows, write_answers
from muscle.comparison import compare


@pytest.mark.slow
def test_rows(tmp_path):
    rows = benchmark(tmp_path, budget="smoke", seed=0)
    assert [row["aim"] for row in rows] == [None, None, 0.87, None, None]
    for row in rows:
        assert row["paper"] == "muscle" and len(row["input_hash"]) == 16
        assert math.isfinite(row["ratio"]) and row["spread"][0] <= row["ratio"] <= row["spread"][1]
    assert rows[-1]["ours"] == 2 * (4 * module.TOP + 4) and rows[-1]["peer"] == 4 * module.VOCABULARY
    assert rows[-1]["ratio"] > 1, "the cache is smaller"
    assert list(tmp_path.iterdir()) == []


def test_the_peer_counts_the_same(tmp_path):
    files = write_answers(tmp_path, 3000, 1)
    result = compare(*files).result
    assert count_rows(files) == (result.broken, result.fixed)
    assert result.accuracy_old == pytest.approx(0.775, abs=0.03) and result.num == 3000


def test_other_counts_are_noticed(tmp_path, monkeypatch):
    files = write_answers(tmp_path, 100, 1)
    monkeypatch.setattr(module, "count_rows", lambda files: (0, 0))
    with pytest.raises(RuntimeError, match="counts differ"):
        module._comparing(files, 100, 1)
