"""Training data: lists of data sets, batches of conversations of like length, and an account of bad records."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from mobileclip.preprocess import load_image
from tenfold_shared.commands import InputError
from tenfold_shared.files import append_jsonl, atomic_write, read_jsonl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastvlm.config import STRIDE
from fastvlm.conversations import IGNORE, BadRecord, Example, Record, encode_rounds, parse_record
from fastvlm.layouts import IMAGE_PLACEHOLDER
from fastvlm.processor import FastVLMProcessor
from fastvlm.recipes import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A data set: records and where their pictures lie.

    Args:
        path: JSON list or JSON lines in LLaVA's format.
        images: Folder of the pictures.
    """

    path: Path
    images: Path


def pair_sources(paths: Sequence[Path], image_folders: Sequence[Path]) -> list[Source]:
    """Pair data sets with image folders by place; one folder serves all, none means the data set's own.

    Raises:
        InputError: There are several folders, but not one per data set.
    """
    if len(image_folders) > 1 and len(image_folders) != len(paths):
        raise InputError(
            f"{len(paths)} data sets and {len(image_folders)} image folders do not pair; give one folder per data "
            "set, in the same order, or one for all."
        )
    folders = image_folders or [path.parent for path in paths]
    return [Source(path, folders[0] if len(folders) == 1 else folders[i]) for i, path in enumerate(paths)]


@dataclass
class BadRecords:
    """What was left out and why; the run stops when it is more than a set share.

    Args:
        path: JSON lines: `step`, `record`, `reason`. None keeps no file.
        max_share: Of all records.
        total: All records.
    """

    path: Path | None
    max_share: float
    total: int = 0
    names: set[str] = field(default_factory=set)

    def add(self, found: Sequence[tuple[str, str]], step: int) -> None:
        """Count records and write them down; a record counts once, however often it is met.

        Raises:
            InputError: They have become too many.
        """
        new = [(name, reason) for name, reason in found if name not in self.names]
        for name, reason in new:
            self.names.add(name)
            logger.warning("left out: %s: %s", name, reason)
            if self.path is not None:
                append_jsonl(self.path, {"step": step, "record": name, "reason": reason})
        if len(self.names) > self.max_share * self.total:
            where = f", named in {self.path}" if self.path is not None else ""
            raise InputError(
                f"{len(self.names)} of {self.total} records are bad{where}, the last because {new[-1][1]}; "
                f"mend them, or allow more than --max-bad-share {self.max_share:g}."
            )

    def restart(self, step: int) -> None:
        """Forget what a run that is resumed at `step` will meet again."""
        rows = read_jsonl(self.path) if self.path is not None and self.path.exists() else []
        rows = [row for row in rows if 0 < row["step"] <= step]
        self.names = {row["record"] for row in rows}
        if self.path is not None and self.path.exists():
            with atomic_write(self.path, "w") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_records(sources: Sequence[Source]) -> tuple[list[Record], list[tuple[str, str]]]:
    """Read all data sets; return the good records and (name, reason) of the bad ones.

    Raises:
        FileNotFoundError: A data set is missing.
        InputError: A data set is neither a JSON list nor JSON lines, or nothing good is in any.
    """
    records: list[Record] = []
    bad: list[tuple[str, str]] = []
    for source in sources:
        for number, row in enumerate(_read_rows(source.path)):
            label = row.get("id", number) if isinstance(row, dict) else number
            name = f"{source.path.name}:{label}"
            try:
                records.append(_check_files(parse_record(row, name, source.images)))
            except BadRecord as error:
                bad.append((name, str(error)))
    if not records:
        reason = f"; the first is bad because {bad[0][1]}" if bad else ""
        raise InputError(f"no record to train on in {', '.join(str(source.path) for source in sources)}{reason}.")
    return records, bad


