"""The learning rate where steps of the stream begin, and plans."""

import dataclasses

import pytest
from ticclip import PRESETS, StreamConfig, macs, plan_stream
from ticclip.config import TrainConfig
from ticclip.plan import POLICY_OF
from ticclip.schedule import learning_rate

CONFIG = TrainConfig(learning_rate=1.0, warmup_steps=4)


def rates(boundary, step, updates=40):
    config = dataclasses.replace(CONFIG, boundary=boundary)
    return [learning_rate(config, step, update, updates) for update in range(updates)]


def test_every_step_is_warmed_up_again():
    assert rates("rewarm", 0) == rates("rewarm", 5)
    assert rates("rewarm", 3)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates("rewarm", 3)[22] == pytest.approx(0.5)
    assert 0 < rates("rewarm", 3)[-1] < 0.01


def test_no_warm_up_after_the_first_step():
    assert rates("no-warmup", 0) == rates("rewarm", 0)
    assert rates("no-warmup", 1)[0] == 1.0 and rates("no-warmup", 1)[20] == pytest.approx(0.5)


def test_the_maximum_decays():
    assert [max(rates("decay-max", step)) for step in range(3)] == [1.0, 0.5, 0.25]


def test_constant_and_cooldown():
    found = rates("constant-cooldown", 1)
    assert found[:32] == [1.0] * 32
    assert found[32:] == pytest.approx([1 - n / 8 for n in range(8)])
    assert rates("constant-cooldown", 0)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_a_short_step_is_not_all_warm_up():
    assert learning_rate(dataclasses.replace(CONFIG, warmup_steps=500), 0, 3, 10) < 1.0
    assert learning_rate(dataclasses.replace(CONFIG, warmup_steps=500), 0, 2, 10) == 1.0


def plan(method, steps=7, **options):
    config = StreamConfig(model=PRESETS["icons"], train=TrainConfig(batch_size=10), method=method, **options)
    return plan_stream(config, [100] * steps)


@pytest.mark.parametrize("method", POLICY_OF)
def test_the_first_step_is_the_same_for_all(method):
    row = plan(method, samples_per_step=600)[0]
    assert (row.pool, row.replay, row.samples, row.compute) == (100, {}, 600, 1.0)
    assert row.macs == 600 * macs(PRESETS["icons"])


def test_data_and_repeats():
    assert [row.pool for row in plan("cumulative-all", samples_per_step=600)] == [100 * step for step in range(1, 8)]
    assert [row.pool for row in plan("cumulative-exp", samples_per_step=600)] == [100] + [200] * 6
    assert plan("cumulative-all", samples_per_step=600)[6].repeats == pytest.approx(600 / 700)
    assert [row.pool for row in plan("cumulative-equal", samples_per_step=600, replay_budget=30)][1:] == [130] * 6


def test_the_teacher_is_paid_for():
    equal, more = plan("lwf", samples_per_step=600), plan("lwf", samples_per_step=600, equal_compute=False)
    assert [row.samples for row in equal] == [600] + [450] * 6 and [row.samples for row in more] == [600] * 7
    assert equal[1].macs == pytest.approx(equal[0].macs) and more[1].macs == pytest.approx(4 / 3 * more[0].macs)


def test_sixty_steps():
    rows = plan("cumulative-equal", steps=60, samples_per_step=600)
    assert len(rows) == 60 and all(row.pool == 200 for row in rows[1:])
    assert len(rows[59].replay) == 59
