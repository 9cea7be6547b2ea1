"""Quality classifier: fastText bigrams as in the paper, a threshold over the whole corpus, perplexity as baseline."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write

from dclm.config import Score, Threshold
from dclm.document import Document
from dclm.fasttext_child import train
from dclm.language import load_fasttext

__all__ = ["keep_scored", "score", "scores_of", "share_threshold", "train_classifier"]

LABEL = "__label__"
BINS = 1 << 16


def train_classifier(
    wanted: Iterable[Document],
    others: Iterable[Document],
    *,
    out: str | Path,
    seed: int = 0,
    epochs: int = 5,
    num_buckets: int = 2_000_000,
) -> dict[str, Any]:
    """Train the paper's classifier: supervised fastText, word bigrams, all else by default (Sec. 4.4).

    Labels are `hq` and `cc` as in the authors' files, so their models and ours are used alike. One thread and a seed,
    so that equal documents give an equal model.

    Args:
        wanted: Documents like those that should be kept (the paper: instructions and explanations).
        others: Documents of the corpus as it is.
        out: Model file to write (.bin).
        seed: Of weights and of the order of lines.
        epochs: Passes over the documents.
        num_buckets: Rows for hashed bigrams, 400 bytes each in RAM and file; fastText's default, as in the paper.

    Returns:
        `documents` per label and the model's path.

    Raises:
        InputError: One of the two kinds is empty.
    """
    lines = [f"{LABEL}hq {_one_line(document.text)}\n" for document in wanted]
    num_wanted = len(lines)
    lines += [f"{LABEL}cc {_one_line(document.text)}\n" for document in others]
    if not 0 < num_wanted < len(lines):
        raise InputError("both kinds of documents are needed: --wanted and --others.")
    random.Random(seed).shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        text, model_file = Path(folder, "train.txt"), Path(folder, "model.bin")
        text.write_text("".join(lines), encoding="utf-8")
        train(text, model_file, num_buckets=num_buckets, epochs=epochs, seed=seed)
        with atomic_write(out) as file:
            file.write(model_file.read_bytes())
    return {"model": str(out), "hq": num_wanted, "cc": len(lines) - num_wanted}


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def score(documents: Iterable[Document], config: Score) -> Iterator[tuple[Document, str | None]]:
    """Write a score into a field of each document.

    Args:
        documents: Any documents.
        config: Model, field and label.

    Yields:
        Each document and None.

    Raises:
        InputError: The model is missing, damaged, or lacks the label.
    """
    value = _perplexity if config.kind == "perplexity" else _probability
    for document in documents:
        document.fields[config.field] = round(value(document.text, config), 6)
        yield document, None


def _probability(text: str, config: Score) -> float:
    """Probability of the label; the model's labels are few, so all of them are asked for."""
    model = load_fasttext(config.model)
    labels, probabilities = model.predict(_one_line(text), k=-1)
    found = dict(zip(labels, probabilities, strict=True))
    if f"{LABEL}{config.label}" in found:
        return min(float(found[f"{LABEL}{config.label}"]), 1.0)
    if f"{LABEL}{config.label}" not in model.get_labels():
        known = ", ".join(label.removeprefix(LABEL) for label in model.get_labels()[:10])
        raise InputError(f"{config.model} has no label {config.label!r}; it has {known}.")
    return 0.0


@lru_cache(maxsize=2)
def _load_kenlm(path: str) -> Any:
    if not Path(path).is_file():
        raise InputError(f"no KenLM model at {path}; give an .arpa or .bin file.")
    kenlm = require_extra("kenlm", "kenlm", "dclm")
    options = kenlm.Config()
    options.show_progress = False
    try:
        return kenlm.Model(path, options)
    except OSError as error:
        raise InputError(f"{path} is no KenLM model ({error}).") from error


def _perplexity(text: str, config: Score) -> float:
    """Perplexity per word over the lines of a text, as CCNet computes it."""
    model = _load_kenlm(config.model)
    lines = [line for line in text.lower().split("\n") if line.strip()]
    count = sum(len(line.split()) + 1 for line in lines)
    total = sum(model.score(line) for line in lines)
    return float(min(10.0 ** (-total / max(count, 1)), 1e12))


def scores_of(documents: Iterable[Document], field: str) -> Iterator[float]:
    """Yield the scores of documents.

    Args:
        documents: With the field.
        field: Its name.

    Yields:
        One number per document.

    Raises:
        InputError: A document has none.
    """
    for document in documents:
        value = document.fields.get(field)
        if not isinstance(value, int | float) or value != value:
            raise InputError(f"document {document.name} has no number in `{field}`; run `dclm classify score` first.")
        yield float(value)


def _order(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Map float32 to integers in the same order."""
    bits = np.asarray(scores, dtype=np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def share_threshold(read: Callable[[], Iterable[NDArray[np.float32]]], config: Threshold) -> float:
    """Find the score that the wanted share of all documents reaches, exactly and in bounded memory.

    Two passes over the shards: counts of the upper, then of the lower 16 bits of the scores. Equal scores stay
    together, so that a little more than the share can be kept.

    Args:
        read: Returns the scores shard by shard, each time it is called.
        config: Share and direction.

    Returns:
        The least score to keep (the greatest, where lower is better).

    Example:
        >>> share_threshold(lambda: [np.arange(10, dtype=np.float32)], Threshold(keep_share=0.3))
        7.0
    """
    upper = sum((np.bincount(_ranked(part, config) >> 16, minlength=BINS) for part in read()), np.zeros(BINS, np.int64))
    wanted = max(1, round(float(config.keep_share or 0) * int(upper.sum())))
    high, left = _bin_of(upper, wanted)
    lower = np.zeros(BINS, np.int64)
    for part in read():
        ranked = _ranked(part, config)
        lower += np.bincount(ranked[ranked >> 16 == high] & 0xFFFF, minlength=BINS)
    low, _ = _bin_of(lower, left)
    code = np.array([(high << 16) | low], dtype=np.uint32)
    bits = np.where(code >> 31, code & np.uint32(0x7FFFFFFF), ~code).astype(np.uint32)
    value = float(bits.view(np.float32)[0])
    return value if config.higher_is_better else -value


def _ranked(scores: NDArray[np.float32], config: Threshold) -> NDArray[np.uint32]:
    return _order(scores if config.higher_is_better else -scores)


def _bin_of(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """Return the bin in which the wanted-th greatest lies, and its place in it."""
    from_top = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_top, wanted))
    above = int(from_top[index - 1]) if index else 0
    return len(counts) - 1 - index, wanted - above


def keep_scored(
    documents: Iterable[Document], config: Threshold, threshold: float | None = None
) -> Iterator[tuple[Document, str | None]]:
    """Keep documents whose score reaches a threshold (equality keeps).

    Args:
        documents: With the field.
        config: Field and direction; its `min_score` where no threshold is given.
        threshold: In the field's unit.

    Yields:
        Each document with None, or `low_score` (`high_score` where lower is better).
    """
    limit = np.float32(config.min_score if threshold is None else threshold)
    for document in documents:
        [value] = scores_of([document], config.field)
        keeps = np.float32(value) >= limit if config.higher_is_better else np.float32(value) <= limit
        yield document, None if keeps else "low_score" if config.higher_is_better else "high_score"
