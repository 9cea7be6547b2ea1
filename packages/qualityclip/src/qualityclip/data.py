"""Batches of pictures and chosen captions by step: what a step shows depends on its number and the seed alone."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tenfold_shared.commands import InputError
from tenfold_shared.tokenizers import ClipTokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qualityclip.config import MixConfig, TrainConfig, VisionConfig
from qualityclip.mixing import draw, mix
from qualityclip.readers import Sample

# Of OpenAI's CLIP; image towers of timm take pixels from 0 to 1, as open_clip's MobileCLIP does.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PairBatch:
    """Pictures [rows, 3, side, side], tokens [rows, length], and whose they are."""

    images: Tensor
    tokens: Tensor
    uids: tuple[str, ...] = ()

    def to(self, device: str) -> PairBatch:
        """Move the tensors."""
        return PairBatch(self.images.to(device), self.tokens.to(device), self.uids)


def decode(content: bytes, where: str) -> Image.Image:
    """Return a picture in RGB; an InputError names one that cannot be read."""
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{where}: the picture cannot be read ({error}).") from error


def to_pixels(image: Image.Image, vision: VisionConfig) -> Tensor:
    """Return a picture of the right size as float [3, side, side], normalised as the tower wants it."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return normalise(pixels, vision)


def normalise(pixels: Tensor, vision: VisionConfig) -> Tensor:
    """Normalise pixels from 0 to 1, [..., 3, height, width], with OpenAI's mean and deviation; not for timm."""
    if vision.timm_name:
        return pixels
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def centre(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side (bicubic) and cut out the centre, as CLIP is evaluated."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    resized = image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def random_crop(image: Image.Image, side: int, smallest: float, numbers: tuple[float, float, float]) -> Image.Image:
    """Cut out a square of at least a share of the largest square, and resize it (bicubic).

    Args:
        image: The picture.
        side: Of the result, in pixels.
        smallest: Smallest share of the largest square's area.
        numbers: Three from 0 to 1, for size, left and top.
    """
    length = min(image.size) * (smallest + (1 - smallest) * numbers[0]) ** 0.5
    left, top = ((full - length) * share for full, share in zip(image.size, numbers[1:], strict=True))
    box = (left, top, left + length, top + length)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


@functools.cache
def clip_tokenizer(context_length: int) -> ClipTokenizer:
    """Return CLIP's tokenizer, whose vocabulary takes a while to read."""
    return ClipTokenizer(context_length)


class StepDataset(Dataset):
    """The batch of this process for each step.

    Every sample is shown once before any is shown again; the order, captions and crops are functions of seed and
    step, so that resuming at a step, other workers and other numbers of processes change nothing.

    Args:
        samples: Pictures with captions.
        config: Batch size, steps, mixing, crops, seed.
        rank: Number of this process.
        world_size: How many there are; divides the batch.
    """

    def __init__(self, samples: Sequence[Sample], config: TrainConfig, *, rank: int = 0, world_size: int = 1) -> None:
        if config.batch_size % world_size:
            raise InputError(f"`batch_size` (={config.batch_size}) must be divisible by the {world_size} processes.")
        self.samples, self.config = samples, config
        self.rank, self.world_size = rank, world_size
        self.tokenizer = clip_tokenizer(config.model.text.context_length)

    def __len__(self) -> int:
        return self.config.num_steps

    def rows(self, step: int) -> np.ndarray:
        """Return the samples of this process at a step."""
        local = self.config.batch_size // self.world_size
        places = np.arange(local) + step * self.config.batch_size + self.rank * local
        epochs, inside = np.divmod(places, len(self.samples))
        orders = {epoch: epoch_order(len(self.samples), self.config.seed, int(epoch)) for epoch in np.unique(epochs)}
        return np.array([orders[epoch][place] for epoch, place in zip(epochs, inside, strict=True)])

    def caption(self, sample: Sample, step: int) -> str:
        """Return the caption that a sample shows at a step."""
        mixing: MixConfig = self.config.mix
        return mix(sample.real, sample.synthetic, mixing, uid=sample.uid, step=step)

    def __getitem__(self, step: int) -> PairBatch:
        chosen = [self.samples[row] for row in self.rows(step)]
        images = torch.stack([self._pixels(sample, step) for sample in chosen])
        tokens = torch.from_numpy(self.tokenizer([self.caption(sample, step) for sample in chosen]))
        return PairBatch(images, tokens.long(), tuple(sample.uid for sample in chosen))

    def _pixels(self, sample: Sample, step: int) -> Tensor:
        image, vision = decode(sample.read_image(), sample.uid), self.config.model.vision
        if self.config.smallest_crop == 1:
            return to_pixels(centre(image, vision.image_size), vision)
        numbers = (*draw(self.config.seed, sample.uid, step), draw(self.config.seed + 1, sample.uid, step)[0])
        return to_pixels(random_crop(image, vision.image_size, self.config.smallest_crop, numbers), vision)


@functools.lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def load_batches(dataset: StepDataset, first: int, workers: int) -> Iterator[PairBatch]:
    """Yield the batches from a step on, read ahead by `workers` processes; 0 reads in this one."""
    steps = range(first, len(dataset))
    loader: Any = DataLoader(dataset, batch_size=None, sampler=steps, num_workers=workers)
    yield from loader
