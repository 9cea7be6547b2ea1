"""Equal to open_clip's and Hugging Face's CLIP on random weights; safetensors that open_clip loads."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from ticclip import from_pretrained, save_pretrained
from ticclip.benchmark import build_open_clip
from ticclip.checkpoint import fill
from ticclip.config import CLIPConfig, TextConfig, VisionConfig
from ticclip.convert import from_hugging_face, from_open_clip, infer_config
from ticclip.model import CLIP, Block

# Heads of 64, as released models have, so that sizes can be read off the weights.
CONFIG = CLIPConfig(VisionConfig(32, 8, 128, 2, 2), TextConfig(10, 100, 64, 2, 1), 24)


def randomize(params):
    """Weights at which a forgotten bias or scale shows."""
    leaves, tree = jax.tree.flatten(params)
    generator = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [generator.normal(0, 0.2, leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(1)
    pixels = generator.normal(size=(3, 32, 32, 3)).astype(np.float32)
    ids = generator.integers(1, 98, (3, 10)).astype(np.int32)
    ids[0, 4], ids[1, 9], ids[2, 6] = 99, 99, 99
    ids[0, 5:] = 0
    return pixels, ids


def build(config):
    model = CLIP(config, rngs=nnx.Rngs(0))
    nnx.update(model, randomize(nnx.state(model)))
    return model


def distance(ours, theirs):
    theirs = theirs.detach().numpy()
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_equal_to_open_clip(batch, activation, tmp_path):
    pixels, ids = batch
    config = dataclasses.replace(CONFIG, activation=activation)
    model = build(config)
    peer = build_open_clip(config, nnx.state(model)).eval()
    theirs = peer.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), normalize=True)
    assert distance(model.encode_image(pixels), theirs) < 1e-4
    theirs = peer.encode_text(torch.from_numpy(ids.astype(np.int64)), normalize=True)
    assert distance(model.encode_text(ids), theirs) < 1e-4
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.config == config
    for ours, again in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(loaded)), strict=True):
        assert (np.asarray(ours) == np.asarray(again)).all()
    from safetensors.torch import load_file

    missing, unexpected = peer.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert unexpected == [] and set(missing) <= {"attn_mask"}


def test_weights_of_open_clip_are_read_without_a_configuration(batch, tmp_path):
    pixels, _ = batch
    model = build(CONFIG)
    peer = build_open_clip(CONFIG, nnx.state(model)).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in peer.state_dict().items()}}, tmp_path / "x.pt"
    )
    loaded = from_pretrained(tmp_path / "x.pt")
    assert loaded.config == CONFIG
    assert np.allclose(loaded.encode_image(pixels), model.encode_image(pixels), atol=1e-6)


def test_equal_to_hugging_face(batch):
    from transformers import CLIPConfig as PeerConfig
    from transformers import CLIPModel

    pixels, ids = batch
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    peer = CLIPModel(
        PeerConfig(
            vision_config={**vision, "image_size": 32, "patch_size": 8},
            text_config={**text, "vocab_size": 100, "max_position_embeddings": 10, "eos_token_id": 99},
            projection_dim=24,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in peer.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    weights = from_hugging_face({name: value.numpy() for name, value in peer.state_dict().items()})
    config = infer_config(weights, "quick_gelu")
    assert config == dataclasses.replace(CONFIG, activation="quick_gelu")
    model = CLIP(config, rngs=nnx.Rngs(0))
    nnx.update(model, fill(nnx.state(model), from_open_clip(weights, config)))
    with torch.no_grad():
        theirs = peer(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        )
    assert distance(model.encode_image(pixels), theirs.image_embeds) < 1e-4
    assert distance(model.encode_text(ids), theirs.text_embeds) < 1e-4


def test_only_what_came_before_the_end_counts(batch):
    _, ids = batch
    model = build(CONFIG)
    changed = ids.copy()
    changed[0, 5:] = 7
    assert np.allclose(model.encode_text(ids)[0], model.encode_text(changed)[0], atol=1e-6)
    changed[0, 2] = 7
    assert not np.allclose(model.encode_text(ids)[0], model.encode_text(changed)[0], atol=1e-3)


def test_low_precision_is_near(batch):
    pixels, _ = batch
    model = CLIP(CONFIG, rngs=nnx.Rngs(0))
    low = CLIP(CONFIG, precision="bfloat16", rngs=nnx.Rngs(0))
    found = low.encode_image(pixels)
    assert found.dtype == np.float32
    difference = np.linalg.norm(np.asarray(found) - np.asarray(model.encode_image(pixels)), axis=1)
    assert 0 < difference.max() < 0.05


def test_weights_begin_as_wide_as_openais():
    """OpenAI CLIP's `initialize_parameters`: what adds to the residual stream is narrower the more layers there are."""
    block = Block(TextConfig(10, 100, 256, 4, 8), "gelu", dtype=None, rngs=nnx.Rngs(0))
    widths = {"c_fc": 512**-0.5, "c_proj": 256**-0.5 * 8**-0.5}
    found = {name: float(getattr(block, name).kernel[...].std()) for name in widths}
    assert found == pytest.approx(widths, rel=0.02)
    assert float(block.attn.out_proj.kernel[...].std()) == pytest.approx(256**-0.5 * 8**-0.5, rel=0.02)


def test_weights_that_do_not_fit(tmp_path):
    model = build(CONFIG)
    save_pretrained(model, tmp_path)
    text = (tmp_path / "config.json").read_text().replace('"embed_dim": 24', '"embed_dim": 16')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="the configuration says"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no weights at"):
        from_pretrained(tmp_path / "none.pt")
