"""The benchmark runs, checks its outputs, and clustered vectors are clustered."""

import numpy as np
import pytest
from vfm_transfer.benchmark import benchmark, clustered_vectors


@pytest.mark.slow
def test_rows_of_a_smoke_run(tmp_path):
    rows = benchmark(tmp_path, budget="smoke", seed=0)
    assert len(rows) == 6 and not list(tmp_path.iterdir())
    assert {row["aim"] for row in rows} == {None, 5.0, 1.0, 10.0}
    assert all(row["ratio"] > 0 and len(row["input_hash"]) == 16 and row["threads"] == 1 for row in rows)


def test_vectors_lie_around_their_centres():
    vectors, queries = clustered_vectors(3000, 20, 0)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    nearest = np.sort(queries @ vectors.T, axis=1)
    assert nearest[:, -50].min() > 0.6 > 0.3 > np.abs(nearest[:, 1500]).max()
