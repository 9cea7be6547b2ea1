"""The benchmark's rows, and that it stops where results differ."""

import pytest
from qualityclip import benchmark as module


def test_rows_are_complete_and_peers_agree(tmp_path):
    rows = module.benchmark(tmp_path, budget="smoke", seed=0)
    assert [row["aim"] for row in rows] == [1.0, 0.97, None, 5.0, 5.0]
    assert all(row["ours"] > 0 and row["spread"][0] <= row["ratio"] <= row["spread"][1] for row in rows)
    assert rows[0]["input_hash"] and rows[3]["input_hash"] == rows[4]["input_hash"]


def test_a_wrong_count_is_noticed(monkeypatch):
    monkeypatch.setattr(module, "mean_iou", lambda *arguments: 0.5)
    with pytest.raises(RuntimeError, match=r"ours 0\.5"):
        module._miou(module.PLANS["smoke"], 0, "jaccard")
