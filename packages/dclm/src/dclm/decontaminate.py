"""Documents that hold items of evaluation sets: by a run of words, or by a question with one of its options."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

from dclm.config import Decontaminate
from dclm.document import Document
from dclm.sentences import split_sentences
from dclm.words import Hashes, Words, ngram_hashes

__all__ = ["contamination_report", "decontaminate", "read_items"]

FIELD = "contaminated_items"
MIN_SENTENCE_WORDS = 4  # "What is this?" stands in every corpus


@dataclass(frozen=True)
class Item:
    """One question of an evaluation set.

    Attributes:
        name: `task:line`.
        question: Its context.
        options: Its answers, right and wrong.
    """

    name: str
    question: str
    options: tuple[str, ...]


def read_items(path: str) -> list[Item]:
    """Read an evaluation set.

    Args:
        path: JSON lines in DCLM's formats: `query` with `choices`; `context` with `continuation`, `answer` or
            `aliases`; `context_options` with `continuation`; or plain `text`.

    Returns:
        Items; their task is the file's name.

    Raises:
        InputError: No such file, or a line in none of the formats.
    """
    task = Path(path).name.split(".")[0]
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no evaluation set at {path}; give a JSON-lines file.") from error
    items = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            items.append(_item(f"{task}:{number}", json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: line {number} is no evaluation item ({error}).") from error
    return items


def _item(name: str, row: dict[str, Any]) -> Item:
    if "query" in row:
        return Item(name, row["query"], tuple(map(str, row["choices"])))
    if "context_options" in row:
        return Item(name, " ".join([*row["context_options"][:1], row["continuation"]]), ())
    if "context" in row:
        answers = [row[key] for key in ("continuation", "answer") if key in row] + list(row.get("aliases", ()))
        return Item(name, row["context"], tuple(map(str, answers)))
    return Item(name, row["text"], ())


@dataclass(frozen=True)
class Index:
    """Hashes of all items.

    Attributes:
        grams: Sorted hashes of the items' n-grams.
        gram_items: Item of each.
        sentences: Hash and length of each item's last sentence, with the item.
        items: All items.
    """

    grams: Hashes
    gram_items: np.ndarray
    sentences: dict[int, dict[int, list[int]]]
    items: tuple[Item, ...]


def _hashes(text: str) -> Hashes:
    words = Words.of(text.lower())
    return words.hashes[words.alphanumeric]


@lru_cache(maxsize=2)
def _build(config: Decontaminate) -> Index:
    items = tuple(item for path in config.tasks for item in read_items(path))
    grams: list[Hashes] = []
    sentences: dict[int, dict[int, list[int]]] = {}
    for number, item in enumerate(items):
        if config.ngram_size is not None:
            grams.append(ngram_hashes(_hashes(" ".join([item.question, *item.options[:1]])), config.ngram_size))
        if config.sentence_and_option and item.options:
            _add_sentence(sentences, number, item)
    owners = np.repeat(np.arange(len(grams)), [len(part) for part in grams])
    values = np.concatenate([np.zeros(0, dtype=np.uint64), *grams])
    order = np.argsort(values, kind="stable")
    return Index(values[order], owners[order], sentences, items)


def _add_sentence(sentences: dict[int, dict[int, list[int]]], number: int, item: Item) -> None:
    last = _hashes((split_sentences(_without_prefix(item.question)) or [""])[-1])
    if len(last) >= MIN_SENTENCE_WORDS:
        key = int(ngram_hashes(last, len(last))[0])
        sentences.setdefault(len(last), {}).setdefault(key, []).append(number)


def _without_prefix(question: str) -> str:
    """Drop what an evaluation puts before every question and after it."""
    return question.strip().removeprefix("Question:").removesuffix("Answer:").strip()


def decontaminate(documents: Iterable[Document], config: Decontaminate) -> Iterator[tuple[Document, str | None]]:
    """Drop documents that hold an evaluation item.

    Two rules: a run of `ngram_size` words of an item (question and first option; case and punctuation do not count),
    or a question's last sentence and one of its options anywhere (the paper's analysis, Sec. 4.6). The field
    `contaminated_items` names the items.

    Args:
        documents: Any documents.
        config: Evaluation sets and rules.

    Yields:
        Each document with None, or `contaminated_TASK` with the task of the first item found.
    """
    index = _build(config)
    for document in documents:
        found = _matches(document, index, config)
        if not found:
            yield document, None
            continue
        names = [index.items[number].name for number in found]
        document.fields[FIELD] = names
        yield document, f"contaminated_{names[0].split(':')[0]}"


def _matches(document: Document, index: Index, config: Decontaminate) -> list[int]:
    hashes = _hashes(document.text)
    found: set[int] = set()
    if config.ngram_size is not None and len(index.grams):
        grams = np.unique(ngram_hashes(hashes, config.ngram_size))
        low, high = np.searchsorted(index.grams, grams), np.searchsorted(index.grams, grams, side="right")
        for start, end in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
            found.update(index.gram_items[start:end].tolist())
    for length, known in index.sentences.items():
        present = np.intersect1d(ngram_hashes(hashes, length), np.fromiter(known, dtype=np.uint64, count=len(known)))
        for key in present.tolist():
            found.update(number for number in known[key] if _has_option(hashes, index.items[number]))
    return sorted(found)


def _has_option(hashes: Hashes, item: Item) -> bool:
    for option in item.options:
        wanted = _hashes(option)
        if len(wanted) and np.isin(ngram_hashes(wanted, len(wanted)), ngram_hashes(hashes, len(wanted))).any():
            return True
    return False


def contamination_report(documents: Iterable[Document], config: Decontaminate) -> list[dict[str, Any]]:
    """Count, per task, the items found in removed documents and the documents that hold them.

    Args:
        documents: Documents with the field `contaminated_items` (others are passed over).
        config: Evaluation sets.

    Returns:
        Rows `task, items, items_found, share, documents`.
    """
    found: set[str] = set()
    holding: Counter[str] = Counter()
    for document in documents:
        names = document.fields.get(FIELD, ())
        found.update(names)
        holding.update({name.split(":")[0] for name in names})
    rows = []
    for path in config.tasks:
        items = read_items(path)
        task = Path(path).name.split(".")[0]
        count = sum(item.name in found for item in items)
        share = count / max(len(items), 1)
        rows.append(
            {"task": task, "items": len(items), "items_found": count, "share": share, "documents": holding[task]}
        )
    return rows
