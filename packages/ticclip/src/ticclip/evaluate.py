"""Scores of one model on the held-out items of every step: retrieval on pools of one size, and zero-shot classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

from ticclip.data import Examples
from ticclip.index import Split, TimeIndex

TEMPLATE = "a picture of {}"
Embed = Callable[[np.ndarray], np.ndarray]
MIN_CLASSES = 2


@dataclass(frozen=True)
class Encoder:
    """A model as two functions from arrays to unit vectors, both numpy.

    Args:
        image: uint8 pictures [n, size, size, 3] to vectors [n, embed].
        text: ids [n, context] to vectors [n, embed].
        batch_size: Items per call; the last call is padded, so that one shape is compiled.
    """

    image: Embed
    text: Embed
    batch_size: int = 128

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Return the vectors of any number of pictures."""
        return self._run(self.image, pictures)

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of any number of captions."""
        return self._run(self.text, ids)

    def _run(self, function: Embed, items: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(items), self.batch_size):
            part = items[start : start + self.batch_size]
            padded = np.concatenate([part, np.repeat(part[-1:], self.batch_size - len(part), axis=0)])
            found.append(np.asarray(function(padded))[: len(part)])
        return np.concatenate(found)


def retrieval_hits(image: np.ndarray, text: np.ndarray, pool_size: int) -> np.ndarray:
    """Return for every pair the chance that it is found first in a random pool of `pool_size` pairs.

    With r of the other n - 1 items at least as near as the partner, none of them is among pool_size - 1 others drawn
    without replacement with probability C(n-1-r, p-1) / C(n-1, p-1): what recall@1 over all pools of that size
    averages to, without drawing them. Pools of one size make steps with more held-out items no harder.

    Args:
        image: Unit vectors of pictures [n, embed].
        text: Of their captions [n, embed].
        pool_size: 2 to n.

    Returns:
        Mean of image-to-text and text-to-image, 0 to 1 [n].

    Example:
        >>> eye = np.eye(3)
        >>> retrieval_hits(eye, eye, 2)
        array([1., 1., 1.])
    """
    n = len(image)
    if not 2 <= pool_size <= n:
        raise ValueError(f"`pool_size` (={pool_size}) must be from 2 to the number of items ({n}).")
    similarity = image @ text.T
    # Compared as float32 they were computed in: equal items tie, and a tie is no hit.
    own = np.diag(similarity)
    nearer_text = (similarity >= own[:, None]).sum(axis=1) - 1
    nearer_image = (similarity >= own[None, :]).sum(axis=0) - 1
    chances = _pool_chances(n, pool_size)
    return (chances[nearer_text] + chances[nearer_image]) / 2


def _pool_chances(n: int, pool_size: int) -> np.ndarray:
    """Return C(n-1-r, p-1) / C(n-1, p-1) for every r from 0 to n-1, as a running product."""
    chances = np.zeros(n)
    chances[0] = 1.0
    for r in range(1, n):
        chances[r] = chances[r - 1] * max(0, n - r - pool_size + 1) / (n - r)
    return chances


def class_hits(image: np.ndarray, prompts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1.0 for every picture whose class has the nearest prompt, else 0.0 [n]."""
    return (np.argmax(image @ prompts.T, axis=1) == labels).astype(float)


class Suite:
    """The held-out items of every step, ready to score models.

    Args:
        examples: Rows to arrays.
        split: `test`, or `validation` for choosing rates and weights.
        pool_size: Of retrieval; by default the smallest step's number of items, at most 100.
    """

    def __init__(self, examples: Examples, split: Split = "test", pool_size: int | None = None) -> None:
        index = examples.index
        self.examples, self.steps = examples, index.steps
        self._rows = [index.rows(step, split) for step in range(len(index.steps))]
        smallest = min(map(len, self._rows))
        if smallest < 2:
            raise InputError(f"a step has {smallest} {split} items; retrieval needs 2, hold out more.")
        self.pool_size = min(smallest, 100) if pool_size is None else pool_size
        if self.pool_size > smallest:
            raise InputError(f"`pool_size` (={pool_size}) is over the {smallest} {split} items of a step.")
        self._classes = classes_of(index)

    def retrieval(self, encoder: Encoder, steps: Sequence[int] | None = None) -> list[np.ndarray]:
        """Return the retrieval hits of every item, one array for each step (all by default)."""
        return [self._retrieve(encoder, self._rows[step]) for step in self._chosen(steps)]

    def _chosen(self, steps: Sequence[int] | None) -> Sequence[int]:
        return range(len(self.steps)) if steps is None else steps

    def _retrieve(self, encoder: Encoder, rows: np.ndarray) -> np.ndarray:
        batch = self.examples(rows)
        return retrieval_hits(encoder.images(batch["image"]), encoder.texts(batch["text"]), self.pool_size)

    def classification(self, encoder: Encoder, template: str = TEMPLATE) -> list[np.ndarray] | None:
        """Return the zero-shot hits of the items with a label, one array for each step; None without classes."""
        if len(self._classes) < MIN_CLASSES:
            return None
        number = {name: place for place, name in enumerate(self._classes)}
        prompts = encoder.texts(self.examples.tokenize([template.format(name.lower()) for name in self._classes]))
        found = []
        for rows in self._rows:
            labels = [number.get(label, -1) for label in self.examples.index.texts(rows, "label")]
            kept = [place for place, label in enumerate(labels) if label >= 0]
            if not kept:
                found.append(np.zeros(0))
                continue
            pictures = encoder.images(self.examples(rows[kept])["image"])
            found.append(class_hits(pictures, prompts, np.array(labels)[kept]))
        return found


def classes_of(index: TimeIndex) -> list[str]:
    """Return the labels that training items have, sorted."""
    rows = np.concatenate([index.rows(step) for step in range(len(index.steps))])
    return sorted({label for label in index.texts(rows, "label") if label})


def means(hits: Sequence[np.ndarray]) -> list[float]:
    """Return the mean of each array; nan for an empty one."""
    return [float(values.mean()) if len(values) else float("nan") for values in hits]


def build_encoder(trainer: Any, params: Any, batch_size: int = 128) -> Encoder:
    """Return a model's weights as an `Encoder`; they are laid out on one device of this process."""
    import jax

    local = jax.device_put(params, jax.local_devices()[0])
    return Encoder(
        lambda pictures: trainer.embed_images(local, pictures),
        lambda ids: trainer.embed_texts(local, ids),
        batch_size,
    )


def encode_with(model: Any, batch_size: int = 128) -> Encoder:
    """Return a model of `from_pretrained` as an `Encoder`."""
    from flax import nnx

    image, text = nnx.jit(lambda m, x: m.encode_image(x)), nnx.jit(lambda m, x: m.encode_text(x))
    return Encoder(lambda pictures: image(model, pictures), lambda ids: text(model, ids), batch_size)
