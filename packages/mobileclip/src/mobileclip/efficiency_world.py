"""What the learning-efficiency experiment trains on: OpenMoji's shards, teachers, captioner and reinforced sets."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

from mobileclip.augment import AugmentConfig
from mobileclip.checkpoint import save_pretrained
from mobileclip.config import MCiConfig, MobileCLIPConfig, TextConfig, TrainConfig
from mobileclip.data import decode_image
from mobileclip.datacompdr import write_tar
from mobileclip.factory import Tokenizer
from mobileclip.loader import ShardedSamples, StepDataset, Tokenize
from mobileclip.openmoji_data import Icon, Splits, noisy_captions, read_icons, split_icons
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.tagger import train_tagger
from mobileclip.train import Trainer

Budget = Literal["smoke", "laptop", "full"]
NUM_VOCABULARY = 2048
CONTEXT = 16
BATCH = 64
TEACHER_DIMS = ((24, 48, 96, 192), (32, 64, 128, 256))
STUDENT = MobileCLIPConfig(
    image=MCiConfig(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), image_size=64),
    text=TextConfig(num_layers=2, dim=64, num_heads=2, vocab_size=NUM_VOCABULARY, context_length=CONTEXT),
    embed_dim=64,
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

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids [n, 16]."""
        return self._number[self._tokenizer(texts)]


class World:
    """Data, teachers and reinforced sets of one budget, made once in a folder and found again there.

    Args:
        folder: Where they are kept.
        budget: Its name.
        teacher_steps: How long teachers and captioner train.
        num_augmentations: Stored per icon.
    """

    def __init__(self, folder: Path, budget: Budget, *, teacher_steps: int, num_augmentations: int) -> None:
        self.folder, self.budget = folder, budget
        self.teacher_steps, self.num_augmentations = teacher_steps, num_augmentations
        self.splits: Splits = split_icons(read_icons())

    @property
    def teacher_seconds(self) -> float:
        """Wall time of what the reinforced set needed: both teachers, the captioner, and reinforcing."""
        spent = [self.folder / f"{name}.seconds.json" for name in ("teacher-0", "teacher-1", "tagger", "dr")]
        return sum(json.loads(path.read_text()) for path in spent)

    def _note_seconds(self, name: str, start: float) -> None:
        write_json(self.folder / f"{name}.seconds.json", time.perf_counter() - start)

    @cached_property
    def tokenize(self) -> CompactTokenizer:
        """The student's tokens: those of the pool's words."""
        return CompactTokenizer([" ".join((icon.annotation, *icon.tags)) for icon in self.splits.pool])

    def source(self, kind: Literal["noisy", "oracle", "pool"]) -> Path:
        """Return shards of the quarter with noisy or metadata captions, or of the whole pool with noisy ones."""
        icons = self.splits.pool if kind == "pool" else self.splits.quarter
        captions = [icon.annotation for icon in icons] if kind == "oracle" else noisy_captions(icons)
        return _write_once(self.folder / kind, icons, captions)

    def teacher(self, number: int, *, limited: bool = False) -> str:
        """Return the folder of a trained teacher; two differ in width, depth and seed."""
        folder = self.folder / f"teacher-{number}{'-limited' if limited else ''}"
        if not (folder / "model.safetensors").exists():
            start = time.perf_counter()
            model = MobileCLIPConfig(
                image=MCiConfig(depths=(1, 2, 2 + number, 1), dims=TEACHER_DIMS[number], image_size=64),
                text=TextConfig(num_layers=2, dim=96, num_heads=4, context_length=CONTEXT),
                embed_dim=96,
            )
            config = plain_config(model, self.teacher_steps, seed=500 + number, augmentation="strong")
            trainer, dataset = (
                Trainer(config),
                self.dataset("noisy" if limited else "pool", config, Tokenizer(CONTEXT)),
            )
            for step in range(config.num_steps):
                trainer.train_step(dataset[step], ())
            save_pretrained(trainer.ema or trainer.model, folder)
            self._note_seconds(folder.name, start)
        return str(folder)

    @cached_property
    def tagger(self) -> str:
        """The captioner, trained on the pool without the quarter."""
        folder = self.folder / "tagger"
        if not (folder / "tagger.pt").exists():
            start, rest = time.perf_counter(), self.splits.rest
            images = [decode_image(icon.image, icon.uid) for icon in rest]
            words = [[word for tag in icon.tags for word in tag.split()] for icon in rest]
            train_tagger(images, words, folder, num_steps=self.teacher_steps, seed=7)
            self._note_seconds("tagger", start)
        return f"mobileclip.tagger:caption@{folder}"

    def data(self, kind: str) -> Path:
        """Return the shards an arm trains on, made at first use."""
        if kind in ("noisy", "oracle", "pool"):
            return self.source(kind)  # type: ignore[arg-type]
        numbers = {"first teacher": (0,), "second teacher": (1,)}.get(kind, (0, 1))
        teachers = tuple(self.teacher(number, limited=kind == "limited teachers") for number in numbers)
        config = ReinforceConfig(
            teachers, self.tagger, num_augmentations=self.num_augmentations, augment=AugmentConfig(image_size=64)
        )
        out = self.folder / kind.replace(" ", "-")
        if not (out / "finished").exists():
            start = time.perf_counter()
            reinforce(self.source("noisy"), out, config, quiet=True)
            self._note_seconds(out.name, start)
            (out / "finished").touch()
        return out

    def dataset(self, kind: str, config: TrainConfig, tokenize: Tokenize) -> StepDataset:
        """Return the batches of a set."""
        return StepDataset(ShardedSamples(self.data(kind)), config, tokenize)


def plain_config(model: MobileCLIPConfig, num_steps: int, **changes: Any) -> TrainConfig:
    """Return plain CLIP training with a constant rate, so that a run can be read at any step."""
    config = TrainConfig(
        model, batch_size=BATCH, num_steps=num_steps, warmup_steps=min(50, num_steps // 2), constant_steps=num_steps,
        distill_weight=0.0, synthetic=False, augmentation="crop", ema_decay=0.95, precision="fp32",
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def _write_once(folder: Path, icons: Sequence[Icon], captions: Sequence[str]) -> Path:
    """Write icons with captions as one shard, unless it is there."""
    path = folder / "00000000.tar"
    if not path.exists():
        with atomic_write(path) as file:
            pairs = zip(icons, captions, strict=True)
            write_tar(file, ((icon.uid, {"png": icon.image, "txt": text.encode()}) for icon, text in pairs))
    return folder
