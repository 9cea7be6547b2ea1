"""Batches: pictures and captions of rows as arrays, and the grain pipeline that training reads."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image
from tenfold_shared.tokenizers import ClipTokenizer

from ticclip.config import CLIPConfig
from ticclip.index import TimeIndex, mix
from ticclip.sampler import Mixture

CACHE_BYTES = 1 << 29  # decoded pictures kept in memory, for data that fits


class Examples:
    """Rows of an index as arrays; what fits into memory is decoded once."""

    def __init__(self, index: TimeIndex, config: CLIPConfig, *, cache: bool = True) -> None:
        """Prepare to read `index` at the sizes of `config`; without `cache` every picture is decoded every time."""
        self.index, self.config = index, config
        self.image_size = config.vision.image_size
        room = len(index) * self.image_size**2 * 3
        self._cache: dict[int, np.ndarray] | None = {} if cache and room <= CACHE_BYTES else None
        self._tokens: dict[int, np.ndarray] = {}

    def __call__(self, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Return `image` uint8 [n, size, size, 3] and `text` int32 [n, context]."""
        return {"image": np.stack([self._image(int(row)) for row in rows]), "text": self._text(rows)}

    def _image(self, row: int) -> np.ndarray:
        if self._cache is None:
            return decode(self.index.image(row), self.image_size)
        if row not in self._cache:
            self._cache[row] = decode(self.index.image(row), self.image_size)
        return self._cache[row]

    def _text(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        new = [int(row) for row in rows if int(row) not in self._tokens]
        fresh = dict(zip(new, self.tokenize(self.index.texts(new)), strict=True)) if new else {}
        if self._cache is not None:
            self._tokens.update(fresh)
        return np.stack([fresh.get(int(row), self._tokens.get(int(row))) for row in rows])

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Return int32 ids [texts, context] for any texts."""
        return encode_texts(texts, self.config)


def encode_texts(texts: Sequence[str], config: CLIPConfig) -> np.ndarray:
    """Return int32 ids [texts, context]; a vocabulary smaller than CLIP's folds ids, all but the end token's."""
    tokenizer, limit = _tokenizer(config.text.context_length), config.text.vocab_size
    ids = tokenizer(list(texts))
    if limit < tokenizer.vocab_size:
        ids = np.where(ids == tokenizer.eot_token_id, limit - 1, ids % (limit - 1))
    return ids.astype(np.int32)


@functools.cache
def _tokenizer(context_length: int) -> ClipTokenizer:
    return ClipTokenizer(context_length)


def decode(content: bytes, size: int) -> np.ndarray:
    """Return a picture as uint8 [size, size, 3]: shorter side to `size`, bicubic, centre crop, over white."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGBA") if opened.has_transparency_data else opened.convert("RGB")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if min(image.size) != size:
        scale = size / min(image.size)
        new = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def shift(images: np.ndarray, key: int, most: int) -> np.ndarray:
    """Move every picture by up to `most` pixels each way, its edge repeated; the same key moves alike."""
    draws = mix(np.arange(2 * len(images), dtype=np.uint64) + mix(np.array([key], np.uint64)))
    moves = (draws % np.uint64(2 * most + 1)).astype(np.int64).reshape(2, -1) - most
    places = np.arange(images.shape[1])
    down = np.clip(places[None] + moves[0][:, None], 0, images.shape[1] - 1)
    across = np.clip(places[None] + moves[1][:, None], 0, images.shape[2] - 1)
    return images[np.arange(len(images))[:, None, None], down[:, :, None], across[:, None, :]]


class Batches:
    """Batches of one step of a stream by number: what grain reads.

    Args:
        examples: Rows to arrays.
        mixture: Positions to rows.
        batch_size: Pairs over all hosts.
        num_batches: Length of the step.
        max_shift: Pixels that pictures are moved by at most.
    """

    def __init__(
        self, examples: Examples, mixture: Mixture, batch_size: int, num_batches: int, max_shift: int = 0
    ) -> None:
        self.examples, self.mixture = examples, mixture
        self.batch_size, self.num_batches, self.max_shift = batch_size, num_batches, max_shift
        self.host: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Return this host's part of one batch."""
        rank, hosts = self.host
        part = self.batch_size // hosts
        first = number * self.batch_size + rank * part
        batch = self.examples(self.mixture.rows(np.arange(first, first + part)))
        if self.max_shift:
            # Keyed by position, not by batch, so that the number of hosts changes nothing.
            key = (self.mixture.seed << 40) + first
            batch["image"] = shift(batch["image"], key, self.max_shift)
        return batch


def read_ahead(batches: Batches, num_threads: int = 1) -> Any:
    """Return grain's iterator over batches: it reads ahead in threads, and its state is a number."""
    data: Any = grain.MapDataset.source(batches)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2)))
