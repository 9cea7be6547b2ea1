"""Best-fit packing and chunking against plain loops."""

import numpy as np
import pytest
from dataset_decomposition.packing import chunk_segments, pack_best_fit, split_at
from hypothesis import given
from hypothesis import strategies as st


def best_fit_by_loop(lengths, capacity):
    rooms = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [room for room in rooms if room >= lengths[item]]
        if fitting:
            rooms[rooms.index(min(fitting))] -= lengths[item]
        else:
            rooms.append(capacity - lengths[item])
    return sorted(rooms)


@given(st.lists(st.integers(1, 50), max_size=60))
def test_best_fit_is_the_plain_loop(lengths):
    bins = pack_best_fit(np.array(lengths, dtype=np.int64), 50)
    filled = np.bincount(bins, weights=lengths, minlength=0) if lengths else np.zeros(0)
    assert sorted((50 - filled).tolist()) == best_fit_by_loop(lengths, 50)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_chunking_and_splitting_are_plain_loops(lengths, limit):
    owners = np.repeat(np.arange(len(lengths)), lengths)
    marks = owners * 10_000 + np.arange(len(owners)) // limit
    expected = [int((marks == mark).sum()) for mark in dict.fromkeys(marks.tolist())]
    assert chunk_segments(np.array(lengths), limit).tolist() == expected
    starts, sizes = split_at(np.array(lengths), limit)
    assert sizes.sum() == sum(lengths) and sizes.max() <= limit
    assert (owners[starts] == owners[starts + sizes - 1]).all()


def test_items_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be from 1 to the capacity 8"):
        pack_best_fit(np.array([9]), 8)
