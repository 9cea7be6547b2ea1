"""What is kept of earlier steps: buffers for one to seven steps, by hand and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticclip import replay_plan
from ticclip.replay import POLICIES

D = 64
BUFFERS = {
    "none": [{}] * 7,
    "exp": [
        {},
        {1: 64},
        {1: 32, 2: 32},
        {1: 16, 2: 16, 3: 32},
        {1: 8, 2: 8, 3: 16, 4: 32},
        {1: 4, 2: 4, 3: 8, 4: 16, 5: 32},
        {1: 2, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32},
    ],
    "fifo": [{}, {1: 64}, {2: 64}, {3: 64}, {4: 64}, {5: 64}, {6: 64}],
    "all": [{source: D for source in range(1, step)} for step in range(1, 8)],
}


@pytest.mark.parametrize("policy", BUFFERS)
@pytest.mark.parametrize("steps", range(1, 8))
def test_buffers_by_hand(policy, steps):
    assert replay_plan(policy, [D] * steps, D) == BUFFERS[policy][:steps]


@pytest.mark.parametrize("policy", ["equal", "balanced", "reservoir"])
@pytest.mark.parametrize("steps", range(1, 8))
def test_equal_shares(policy, steps):
    for step, kept in enumerate(replay_plan(policy, [60] * steps, 60), start=1):
        assert kept == {source: 60 // (step - 1) for source in range(1, step)}


def test_unequal_steps():
    assert replay_plan("reservoir", [300, 100, 50], 40)[2] == {1: 30, 2: 10}
    assert replay_plan("equal", [300, 100, 50], 40)[2] == {1: 20, 2: 20}
    assert replay_plan("equal", [6, 100, 100], 40)[2] == {1: 6, 2: 34}, "what a small step cannot fill goes on"
    assert replay_plan("exp", [100, 10, 100, 100], 80)[3] == {
        1: 23,
        2: 10,
        3: 47,
    }  # 20, 10, 40, and 10 left over go 1 : 2


def test_the_default_budget_is_the_new_steps_size():
    assert replay_plan("equal", [10, 20, 8]) == replay_plan("equal", [10, 20, 8], None)
    assert [sum(kept.values()) for kept in replay_plan("equal", [30, 20, 8])] == [0, 20, 8]


def test_no_budget_replays_nothing():
    assert replay_plan("exp", [8, 8, 8], 0) == [{}, {}, {}]


def test_what_was_dropped_does_not_come_back():
    assert replay_plan("fifo", [100, 10, 10, 1000])[3] == {2: 10, 3: 10}


@given(
    st.sampled_from(POLICIES),
    st.lists(st.integers(1, 500), min_size=1, max_size=12),
    st.none() | st.integers(0, 700),
)
def test_laws(policy, sizes, budget):
    plan = replay_plan(policy, sizes, budget)
    assert len(plan) == len(sizes)
    for step, kept in enumerate(plan, start=1):
        room = sizes[step - 1] if budget is None else budget
        assert all(1 <= source < step and 0 < count <= sizes[source - 1] for source, count in kept.items())
        before = {**plan[step - 2], step - 1: sizes[step - 2]} if step > 1 else {}
        assert all(count <= before[source] for source, count in kept.items())
        if policy not in ("none", "all"):
            assert sum(kept.values()) == min(room, sum(before.values()))


def test_bad_requests():
    with pytest.raises(ValueError, match="unknown replay policy 'expo'; did you mean 'exp'"):
        replay_plan("expo", [1], 1)
    with pytest.raises(ValueError, match="must not be negative"):
        replay_plan("exp", [1, 1], -1)
