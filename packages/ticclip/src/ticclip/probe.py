"""How strongly a stream shifts: can a linear probe tell the step of an item from its picture and words?"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from ticclip.data import decode
from ticclip.index import TimeIndex

PIXELS, WORDS = 16, 256  # sides of the thumbnail, buckets of the words
RIDGE = 10.0


def features(index: TimeIndex, rows: np.ndarray) -> np.ndarray:
    """Return thumbnails and hashed words of rows, standardised by their own scale [n, features]."""
    pictures = np.stack([decode(index.image(int(row)), PIXELS).mean(axis=2).ravel() / 255 for row in rows])
    words = np.zeros((len(rows), WORDS))
    for place, text in enumerate(index.texts(rows)):
        for word in text.lower().split():
            words[place, zlib.crc32(word.encode()) % WORDS] = 1.0
    return np.concatenate([pictures, words], axis=1)


def ridge_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes that ridge regression on one-hot targets, weighted by class, gives to `test` [n]."""
    mean = train.mean(axis=0)
    inputs = np.concatenate([train - mean, np.ones((len(train), 1))], axis=1)
    weight = 1.0 / np.bincount(labels, minlength=num_classes)[labels]
    weight = weight / weight.mean()
    targets = np.eye(num_classes)[labels]
    gram = (inputs * weight[:, None]).T @ inputs + RIDGE * np.eye(inputs.shape[1])
    solution = np.linalg.solve(gram, (inputs * weight[:, None]).T @ targets)
    return np.argmax(np.concatenate([test - mean, np.ones((len(test), 1))], axis=1) @ solution, axis=1)


def shift_strength(index: TimeIndex, seed: int = 0) -> dict[str, list[float]]:
    """Return the share of held-out items of each step whose step the probe finds, and the same with shuffled labels.

    Args:
        index: The stream.
        seed: Of the shuffle and of the half of the training items that the probe sees.

    Returns:
        `found` and `shuffled`, one share for each step; chance is one over the number of steps.
    """
    generator = np.random.default_rng(seed)
    num_steps = len(index.steps)
    halves = [generator.permutation(index.rows(step))[: max(1, size // 2)] for step, size in enumerate(index.sizes())]
    train, labels = _gather(index, halves)
    test, answers = _gather(index, [index.rows(step, "test") for step in range(num_steps)])
    guesses = {
        "found": ridge_probe(train, labels, test, num_steps),
        "shuffled": ridge_probe(train, generator.permutation(labels), test, num_steps),
    }
    return {
        name: [float((guess[answers == step] == step).mean()) for step in range(num_steps)]
        for name, guess in guesses.items()
    }


def _gather(index: TimeIndex, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.concatenate([np.full(len(part), step) for step, part in enumerate(parts)])
    return features(index, np.concatenate(list(parts))), labels
