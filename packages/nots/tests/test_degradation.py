"""Degradations: limits, gain, order, and the same numbers as a naive convolution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nots.config import ScheduleConfig, default_levels
from nots.degradation import check_order, degrade, even_levels, explained_variance, narrate

SMOOTH = ("box", "gaussian", "sinc", "fft")
LEVELS = {"box": 6, "gaussian": 1.7, "sinc": 0.2, "fft": 0.2}


@pytest.fixture
def x():
    return torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0)).cumsum(-1)


@pytest.mark.parametrize("kind", SMOOTH)
def test_constants_pass_with_gain_one_also_at_the_ends(kind):
    ones = torch.full((1, 1, 50), 3.0)
    torch.testing.assert_close(degrade(ones, kind, LEVELS[kind]), ones)


@pytest.mark.parametrize(("kind", "level"), [("box", 0), ("gaussian", 0), ("sinc", 1), ("fft", 1), ("noise", 0)])
def test_the_finest_level_is_the_identity(kind, level, x):
    torch.testing.assert_close(degrade(x, kind, level), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "level"), [("box", 128), ("gaussian", 1e4), ("sinc", 0), ("fft", 0)])
def test_the_coarsest_level_is_the_mean(kind, level, x):
    mean = x.mean(-1, keepdim=True).expand_as(x)
    torch.testing.assert_close(degrade(x, kind, level), mean, atol=1e-3, rtol=1e-3)


def naive(row, weights, reach):
    found = []
    for place in range(len(row)):
        inside = [n for n in range(-reach, reach + 1) if 0 <= place + n < len(row)]
        total = sum(weights(n) for n in inside)
        found.append(sum(weights(n) * row[place + n] for n in inside) / total)
    return found


@pytest.mark.parametrize(
    ("kind", "level", "weights", "reach"),
    [
        ("box", 6, lambda n: 1.0, 3),
        ("gaussian", 1.5, lambda n: math.exp(-n * n / 4.5), 6),
        ("sinc", 0.5, lambda n: np.sinc(0.5 * n) * (0.5 + 0.5 * math.cos(math.pi * n / 9)), 8),
    ],
)
def test_kernels_are_those_of_a_naive_loop(kind, level, weights, reach, x):
    found = degrade(x, kind, level)[0, 0]
    torch.testing.assert_close(
        found, torch.tensor(naive(x[0, 0].tolist(), weights, reach)).float(), atol=1e-4, rtol=1e-4
    )


def test_the_ideal_low_pass_keeps_what_is_below_its_cutoff():
    t = torch.arange(64) / 64
    slow, fast = torch.sin(2 * math.pi * 4 * t), torch.cos(2 * math.pi * 20 * t)
    torch.testing.assert_close(degrade((slow + fast)[None, None], "fft", 4 / 32)[0, 0], slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", SMOOTH)
def test_rows_do_not_see_each_other_and_batches_may_be_parted(kind, x):
    whole = degrade(x, kind, LEVELS[kind])
    torch.testing.assert_close(degrade(x[1:2, 1:], kind, LEVELS[kind]), whole[1:2, 1:])
    x[0] = 0
    torch.testing.assert_close(degrade(x, kind, LEVELS[kind])[1:], whole[1:])


def test_noise_has_its_deviation_and_follows_its_generator(x):
    big = torch.zeros(1, 1, 20000)
    found = [degrade(big, "noise", 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*found)
    assert float(found[0].std()) == pytest.approx(0.5, rel=0.03)


def test_a_function_is_a_degradation(x):
    assert torch.equal(degrade(x, lambda v, level: v * level, 0.5), x * 0.5)
    with pytest.raises(ValueError, match="gave shape"):
        degrade(x, lambda v, level: v[..., 1:], 1)


def test_short_series_have_different_levels_too():
    for length in (8, 16, 32):
        for kind in SMOOTH:
            assert len(set(default_levels(kind, length, 3))) == 3
    assert default_levels("box", 256, 3) == (32, 8, 2)


@pytest.mark.parametrize("kind", SMOOTH)
def test_default_chains_rise_in_information(kind, x):
    shares = check_order(x, ScheduleConfig(kind, default_levels(kind, 64, 4)))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_levels_out_of_order_are_refused(x):
    with pytest.raises(ValueError, match="descend"):
        ScheduleConfig("box", (2, 8))
    with pytest.raises(ValueError, match="ascend"):
        ScheduleConfig("fft", (0.5, 0.1))
    schedule = ScheduleConfig("box", (8, 2))
    object.__setattr__(schedule, "levels", (2.0, 8.0))
    with pytest.raises(ValueError, match="element 2"):
        check_order(x, schedule)


def test_even_levels_rise_in_even_steps(x):
    x = torch.randn(3, 2, 256, generator=torch.Generator().manual_seed(0))
    schedule = even_levels(x, "fft", 3)
    shares = [explained_variance(x, degrade(x, "fft", level)) for level in schedule.levels]
    assert shares == sorted(shares)
    assert max(abs(share - goal) for share, goal in zip(shares, (0.25, 0.5, 0.75), strict=True)) < 0.1
    with pytest.raises(ValueError, match="no explained variance"):
        even_levels(x, "noise", 2)
    with pytest.raises(ValueError, match="distinct levels"):
        even_levels(x[..., :8], "box", 9)


def test_a_narrative_ends_in_the_raw_signal(x):
    groups = narrate(x, ScheduleConfig("box", (16, 4)))
    assert groups.shape == (3, 3, 2, 64)
    assert torch.equal(groups[:, -1], x)
    assert torch.equal(groups[:, 0], degrade(x, "box", 16))


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("bx", 2, "did you mean 'box'"),
        ("box", 3, "even whole"),
        ("fft", -1, "negative"),
        ("gaussian", math.nan, "fini"),
    ],
)
def test_bad_levels_are_named(kind, level, words, x):
    with pytest.raises(ValueError, match=words):
        degrade(x, kind, level)


@given(st.integers(0, 20), st.integers(0, 10**6))
def test_a_box_lies_between_the_smallest_and_the_largest_value(half, seed):
    x = torch.randn(1, 1, 33, generator=torch.Generator().manual_seed(seed))
    found = degrade(x, "box", 2 * half)
    assert x.min() - 1e-6 <= found.min() <= found.max() <= x.max() + 1e-6


@pytest.mark.parametrize("level", [2.0, 8.0, 18.0, 60.0])
def test_the_box_in_parts_and_with_gradients_is_one_box(level):
    """More rows than one part holds, boxes as wide as the series and wider, and values that drift."""
    x = torch.randn(3, 67, 17, generator=torch.Generator().manual_seed(0)).cumsum(-1) + 100
    half = int(level) // 2
    naive = torch.stack([x[..., max(0, t - half) : t + half + 1].mean(-1) for t in range(17)], dim=-1)
    torch.testing.assert_close(degrade(x, "box", level), naive)
    learnt = x.clone().requires_grad_()
    found = degrade(learnt, "box", level)
    torch.testing.assert_close(found, naive)
    found[..., 3].sum().backward()
    window = torch.zeros(17)
    window[max(0, 3 - half) : 3 + half + 1] = 1
    torch.testing.assert_close(learnt.grad[0, 0], window / window.sum())
