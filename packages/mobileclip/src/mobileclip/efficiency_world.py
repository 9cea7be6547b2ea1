"""What the learning-efficiency experiment trains on: icons in shards, teachers, captioner and reinforced sets."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

from mobileclip import kernel
from mobileclip.augment import AugmentConfig, generator_for, replay, sample
from mobileclip.config import MCiConfig, MobileCLIPConfig, TextConfig, TrainConfig
from mobileclip.data import decode_image
from mobileclip.datacompdr import write_tar
from mobileclip.factory import Tokenizer
from mobileclip.icon_data import Icon, Splits, noisy_captions, read_icons, split_icons
from mobileclip.kernel import WIDTH
from mobileclip.loader import ShardedSamples, StepDataset
from mobileclip.model import MobileCLIP
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.train import Trainer

NUM_VOCABULARY = 4096
NUM_SHARDS = 4  # so that several processes can reinforce them
CONTEXT = 16
BATCH = 64
# Pages of the made web on which teachers see each icon, every time with another noisy caption.
NUM_PAGES = 4
# Augmented pictures of each icon that a teacher is fitted on beside the plain one, so that it knows crops.
NUM_VIEWS = 1
TEACHERS = ("shapes", "colours")
# The smallest crop of any strong augmentation: of an icon's eight hundredths, DataCompDR's, little can be seen.
SMALLEST_CROP = 0.4
AUGMENT = AugmentConfig(scale=(SMALLEST_CROP, 1.0), image_size=64)
_TEXT = TextConfig(num_layers=1, dim=64, num_heads=2, vocab_size=NUM_VOCABULARY, context_length=CONTEXT)
STUDENT = MobileCLIPConfig(
    image=MCiConfig(depths=(1, 1, 1, 1), dims=(8, 16, 64, 192), image_size=64), text=_TEXT, embed_dim=64
)


class CompactTokenizer:
    """CLIP's tokens renumbered to those that occur in some captions; all others share one number.

    Args:
        captions: What the student may see in training.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self._tokenizer = Tokenizer(CONTEXT)
        counts = torch.bincount(self._tokenizer(list(captions)).flatten(), minlength=49408)
        counts[[0, 49406, 49407]] = 0
        kept = counts.argsort(descending=True, stable=True)[: NUM_VOCABULARY - 4]
        self._number = torch.full((49408,), 1)  # unknown
        self._number[kept[counts[kept] > 0]] = torch.arange(2, 2 + int((counts[kept] > 0).sum()))
        # Zero pads, and the end token keeps the largest number: it is found by that.
        self._number[[0, 49406, 49407]] = torch.tensor([0, NUM_VOCABULARY - 2, NUM_VOCABULARY - 1])
        self._row = cache(lambda text: self._number[self._tokenizer([text])[0]])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids [n, 16]; captions come again and again, so they are kept."""
        return torch.stack([self._row(text) for text in texts])


@cache
def pool_tokenizer() -> CompactTokenizer:
    """Return the tokens of the pool's words."""
    return CompactTokenizer([" ".join((icon.annotation, *icon.tags)) for icon in split_icons(read_icons()).pool])


def keep_channels_last(model: MobileCLIP) -> None:
    """Let maps behind the stem's first convolutions lie channels-last, which trains a third faster on a CPU.

    The first ones are left out: in that format oneDNN's gradient of a 1x1 convolution on three channels writes
    outside its memory (torch 2.15).
    """
    first = model.image_encoder.get_submodule("model.patch_embed.0")
    first.register_forward_hook(lambda module, args, out: out.contiguous(memory_format=torch.channels_last))