def _check_files(record: Record) -> Record:
    for path in record.images:
        if not path.is_file():
            raise BadRecord(f"the picture {path} is missing")
    return record


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no data set at {path}; check the path.")
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(t) for t in text.splitlines() if t]
    except ValueError as error:
        raise InputError(f"{path} is neither a JSON list nor JSON lines: {error}") from error
    return rows


def count_steps(config: TrainConfig, num_records: int) -> int:
    """Return the optimizer steps of a run; the last batch of an epoch may be smaller, and counts."""
    if config.num_steps is not None:
        return config.num_steps
    return max(1, math.ceil(config.num_epochs * math.ceil(num_records / config.batch_size)))


def epoch_batches(lengths: Sequence[int], has_image: Sequence[bool], config: TrainConfig, epoch: int) -> list[Any]:
    """Return an epoch's batches as lists of record numbers; every record comes once.

    Grouped as in LLaVA: a batch has images or none, only the last ones mix; within a batch the longest come first,
    so that the parts of a batch hold conversations of like length.

    Args:
        lengths: Of each record.
        has_image: Of each record.
        config: `batch_size`, `group_by_length`, `seed`.
        epoch: Number of the pass over the data.
    """
    random = np.random.default_rng([config.seed, epoch])
    order, size = random.permutation(len(lengths)).tolist(), config.batch_size
    if not config.group_by_length:
        return [order[start : start + size] for start in range(0, len(order), size)]
    groups = [[i for i in order if has_image[i]], [i for i in order if not has_image[i]]]
    whole = [group[start : start + size] for group in groups for start in range(0, len(group) - size + 1, size)]
    rest = [i for group in groups for i in group[len(group) // size * size :]]
    whole = [whole[i] for i in random.permutation(len(whole))]
    whole += [rest[start : start + size] for start in range(0, len(rest), size)]
    return [sorted(batch, key=lambda i: -lengths[i]) for batch in whole]


@dataclass
class Batch:
    """Conversations of one forward pass.

    Args:
        input_ids: Token ids, -200 per image, padded on the left.
        attention_mask: 1 for tokens.
        labels: At the model's positions, image tokens included; -100 where nothing is learned.
        pixels: All views, or None.
        views: Views per image.
        names: Of the records.
        bad: (name, reason) of records that were left out.
    """

    input_ids: Int[Tensor, "rows length"]
    attention_mask: Int[Tensor, "rows length"]
    labels: Int[Tensor, "rows long"]
    pixels: Float[Tensor, "views 3 size size"] | None
    views: list[int]
    names: list[str]
    bad: list[tuple[str, str]]

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        pixels = None if self.pixels is None else self.pixels.to(device, non_blocking=True)
        tensors = (self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), pixels)
        return Batch(*tensors, self.views, self.names, self.bad)


@dataclass(frozen=True)
class Collator:
    """Records to a batch; a record that turns out bad is left out and named.

    Args:
        processor: Tokenizes and makes pixels.
        config: `template` and `max_length`.
    """

    processor: FastVLMProcessor
    config: TrainConfig

    def __call__(self, records: Sequence[Record]) -> Batch:
        """Read pictures, tokenize and pad."""
        rows: list[tuple[Example, list[Tensor], str]] = []
        bad = []
        for record in records:
            try:
                rows.append((*self._encode(record), record.name))
            except BadRecord as error:
                bad.append((record.name, str(error)))
        if not rows:  # something to run, from which nothing is learned
            rows = [(Example([self._pad] * 2, [IGNORE] * 2), [], "nothing")]
        return self._stack(rows, bad)

    @property
    def _pad(self) -> int:
        return self.processor.tokenizer.pad_token_id or 0

    def _encode(self, record: Record) -> tuple[Example, list[Tensor]]:
        example = encode_rounds(self.processor, record.rounds, self.config.template)
        per_view = (self.processor.image_size // STRIDE) ** 2
        try:
            views = [self.processor.pixels(load_image(path)) for path in record.images]
        except (InputError, OSError) as error:
            raise BadRecord(str(error).rstrip(".")) from error
        length = len(example.input_ids) + sum(len(view) * per_view - 1 for view in views)
        if length > self.config.max_length:
            raise BadRecord(
                f"text and images make {length} tokens, longer than the context of {self.config.max_length}"
            )
        return _expand(example, [len(view) * per_view for view in views]), views

    def _stack(self, rows: Sequence[tuple[Example, list[Tensor], str]], bad: list[tuple[str, str]]) -> Batch:
        ids = _pad_left([example.input_ids for example, _, _ in rows], self._pad)
        mask = _pad_left([[1] * len(example.input_ids) for example, _, _ in rows], 0)
        labels = _pad_left([example.labels for example, _, _ in rows], IGNORE)
        images = [view for _, views, _ in rows for view in views]
        pixels = stack_views(images) if images else None
        return Batch(ids, mask, labels, pixels, [len(view) for view in images], [name for _, _, name in rows], bad)


def stack_views(images: Sequence[Float[Tensor, "views 3 h w"]]) -> Float[Tensor, "all 3 h w"]:
    """Put the views of several images into one tensor.

    Raises:
        InputError: They differ in height or width.
    """
    sizes = {tuple(image.shape[2:]) for image in images}
    if len(sizes) > 1:
        raise InputError(
            f"mixed image sizes {sorted(sizes)} in one batch; the views of a batch have one height and width "
            "(FastVLMProcessor.pixels makes them so)."
        )
    return torch.cat(list(images))


def _expand(example: Example, counts: Sequence[int]) -> Example:
    """Give every token of an image its label: nothing is learned there."""
    labels: list[int] = []
    waiting = iter(counts)
    for token, label in zip(example.input_ids, example.labels, strict=True):
        labels += [IGNORE] * next(waiting) if token == IMAGE_PLACEHOLDER else [label]
    return Example(example.input_ids, labels)


def _pad_left(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[value] * (length - len(row)) + list(row) for row in rows])


class Steps(Dataset):
    """The forward passes of one process, step by step: what a step holds depends on its number alone.

    Args:
        records: All of them.
        config: How batches are made.
        collator: Makes one.
        rank: Of this process.
        world_size: How many processes there are.
    """

    def __init__(
        self, records: Sequence[Record], config: TrainConfig, collator: Collator, rank: int = 0, world_size: int = 1
    ) -> None:
        config.check_processes(world_size)
        self.records, self.config, self.collator = records, config, collator
        self.rank, self.world_size = rank, world_size
        self.num_steps = count_steps(config, len(records))
        self._lengths = [record.num_words for record in records]
        self._has_image = [bool(record.images) for record in records]
        self._epoch: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return self.num_steps

    def choose(self, step: int) -> list[Record]:
        """Return the records of a step, those of all processes."""
        per_epoch = math.ceil(len(self.records) / self.config.batch_size)
        epoch, place = divmod(step, per_epoch)
        if self._epoch[0] != epoch:
            batches = epoch_batches(self._lengths, self._has_image, self.config, epoch)
            self._epoch = (epoch, batches)
        return [self.records[i] for i in self._epoch[1][place]]

    def __getitem__(self, step: int) -> list[Batch]:
        """Return this process's forward passes of a step; every process has as many, empty ones included."""
        records, size = self.choose(step), self.config.micro_batch_size
        parts = [records[start : start + size] for start in range(0, len(records), size)]
        parts += [[]] * (-len(parts) % self.world_size)
        return [self.collator(part) for part in parts[self.rank :: self.world_size]]


def load_steps(steps: Steps, first: int, workers: int = 0) -> Iterator[list[Batch]]:
    """Yield the steps from `first` on, read ahead by worker processes where there are any."""
    options: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": False} if workers else {}
    order = range(first, len(steps))
    yield from DataLoader(steps, batch_size=None, sampler=order, num_workers=workers, **options)
