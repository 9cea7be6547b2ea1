"""The model takes any subset in any order, sees visible tokens only, and never takes a missing channel for zeros."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from physiomae.batch import MultimodalBatch
from physiomae.config import PRESETS, ModalityConfig
from physiomae.model import PhysioMAE, encoder_macs, gather_index, patch_targets, sinusoids


def test_any_subset_and_order(config, arrays, model):
    batch = MultimodalBatch.from_arrays(config, arrays)
    turned = MultimodalBatch.from_arrays(config, dict(reversed(arrays.items())))
    both = model.embed(batch)
    assert torch.equal(both, model.embed(turned))
    assert torch.equal(both, model.embed(batch, ["ecg", "eeg"]))
    assert torch.equal(both, model.embed(batch, ["eeg", "ecg"]))
    for name in arrays:
        alone = MultimodalBatch.from_arrays(config, {name: arrays[name]})
        assert torch.equal(model.embed(alone), model.embed(batch, [name]))
        assert not torch.allclose(model.embed(alone), both, atol=1e-3)


def test_every_subset_of_a_real_preset_in_every_order():
    preset = replace(PRESETS["sleep"], dim=16, num_layers=1, num_heads=2, decoder_dim=8, window_seconds=2.0)
    torch.manual_seed(0)
    model = PhysioMAE(preset).eval()
    draw = np.random.default_rng(1)
    arrays = {
        m.name: draw.normal(size=(2, len(m.channels), preset.window_samples(m))).astype(np.float32)
        for m in preset.modalities
    }
    batch = MultimodalBatch.from_arrays(preset, arrays)
    for size in (1, 2, 6):
        for subset in itertools.combinations(preset.names, size):
            first = model.embed(batch, subset)
            assert first.shape == (2, 16)
            assert torch.isfinite(first).all()
            assert torch.equal(first, model.embed(batch, subset[::-1]))


def test_a_modality_that_is_nan_is_one_that_is_not_there(config, arrays, model):
    without = model.embed(MultimodalBatch.from_arrays(config, {"eeg": arrays["eeg"]}))
    arrays["ecg"][:] = np.nan
    assert torch.allclose(model.embed(MultimodalBatch.from_arrays(config, arrays)), without, atol=1e-6)


def test_a_window_alone_is_a_window_among_others_with_gaps(config, arrays, model):
    """Padding and neighbours have no influence."""
    arrays["ecg"][2] = np.nan
    arrays["eeg"][3, :, :16] = np.nan
    batch = MultimodalBatch.from_arrays(config, arrays)
    together = model.embed(batch)
    for row in range(len(batch)):
        assert torch.allclose(model.embed(batch.rows(slice(row, row + 1))), together[row : row + 1], atol=1e-5)


def test_a_missing_channel_is_its_token_and_not_zeros(config, arrays, model):
    zeros = {name: array.copy() for name, array in arrays.items()}
    zeros["eeg"][:, 1] = 0.0
    arrays["eeg"][:, 1] = np.nan
    batch = MultimodalBatch.from_arrays(config, arrays)
    assert not batch.present["eeg"][:, 1].any()
    missing = model.embed(batch)
    assert not torch.allclose(missing, model.embed(MultimodalBatch.from_arrays(config, zeros)), atol=1e-3)
    with torch.no_grad():
        model.stems["eeg"].missing[1].add_(torch.arange(16.0))
    assert not torch.allclose(missing, model.embed(batch), atol=1e-3), "the missing token is what speaks"


def test_the_encoder_works_on_visible_tokens_only(config, arrays, model):
    batch = MultimodalBatch.from_arrays(config, arrays)
    visible = torch.zeros(6, 2, 4, dtype=torch.bool)
    visible[:, 0, 1] = visible[:, 1, 3] = True
    encoded = model.encode(batch, visible)
    assert encoded.states.shape == (6, 2, 16)
    assert encoded.index.tolist() == [[1, 7]] * 6
    changed = {name: array.copy() for name, array in arrays.items()}
    changed["eeg"][:, :, :16] += 5
    changed["ecg"][:, :, :24] -= 5
    again = model.encode(MultimodalBatch.from_arrays(config, changed), visible)
    assert torch.equal(encoded.states, again.states)
    changed["ecg"][:, :, 24:] += 1
    other = model.encode(MultimodalBatch.from_arrays(config, changed), visible)
    assert not torch.allclose(encoded.states, other.states)


def test_states_do_not_depend_on_padding(config, arrays, model):
    """Rows with different numbers of visible tokens give what each gives alone."""
    batch = MultimodalBatch.from_arrays(config, arrays)
    visible = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(3)) < 0.5
    visible[0] = False
    visible[0, 1, 2] = True
    together = model.encode(batch, visible)
    decoded = model.decode(together)
    for row in range(6):
        part = slice(row, row + 1)
        alone = model.encode(batch.rows(part), visible[part])
        count = int(visible[row].sum())
        assert torch.allclose(together.states[row, :count], alone.states[0], atol=1e-5)
        assert torch.allclose(decoded["eeg"][row], model.decode(alone)["eeg"][0], atol=1e-5)


def test_late_fusion_has_no_path_between_modalities(config, arrays):
    torch.manual_seed(0)
    late = PhysioMAE(config, late_fusion=True).eval()
    batch = MultimodalBatch.from_arrays(config, arrays)
    before = late.embed(batch, by_modality=True)
    changed = MultimodalBatch.from_arrays(config, {**arrays, "ecg": arrays["ecg"] + 3})
    after = late.embed(changed, by_modality=True)
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.allclose(before[:, 16:], after[:, 16:])
    alone = late.embed(batch, ["ecg"], by_modality=True)
    assert torch.isnan(alone[:, :16]).all(), "what is absent is nan, not 0"
    assert torch.equal(alone[:, 16:], before[:, 16:])
    assert torch.allclose(late.embed(batch), before.view(6, 2, 16).mean(1), atol=1e-6)


def test_kept_attention_is_the_attention_that_was_used(config, arrays, model):
    batch = MultimodalBatch.from_arrays(config, arrays)
    plain, kept = model.encode(batch), model.encode(batch, attention=True)
    assert torch.allclose(plain.states, kept.states, atol=1e-5)
    assert len(kept.attention) == config.num_layers
    assert torch.allclose(kept.attention[0].sum(-1), torch.ones(6, 2, 8))


def test_targets_are_samples_and_log_spectrum():
    patch = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = patch_targets(patch)
    spectrum = np.log(np.abs(np.fft.rfft(patch.numpy(), norm="ortho")) + 0.1)
    assert found.tolist() == pytest.approx([1, -1, 1, -1, *spectrum.tolist()], abs=1e-5)


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_gradients_reach_every_weight(config, arrays, stem):
    torch.manual_seed(0)
    model = PhysioMAE(replace(config, stem=stem))
    arrays["eeg"][0, 1] = np.nan
    batch = MultimodalBatch.from_arrays(config, arrays)
    visible = model.available(batch)
    visible[:, :, ::2] = False
    loss = sum(value.square().mean() for value in model.decode(model.encode(batch, visible)).values())
    loss.backward()
    idle = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert idle == {"contrast.weight", "contrast.bias", "log_scale", "stems.ecg.missing"}, "a lone channel is its token"


def test_gather_index_by_hand():
    visible = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    index, valid = gather_index(visible)
    assert index.tolist() == [[1, 3], [3, 0], [0, 0]]
    assert valid.tolist() == [[True, True], [True, False], [False, False]]


def test_time_embeddings_differ_and_are_shared_by_modalities():
    table = sinusoids(30, 16)
    assert table.shape == (30, 16)
    assert torch.cdist(table, table)[~torch.eye(30, dtype=torch.bool)].min() > 0.1
    angles = [7 * 1000 ** (-place / 16) for place in range(0, 16, 2)]
    expected = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    torch.testing.assert_close(table[7], torch.tensor(expected))


def test_macs_are_those_of_the_blocks(config):
    """Counted from the weights: every weight of a linear layer once a token, and both attention products."""
    model = PhysioMAE(config)
    weights = sum(p.numel() for n, p in model.blocks.named_parameters() if p.ndim == 2)
    tokens = 7
    assert encoder_macs(config, tokens) == weights * tokens + config.num_layers * 2 * tokens**2 * config.dim


def test_bad_batches_are_refused(config, arrays):
    for change, words in (
        ({"egg": arrays["eeg"]}, "did you mean|eeg"),
        ({"eeg": arrays["eeg"][:, :1]}, "2 channels"),
        ({"eeg": arrays["eeg"][:3], "ecg": arrays["ecg"]}, "different numbers of windows"),
        ({}, "at least one of the modalities"),
    ):
        with pytest.raises(ValueError, match=words):
            MultimodalBatch.from_arrays(config, change)
    batch = MultimodalBatch.from_arrays(config, {"eeg": arrays["eeg"]})
    with pytest.raises(ValueError, match="ecg"):
        batch.only(["ecg"])


def test_impossible_models_are_refused(config):
    with pytest.raises(ValueError, match="rates do not fit"):
        replace(config, patch_seconds=0.1)
    with pytest.raises(ValueError, match="num_heads"):
        replace(config, num_heads=3)
    with pytest.raises(ValueError, match="different names"):
        ModalityConfig("eeg", ("A", "A"), 10)
    with pytest.raises(ValueError, match="multiple"):
        replace(config, window_seconds=4.5)
