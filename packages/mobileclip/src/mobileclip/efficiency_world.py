"""What the learning-efficiency experiment trains on: OpenMoji's shards, teachers, captioner and reinforced sets."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

from mobileclip.augment import AugmentConfig
from mobileclip.checkpoint import save_pretrained
from mobileclip.config import MCiConfig, MobileCLIPConfig, TextConfig, TrainConfig
from mobileclip.data import decode_image
from mobileclip.datacompdr import write_tar
from mobileclip.factory import Tokenizer
from mobileclip.loader import ShardedSamples, StepDataset
from mobileclip.model import MobileCLIP
from mobileclip.openmoji_data import Splits, noisy_captions, read_icons, split_icons
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.tagger import train_tagger
from mobileclip.teachers import FolderTeacher
from mobileclip.train import Trainer

NUM_VOCABULARY = 2048
CONTEXT = 16
BATCH = 64
# Pages of the made web on which teachers see each icon, every time with another noisy caption.
NUM_PAGES = 4
TEACHER_DIMS = ((16, 32, 96, 192), (24, 48, 96, 192))
TEACHER_RATE = 3e-3
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


def teacher(folder: str) -> FolderTeacher:
    """Load one of this experiment's teachers; the name that `mobileclip.teachers.load_teacher` is given."""
    return FolderTeacher(folder, tokenize=pool_tokenizer())


def keep_channels_last(model: MobileCLIP) -> None:
    """Let maps behind the stem's first convolutions lie channels-last, which trains a third faster on a CPU.

    The first ones are left out: in that format oneDNN's gradient of a 1x1 convolution on three channels writes
    outside its memory (torch 2.15).
    """
    first = model.image_encoder.model.patch_embed[0]
    first.register_forward_hook(lambda module, args, out: out.contiguous(memory_format=torch.channels_last))


class World:
    """Data, teachers and reinforced sets of one budget, made once in a folder and found again there.

    Args:
        folder: Where they are kept.
        teacher_steps: How long teachers and captioner train.
        num_augmentations: Stored per icon.
    """

    def __init__(self, folder: Path, *, teacher_steps: int, num_augmentations: int) -> None:
        self.folder = folder
        self.teacher_steps, self.num_augmentations = teacher_steps, num_augmentations
        self.splits: Splits = split_icons(read_icons())

    @property
    def teacher_seconds(self) -> float:
        """CPU time of what the reinforced set needed: both teachers, the captioner, and reinforcing."""
        spent = [self.folder / f"{name}.seconds.json" for name in ("teacher-0", "teacher-1", "tagger", "dr")]
        return sum(json.loads(path.read_text()) for path in spent)

    def _note_seconds(self, name: str, start: float) -> None:
        write_json(self.folder / f"{name}.seconds.json", time.process_time() - start)

    def source(self, kind: str) -> Path:
        """Return shards: the quarter with "noisy" or "oracle" captions, or the whole pool on several pages ("web")."""
        folder = self.folder / kind
        if not (path := folder / "00000000.tar").exists():
            with atomic_write(path) as file:
                write_tar(file, self._samples(kind))
        return folder

    def _samples(self, kind: str) -> Iterator[tuple[str, dict[str, bytes]]]:
        icons = self.splits.pool if kind == "web" else self.splits.quarter
        for page in range(NUM_PAGES if kind == "web" else 1):
            captions = [icon.annotation for icon in icons] if kind == "oracle" else noisy_captions(icons, page)
            for icon, text in zip(icons, captions, strict=True):
                yield f"{icon.uid}-{page}", {"png": icon.image, "txt": text.encode()}

    def teacher(self, number: int, *, limited: bool = False) -> Path:
        """Return the folder of a trained teacher; two differ in width and seed."""
        folder = self.folder / f"teacher-{number}{'-limited' if limited else ''}"
        if not (folder / "model.safetensors").exists():
            start = time.process_time()
            image = MCiConfig(depths=(1, 1, 2, 1), dims=TEACHER_DIMS[number], image_size=64)
            model = MobileCLIPConfig(image=image, text=_TEXT, embed_dim=64)
            steps = max(1, self.teacher_steps // 4) if limited else self.teacher_steps
            config = plain_config(
                model, steps, seed=500 + number, augmentation="strong", learning_rate=TEACHER_RATE, constant_steps=0
            )
            trainer = new_trainer(config)
            dataset = self.dataset("noisy" if limited else "web", config)
            for step in range(config.num_steps):
                trainer.train_step(dataset[step], ())
            save_pretrained(trainer.ema or trainer.model, folder)
            self._note_seconds(folder.name, start)
        return folder

    @cached_property
    def tagger(self) -> str:
        """The captioner, trained on the pool without the quarter."""
        folder = self.folder / "tagger"
        if not (folder / "tagger.pt").exists():
            start, rest = time.process_time(), self.splits.rest
            images = [decode_image(icon.image, icon.uid) for icon in rest]
            words = [[word for tag in icon.tags for word in tag.split()] for icon in rest]
            train_tagger(images, words, folder, num_steps=max(1, self.teacher_steps // 2), seed=7)
            self._note_seconds("tagger", start)
        return f"mobileclip.tagger:caption@{folder}"

    def data(self, kind: str) -> Path:
        """Return the shards an arm trains on, made at first use."""
        if kind in ("noisy", "oracle", "web"):
            return self.source(kind)
        numbers = {"first teacher": (0,), "second teacher": (1,)}.get(kind, (0, 1))
        folders = [self.teacher(number, limited=kind == "limited teachers") for number in numbers]
        config = ReinforceConfig(
            tuple(f"{__name__}:teacher@{folder}" for folder in folders),
            self.tagger,
            num_augmentations=self.num_augmentations,
            augment=AugmentConfig(image_size=64),
        )
        out = self.folder / kind.replace(" ", "-")
        if not (out / "finished").exists():
            start = time.process_time()
            reinforce(self.source("noisy"), out, config, quiet=True)
            self._note_seconds(out.name, start)
            (out / "finished").touch()
        return out

    def dataset(self, kind: str, config: TrainConfig) -> StepDataset:
        """Return the batches of a set."""
        return StepDataset(ShardedSamples(self.data(kind)), config, pool_tokenizer())


def new_trainer(config: TrainConfig) -> Trainer:
    """Return a trainer that is quick on a CPU."""
    trainer = Trainer(config)
    keep_channels_last(trainer.model)
    return trainer


def plain_config(model: MobileCLIPConfig, num_steps: int, **changes: Any) -> TrainConfig:
    """Return plain CLIP training with a constant rate, so that a run can be read at any step."""
    config = TrainConfig(
        model, batch_size=BATCH, num_steps=num_steps, warmup_steps=min(50, num_steps // 8), constant_steps=num_steps,
        distill_weight=0.0, synthetic=False, augmentation="crop", ema_decay=0.95, precision="fp32",
    )  # fmt: skip
    return dataclasses.replace(config, **changes)
