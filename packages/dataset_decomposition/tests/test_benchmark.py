"""The benchmark's units, what it checks of its peers, and CPU time read from outside."""

import os
import time

import numpy as np
import pytest
from dataset_decomposition import benchmark, decompose
from dataset_decomposition.peers import cpu_seconds
from tenfold_shared.benchmarks import Seconds


def test_rates_are_in_millions():
    [row] = benchmark._sampling(1)
    assert (row["unit"], row["peer_name"]) == ("million per CPU second", "one draw at a time")
    assert row["ours"] / row["peer"] == pytest.approx(row["ratio"]) and row["ratio"] == row["spread"][0]


def test_trl_says_how_long_it_took_and_is_checked(store):
    kept = {"tokens": len(store.tokens), "first": int(store.tokens[: benchmark.LONGEST].sum(dtype=np.int64))}
    told = benchmark._pack(lambda strategy: (kept, 0.5), "wrapped", store)
    assert isinstance(told, Seconds) and told == 0.5
    with pytest.raises(RuntimeError, match="TRL's wrapped kept 1 tokens"):
        benchmark._pack(lambda strategy: ({**kept, "tokens": 1}, 0.5), "wrapped", store)


def test_the_rule_in_plain_python_is_greedy():
    for length in [1, 256, 257, 258, 513, 514, 8193, 20_000]:
        assert benchmark._cut(length) == decompose([length], policy="greedy").length.tolist()


def test_cpu_time_of_a_process_is_read_from_outside():
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert cpu_seconds(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=0.05)
