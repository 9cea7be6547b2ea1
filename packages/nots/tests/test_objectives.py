"""Objectives: by a naive loop, what they hide is hidden, gradients, operations, and a batch that is learnt by heart."""

from dataclasses import replace

import pytest
import torch
from nots.config import OBJECTIVES, NoTSConfig, TrainConfig
from nots.degradation import narrate
from nots.objectives import Draw, Objective, step_flops, trunk_config
from nots.train import build, fit


def make(config, name, **more):
    train = TrainConfig(name, batch_size=6, **more)
    return build(config, train), train


def draw_of(config, train, step=0):
    return Draw.of(config, train, 6, step)


def test_the_narratives_loss_is_a_naive_sum(config, series):
    objective, train = make(config, "nots")
    draw = draw_of(config, train)
    objective.requires_grad_(False)
    model, groups = objective.model, narrate(series, config.schedules[draw.chain])
    total = 0.0
    for k in (1, 2):
        state = model.states(groups[:, :k])[:, -1]
        total += float((model.decode(state) - groups[:, k]).abs().mean())
    raw = float((model.decode(model.tokens(series)) - series).abs().mean())
    assert float(objective(series, draw)) == pytest.approx(total + raw, rel=1e-5)
    alone = make(config, "no_consistency")[0].requires_grad_(False)
    assert float(alone(series, draw)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_and_reach_the_trunk(config, series, name):
    objective, train = make(config, name)
    objective(series, draw_of(config, train)).backward()
    blocks = list(objective.model.blocks.parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in blocks)
    assert sum(float(p.grad.abs().sum()) for p in blocks) > 0


def test_the_next_period_is_told_from_earlier_ones_alone(config, series):
    objective, train = make(config, "next")
    draw = draw_of(config, train)
    told = []
    objective.model.decoder.register_forward_hook(lambda module, args, out: told.append(out))
    objective(series, draw)
    changed = series.clone()
    changed[..., 16:24] += 1
    objective(changed, draw)
    assert torch.equal(told[0][..., :16], told[1][..., :16])
    assert not torch.allclose(told[0][..., 16:24], told[1][..., 16:24])


@pytest.mark.parametrize("name", ["mae", "famae"])
def test_hidden_patches_are_hidden(config, series, name):
    objective, train = make(config, name)
    draw = draw_of(config, train)
    told = []
    objective.model.decoder.register_forward_hook(lambda module, args, out: told.append(out))
    objective.requires_grad_(False)
    first = objective(series, draw)
    where = draw.hidden.unflatten(1, (2, 4)).repeat_interleave(8, 2)
    changed = torch.where(where, series + 5.0, series)
    second = objective(changed, draw)
    torch.testing.assert_close(told[0], told[1])
    assert not torch.allclose(first, second), "only what is asked for has changed"
    assert draw.hidden.sum(1).tolist() == [4] * 6


def test_ablations_change_what_they_say(config):
    assert trunk_config(config, "augment").mask == "own"
    assert trunk_config(config, "no_ar_mask").mask == "full"
    with pytest.raises(ValueError, match="needs a model of `mask` 'own'"):
        Objective(build(config, TrainConfig()).model, TrainConfig("augment"))
    objective, train = make(config, "noise_degradation")
    assert objective.schedule(draw_of(config, train)).kind == "noise"


def test_chains_are_both_drawn_and_follow_the_seed(config):
    train = TrainConfig()
    chains = [Draw.of(config, train, 2, step).chain for step in range(20)]
    assert set(chains) == {0, 1}
    assert chains == [Draw.of(config, train, 2, step).chain for step in range(20)]
    assert chains != [Draw.of(config, replace(train, seed=1), 2, step).chain for step in range(20)]


def test_convolutions_over_borders_are_refused_where_they_leak(config):
    with pytest.raises(ValueError, match="see each other"):
        build(replace(config, tokenizer="resnet"), TrainConfig("mae"))
    whole = NoTSConfig(length=32, patch=32, tokenizer="itransformer", dim=16, num_heads=2)
    with pytest.raises(ValueError, match="at least two tokens"):
        build(whole, TrainConfig("next"))


def test_operations_grow_with_batch_and_elements(config):
    one = step_flops(config, TrainConfig("nots", batch_size=1))
    assert step_flops(config, TrainConfig("nots", batch_size=8)) == 8 * one
    assert step_flops(config, TrainConfig("mae", batch_size=1)) < 0.6 * one
    more = replace(config, num_groups=4, schedules=())
    assert step_flops(more, TrainConfig("nots", batch_size=1)) > 1.3 * one


@pytest.mark.parametrize(("name", "share"), [("nots", 0.6), ("next", 0.6), ("vqvae", 0.8)])
def test_a_batch_is_learnt_by_heart(config, series, name, share):
    losses = []
    train = TrainConfig(name, num_steps=120, batch_size=6, learning_rate=1e-2)
    fit(config, train, series, after_step=lambda step, loss: losses.append(loss))
    assert losses[-1] < share * losses[0]
