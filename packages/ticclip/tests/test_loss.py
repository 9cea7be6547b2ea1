"""The losses against numbers worked out by hand and naive loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ticclip.loss import Pairs, contrastive_loss, distillation_loss


def draw(seed, rows=6, width=5):
    vectors = np.random.default_rng(seed).normal(size=(2, rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def pairs(seed, scale=3.0, bias=None):
    image, text = draw(seed)
    return Pairs(jnp.asarray(image), jnp.asarray(text), jnp.float32(scale), None if bias is None else jnp.float32(bias))


def test_two_pairs_by_hand():
    # Logits [[2, 0], [0, 2]]: every row costs log(1 + e^-2).
    eye = jnp.eye(2)
    assert float(contrastive_loss(Pairs(eye, eye, jnp.float32(2)))) == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-5)
    # SigLIP with bias -1: the partner has logit 1, the other -1 and sign -1: two times log(1 + e^-1).
    found = float(contrastive_loss(Pairs(eye, eye, jnp.float32(2), jnp.float32(-1))))
    assert found == pytest.approx(2 * np.log(1 + np.exp(-1)), rel=1e-5)


def test_softmax_against_a_loop():
    image, text = draw(0)
    total = 0.0
    for own, others in ((image, text), (text, image)):
        for i in range(6):
            logits = [3.0 * float(own[i] @ others[j]) for j in range(6)]
            total += np.log(sum(map(np.exp, logits))) - logits[i]
    assert float(contrastive_loss(pairs(0))) == pytest.approx(total / 12, rel=1e-5)


def test_sigmoid_against_a_loop():
    image, text = draw(1)
    total = sum(
        np.log(1 + np.exp(-(1 if i == j else -1) * (3.0 * float(image[i] @ text[j]) - 2)))
        for i in range(6)
        for j in range(6)
    )
    assert float(contrastive_loss(pairs(1, bias=-2.0))) == pytest.approx(total / 6, rel=1e-5)


def test_distillation_against_a_loop():
    (image, text), (old_image, old_text) = draw(2), draw(3)
    total = 0.0
    for own, others, old, old_others in ((image, text, old_image, old_text), (text, image, old_text, old_image)):
        for i in range(6):
            p = np.exp([7.0 * float(old[i] @ old_others[j]) for j in range(6)])
            q = np.exp([3.0 * float(own[i] @ others[j]) for j in range(6)])
            p, q = p / p.sum(), q / q.sum()
            total += float((p * np.log(p / q)).sum())
    found = float(distillation_loss(pairs(2), pairs(3, scale=7.0)))
    assert found == pytest.approx(total / 12, rel=1e-4)
    assert float(distillation_loss(pairs(2), pairs(2))) == pytest.approx(0, abs=1e-6)


def test_the_teacher_gets_no_gradient():
    grads = jax.grad(lambda teacher: distillation_loss(pairs(2), teacher))(pairs(3))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("bias", [None, -2.0])
def test_rows_of_parts_average_to_the_whole(bias):
    whole = pairs(4, bias=bias)
    parts = [
        contrastive_loss(whole._replace(image=whole.image[s : s + 2], text=whole.text[s : s + 2]), whole, s)
        for s in (0, 2, 4)
    ]
    assert float(sum(parts)) / 3 == pytest.approx(float(contrastive_loss(whole)), rel=1e-5)


@pytest.mark.parametrize("bias", [None, -2.0])
def test_order_does_not_matter(bias):
    own = pairs(5, bias=bias)
    order = np.random.default_rng(0).permutation(6)
    mixed = own._replace(image=own.image[order], text=own.text[order])
    assert float(contrastive_loss(mixed)) == pytest.approx(float(contrastive_loss(own)), rel=1e-5)
