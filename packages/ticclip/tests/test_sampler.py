"""Positions to items: a permutation per epoch, exact counts, nested buffers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticclip.sampler import Mixture, permute


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_a_permutation(size, key):
    found = permute(np.arange(size), size, np.full(size, key, np.uint64))
    assert sorted(found.tolist()) == list(range(size))


def test_it_shuffles():
    found = permute(np.arange(4096), 4096, np.full(4096, 9))
    assert abs(np.corrcoef(found, np.arange(4096))[0, 1]) < 0.06
    assert (found == permute(np.arange(4096), 4096, np.full(4096, 10))).sum() < 20


def pools(*sizes):
    starts = np.cumsum([0, *sizes])
    return tuple(np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False))


def test_every_item_once_before_any_twice():
    mixture = Mixture(pools(30, 12), seed=4)
    first, second = mixture.rows(np.arange(42)), mixture.rows(np.arange(42, 84))
    assert sorted(first) == sorted(second) == list(range(42))
    assert (first != second).any()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("number", [1, 20, 42, 100])
def test_counts_against_drawing_it_all(balanced, number):
    mixture = Mixture(pools(30, 12), balanced, seed=4)
    rows = mixture.rows(np.arange(number))
    seen = np.bincount(rows, minlength=42)
    assert mixture.count(number, chunk=7) == ([seen[:30].sum(), seen[30:].sum()], (seen > 0).sum(), seen.max())


def test_balanced_batches_hold_as_much_of_every_source():
    mixture = Mixture(pools(1000, 10, 100), balanced=True, seed=1)
    draws, different, most = mixture.count(300)
    assert draws == [100, 100, 100]
    assert different == 100 + 10 + 100 and most == 10
    rows = mixture.rows(np.arange(30))
    assert [((rows >= low) & (rows < high)).sum() for low, high in ((0, 1000), (1000, 1010), (1010, 1110))] == [10] * 3


def test_access_is_random():
    mixture = Mixture(pools(100, 50), seed=2)
    whole = mixture.rows(np.arange(10_000))
    assert (mixture.rows([9_999, 3, 777]) == whole[[9_999, 3, 777]]).all()
    far = mixture.rows([10**15])
    assert 0 <= far[0] < 150


@pytest.mark.parametrize("balanced", [False, True])
def test_seeds_differ(balanced):
    orders = [Mixture(pools(40, 40), balanced, seed).rows(np.arange(40)).tolist() for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 3


def test_a_smaller_buffer_is_part_of_a_larger_one(index):
    assert set(index.rows(0)[:5]) < set(index.rows(0)[:9])
    order = index.rows(0)
    assert (order != np.sort(order)).any(), "by hash, not by place"
