"""Eight simulated devices equal one: loss, gradients, whole updates; accumulation equals the plain update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ticclip.loss import Pairs, contrastive_loss, distillation_loss
from ticclip.parallel import build_mesh, fetch_tree, local_loss, place, put_batch, put_tree
from ticclip.train import Trainer, build_params


def draw(seed, bias=None):
    vectors = np.random.default_rng(seed).normal(size=(2, 16, 6)).astype(np.float32)
    image, text = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return Pairs(jnp.asarray(image), jnp.asarray(text), jnp.float32(5.0), None if bias is None else jnp.float32(bias))


@pytest.mark.parametrize(
    ("bias", "taught", "shape"), [(None, False, (8, 1)), (None, True, (2, 4)), (-3.0, True, (2, 4))]
)
def test_the_local_loss_and_its_gradient(bias, taught, shape):
    mesh = build_mesh(*shape)
    teacher = draw(1, bias) if taught else None

    def whole(own):
        loss = contrastive_loss(own)
        return loss + 0.5 * distillation_loss(own, teacher) if taught else loss

    found = jax.jit(jax.value_and_grad(lambda own: local_loss(mesh, own, teacher, 0.5)))(draw(0, bias))
    expected = jax.value_and_grad(whole)(draw(0, bias))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_without_the_gather_it_is_another_loss():
    """Each device alone sees two captions instead of sixteen: the comparison above would notice."""
    own = draw(0)
    alone = [
        contrastive_loss(own._replace(image=own.image[n : n + 2], text=own.text[n : n + 2])) for n in range(0, 16, 2)
    ]
    assert float(sum(alone)) / 8 < float(contrastive_loss(own)) - 0.5


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8),
        "text": generator.integers(0, 64, (16, 8)).astype(np.int32),
    }


def update(config, shape, batch):
    trainer = Trainer(config, build_mesh(*shape))
    state = trainer.start(build_params(config.model, 0))
    losses = []
    for _ in range(2):
        state, metrics = trainer.step(state, put_batch(trainer.mesh, batch), 1e-3)
        losses.append(float(metrics["loss"]))
    return losses, fetch_tree(state.params)


def plain_config(config):
    """Adam divides by the gradient's size; keys' biases have none but rounding error, which epsilon keeps small."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epsilon=1e-2))


@pytest.fixture(scope="module")
def plain(tiny_config, batch):
    return update(plain_config(tiny_config), (1, 1), batch)


@pytest.mark.parametrize(("shape", "accumulation"), [((2, 4), 1), ((2, 1), 2)])
def test_updates_are_the_same(tiny_config, batch, plain, shape, accumulation):
    train = dataclasses.replace(plain_config(tiny_config).train, accumulation=accumulation)
    losses, params = update(dataclasses.replace(plain_config(tiny_config), train=train), shape, batch)
    assert losses == pytest.approx(plain[0], rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(plain[1]), strict=True):
        assert np.abs(ours - theirs).max() < 1e-6, "a thousandth of the rate"


def test_weights_lie_along_fsdp(tiny_config):
    mesh = build_mesh(2, 4)
    params = put_tree(mesh, build_params(tiny_config.model, 0))
    kernel = params["visual"]["conv1"]["kernel"]
    kernel = jax.tree.leaves(kernel)[0]
    assert kernel.shape == (192, 32) and kernel.addressable_shards[0].data.shape == (48, 32)
    scale = jax.tree.leaves(params["logit_scale"])[0]
    assert scale.sharding.is_fully_replicated
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(place(build_mesh(8, 1), params)))


def test_bytes_per_device_ahead_of_time(tiny_config):
    apart = Trainer(tiny_config, build_mesh(1, 4)).memory()
    assert apart["devices"] == 4
    parameters = sum(leaf.size for leaf in jax.tree.leaves(build_params(tiny_config.model, 0)))
    assert 3 * parameters < apart["argument_bytes"] < 3 * 4 * parameters, "less than three whole copies"


def test_meshes_that_cannot_be(tiny_config):
    with pytest.raises(ValueError, match="needs 16 devices; there are 8"):
        build_mesh(4, 4)
    train = dataclasses.replace(tiny_config.train, batch_size=12)
    with pytest.raises(ValueError, match="must be divisible by devices times accumulation"):
        Trainer(dataclasses.replace(tiny_config, train=train), build_mesh(8, 1))


def test_batches_are_not_given_away(tiny_config, batch):
    """The update owns its state, not what it was made from."""
    params = build_params(tiny_config.model, 0)
    before = jax.tree.map(np.array, params)
    trainer = Trainer(tiny_config, build_mesh(1, 1))
    trainer.step(trainer.start(params), put_batch(trainer.mesh, batch), 1e-2)
    assert all(
        (a == np.asarray(b)).all() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(params), strict=True)
    )
