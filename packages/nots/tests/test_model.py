"""The model: who sees whom, positions, prompts, tokenizers, sizes, saving."""

import json
from dataclasses import replace

import pytest
import torch
from nots.attention import Block, group_causal_mask, group_mask, rotary_angles, rotate
from nots.checkpoint import from_pretrained, save_pretrained
from nots.config import PRESETS, NoTSConfig, ScheduleConfig
from nots.degradation import narrate
from nots.model import NoTS, count_parameters, resample, standardise


@pytest.mark.parametrize(("groups", "tokens"), [(1, 3), (3, 1), (3, 4)])
def test_the_mask_is_the_papers_formula(groups, tokens):
    mask = group_causal_mask(groups, tokens)
    for i in range(groups * tokens):
        for j in range(groups * tokens):
            assert bool(mask[i, j]) == (j // tokens <= i // tokens)
    assert torch.equal(group_mask("own", 2, 1), torch.eye(2, dtype=torch.bool))
    assert group_mask("full", 2, 1) is None
    with pytest.raises(ValueError, match="at least 1"):
        group_causal_mask(0, 3)


@pytest.mark.parametrize("tokenizer", ["patch", "resnet", "patchtst", "itransformer"])
def test_changing_later_groups_changes_no_earlier_state(config, series, tokenizer):
    torch.manual_seed(0)
    patch = 32 if tokenizer == "itransformer" else 8
    model = NoTS(replace(config, tokenizer=tokenizer, patch=patch)).eval()
    groups = narrate(series, config.schedules[0])
    before = model.states(groups)
    changed = groups.clone()
    changed[:, 2] += 1.0
    after = model.states(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])
    changed[:, 0] += 1.0
    assert not torch.allclose(before[:, 1], model.states(changed)[:, 1])
    assert model.decode(before[:, 0]).shape == series.shape


def test_tokens_see_both_ways_inside_a_group(model, series):
    groups = narrate(series, model.config.schedules[0])
    changed = groups.clone()
    changed[:, 0, :, -8:] += 1.0
    before, after = model.states(groups), model.states(changed)
    assert not torch.allclose(before[:, 0, 0], after[:, 0, 0])


def test_without_the_mask_earlier_groups_do_see_later_ones(model, series, config):
    open_ = NoTS(replace(config, mask="full")).eval()
    open_.load_state_dict(model.state_dict())
    groups = narrate(series, config.schedules[0])
    changed = groups.clone()
    changed[:, 2] += 1.0
    assert not torch.allclose(open_.states(groups)[:, 0], open_.states(changed)[:, 0])


def test_positions_restart_in_every_group_and_channel(model):
    assert model.positions.tolist() == [0, 1, 2, 3] * 2
    q, products = torch.randn(1, 1, 2, 8), []
    for shift in (0, 5):
        turned = rotate(q, rotary_angles(torch.tensor([shift, shift + 3]), 8))
        products.append(float((turned[0, 0, 0] * turned[0, 0, 1]).sum()))
    assert products[0] == pytest.approx(products[1], abs=1e-4), "only the distance of positions counts"


def test_prompts_are_deep_prompt_tuning(model, series):
    """Tokens put before each layer and thrown away after it give what our keys and values give."""
    torch.manual_seed(1)
    block: Block = model.blocks[0]
    x, prompts, angles = torch.randn(2, 5, 16), torch.randn(3, 16), rotary_angles(torch.arange(5), 8)
    mask = group_causal_mask(5, 1)
    ours = block(x, angles, mask, prompts)
    joined = torch.cat([prompts.expand(2, -1, -1), x], 1)
    wide = torch.ones(8, 8, dtype=torch.bool)
    wide[3:, 3:] = mask
    naive = block(joined, torch.cat([torch.zeros(3, 4), angles]), wide)[:, 3:]
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)


def test_channels_are_told_apart_by_their_embedding(config, model, series):
    swapped = series.flip(1)
    with torch.no_grad():
        assert not torch.allclose(model.embed(series), model.embed(swapped), atol=1e-4)
        plain = NoTS(replace(config, channel_embedding=False)).eval()
        torch.testing.assert_close(plain.embed(series), plain.embed(swapped), atol=1e-5, rtol=1e-5)


def test_sizes_are_near_the_papers():
    for name, count in (("nots_127k", 127e3), ("nots_243k", 243e3), ("nots_641k", 641e3), ("nots_2.1m", 2.1e6)):
        assert count_parameters(NoTS(PRESETS[name])) == pytest.approx(count, rel=0.03), name
    assert count_parameters(NoTS(PRESETS["laptop"])) == pytest.approx(85e3, rel=0.03)


def test_what_is_told_and_read_has_its_shapes(model, series):
    assert model.tell(series).shape == (6, 2, 2, 32)
    assert model.features(series, "raw").shape == model.features(series).shape == (6, 8, 16)
    with pytest.raises(ValueError, match="2 channels and 32 samples"):
        model.embed(series[:, :1])


def test_standardise_and_resample():
    x = torch.tensor([[[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]])
    found = standardise(x)
    assert found[0, 1].eq(0).all(), "a constant channel becomes 0"
    torch.testing.assert_close(found[0, 0].square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(resample(x, 5)[0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    torch.testing.assert_close(resample(torch.arange(4.0)[None, None], 2)[0, 0], torch.tensor([0.5, 2.5]))


def test_saved_models_account_for_every_tensor(model, tmp_path):
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    record = json.loads((tmp_path / "config.json").read_text())
    record["model"]["num_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="of 48 tensors match"):
        from_pretrained(tmp_path)
    record["model"]["layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="no settings"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": 5}, "multiple of `patch`"),
        ({"dim": 18}, "twice `num_heads`"),
        ({"num_groups": 1}, "at least 2"),
        ({"schedules": (ScheduleConfig("box", (2,)),)}, "1 levels of box for 3 groups"),
        ({"tokenizer": "itransformer"}, "of an itransformer"),
        ({"mask": "none"}, "causal, full, own"),
    ],
)
def test_settings_that_do_not_fit_are_named(config, change, words):
    with pytest.raises(ValueError, match=words):
        NoTSConfig(**{**vars(config), **change})
