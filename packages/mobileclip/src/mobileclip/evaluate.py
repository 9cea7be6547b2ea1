"""Zero-shot classification and retrieval on clip_benchmark's webdatasets and on folders; averages of results files.

    mobileclip evaluate cifar10-wds --pretrained mobileclip_s2.pt          (reads test/0.tar, classnames.txt, ...)
    mobileclip evaluate --results results/mobileclip_s0.jsonl              (the 38-set average)

Every evaluator yields (name, value); names are clip_benchmark's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.metrics import Mean, recall_at_k
from tenfold_shared.progress import progress
from torch import Tensor

from mobileclip.data import IMAGE_EXTENSIONS, Tally, decode_image, image_extension, list_units, read_unit, scan_tar
from mobileclip.predict import BATCH_SIZE, TEMPLATES, Pipeline

RECALLS = (1, 5, 10)
QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Labelled:
    """A picture with its class (classification) or its captions (retrieval).

    Args:
        name: Where it came from.
        image: File content.
        label: Number of its class, or -1.
        captions: Its captions, or none.
    """

    name: str
    image: bytes
    label: int = -1
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a folder asks: its pictures, and for classification the names and prompts of its classes.

    Args:
        kind: "classification" or "retrieval".
        items: Pictures, read as they are asked for.
        classes: Names of the classes.
        templates: Prompts with `{}` where the name goes.
    """

    kind: str
    items: Iterable[Labelled]
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = TEMPLATES


def open_task(folder: str | Path, split: str = "test") -> Task:
    """Find out what a folder holds.

    Args:
        folder: A clip_benchmark webdataset (`classnames.txt`, `zeroshot_classification_templates.txt`,
            `SPLIT/0.tar`, ...; retrieval where samples have `txt`), a folder of one sub-folder of pictures per class,
            or pictures with captions as `mobileclip reinforce` reads them (retrieval).
        split: Sub-folder of the webdataset.

    Raises:
        FileNotFoundError: Nothing is there.
        InputError: It is none of these.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no data at {folder}; check the path.")
    shards = sorted((folder / split).glob("*.tar"), key=lambda path: (len(path.stem), path.stem))
    if shards:
        return _webdataset_task(folder, shards)
    classes = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    if classes and any(_pictures(path) for path in classes):
        names = tuple(path.name.replace("_", " ") for path in classes)
        return Task("classification", _Items(lambda: _folder_items(classes)), names)
    units = list_units(folder)
    examples = _Items(lambda: (e for unit in units for e in read_unit(unit, Tally())))
    return Task("retrieval", _Items(lambda: (Labelled(e.uid, e.image, captions=(e.caption,)) for e in examples)))


class _Items:
    """An iterable that starts afresh each time."""

    def __init__(self, start: Any) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return iter(self._start())


def _webdataset_task(folder: Path, shards: list[Path]) -> Task:
    expected = folder / shards[0].parent.name / "nshards.txt"
    if expected.is_file() and int(expected.read_text()) != len(shards):
        raise InputError(f"{expected} says {expected.read_text().strip()} shards, there are {len(shards)}.")
    items = _Items(lambda: (item for shard in shards for item in _shard_items(shard)))
    first = next(iter(items), None)
    if first is None:
        raise InputError(f"{shards[0]} holds no picture with `cls` or `txt`.")
    if first.label < 0:
        return Task("retrieval", items)
    classes = _lines(folder / "classnames.txt")
    templates = folder / "zeroshot_classification_templates.txt"
    prompts = tuple(line.replace("{c}", "{}") for line in _lines(templates)) if templates.is_file() else TEMPLATES
    return Task("classification", items, classes, prompts)


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; clip_benchmark's layout has one line per class there."
        )
    return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())


def _shard_items(shard: Path) -> Iterator[Labelled]:
    with open(shard, "rb") as file:
        for found in scan_tar(shard, Tally()):
            extension = image_extension(found)
            if extension is None or not {"cls", "txt"} & set(found.spans):
                continue
            name, image = f"{shard.name}: {found.key}", found.read(file, extension)
            if "cls" in found.spans:
                yield Labelled(name, image, int(found.read(file, "cls")))
            else:
                lines = found.read(file, "txt").decode("utf-8").splitlines()
                yield Labelled(name, image, captions=tuple(line.strip() for line in lines if line.strip()))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower()[1:] in IMAGE_EXTENSIONS)


def _folder_items(classes: Sequence[Path]) -> Iterator[Labelled]:
    for label, folder in enumerate(classes):
        for path in _pictures(folder):
            yield Labelled(str(path), path.read_bytes(), label)


def evaluate(pipeline: Pipeline, task: Task, *, quiet: bool = False) -> dict[str, float]:
    """Run the evaluators of a task.

    Args:
        pipeline: Model, preprocessing and tokenizer.
        task: See `open_task`.
        quiet: No progress.

    Returns:
        Classification: `acc1`, `acc5`, `mean_per_class_recall`. Retrieval: `image_retrieval_recall@k` (from text to
        image) and `text_retrieval_recall@k` for k of 1, 5 and 10. Both: `num_images`.
    """
    evaluators = {"classification": evaluate_classification, "retrieval": evaluate_retrieval}
    return dict(evaluators[task.kind](pipeline, task, quiet=quiet))


def evaluate_classification(pipeline: Pipeline, task: Task, *, quiet: bool = False) -> Iterator[tuple[str, float]]:
    """Yield top-1 and top-5 accuracy and the mean over classes of their recall (Radford et al. 2021, Sec. 3.1)."""
    weights = pipeline.label_weights(task.classes, task.templates)
    top5 = min(5, len(task.classes))
    best, within = Mean(), Mean()
    hits, counts = np.zeros(len(task.classes)), np.zeros(len(task.classes))
    for batch in _batches(task.items, quiet):
        labels = np.array([item.label for item in batch])
        if labels.max() >= len(task.classes):
            raise InputError(f"{batch[int(labels.argmax())].name} has class {labels.max()} of {len(task.classes)}.")
        scores = (_embed(pipeline, batch) @ weights.T).numpy()
        best += recall_at_k(scores, 1, labels)
        within += recall_at_k(scores, top5, labels)
        np.add.at(counts, labels, 1)
        np.add.at(hits, labels, scores.argmax(1) == labels)
    if not best.count:
        raise InputError("there is no picture to classify.")
    yield from (("acc1", best.compute()), ("acc5", within.compute()))
    yield "mean_per_class_recall", float((hits[counts > 0] / counts[counts > 0]).mean())
    yield "num_images", best.count


def evaluate_retrieval(pipeline: Pipeline, task: Task, *, quiet: bool = False) -> Iterator[tuple[str, float]]:
    """Yield recall at 1, 5 and 10 in both directions; a picture is found by any of its captions."""
    images, texts, owners = [], [], []
    for batch in _batches(task.items, quiet):
        start = sum(len(part) for part in images)
        images.append(_embed(pipeline, batch))
        for offset, item in enumerate(batch):
            texts += item.captions
            owners += [start + offset] * len(item.captions)
    if not texts:
        raise InputError("there is no picture with a caption.")
    image, text, owner = torch.cat(images), pipeline.embed_texts(texts), np.array(owners)
    yield from retrieval_recalls(image, text, owner)
    yield "num_images", float(len(image))


def retrieval_recalls(image: Tensor, text: Tensor, owner: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yield recalls from embeddings.

    Args:
        image: Unit length [images, dim].
        text: Unit length [captions, dim].
        owner: Number of each caption's image [captions].
    """
    for k in RECALLS:
        if k <= len(image):
            parts = (recall_at_k(scores, k, owner[rows]) for rows, scores in _scores(text, image))
            yield f"image_retrieval_recall@{k}", sum(parts, Mean()).compute()
        if k <= len(text):
            parts = (recall_at_k(scores, k, owner == rows[:, None]) for rows, scores in _scores(image, text))
            yield f"text_retrieval_recall@{k}", sum(parts, Mean()).compute()


