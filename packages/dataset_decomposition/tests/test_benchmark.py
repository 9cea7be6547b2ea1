"""The benchmark's own arithmetic: rates, ratios, and CPU time read from outside."""

import os
import time

import numpy as np
import pytest
from dataset_decomposition import decompose
from dataset_decomposition.benchmark import _cut, _row, measure
from dataset_decomposition.peers import cpu_seconds


def test_rates_are_amounts_over_seconds_and_the_first_round_does_not_count():
    told = iter([9.0, 0.5, 0.25])
    calls = []
    rates = measure({"ours": lambda: calls.append(1), "theirs": lambda: next(told)}, 2, 100.0)
    assert rates["theirs"].tolist() == [200.0, 400.0]
    assert len(calls) == 3 and len(rates["ours"]) == 2 and (rates["ours"] > 400).all()


def test_a_row_gives_medians_and_the_ratio_of_each_round():
    row = _row("work", {"ours": np.array([2e6, 4e6, 9e6]), "peer": np.array([1e6, 4e6, 3e6])}, "peer", 50.0)
    assert (row["ours"], row["peer"], row["ratio"], row["spread"]) == (4.0, 3.0, 2.0, [1.0, 3.0])
    assert (row["unit"], row["aim"]) == ("million per CPU second", 50.0)
    assert _row("work", {"ours": np.array([8.0]), "peer": np.array([4.0])}, "peer", per=1.0)["ours"] == 8.0


def test_the_rule_in_plain_python_is_greedy():
    for length in [1, 256, 257, 258, 513, 514, 8193, 20_000]:
        assert _cut(length) == decompose([length], policy="greedy").length.tolist()


def test_cpu_time_of_a_process_is_read_from_outside():
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert cpu_seconds(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=0.05)
