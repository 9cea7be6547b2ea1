"""Splicing, batches, the cache and drawing: laws that hold for any weights."""

from copy import copy
from dataclasses import replace

import peft
import pytest
import torch
from fastvlm import PRESETS, EncoderConfig, FastViTHD, FastVLM, FastVLMConfig
from fastvlm.encoder import pool_tokens, prune_tokens
from fastvlm.model import Sampling, cache_keyword
from hypothesis import given, settings
from hypothesis import strategies as st
from tenfold_shared.commands import InputError
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import ModelOutput

NARROW = EncoderConfig((1, 1, 1, 1, 1), (32, 32, 32, 32, 32), image_size=128)


def pixels(count, seed=0):
    return torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(hf_folder):
    return FastVLM.from_pretrained(hf_folder).optimize()


@torch.inference_mode()
def test_image_tokens_take_the_place_of_the_placeholder(model):
    embeds, mask = model.embed(torch.tensor([[5, -200, 7]]), pixels(1))
    words = model.language_model.get_input_embeddings()(torch.tensor([5, 7]))
    assert torch.equal(embeds[0, 0], words[0]) and torch.equal(embeds[0, -1], words[1])
    torch.testing.assert_close(embeds[0, 1:5], model.encode_images(pixels(1))[0])
    assert mask.tolist() == [[1] * 6]


@torch.inference_mode()
def test_images_come_in_the_order_of_their_placeholders(model):
    both = model.encode_images(pixels(2))
    embeds, _ = model.embed(torch.tensor([[-200, 7], [8, -200]]), pixels(2))
    torch.testing.assert_close(embeds[0, :4], both[0])
    torch.testing.assert_close(embeds[1, 1:], both[1])


@torch.inference_mode()
def test_what_was_seen_once_need_not_be_looked_at_again(model):
    ids = torch.tensor([[5, -200, 7]])
    torch.testing.assert_close(model(ids, model.encode_images(pixels(1))), model(ids, pixels(1)))


@torch.inference_mode()
def test_views_of_one_image_follow_one_another(model):
    embeds, _ = model.embed(torch.tensor([[5, -200]]), pixels(3), views=[3])
    torch.testing.assert_close(embeds[0, 1:], model.encode_images(pixels(3)).flatten(0, 1))


def test_padding_on_the_left_changes_nothing(model):
    """Rows of different lengths, one without an image, generate what each generates alone."""
    long, short = [5, 6, -200, 7, 8, 9], [11, 12]
    ids = torch.tensor([long, [0] * 4 + short])
    mask = torch.tensor([[1] * 6, [0] * 4 + [1] * 2])
    together = model.generate(ids, pixels(1), mask, max_new_tokens=8)
    alone = [
        model.generate(torch.tensor([long]), pixels(1), max_new_tokens=8),
        model.generate(torch.tensor([short]), max_new_tokens=8),
    ]
    assert together.tolist() == torch.cat(alone).tolist()


@torch.inference_mode()
def test_the_cache_changes_nothing(model):
    """Each generated token is the most probable one after a pass over everything before it."""
    ids = torch.tensor([[5, -200, 7]])
    answer = model.generate(ids, pixels(1), max_new_tokens=6)
    logits = model(torch.cat([ids, answer], dim=1), pixels(1))
    assert logits[0, -7:-1].argmax(-1).tolist() == answer[0].tolist()