def _scores(queries: Tensor, candidates: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows in torch.arange(len(queries)).split(QUERIES_AT_A_TIME):
        yield rows.numpy(), (queries[rows] @ candidates.T).numpy()


def _batches(items: Iterable[Labelled], quiet: bool) -> Iterator[list[Labelled]]:
    batch: list[Labelled] = []
    for item in progress(items, description="evaluate", unit="images", quiet=quiet):
        batch.append(item)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch


def _embed(pipeline: Pipeline, batch: Sequence[Labelled]) -> Tensor:
    return pipeline.embed_images([decode_image(item.image, item.name) for item in batch])


def average_results(path: str | Path) -> dict[str, Any]:
    """Average a results file of DataComp's evaluation: the mean of `main_metric` over the data sets that have one.

    Args:
        path: JSON lines, each with `key` and `metrics`; the authors' files give their README's column (38 sets).

    Returns:
        `average`, `num_datasets`, and `imagenet` where the file has it.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: A line is something else, or no data set has a main metric.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}; check the path.")
    values: dict[str, float] = {}
    for number, line in enumerate(filter(str.strip, path.read_text("utf-8").splitlines()), start=1):
        try:
            row = json.loads(line)
            value = row["metrics"].get("main_metric")
            if value is not None and math.isfinite(value):
                values[str(row["key"])] = float(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}, line {number} is not a result with `key` and `metrics` ({error}).") from error
    if not values:
        raise InputError(f"{path} holds no data set with a main metric.")
    row = {"average": sum(values.values()) / len(values), "num_datasets": len(values)}
    return row | ({"imagenet": values["imagenet1k"]} if "imagenet1k" in values else {})
