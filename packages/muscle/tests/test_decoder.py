"""The experiment's language model: equal to Llama with peft's adapters, and files that hold what was used."""

import hashlib

import peft
import torch
from muscle import decoder
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = decoder.Shape(vocab_size=64, dim=32, num_layers=2, num_heads=2, hidden=48)


def as_llama(weights, flats, rank):
    """transformers' Llama with one peft adapter, from our weights and one row of flat adapters."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    state = {f"model.{name}.weight": value for name, value in weights.items()}
    model.load_state_dict({**state, "lm_head.weight": weights["embed_tokens"]})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, layers_to_transform=[1])
    model = peft.LoraModel(model, lora, "default")
    views = decoder.Layout(SHAPE, rank).views(flats)
    with torch.no_grad():
        for name, parts in views.items():
            layer = model.model.get_submodule(f"model.{name}")
            layer.lora_A["default"].weight.copy_(parts["A"][0])
            layer.lora_B["default"].weight.copy_(parts["B"][0])
    return model


def test_the_decoder_is_llama_with_peft_for_every_run_of_the_stack():
    weights = decoder.init_weights(SHAPE, 0)
    weights = {name: value * (8 if value.dim() == 2 else 1) for name, value in weights.items()}
    flat = torch.randn(3, decoder.Layout(SHAPE, 4).init([0]).shape[1]) * 0.2
    ids = torch.randint(0, 64, (3, 2, 10))
    model = decoder.Decoder(SHAPE, weights)
    ours = model.logits(model.hidden(ids, flat, 4, 2.0))
    for run in range(3):
        theirs = as_llama(weights, flat[run : run + 1], 4)(input_ids=ids[run]).logits
        assert torch.allclose(ours[run], theirs, atol=1e-4)
    assert not torch.allclose(ours, model.logits(model.hidden(ids)), atol=1e-2), "adapters do something"


def test_new_adapters_change_nothing():
    model = decoder.Decoder(SHAPE, decoder.init_weights(SHAPE, 0))
    ids = torch.randint(0, 64, (2, 1, 5))
    flat = decoder.Layout(SHAPE, 4).init([1, 2])
    assert torch.equal(model.hidden(ids, flat, 4), model.hidden(ids)) and not torch.equal(flat[0], flat[1])


def test_a_kept_base_is_the_rounded_one(tmp_path):
    rounded = decoder.round_weights(decoder.init_weights(SHAPE, 0))
    digest = decoder.save_base(tmp_path / "base.npz", rounded)
    again = decoder.load_base(tmp_path / "base.npz")
    assert again.keys() == rounded.keys() and all(torch.equal(again[name], rounded[name]) for name in again)
    assert digest == hashlib.sha256((tmp_path / "base.npz").read_bytes()).hexdigest()
    error = max(float((again[n] - v).abs().max() / v.abs().max()) for n, v in decoder.init_weights(SHAPE, 0).items())
    assert error < 1 / 127
