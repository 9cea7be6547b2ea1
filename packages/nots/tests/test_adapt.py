"""Adaptation: what is trained and what is not, parameters under 1 %, heads by hand, other channels."""

import pytest
import torch
from nots.adapt import Adapted, Head, Target, adapt, predict
from nots.config import PRESETS, AdaptConfig
from nots.model import NoTS
from torch.nn import functional

CLASSES = {"class": Target("pooled", 2)}


def weights(trunk):
    return {name: value.clone() for name, value in trunk.state_dict().items()}


@pytest.mark.parametrize("mode", ["frozen", "full", "none"])
def test_the_trunk_is_trained_only_when_it_should_be(model, series, mode):
    before, labels = weights(model), torch.arange(6) % 2
    config = AdaptConfig(mode, num_steps=3, batch_size=4)
    adapted = adapt(model, config, CLASSES, (series, labels), functional.cross_entropy)
    same = all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert same == (mode == "frozen")
    assert hasattr(adapted, "prompts") == (mode != "none")
    assert adapted.report()["trained"] == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_frozen_adaptation_learns(model, series):
    scale = torch.where(torch.arange(6) % 2 == 1, 1.0, -1.0)[:, None, None]
    series = series + scale * torch.linspace(-1, 1, 32)
    config = AdaptConfig("frozen", num_steps=60, batch_size=6, learning_rate=3e-2)
    adapted = adapt(model, config, CLASSES, (series, torch.arange(6) % 2), functional.cross_entropy)
    assert predict(adapted, series).argmax(1).tolist() == [0, 1] * 3


@pytest.mark.parametrize("name", ["nots_243k", "nots_641k", "nots_2.1m"])
def test_what_is_added_is_under_one_percent(name):
    trunk = NoTS(PRESETS[name])
    head = Head({"class": Target("pooled", 5)}, trunk.config.dim, trunk.config.num_patches)
    report = Adapted(trunk, AdaptConfig("frozen"), head, 3).report()
    dim = trunk.config.dim
    assert report["adaptors"] == 3 + dim + 3 * 2 * dim, "channel map, channel embedding, two prompts in three layers"
    assert report["head"] == 5 * dim + 5
    assert report["under_one_percent"] == (report["share"] < 0.01) is True


def test_a_report_over_the_limit_says_so(model):
    report = Adapted(model, AdaptConfig(), Head(CLASSES, 16, 4), 2).report()
    assert report["under_one_percent"] is False


def test_other_channels_need_an_adaptor(model, series):
    head = Head(CLASSES, 16, 4)
    assert Adapted(model, AdaptConfig("frozen"), head, 5)(torch.randn(2, 5, 32)).shape == (2, 2)
    with pytest.raises(ValueError, match="5 channels for a model of 2"):
        Adapted(model, AdaptConfig("none"), head, 5)


def test_at_its_start_an_adaptor_of_the_same_channels_changes_little(model, series):
    adapted = Adapted(model, AdaptConfig(num_prompts=0), Head(CLASSES, 16, 4), 2)
    with torch.no_grad():
        adapted.mixer.copy_(torch.eye(2))
        torch.testing.assert_close(adapted.features(series), model.features(series))


def test_heads_by_hand():
    head = Head({"a": Target("pooled", 2), "b": Target("windows", 2), "c": Target("series", 8)}, 3, 4)
    features = torch.randn(5, 8, 3)  # two channels of four tokens
    found = head(features)
    assert {name: (s.start, s.stop) for name, s in head.columns().items()} == {"a": (0, 2), "b": (2, 4), "c": (4, 12)}
    torch.testing.assert_close(found[:, :2], head.maps["a"](features.mean(1)))
    tokens = (features[:, :4] + features[:, 4:]) / 2
    torch.testing.assert_close(found[:, 2], head.maps["b"](tokens[:, :2].mean(1))[:, 0])
    torch.testing.assert_close(found[:, 3], head.maps["b"](tokens[:, 2:].mean(1))[:, 0])
    torch.testing.assert_close(found[:, 4:6], head.maps["c"](tokens[:, 0]))


def test_the_last_batch_is_not_dropped(model, series):
    adapted = Adapted(model, AdaptConfig(), Head(CLASSES, 16, 4), 2).eval()
    torch.testing.assert_close(predict(adapted, series, batch_size=4), predict(adapted, series), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("change", [{"mode": "half"}, {"readout": "both"}, {"num_prompts": -1}])
def test_settings_that_do_not_exist_are_named(change):
    with pytest.raises(ValueError, match="`"):
        AdaptConfig(**change)