class OtherNames(nn.Module):
    """A language model whose cache has the other of the two names that versions of transformers give it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.theirs = cache_keyword(inner)

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def answer(self, given, **inputs):
        output = self.inner(**inputs, **{self.theirs: given})
        return output.logits, output[self.theirs]


class CallsItCache(OtherNames):
    def forward(self, cache=None, **inputs):
        logits, cache = self.answer(cache, **inputs)
        return ModelOutput(logits=logits, cache=cache)


class CallsItPast(OtherNames):
    def forward(self, past_key_values=None, **inputs):
        logits, cache = self.answer(past_key_values, **inputs)
        return ModelOutput(logits=logits, past_key_values=cache)


@pytest.mark.parametrize(("kind", "name"), [(CallsItCache, "cache"), (CallsItPast, "past_key_values")])
def test_either_name_of_the_cache_gives_the_same_answer(model, kind, name):
    ids = torch.tensor([[5, -200, 7]])
    expected = model.generate(ids, pixels(1), max_new_tokens=5)
    renamed = kind(model.language_model)
    assert cache_keyword(renamed) == name
    lora = peft.LoraConfig(target_modules=["q_proj"])
    assert cache_keyword(peft.PeftModel(renamed, lora)) == name, "through peft, whose forward takes anything"
    other = copy(model)
    other._modules = {**model._modules, "language_model": renamed}
    assert torch.equal(other.generate(ids, pixels(1), max_new_tokens=5), expected)


def test_a_row_that_ended_repeats_its_end_token(model):
    ids = torch.tensor([[5, 6], [11, 12]])
    free = model.generate(ids, max_new_tokens=6)
    end = int(free[0, 1])
    stopped = model.generate(ids, max_new_tokens=6, eos_token_ids=(end,))
    first = free[0].tolist().index(end)
    assert stopped[0, first:].tolist() == [end] * (stopped.shape[1] - first)
    row = free[1].tolist()
    assert stopped[1].tolist()[: row.index(end) if end in row else 6] == row[: row.index(end) if end in row else 6]


def test_drawing_is_repeatable_and_follows_the_temperature(model):
    ids = torch.tensor([[5, 6]])

    def draw(temperature, seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(ids, max_new_tokens=20, temperature=temperature, generator=generator).tolist()

    assert draw(2.0, 1) == draw(2.0, 1)
    assert draw(2.0, 1) != draw(2.0, 2)
    assert draw(1e-4, 1) == model.generate(ids, max_new_tokens=20).tolist()


@pytest.mark.parametrize(("ids", "count"), [([5, -200], 2), ([5, -200, -200], 1), ([5], 1)])
def test_another_number_of_placeholders_than_images_is_refused(model, ids, count):
    with pytest.raises(InputError, match="images were given"):
        model.embed(torch.tensor([ids]), pixels(count))


def test_an_image_longer_than_the_context_is_refused(hf_folder):
    model = FastVLM.from_pretrained(hf_folder)
    model.language_model.config.max_position_embeddings = 10
    with pytest.raises(InputError, match="make 12 tokens, longer than the language model's context of 10"):
        model.embed(torch.tensor([[1, 2, 3, -200, -200, 4]])[:, [0, 1, 2, 3, 4, 5]], pixels(2))


def test_any_causal_language_model_fits():
    shape = dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64
    )
    llama = AutoModelForCausalLM.from_config(LlamaConfig(**shape, vocab_size=100)).eval()
    from fastvlm.checkpoint import make_projector

    model = FastVLM(FastViTHD(NARROW), make_projector(64, 32), llama).eval()
    assert model.generate(torch.tensor([[1, -200]]), pixels(1), max_new_tokens=3).shape == (1, 3)


@pytest.mark.parametrize("multi_scale", ["avgpool", "dwconv"])
def test_multi_scale_features_join_the_token(multi_scale, tmp_path):
    encoder = replace(NARROW, multi_scale=multi_scale)
    language = replace(PRESETS["fastvlm_0.5b"].language, num_layers=1, vocab_size=64)
    model = FastVLM.from_config(FastVLMConfig(language, encoder))
    with torch.inference_mode():
        assert model.encoder(pixels(2)).shape == (2, 4, 64 + 4 * 32)
        plain = FastViTHD(NARROW).eval()
        plain.load_state_dict({k: v for k, v in model.encoder.state_dict().items() if "multi_scale" not in k})
        torch.testing.assert_close(model.encoder(pixels(1))[..., :64], plain(pixels(1)))
    model.save_pretrained(tmp_path)
    again = FastVLM.from_pretrained(tmp_path)
    assert again.encoder.config == encoder
    torch.testing.assert_close(again.encoder(pixels(1)), model.encoder(pixels(1)))


@pytest.mark.parametrize(("height", "width", "tokens"), [(64, 64, 1), (192, 192, 9), (64, 320, 5)])
def test_any_resolution_the_stride_divides_works(height, width, tokens):
    with torch.inference_mode():
        assert FastViTHD(NARROW).eval()(torch.rand(1, 3, height, width)).shape == (1, tokens, 64)


@pytest.mark.parametrize("size", [100, 63, 1000])
def test_other_resolutions_are_refused(size):
    with pytest.raises(ValueError, match=rf"`image_size` \(={size}\) must be divisible by 64"):
        FastViTHD(NARROW)(torch.rand(1, 3, size, 128))


def test_pooled_tokens_are_means_of_neighbours():
    tokens = torch.arange(16.0).view(1, 16, 1)
    assert pool_tokens(tokens, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    with pytest.raises(ValueError, match=r"`factor` \(=3\) must divide"):
        pool_tokens(tokens, 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 16), st.integers(0, 1000))
def test_pruning_keeps_the_most_distinct_tokens_in_order(num_keep, seed):
    tokens = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(seed))
    kept = prune_tokens(tokens, num_keep)
    distance = (tokens - tokens.mean(1, keepdim=True)).norm(dim=-1)
    for row in range(2):
        chosen = sorted(sorted(range(16), key=lambda i, row=row: -float(distance[row, i]))[:num_keep])
        assert torch.equal(kept[row], tokens[row, chosen])


def test_more_tokens_than_there_are_cannot_be_kept():
    with pytest.raises(ValueError, match=r"`num_keep` \(=17\) must be between 1 and"):
        prune_tokens(torch.zeros(1, 16, 4), 17)


@pytest.mark.parametrize("fields", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_impossible_sampling_is_refused(fields):
    with pytest.raises(ValueError, match="must be at least"):
        Sampling(**fields)


@torch.no_grad()
def test_gradients_reach_every_part(hf_folder):
    with torch.enable_grad():
        model = FastVLM.from_pretrained(hf_folder)
        model(torch.tensor([[5, -200, 7]]), pixels(1)).square().mean().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert untouched == []
