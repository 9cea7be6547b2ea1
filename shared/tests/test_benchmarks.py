"""Timing with a clock made of numbers, and rows against numbers worked out by hand."""

from collections import Counter

import numpy as np
import pytest
from tenfold_shared.benchmarks import SHORTEST, Seconds, comparison, interleave


class Clock:
    """Stands still until a function of `takes` is called."""

    def __init__(self):
        self.now = 100.0
        self.called = []

    def __call__(self):
        return self.now

    def takes(self, name, *seconds):
        """Return a function that needs the next of these seconds at each call."""
        left = iter(seconds)

        def call():
            self.called.append(name)
            self.now += next(left)

        return call


def test_the_first_call_of_each_function_does_not_count():
    clock = Clock()
    calls = {"ours": clock.takes("ours", 50.0, 1.0, 2.0, 3.0), "peer": clock.takes("peer", 70.0, 4.0, 5.0, 6.0)}
    seconds = interleave(calls, 3, clock=clock)
    assert {name: values.tolist() for name, values in seconds.items()} == {"ours": [1, 2, 3], "peer": [4, 5, 6]}


def run_rounds(rounds):
    clock = Clock()
    interleave({name: clock.takes(name, *[1.0] * (rounds + 1)) for name in "abc"}, rounds, clock=clock)
    return ["".join(clock.called[start : start + 3]) for start in range(0, len(clock.called), 3)]


def test_each_round_calls_every_function_once_in_an_order_of_its_own():
    found = run_rounds(60)
    assert len(found) == 61 and all(sorted(turn) == ["a", "b", "c"] for turn in found)
    assert len(Counter(found)) == 6, "all orders come up"
    assert run_rounds(60) == found, "the same in every run"


def test_a_function_that_worked_elsewhere_is_taken_at_its_word():
    clock, told = Clock(), iter([Seconds(9), Seconds(0.5), Seconds(0.25)])
    waits = clock.takes("peer", 30.0, 30.0, 30.0)

    def peer():
        waits()
        return next(told)

    seconds = interleave({"ours": clock.takes("ours", 1.0, 1.0, 1.0), "peer": peer}, 2, clock=clock)
    assert seconds["peer"].tolist() == [0.5, 0.25] and seconds["ours"].tolist() == [1, 1]


def test_another_result_says_nothing_of_the_time():
    clock = Clock()
    work = clock.takes("loss", 2.0, 2.0)
    assert interleave({"loss": lambda: work() or 0.7}, 1, clock=clock)["loss"].tolist() == [2.0]


def test_what_a_function_made_is_freed_within_its_time():
    clock = Clock()

    class Large:
        def __del__(self):
            clock.now += 3.0

    seconds = interleave({"make": Large, "other": clock.takes("other", 1.0, 1.0)}, 1, clock=clock)
    assert {name: values.tolist() for name, values in seconds.items()} == {"make": [3], "other": [1]}


def test_nothing_takes_no_time():
    calls = {"clock stands": lambda: None, "told": lambda: Seconds(-1)}
    assert all(values.tolist() == [SHORTEST] for values in interleave(calls, 1, clock=Clock()).values())


def test_progress_hears_of_the_rounds_that_count():
    log = []
    interleave({("a", 1): lambda: log.append("call")}, 2, clock=Clock(), on_round=lambda: log.append("round"))
    assert log == ["call", "call", "round", "call", "round"]


SECONDS = {"ours": np.array([1.0, 2.0, 4.0]), "peer": np.array([3.0, 4.0, 4.0]), "third": np.array([1.0, 1.0, 1.0])}


def test_a_row_of_costs_shows_medians_and_the_ratios_of_each_round():
    row = comparison("sorting", SECONDS, "peer", "CPU seconds", aim=1.5)
    assert row == {
        "work": "sorting", "ours": 2.0, "peer_name": "peer", "peer": 4.0, "ratio": 2.0, "spread": [1.0, 3.0],
        "unit": "CPU seconds", "aim": 1.5,
    }  # fmt: skip
    assert comparison("sorting", SECONDS, "third", "CPU seconds")["ratio"] == 0.5, "the peer is twice as fast"


def test_a_row_of_rates_has_the_ratios_of_the_costs():
    row = comparison("sorting", SECONDS, "peer", "rows/s", amount=12)
    assert (row["ours"], row["peer"], row["ratio"], row["spread"]) == (6.0, 3.0, 2.0, [1.0, 3.0])
    assert row["aim"] is None


def test_single_numbers_are_one_round():
    row = comparison("memory", {"ours": 2.0, "peer": 8}, "peer", "MB")
    assert (row["ours"], row["peer"], row["ratio"], row["spread"]) == (2.0, 8.0, 4.0, [4.0, 4.0])
    row = comparison("building", {"ours": 2.0, "peer": np.array([1.0, 4.0, 8.0])}, "peer", "s")
    assert (row["ours"], row["peer"], row["ratio"], row["spread"]) == (2.0, 4.0, 2.0, [0.5, 4.0])


def test_values_are_plain_numbers():
    row = comparison("sorting", SECONDS, "peer", "rows/s", amount=np.int64(12))
    assert [type(row[name]) for name in ("ours", "peer", "ratio")] == [float] * 3
    assert [type(value) for value in row["spread"]] == [float] * 2


def test_rounds_that_do_not_pair_and_a_peer_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        comparison("sorting", {"ours": np.ones(3), "peer": np.ones(2)}, "peer", "s")
    with pytest.raises(KeyError, match="nobody"):
        comparison("sorting", SECONDS, "nobody", "s")
