"""The benchmark's checks, and all of it at its smallest."""

import pytest
from nots import benchmark
from nots.config import PRESETS


def test_memory_is_counted_and_grows_with_length():
    rows = benchmark.memory(0)
    assert rows[0]["ours"] < rows[1]["ours"] < rows[2]["ours"]
    assert all(row["ratio"] < 1 for row in rows), "a narrative has more tokens than its raw signal"


@pytest.mark.slow
def test_smoke(tmp_path):
    rows = benchmark.benchmark(tmp_path, budget="smoke", seed=0)
    assert [row["peer_name"] for row in rows] == [
        "MAE", "MAE", "PatchTST", "scipy convolution", "scipy running mean", "MAE", "MAE", "MAE",
    ]  # fmt: skip
    assert all(row["ratio"] > 0 for row in rows)
    assert not list(tmp_path.iterdir())
    assert PRESETS["laptop"].num_patches == 16
