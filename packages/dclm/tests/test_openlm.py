"""The model is OpenLM's: sizes, initial weights, logits of a second writing in torch, and every way of checkpoint."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from dclm import convert
from dclm.lmtrain import learning_rate
from dclm.openlm import OpenLM, count_parameters, language_loss
from dclm.scales import SCALES, ModelConfig
from flax import nnx
from tenfold_shared.commands import InputError

# Authors' listed counts, without the gains of queries and keys; training tokens; hidden width (fact table B.1).
LISTED = {
    "400m-1x": (411_616_256, 8_232_325_120, 2816),
    "1b-1x": (1_439_795_200, 28_795_904_000, 5632),
    "1b-5x": (1_439_795_200, 143_979_520_000, 5632),
    "3b-1x": (2_795_932_160, 55_918_643_200, 6912),
    "7b-1x": (6_889_410_560, 137_788_211_200, 11008),
    "7b-2x": (6_889_410_560, 275_576_422_400, 11008),
}


@pytest.mark.parametrize("name", LISTED)
def test_scales_are_the_papers(name):
    config = SCALES[name]
    found = (config.model.count(query_key_norms=False), config.num_tokens, config.model.hidden)
    assert found == LISTED[name]
    assert config.model.count() - found[0] == 2 * config.model.num_layers * config.model.dim
    tree = jax.eval_shape(lambda: nnx.state(OpenLM(config.model, rngs=nnx.Rngs(0))))
    assert count_parameters(tree) == config.model.count()


def test_hyper_parameters_of_the_authors():
    rows = {
        name: (c.learning_rate, c.weight_decay, c.warmup_steps, c.z_loss, c.batch_size) for name, c in SCALES.items()
    }
    assert rows["400m-1x"] == (3e-3, 0.033, 2000, 1e-4, 512)
    assert rows["1b-1x"] == (3e-3, 0.033, 5000, 1e-4, 256)
    assert rows["7b-2x"] == (2e-3, 0.05, 5000, 5e-6, 2048)
    assert {c.cooldown_rate for c in SCALES.values()} == {3e-5} and {c.clip for c in SCALES.values()} == {1.0}


def test_the_schedule():
    config = dataclasses.replace(SCALES["tiny"], warmup_steps=4, num_tokens=12 * 8 * 128, learning_rate=1e-2)
    rates = [learning_rate(config, step) for step in range(13)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4] == pytest.approx(1e-2) and rates[8] == pytest.approx((1e-2 + 3e-5) / 2)
    assert rates[12] == pytest.approx(3e-5)


@pytest.fixture(scope="module")
def model(tiny_model):
    """A model all of whose weights, gains too, are away from their start."""
    built = OpenLM(tiny_model, rngs=nnx.Rngs(0))
    noise = iter(range(100))
    state = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(next(noise)), x.shape), nnx.state(built))
    nnx.update(built, state)
    return built


@pytest.fixture(scope="module")
def ids(tiny_model):
    return np.random.default_rng(0).integers(0, tiny_model.vocab_size, (2, tiny_model.context_length))


def twin(weights, config, ids):
    """OpenLM's forward pass once more, in torch functions only, from the description in the fact sheet."""
    w = {name: torch.tensor(np.array(value)) for name, value in weights.items()}
    norm = torch.nn.functional.layer_norm
    heads, width = config.num_heads, config.head_dim
    x = w["tok_embeddings.weight"][torch.tensor(ids)]
    batch, length, dim = x.shape
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)[None]
    angles = torch.cat([angles, angles], -1)
    mask = torch.full((length, length), float("-inf")).triu(1)
    for layer in range(config.num_layers):
        at = f"layers.{layer}."
        normed = norm(x, (dim,), w[at + "attention_norm.weight"], None, 1e-5)
        q, k, v = (normed @ w[at + "attention.in_proj.weight"].T).split(dim, -1)
        q = norm(q, (dim,), w[at + "attention.q_norm.weight"], None, 1e-5)
        k = norm(k, (dim,), w[at + "attention.k_norm.weight"], None, 1e-5)
        q, k, v = (part.reshape(batch, length, heads, width).permute(0, 2, 1, 3) for part in (q, k, v))
        q, k = (
            part * angles.cos() + torch.cat([-part[..., width // 2 :], part[..., : width // 2]], -1) * angles.sin()
            for part in (q, k)
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2) / width**0.5 + mask, -1) @ v
        x = x + mixed.permute(0, 2, 1, 3).reshape(batch, length, dim) @ w[at + "attention.out_proj.weight"].T
        normed = norm(x, (dim,), w[at + "ffn_norm.weight"], None, 1e-5)
        both = normed @ w[at + "feed_forward.w12.weight"].T
        gated = torch.nn.functional.silu(both[..., : config.hidden]) * both[..., config.hidden :]
        x = x + gated @ w[at + "feed_forward.w3.weight"].T
    return (norm(x, (dim,), w["norm.weight"], None, 1e-5) @ w["output.weight"].T).numpy()


def test_logits_equal_a_torch_twin(model, tiny_model, ids):
    theirs = twin(convert.to_openlm(convert.tree_of(model), tiny_model), tiny_model, ids)
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(np.asarray(model(ids)), theirs, atol=1e-4)


def test_logits_equal_the_authors():
    """OpenLM's own code, run beside ours (tests/reference/SOURCE.md)."""
    with np.load(Path(__file__).parent / "reference" / "openlm.npz", allow_pickle=False) as stored:
        weights = {name[2:]: stored[name] for name in stored.files if name.startswith("w/")}
        ids, theirs = stored["ids"], stored["logits"]
    config = ModelConfig(64, 2, 2, vocab_size=96, context_length=24)
    ours = OpenLM(config, rngs=nnx.Rngs(0))
    state = nnx.state(ours)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, convert.from_openlm(weights, config)))
    nnx.update(ours, state)
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(np.asarray(ours(ids)), theirs, atol=1e-4)


