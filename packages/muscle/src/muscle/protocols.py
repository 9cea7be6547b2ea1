"""What a model is asked: HellaSwag, PIQA, GSM8K and SAMSum from local files in their public layouts, or one's own.

Prompts of the first three are lm-evaluation-harness's, SAMSum's stops and its ban on repeated pairs of tokens are those
of the paper (section 5.1); its template is ours, since the paper does not print one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, unknown_name

from muscle.records import read_lines

Kind = Literal["choice", "exact", "rouge1"]
ProtocolName = Literal["hellaswag", "piqa", "gsm8k", "samsum", "jsonl"]


@dataclass(frozen=True)
class Document:
    """One example to answer.

    Attributes:
        id: Stable name.
        prompt: What the model reads.
        choices: Continuations to rank, of a multiple choice; each begins with its delimiter.
        gold: Place of the right choice, or the reference.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    gold: Any = ""


@dataclass(frozen=True)
class Protocol:
    """How a task is read and scored.

    Attributes:
        kind: Log-likelihood choice, exact match, or ROUGE-1.
        read: From a file to documents, with their right continuation for training.
        stops: Strings that end a generation.
        max_new_tokens: Most tokens of a generation.
        no_repeat_ngram_size: Length of sequences of tokens that may not occur twice; 0 allows all.
        extract: From a generation to the answer that is scored.
    """

    kind: Kind
    read: Callable[[Path], list[tuple[Document, str]]]
    stops: tuple[str, ...] = ("\n\n",)
    max_new_tokens: int = 256
    no_repeat_ngram_size: int = 0
    extract: Callable[[str], str] = str.strip


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"no examples at {path}; give the task's file in its public layout.")
    return read_lines(path)


def _field(path: Path, number: int, row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise InputError(f"{path}, example {number}: no field {name!r}; it has {', '.join(map(repr, row))}.")
    return row[name]


def _clean(text: str) -> str:
    """HellaSwag's WikiHow artefacts: titles end a sentence, other brackets go."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def read_hellaswag(path: Path) -> list[tuple[Document, str]]:
    """Read hellaswag_val.jsonl: `ctx_a`, `ctx_b`, `activity_label`, `endings`, `label`."""
    found = []
    for number, row in enumerate(_rows(path), start=1):
        first, second, activity, endings, label = (
            _field(path, number, row, name) for name in ("ctx_a", "ctx_b", "activity_label", "endings", "label")
        )
        prompt = _clean(f"{activity}: {first} {second.capitalize()}")
        choices = tuple(f" {_clean(ending)}" for ending in endings)
        gold = int(label)
        found.append((Document(str(row.get("ind", number)), prompt, choices, gold), choices[gold]))
    return found


def read_piqa(path: Path) -> list[tuple[Document, str]]:
    """Read valid.jsonl of PIQA (`goal`, `sol1`, `sol2`) with valid-labels.lst beside it, or a `label` in each row."""
    rows, labels = _rows(path), path.with_name(f"{path.stem}-labels.lst")
    right = labels.read_text(encoding="utf-8").split() if labels.is_file() else None
    if right is not None and len(right) != len(rows):
        raise InputError(f"{labels} has {len(right)} labels for {len(rows)} examples.")
    found = []
    for number, row in enumerate(rows, start=1):
        goal, *solutions = (_field(path, number, row, name) for name in ("goal", "sol1", "sol2"))
        if right is None and "label" not in row:
            raise InputError(f"{path}, example {number}: no label; put {labels.name} beside the file.")
        gold = int(right[number - 1] if right is not None else row["label"])
        choices = tuple(f" {solution}" for solution in solutions)
        found.append((Document(str(number - 1), f"Question: {goal}\nAnswer:", choices, gold), choices[gold]))
    return found


def read_gsm8k(path: Path) -> list[tuple[Document, str]]:
    """Read test.jsonl of GSM8K: `question` and `answer`, which ends in `#### number`."""
    found = []
    for number, row in enumerate(_rows(path), start=1):
        question, answer = (_field(path, number, row, name) for name in ("question", "answer"))
        document = Document(str(number - 1), f"Question: {question}\nAnswer:", (), final_number(answer))
        found.append((document, f" {answer}"))
    return found


def final_number(text: str) -> str:
    """Return the number after `####` (lm-evaluation-harness's strict match), without commas, $ and a last full stop."""
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return "[invalid]" if match is None else re.sub(r",|\$|\.$", "", match.group(1))


def read_samsum(path: Path) -> list[tuple[Document, str]]:
    """Read test.json of SAMSum: a list of `id`, `dialogue`, `summary` (JSON lines work too)."""
    if not path.is_file():
        raise InputError(f"no examples at {path}; give the task's file in its public layout.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = read_lines(path)
    found = []
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        dialogue, summary = (_field(path, number, row, name) for name in ("dialogue", "summary"))
        text = dialogue.replace("\r\n", "\n")
        found.append((Document(str(row.get("id", number)), f"Dialogue:\n{text}\nSummary:", (), summary), f" {summary}"))
    return found


def read_jsonl(path: Path) -> list[tuple[Document, str]]:
    """Read JSON lines with `prompt` and `answer`; with `choices`, the answer is one of them."""
    found = []
    for number, row in enumerate(_rows(path), start=1):
        prompt, answer = (_field(path, number, row, name) for name in ("prompt", "answer"))
        choices = tuple(row.get("choices", ()))
        if choices and answer not in choices:
            raise InputError(f"{path}, example {number}: the answer {answer!r} is none of its choices.")
        gold = choices.index(answer) if choices else answer.strip()
        found.append((Document(str(row.get("id", number - 1)), prompt, choices, gold), answer))
    return found


PROTOCOLS: dict[str, Protocol] = {
    "hellaswag": Protocol("choice", read_hellaswag),
    "piqa": Protocol("choice", read_piqa),
    "gsm8k": Protocol("exact", read_gsm8k, ("Question:", "</s>", "<|im_end|>"), extract=final_number),
    "samsum": Protocol("rouge1", read_samsum, ("Dialogue:", "Summary:", "</s>", "\n\n"), 128, 2),
    "jsonl": Protocol("exact", read_jsonl, ("\n",), 32),
}


def find_protocol(name: str, kind: Kind | None = None) -> Protocol:
    """Return a protocol by name; `kind` scores the user's own examples otherwise than by exact match."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, list(PROTOCOLS))
    found = PROTOCOLS[name]
    return found if kind is None else Protocol(**{**found.__dict__, "kind": kind})


def with_shots(documents: Sequence[Document], shots: Sequence[tuple[Document, str]]) -> list[Document]:
    """Return documents with solved examples before each prompt, as lm-evaluation-harness joins them."""
    before = "".join(f"{document.prompt}{answer}\n\n" for document, answer in shots)
    return [Document(d.id, before + d.prompt, d.choices, d.gold) for d in documents]
