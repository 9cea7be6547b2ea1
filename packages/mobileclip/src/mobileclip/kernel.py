"""Teachers and a captioner in closed form: kernel ridge regression from what a picture looks like to its words.

With thousands of pictures they retrieve several times better than networks trained for minutes, and take seconds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tenfold_shared.commands import require_extra
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

SIZE = 64
WIDTH = 256
RIDGE = 1.0
# Pictures that the kernel compares with, drawn from those fitted (Nystrom); twice as many add a twentieth to the MRR.
NUM_SUPPORT, SUPPORT_SEED, JITTER = 2000, 0, 1e-6
MIN_COUNT = 2
WORDS_PER_CAPTION, LIKELY_WORDS = 3, 8
# Share of an embedding that differs between items; the rest is common to all, as in CLIP's narrow cone, so that the
# fixed scale of 100 gives soft targets: 20 times the cosine. Softer ones, though better calibrated, taught too slowly.
SPREAD = 0.2


def _shapes(image: Image.Image) -> np.ndarray:
    """Histograms of oriented gradients, cell by cell."""
    feature = require_extra("skimage.feature", "demo", "mobileclip-torch")
    found = feature.hog(np.asarray(image.convert("L")) / 255, 9, (8, 8), (2, 2))
    return 6 * found / np.sqrt(found.size)


def _colours(image: Image.Image) -> np.ndarray:
    """A picture of 12 x 12 pixels, and a histogram of 64 colours."""
    small = np.asarray(image.resize((12, 12))).ravel() / 255
    bins = (np.asarray(image)[::2, ::2].reshape(-1, 3) // 64) @ [16, 4, 1]
    histogram = np.sqrt(np.bincount(bins, minlength=64))
    return np.concatenate([3 * small / np.sqrt(small.size), histogram / np.linalg.norm(histogram)])


_DESCRIBE: dict[str, Callable[[Image.Image], np.ndarray]] = {"shapes": _shapes, "colours": _colours}


def fit(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    folder: Path,
    *,
    features: Sequence[str],
    width: int | None = WIDTH,
) -> None:
    """Fit the regression and save it.

    Args:
        images: RGB, 64 x 64 pixels; after all of them, all of them again as augmented, where there are views.
        captions: Words of each picture, once.
        folder: Gets `kernel.npz` and `words.json`, the latter last.
        features: Of "shapes" and "colours".
        width: Leading directions of the captions that are kept; None keeps every word.
    """
    counts = Counter(word for caption in captions for word in set(_words(caption)))
    words = sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    rarity = np.log(len(captions) / np.array([counts[word] for word in words]))
    bags = _bags(captions, words, rarity)
    axes = np.eye(len(words)) if width is None else np.linalg.eigh(bags.T @ bags)[1].T[::-1][:width]
    described, target = _describe(images, features), np.tile(bags @ axes.T, (len(images) // len(captions), 1))
    support = np.random.default_rng(SUPPORT_SEED).permutation(described)[:NUM_SUPPORT]
    against, among = _kernel(described, support), _kernel(support, support)
    normal = against.T @ against + RIDGE * among + JITTER * np.eye(len(support))
    weights = np.linalg.solve(normal, against.T @ (target - target.mean(0)))
    with atomic_write(folder / "kernel.npz") as file:
        np.savez(file, support=support, weights=weights, axes=axes, rarity=rarity)
    write_json(folder / "words.json", {"words": words, "features": list(features)})


class KernelTeacher:
    """A member of an ensemble (see `mobileclip.teachers.Teacher`) that `fit` wrote.

    Args:
        folder: With `kernel.npz` and `words.json`.
    """

    image_size = SIZE

    def __init__(self, folder: str | Path) -> None:
        facts = json.loads((Path(folder) / "words.json").read_text())
        self.name, self.words, self._features = f"kernel:{Path(folder).name}", facts["words"], facts["features"]
        with np.load(Path(folder) / "kernel.npz") as arrays:
            self._support, self._weights, self._axes, self._rarity = (
                arrays[name] for name in ("support", "weights", "axes", "rarity")
            )

    def scores(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return what the regression says of pictures [n, width]."""
        return _kernel(_describe(images, self._features), self._support) @ self._weights

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures."""
        return _in_cone(self.scores(images))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed captions."""
        return _in_cone(_bags(texts, self.words, self._rarity) @ self._axes.T)


@cache
def teacher(folder: str) -> KernelTeacher:
    """Load a teacher: `mobileclip.kernel:teacher@FOLDER` for `mobileclip.teachers.load_teacher`."""
    return KernelTeacher(folder)


def caption(folder: str, images: Sequence[Image.Image], num_captions: int, seed: int) -> list[list[str]]:
    """Caption pictures: three of the eight likeliest words each; a captioner once `folder` is bound."""
    model = teacher(folder)
    scores = model.scores([image.resize((SIZE, SIZE)) for image in images])
    random = np.random.default_rng(seed)
    likely = np.argsort(-scores, axis=1)[:, :LIKELY_WORDS]
    return [
        [" ".join(model.words[k] for k in random.permutation(row)[:WORDS_PER_CAPTION]) for _ in range(num_captions)]
        for row in likely
    ]


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z]+", caption.lower())


def _bags(captions: Sequence[str], words: Sequence[str], rarity: np.ndarray) -> np.ndarray:
    """Return unit-length bags of words [n, words], rare words counting more."""
    column = {word: number for number, word in enumerate(words)}
    bags = np.zeros((len(captions), len(words)))
    for row, text in enumerate(captions):
        bags[row, [column[word] for word in _words(text) if word in column]] = 1
    return _unit(bags * rarity)


def _describe(images: Sequence[Image.Image], features: Sequence[str]) -> np.ndarray:
    return np.array([np.concatenate([_DESCRIBE[name](image) for name in features]) for image in images])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True))


def _in_cone(rows: np.ndarray) -> Tensor:
    common = np.full((len(rows), 1), np.sqrt(1 - SPREAD))
    return torch.from_numpy(np.concatenate([np.sqrt(SPREAD) * _unit(rows), common], axis=1)).float()
