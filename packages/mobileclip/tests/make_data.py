"""Small data sets and teachers for several test files; importable by name, as a user's own teacher is."""

import io

import numpy as np
import torch
from PIL import Image


def picture(seed, size=(40, 32), form="PNG"):
    """A smooth picture of its own, encoded."""
    cells = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


class Colours:
    """A teacher that embeds mean colours and letters: fast, deterministic, not constant."""

    name, image_size = "colours", 16

    def __init__(self, width=8):
        self.width = width

    def embed_images(self, images):
        pixels = torch.stack([torch.from_numpy(np.array(image)).float() for image in images])
        return pixels.unflatten(1, (4, 4)).mean((2, 3)).flatten(1)[:, : self.width] + torch.arange(self.width)

    def embed_texts(self, texts):
        return torch.tensor([[text.count(letter) + 1.0 for letter in "012ctkea"[: self.width]] for text in texts])


def colours():
    return Colours()


def narrow():
    return Colours(4)


class Broken(Colours):
    """Gives NaN for one caption."""

    def embed_texts(self, texts):
        features = super().embed_texts(texts)
        features[[text == "caption 2" for text in texts]] = float("nan")
        return features


def broken():
    return Broken()


def caption(images, num_captions, seed):
    return [
        [f"colour {np.asarray(image).mean():.0f} take {i} of {seed}" for i in range(num_captions)] for image in images
    ]
