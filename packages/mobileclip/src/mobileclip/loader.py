"""Batches for training from shards on disk: any order from a seed, any step at once, the same for every worker.

A batch is a pure function of (seed, step, rank): resuming at a step needs no state, and neither the number of workers
nor that of processes changes what is trained on. Shards are shuffled whole, then samples within windows of shards, so
that reads stay near one another on disks that care.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from tenfold_shared.commands import InputError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobileclip.augment import AugmentConfig, Parameters, bytes_to_pixels, generator_for, replay, sample, to_bytes
from mobileclip.config import TrainConfig
from mobileclip.data import Tally, TarSample, decode_image, image_extension, scan_tar
from mobileclip.datacompdr import (
    Reinforcement,
    Shape,
    decode,
    list_shards,
    read_captions,
    read_members,
    read_parameters,
)
from mobileclip.preprocess import Preprocess

logger = logging.getLogger(__name__)
SHUFFLE_SHARDS = 64
# open_clip's default for plain CLIP training.
WEAK = AugmentConfig(scale=(0.9, 1.0), num_operations=0)
MAX_BAD_IN_A_ROW = 100
Tokenize = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step; the teachers' parts are None where nothing is distilled.

    Args:
        uids: Keys of the samples.
        pixels: Augmented images [batch, 3, size, size].
        captions: Token ids [kinds, batch, length]: the real captions, then the synthetic ones if they are used.
        teacher_image: [batch, width], under the augmentation of `pixels`.
        teacher_text: [kinds, batch, width], for `captions`.
    """

    uids: list[str]
    pixels: Tensor
    captions: Tensor
    teacher_image: Tensor | None = None
    teacher_text: Tensor | None = None

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        fields = (self.pixels, self.captions, self.teacher_image, self.teacher_text)
        moved = (None if field is None else field.to(device, non_blocking=True) for field in fields)
        return Batch(self.uids, *moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """One sample of a batch before batching; its image is bytes [size, size, 3]."""

    uid: str
    image: Tensor
    texts: list[str]
    teacher_image: Tensor | None
    teacher_text: Tensor | None


class ShardedSamples:
    """The samples of a folder of shards by number, found once by reading the tars' headers.

    Args:
        folder: Tars with images and captions; reinforced or plain.

    Raises:
        FileNotFoundError: There are no tars.
        InputError: No sample has an image and a caption; a set without its images has to be joined first.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shards = list_shards(folder)
        self.shape = Shape.of_folder(folder)
        self.tally = Tally()
        self._samples = [
            [found for found in scan_tar(path, self.tally) if self._is_usable(found, path)] for path in self.shards
        ]
        self.sizes = np.array([len(samples) for samples in self._samples])
        self._ends = np.cumsum(self.sizes)
        if not self.sizes.sum():
            raise InputError(
                f"no sample in {folder} has an image and a caption ({self.tally.sentence()}); "
                "join a set without images first: mobileclip join."
            )
        if self.tally.dropped:
            logger.warning("%s", self.tally.sentence())

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def _is_usable(self, found: TarSample, path: Path) -> bool:
        for reason, missing in (("no image", image_extension(found) is None), ("no caption", "txt" not in found.spans)):
            if missing:
                self.tally.drop(reason, f"{path.name}: {found.key} has {reason}")
                return False
        self.tally.kept += 1
        return True

    def key(self, index: int) -> str:
        """Return the key of sample `index`."""
        return self._find(index)[1].key

    def _find(self, index: int) -> tuple[int, TarSample]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, self._samples[shard][index - int(self._ends[shard])]  # counted from the shard's end

    def read(self, index: int) -> dict[str, bytes]:
        """Return the members of sample `index` by extension, its key as `__key__`."""
        shard, found = self._find(index)
        with open(self.shards[shard], "rb") as file:
            return {"__key__": found.key.encode(), **read_members(found, file)}


def epoch_order(sizes: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the order of all samples in an epoch: shards shuffled, then samples within windows of shards.

    Args:
        sizes: Samples per shard.
        seed: Of the run.
        epoch: From 0.
    """
    random = np.random.default_rng([seed, epoch])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shards = random.permutation(len(sizes))
    windows = [shards[i : i + SHUFFLE_SHARDS] for i in range(0, len(shards), SHUFFLE_SHARDS)]
    parts = [np.concatenate([np.arange(starts[s], starts[s + 1]) for s in window]) for window in windows]
    return np.concatenate([random.permutation(part) for part in parts])


class StepDataset(Dataset):
    """Step -> this process's batch of that step.

    Args:
        samples: Where samples are read.
        config: Batch size, augmentation, captions, seed.
        tokenize: Captions to token ids.
        rank: Number of this process.
        world_size: Number of processes; the batch divides among them.
    """

    def __init__(
        self, samples: ShardedSamples, config: TrainConfig, tokenize: Tokenize, *, rank: int = 0, world_size: int = 1
    ) -> None:
        if config.batch_size % (world_size * config.accumulation):
            raise InputError(
                f"`batch_size` (={config.batch_size}) must divide by processes times accumulation "
                f"({world_size} x {config.accumulation})."
            )
        self.samples, self.config, self.tokenize = samples, config, tokenize
        self.rank, self.local = rank, config.batch_size // world_size
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.config.num_steps

    def __getitem__(self, step: int) -> Batch:
        first = step * self.config.batch_size + self.rank * self.local
        return collate([self._row(position) for position in range(first, first + self.local)], self.tokenize)

    def _row(self, position: int) -> Row:
        """Return the sample at a position of the endless order; a bad one gives way to the next of its epoch."""
        epoch, offset = divmod(position, len(self.samples))
        order = self._order(epoch)
        last: Exception | None = None
        for attempt in range(min(MAX_BAD_IN_A_ROW, len(order))):
            index = int(order[(offset + attempt) % len(order)])
            try:
                key = (self.config.seed, position)
                return make_row(self.samples.read(index), self.config, self.samples.shape, generator_for(*key))
            except InputError as error:
                logger.warning("a bad sample is left out: %s", error)
                last = error
        raise InputError(f"too many bad samples in a row in {self.samples.folder}: {last}")

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch, drawn once; a batch may reach into the next."""
        if epoch not in self._orders:
            kept = {number: order for number, order in self._orders.items() if number >= epoch - 1}
            self._orders = {**kept, epoch: epoch_order(self.samples.sizes, self.config.seed, epoch)}
        return self._orders[epoch]


def make_row(members: dict[str, bytes], config: TrainConfig, shape: Shape, generator: torch.Generator) -> Row:
    """Augment a sample's image and choose its captions and teacher embeddings.

    Args:
        members: Content by extension, the key as `__key__`.
        config: What is used.
        shape: What a reinforced sample must have.
        generator: Chooses the stored augmentation and the synthetic caption, or draws an augmentation.

    Raises:
        InputError: The sample is bad.
    """
    uid = members["__key__"].decode()
    extension = next(name for name in ("jpg", "jpeg", "png", "webp") if name in members)
    image = decode_image(members[extension], uid)
    real = members["txt"].decode("utf-8", "replace").strip()
    if config.distill_weight == 0:
        texts = [real, *_choose_caption(members, uid, config, generator)]
        return Row(uid, _augment(image, members, config, generator), texts, None, None)
    stored = decode(uid, members, shape)
    return _distilled_row(stored, image, real, config, generator)


def _distilled_row(
    stored: Reinforcement, image: Image.Image, real: str, config: TrainConfig, generator: torch.Generator
) -> Row:
    """Replay one stored augmentation and take the teachers' embeddings of it and of the captions."""
    which = _choose(len(stored.augmentations), config.num_augmentations, generator)
    picture = replay(image, stored.augmentations[which], config.model.image.image_size)
    texts, rows = [real], [stored.text_emb[0]]
    if config.synthetic and stored.captions:
        caption = _choose(len(stored.captions), config.num_captions, generator)
        texts.append(stored.captions[caption])
        rows.append(stored.text_emb[1 + caption])
    return Row(stored.uid, to_bytes(picture), texts, stored.image_emb[which], torch.stack(rows))


def _choose_caption(members: dict[str, bytes], uid: str, config: TrainConfig, generator: torch.Generator) -> list[str]:
    if not config.synthetic:
        return []
    captions = read_captions(uid, members)
    return [captions[_choose(len(captions), config.num_captions, generator)]] if captions else []


def _augment(image: Image.Image, members: dict[str, bytes], config: TrainConfig, generator: torch.Generator) -> Tensor:
    size = config.model.image.image_size
    if config.augmentation == "none":
        return to_bytes(Preprocess(size).fit(image))
    if config.augmentation == "stored":
        stored = read_parameters(members["__key__"].decode(), members)
        parameters: Parameters = stored[_choose(len(stored), config.num_augmentations, generator)]
    else:
        strong = AugmentConfig(scale=(config.smallest_crop, 1.0), image_size=size)
        ranges = WEAK if config.augmentation == "crop" else strong
        parameters = sample(image.width, image.height, ranges, generator)
    return to_bytes(replay(image, parameters, size))


def _choose(available: int, limit: int | None, generator: torch.Generator) -> int:
    return int(torch.randint(min(available, limit or available), (1,), generator=generator))


def collate(rows: Sequence[Row], tokenize: Tokenize) -> Batch:
    """Stack samples; those without a synthetic caption must all be without.

    Raises:
        InputError: Some have one and some do not.
    """
    kinds = {len(row.texts) for row in rows}
    if len(kinds) > 1:
        bare = next(row.uid for row in rows if len(row.texts) == 1)
        raise InputError(f"{bare} has no synthetic caption and others have; train with --no-synthetic.")
    texts = [row.texts[kind] for kind in range(kinds.pop()) for row in rows]
    captions = tokenize(texts).view(-1, len(rows), tokenize(texts[:1]).shape[1])
    pixels = bytes_to_pixels(torch.stack([row.image for row in rows]))
    uids = [row.uid for row in rows]
    if rows[0].teacher_image is None:
        return Batch(uids, pixels, captions)
    image = torch.stack([cast(Tensor, row.teacher_image) for row in rows])
    text = torch.stack([cast(Tensor, row.teacher_text) for row in rows], dim=1)
    return Batch(uids, pixels, captions, image, text)


def load_batches(dataset: StepDataset, start: int, workers: int) -> Iterable[Batch]:
    """Return the batches from step `start` on, read ahead by `workers` processes (0: in this one)."""
    steps = range(start, len(dataset))
    return DataLoader(dataset, batch_size=None, sampler=steps, num_workers=workers)  # type: ignore[arg-type]
