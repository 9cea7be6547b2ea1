"""The losses, as functions of unit vectors: rows that are mine against the columns of everybody.

B is a device's own pairs, G the pairs of all devices, E the width; on one device B equals G.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pairs(NamedTuple):
    """Unit vectors of pictures and captions, pair i in row i, with what turns their products into logits."""

    image: Float[Array, "B E"]
    text: Float[Array, "B E"]
    scale: Float[Array, ""]
    bias: Float[Array, ""] | None = None


def contrastive_loss(own: Pairs, everyone: Pairs | None = None, offset: int | jax.Array = 0) -> Float[Array, ""]:
    """Return CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3), or SigLIP's loss where there is a bias.

    Softmax: the mean over pictures and captions of minus log softmax(scale * similarity) at the true partner. Sigmoid
    (Zhai et al. 2023, algorithm 1): the sum over columns of minus log sigmoid(z * (scale * similarity + bias)), z = 1
    for the partner and -1 for others, mean over rows.

    Args:
        own: This device's pairs.
        everyone: All devices' pairs; by default the own ones.
        offset: Place of the first own pair among all.

    Returns:
        Mean over own rows; the mean of it over equal devices is the loss of the whole batch.
    """
    everyone = own if everyone is None else everyone
    labels = offset + jnp.arange(len(own.image))
    by_image = own.scale * own.image @ everyone.text.T
    if own.bias is not None:
        signs = 2.0 * (labels[:, None] == jnp.arange(len(everyone.text))) - 1
        return -jax.nn.log_sigmoid(signs * (by_image + own.bias)).sum(axis=1).mean()
    by_text = own.scale * own.text @ everyone.image.T
    return (_cross_entropy(by_image, labels) + _cross_entropy(by_text, labels)) / 2


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def distillation_loss(
    own: Pairs, teacher: Pairs, everyone: Pairs | None = None, teacher_everyone: Pairs | None = None
) -> Float[Array, ""]:
    """Return how far the batch's similarities have moved from those of the previous model (LwF).

    KL(teacher || student) of the softmax over captions for each picture and over pictures for each caption, averaged:
    Li and Hoiem 2017 with a batch's partners in the place of classes. The teacher gets no gradient.

    Args:
        own: This device's pairs under the student.
        teacher: The same under the previous model.
        everyone: All devices' pairs under the student; by default the own ones.
        teacher_everyone: All devices' pairs under the previous model.
    """
    everyone = own if everyone is None else everyone
    teacher_everyone = teacher if teacher_everyone is None else teacher_everyone
    teacher, teacher_everyone = jax.lax.stop_gradient((teacher, teacher_everyone))
    by_image = (own.image @ everyone.text.T, teacher.image @ teacher_everyone.text.T)
    by_text = (own.text @ everyone.image.T, teacher.text @ teacher_everyone.image.T)
    parts = [_divergence(teacher.scale * theirs, own.scale * ours) for ours, theirs in (by_image, by_text)]
    return sum(parts, jnp.zeros(())) / 2


def _divergence(target: jax.Array, logits: jax.Array) -> jax.Array:
    log_target = jax.nn.log_softmax(target)
    return (jnp.exp(log_target) * (log_target - jax.nn.log_softmax(logits))).sum(axis=1).mean()
