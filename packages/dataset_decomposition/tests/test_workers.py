"""Work on other processes: order, errors, and workers that end."""

import os
import sys
import time

import pytest
from dataset_decomposition.workers import map_in_order

START = (sys.setrecursionlimit, (4321,))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_from_prepared_workers(workers):
    assert list(map_in_order(abs, [-5, 3, -2, 0, 7], workers, START)) == [5, 3, 2, 0, 7]
    found = list(map_in_order(eval, ["__import__('sys').getrecursionlimit()"] * 2, workers, START))
    assert found == [4321, 4321]
    assert list(map_in_order(abs, [], workers, START)) == []


def test_items_are_read_as_workers_get_free():
    read = []
    results = map_in_order(abs, (read.append(i) or i for i in range(10)), 2, START)
    assert next(results) == 0 and len(read) <= 3
    results.close()


def test_large_items_pass_both_ways():
    items = [bytes([i]) * 5_000_000 for i in range(6)]
    assert list(map_in_order(bytes, items, 2, START)) == items


def test_an_error_of_the_work_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(eval, ["1", "1 / 0", "1"], 2, START))


def test_a_worker_that_ends_is_an_error_and_leaves_none_behind():
    with pytest.raises(RuntimeError, match="ended with status 3"):
        list(map_in_order(os._exit, [3], 1, START))
    results = map_in_order(eval, ["__import__('os').getpid()"] * 2, 2, START)
    pid = next(results)
    results.close()
    time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
