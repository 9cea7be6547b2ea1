"""A captioner from pixels alone, small enough to train in a minute: it predicts words and says three of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor, nn

from mobileclip.augment import to_pixels
from mobileclip.config import MCiConfig
from mobileclip.image_encoder import ImageEncoder

ENCODER = MCiConfig(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), image_size=64)
WORDS_PER_CAPTION = 3
TOP_P = 0.9
MIN_COUNT = 2


class Tagger(nn.Module):
    """An image encoder whose outputs are scores of words.

    Args:
        words: What it can say.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__()
        self.words = list(words)
        self.encoder = ImageEncoder(ENCODER, len(self.words))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return scores [batch, words] of pixels in [0, 1]."""
        return self.encoder(pixels)


def train_tagger(
    images: Sequence[Image.Image], tags: Sequence[Sequence[str]], folder: Path, *, num_steps: int, seed: int
) -> None:
    """Train on pictures with several words each (cross-entropy to their even share) and save to a folder.

    Args:
        images: RGB, 64 x 64 pixels.
        tags: Words of each picture.
        folder: Gets `words.json` and `tagger.pt`.
        num_steps: Steps of 64 pictures.
        seed: Of weights and order.
    """
    torch.manual_seed(seed)
    counts = Counter(word for row in tags for word in set(row))
    words = sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    column = {word: i for i, word in enumerate(words)}
    pixels, targets = torch.stack([to_pixels(image) for image in images]), torch.zeros(len(images), len(words))
    for row, found in enumerate(tags):
        targets[row, [column[word] for word in set(found) if word in column]] = 1
    known = targets.sum(1) > 0
    pixels, targets = pixels[known], F.normalize(targets[known], p=1, dim=1)
    model = Tagger(words).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(num_steps):
        rows = torch.randint(len(pixels), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(pixels[rows]), targets[rows]).backward()
        optimizer.step()
    write_json(folder / "words.json", words)
    with atomic_write(folder / "tagger.pt") as file:
        torch.save(model.state_dict(), file)


def caption(folder: str, images: Sequence[Image.Image], num_captions: int, seed: int) -> list[list[str]]:
    """Caption pictures: three words each, drawn from the most probable 90 %; a captioner once `folder` is bound."""
    model = _load(folder)
    with torch.inference_mode():
        scores = model(torch.stack([to_pixels(image.resize((64, 64))) for image in images])).softmax(1)
    generator = torch.Generator().manual_seed(seed)
    likely, order = scores.sort(dim=1, descending=True)
    # Keep the smallest set of words that holds 90 %, and at least as many as a caption has.
    likely[:, WORDS_PER_CAPTION:][(likely.cumsum(1) - likely)[:, WORDS_PER_CAPTION:] > TOP_P] = 0
    drawn = [
        torch.multinomial(likely, WORDS_PER_CAPTION, generator=generator).sort(dim=1).values
        for _ in range(num_captions)
    ]
    return [
        [" ".join(model.words[int(order[row, place])] for place in places[row]) for places in drawn]
        for row in range(len(images))
    ]


@cache
def _load(folder: str) -> Tagger:
    model = Tagger(json.loads((Path(folder) / "words.json").read_text()))
    model.load_state_dict(torch.load(Path(folder) / "tagger.pt", weights_only=True))
    return model.eval()