class World:
    """Data, teachers and reinforced sets of one budget, made once in a folder and found again there.

    Args:
        folder: Where they are kept.
        num_augmentations: Stored per icon.
        share: Part of the icons of each split.
    """

    def __init__(self, folder: Path, *, num_augmentations: int, share: float = 1.0) -> None:
        self.folder, self.num_augmentations = folder, num_augmentations
        self.splits: Splits = split_icons(read_icons()).take(share)

    @property
    def teacher_seconds(self) -> float:
        """CPU time of what the reinforced set needed: both teachers, the captioner, and reinforcing."""
        made = ("teacher-shapes", "teacher-colours", "captioner", "dr")
        spent = [self.folder / f"{name}.seconds.json" for name in made]
        return sum(json.loads(path.read_text()) for path in spent)

    def _note_seconds(self, name: str, start: float) -> None:
        write_json(self.folder / f"{name}.seconds.json", cpu_seconds() - start)

    def source(self, kind: str) -> Path:
        """Return shards of the quarter with "noisy" or "oracle" captions."""
        folder = self.folder / kind
        for number in range(NUM_SHARDS):
            if not (path := folder / f"{number:08d}.tar").exists():
                with atomic_write(path) as file:
                    write_tar(file, self._samples(kind, number))
        return folder

    def _samples(self, kind: str, shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        icons = self.splits.quarter
        captions = [icon.annotation for icon in icons] if kind == "oracle" else noisy_captions(icons)
        for icon, text in list(zip(icons, captions, strict=True))[shard::NUM_SHARDS]:
            yield icon.uid, {"png": icon.image, "txt": text.encode()}

    def teacher(self, features: str, *, limited: bool = False) -> Path:
        """Return the folder of a teacher that looks at shapes or at colours; limited, it knows the quarter alone."""
        icons = self.splits.quarter if limited else self.splits.pool
        pages = [noisy_captions(icons, page) for page in range(1 if limited else NUM_PAGES)]
        captions = [" ".join(words) for words in zip(*pages, strict=True)]
        return self._fit(f"teacher-{features}{'-limited' if limited else ''}", icons, captions, (features,), WIDTH)

    @property
    def captioner(self) -> Path:
        """The folder of the captioner, fitted on the tags of the pool without the quarter."""
        rest = self.splits.rest
        return self._fit("captioner", rest, [" ".join(icon.tags) for icon in rest], TEACHERS, None)

    def _fit(
        self, name: str, icons: Sequence[Icon], captions: Sequence[str], features: Sequence[str], width: int | None
    ) -> Path:
        folder = self.folder / name
        if not (folder / "words.json").exists():
            start = cpu_seconds()
            images = [decode_image(icon.image, icon.uid) for icon in icons]
            views = 0 if width is None else NUM_VIEWS  # a captioner sees whole pictures
            pairs = list(zip(icons, images, strict=True))
            images += [_augmented(image, icon.uid, view) for view in range(views) for icon, image in pairs]
            kernel.fit(images, captions, folder, features=features, width=width)
            self._note_seconds(name, start)
        return folder

    def data(self, kind: str) -> Path:
        """Return the shards an arm trains on, made at first use."""
        if kind in ("noisy", "oracle"):
            return self.source(kind)
        names = {"shapes teacher": TEACHERS[:1], "colours teacher": TEACHERS[1:]}.get(kind, TEACHERS)
        folders = [self.teacher(name, limited=kind == "limited teachers") for name in names]
        config = ReinforceConfig(
            tuple(f"mobileclip.kernel:teacher@{folder}" for folder in folders),
            f"mobileclip.kernel:caption@{self.captioner}",
            num_augmentations=self.num_augmentations,
            augment=AUGMENT,
        )
        out = self.folder / kind.replace(" ", "-")
        if not (out / "finished").exists():
            start = cpu_seconds()
            reinforce(self.source("noisy"), out, config, workers=min(NUM_SHARDS, os.cpu_count() or 1), quiet=True)
            self._note_seconds(out.name, start)
            (out / "finished").touch()
        return out

    def dataset(self, kind: str, config: TrainConfig) -> StepDataset:
        """Return the batches of a set."""
        return StepDataset(ShardedSamples(self.data(kind)), config, pool_tokenizer())


def _augmented(image: Image.Image, uid: str, view: int) -> Image.Image:
    drawn = sample(image.width, image.height, AUGMENT, generator_for("view", view, uid))
    return replay(image, drawn, image.width)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def new_trainer(config: TrainConfig) -> Trainer:
    """Return a trainer that is quick on a CPU."""
    trainer = Trainer(config)
    keep_channels_last(trainer.model)
    return trainer


def plain_config(model: MobileCLIPConfig, num_steps: int, **changes: Any) -> TrainConfig:
    """Return plain CLIP training with a constant rate, so that a run can be read at any step."""
    config = TrainConfig(
        model, batch_size=BATCH, num_steps=num_steps, warmup_steps=min(50, num_steps // 3), constant_steps=num_steps,
        distill_weight=0.0, synthetic=False, augmentation="crop", precision="fp32",
        smallest_crop=SMALLEST_CROP,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)