@pytest.mark.parametrize("options", [{"scan": False}, {"remat": True}, {"scan": False, "remat": True}])
def test_ways_of_computing_are_one_model(model, tiny_model, ids, options):
    other = OpenLM(tiny_model, **options, rngs=nnx.Rngs(1))
    nnx.update(other, nnx.state(model))
    np.testing.assert_allclose(np.asarray(other(ids)), np.asarray(model(ids)), atol=1e-5)


def test_positions_see_no_later_ids(model, ids):
    changed = ids.copy()
    changed[:, 20:] = 7
    before, after = np.asarray(model(ids)), np.asarray(model(changed))
    np.testing.assert_allclose(before[:, :20], after[:, :20], atol=1e-5)
    assert np.abs(before[:, 20:] - after[:, 20:]).max() > 0.1


def test_bfloat16_is_near_and_pure_bfloat16_stores_it(tiny_model, ids):
    plain, mixed = (OpenLM(tiny_model, precision=p, rngs=nnx.Rngs(0)) for p in ("float32", "bfloat16"))
    assert np.abs(np.asarray(plain(ids)) - np.asarray(mixed(ids))).max() < 0.1
    pure = nnx.state(OpenLM(tiny_model, precision="pure_bfloat16", rngs=nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(pure)} == {jnp.dtype(jnp.bfloat16)}


def test_initial_weights():
    config = ModelConfig(256, 3, 4, vocab_size=4096, context_length=16)
    tree = convert.tree_of(OpenLM(config, rngs=nnx.Rngs(0)))
    shrink = 0.9866  # deviation of a unit normal cut at three sigma
    assert tree["embed"]["embedding"].std() == pytest.approx(shrink / 16, rel=0.01)
    assert np.abs(tree["embed"]["embedding"]).max() <= 3 / 16
    for layer in range(3):
        depth = (2 * (layer + 1)) ** -0.5
        assert tree["layers"]["attn"]["qkv"]["kernel"][layer].std() == pytest.approx(shrink / 16, rel=0.01)
        assert tree["layers"]["attn"]["out"]["kernel"][layer].std() == pytest.approx(shrink * depth / 16, rel=0.02)
        assert tree["layers"]["mlp"]["w3"]["kernel"][layer].std() == pytest.approx(
            shrink * depth * config.hidden**-0.5, rel=0.02
        )
    assert not np.array_equal(*tree["layers"]["attn"]["qkv"]["kernel"][:2])


def test_the_loss_by_hand():
    logits = jnp.log(jnp.array([[[1.0, 3.0], [2.0, 2.0]]]))
    total, cross = language_loss(logits, jnp.array([[1, 0]]), 0.1)
    expected = (np.log(4 / 3) + np.log(2)) / 2
    assert float(cross) == pytest.approx(expected)
    assert float(total) == pytest.approx(expected + 0.1 * np.log(4) ** 2)


def test_openlm_checkpoints_there_and_back(model, tiny_model, ids, tmp_path):
    tree = convert.tree_of(model)
    convert.save_torch(tree, tiny_model, tmp_path / "epoch_1.pt")
    content = torch.load(tmp_path / "epoch_1.pt", weights_only=True)
    assert all(name.startswith("module.") for name in content["state_dict"])
    content["state_dict"]["module.layers.0.attention.pos_embed.inv_freq"] = torch.ones(8)  # as real ones have
    torch.save(content, tmp_path / "epoch_1.pt")
    back = convert.from_pretrained(tmp_path / "epoch_1.pt", tiny_model)
    assert np.array_equal(np.asarray(back(ids)), np.asarray(model(ids)))


def test_folders_load_in_transformers(model, tiny_model, ids, tmp_path):
    from transformers import AutoModelForCausalLM

    convert.save_hugging_face(convert.tree_of(model), tiny_model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    with torch.no_grad():
        found = loaded(torch.tensor(ids), labels=torch.tensor(ids))
    np.testing.assert_allclose(found.logits.numpy(), np.asarray(model(ids)), atol=1e-4)
    _, cross = language_loss(model(ids)[:, :-1], jnp.asarray(ids[:, 1:]), 0.0)
    assert float(found.loss) == pytest.approx(float(cross), rel=1e-5)
    assert np.array_equal(np.asarray(convert.from_pretrained(tmp_path)(ids)), np.asarray(model(ids)))


def test_own_folders_round_trip(model, tiny_model, ids, tmp_path):
    convert.save_pretrained(nnx.state(model), tiny_model, tmp_path)
    assert np.array_equal(np.asarray(convert.from_pretrained(tmp_path)(ids)), np.asarray(model(ids)))


OTHER = {
    "vocabulary": ({"vocab_size": 500}, r"tok_embeddings.weight has shape \(512, 32\); the configuration says \(500"),
    "layers": ({"num_layers": 3}, "lacks 'layers.2"),
    "fewer layers": ({"num_layers": 1}, "which a model of 1 layers has not"),
    "width": ({"hidden_multiple": 64}, r"w12.weight has shape \(192, 32\); the configuration says \(256, 32\)"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_checkpoint_of_another_shape_is_refused(model, tiny_model, tmp_path, case):
    changed, sentence = OTHER[case]
    convert.save_torch(convert.tree_of(model), tiny_model, tmp_path / "x.pt")
    with pytest.raises(InputError, match=sentence):
        convert.from_pretrained(tmp_path / "x.pt", dataclasses.replace(tiny_model, **changed))


def test_foreign_files_are_not_run(tmp_path, tiny_model):
    import pickle

    (tmp_path / "x.pt").write_bytes(pickle.dumps({"state_dict": print}, protocol=2))
    (tmp_path / "y.safetensors").write_bytes(b"nonsense")
    for name in ("x.pt", "y.safetensors"):
        with pytest.raises(InputError, match=name):
            convert.from_pretrained(tmp_path / name, tiny_model)
    (tmp_path / "config.json").write_text(json.dumps({"dim": 3}))
    with pytest.raises(InputError, match="no configuration of an OpenLM model"):
        convert.from_pretrained(tmp_path)
