"""The experiment's three tasks as rows of tokens: multiple choice, exact match, generation.

- topic: the lead of an article, its topic among four (log-likelihood).
- kind: a noun with its gloss, WordNet's category in words (greedy generation, exact match).
- short: the lead of an article, Wikidata's short description (greedy generation, ROUGE-1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tenfold_shared.metrics import rouge_n
from torch import Tensor

from muscle.corpus import SEED, load_tokenizer, read_tasks

TaskName = Literal["topic", "kind", "short"]
TASK_NAMES: tuple[TaskName, ...] = ("topic", "kind", "short")
NUM_CHOICES = 4
END = 0


@dataclass(frozen=True)
class Format:
    """How a task is put into tokens: which examples, prompt length, question, answer length, tests."""

    kind: str
    prompt_tokens: int
    question: str
    answer_tokens: int
    num_test: int


FORMATS: dict[str, Format] = {
    "topic": Format("lead", 44, "\nTopic:", 6, 1000),
    "kind": Format("gloss", 24, "\nKind:", 4, 1500),
    "short": Format("lead", 44, "\nShort:", 10, 750),
}


@dataclass(frozen=True)
class Rows:
    """Examples as tokens; all answers begin at the same place.

    Attributes:
        prompts: Prompts, padded with 0 on the left [examples, P].
        valid: Where a prompt is [examples, P].
        answers: Answer and end token, padded with 0 on the right [examples, A + 1]; zeros where there is none.
        labels: The same with -100 in the padding.
    """

    prompts: Tensor
    valid: Tensor
    answers: Tensor
    labels: Tensor

    @property
    def ids(self) -> Tensor:
        """What a model reads: prompt and answer without its last token [examples, P + A]."""
        return torch.cat([self.prompts, self.answers[:, :-1]], 1)

    def mask(self, asked: int) -> Tensor:
        """Which tokens each of the last `asked` tokens of `ids` attends to [examples, 1, asked, P + A]."""
        total = self.prompts.shape[1] + self.answers.shape[1] - 1
        valid = F.pad(self.valid, (0, total - self.valid.shape[1]), value=True)
        places = torch.arange(total, device=valid.device)
        rows = places[total - asked :, None]
        # Padding looks at itself, so that no row is empty.
        return ((places <= rows) & (valid[:, None] | (places == rows)))[:, None]

    def to(self, device: str) -> Rows:
        """Move all tensors."""
        return Rows(*(part.to(device) for part in (self.prompts, self.valid, self.answers, self.labels)))


@dataclass(frozen=True)
class Task:
    """A task's data: rows to learn from, rows to select by, tests with references.

    Attributes:
        name: Of the task.
        train: Rows.
        validation: Rows, for the cross-entropy that selects.
        tests: Rows of `test` examples; for topic one for each choice, four a test.
        gold: For topic the place of the right choice, else the reference.
        validation_tests: As `tests`, of validation examples, for tuning.
        validation_gold: As `gold`.
        tokenizer: For generated text.
    """

    name: str
    train: Rows
    validation: Rows
    tests: Rows
    gold: list[Any]
    validation_tests: Rows
    validation_gold: list[Any]
    tokenizer: Any

    @property
    def answer_tokens(self) -> int:
        """Longest answer."""
        return FORMATS[self.name].answer_tokens


def build_task(name: str, num_train: int | None = None, num_test: int | None = None) -> Task:
    """Return a task from the package's frozen examples, cut to the first `num_train` and `num_test` of them."""
    form, tokenizer = FORMATS[name], load_tokenizer()
    parts = read_tasks(form.kind)
    test = parts["test"][: num_test or form.num_test]
    train, validation = parts["train"][:num_train], parts["validation"][:num_test]
    make = _choice_tests if name == "topic" else _plain_tests
    labels = sorted({row["label"] for row in parts["train"]})
    tests, gold = make(name, tokenizer, test, labels)
    validation_tests, validation_gold = make(name, tokenizer, validation, labels)
    return Task(
        name,
        encode(name, tokenizer, train, [_answer(name, row) for row in train]),
        encode(name, tokenizer, validation, [_answer(name, row) for row in validation]),
        tests,
        gold,
        validation_tests,
        validation_gold,
        tokenizer,
    )


def _answer(name: str, row: dict[str, str]) -> str:
    return " " + (row["description"] if name == "short" else row["label"])


def _plain_tests(name: str, tokenizer: Any, rows: Sequence[dict[str, str]], labels: list[str]) -> tuple[Rows, list]:
    return encode(name, tokenizer, rows, [""] * len(rows)), [_answer(name, row).strip() for row in rows]


def _choice_tests(name: str, tokenizer: Any, rows: Sequence[dict[str, str]], labels: list[str]) -> tuple[Rows, list]:
    """Four choices a row in an order drawn from its title; the right one is anywhere."""
    choices = [draw_choices(row, labels) for row in rows]
    repeated = [row for row in rows for _ in range(NUM_CHOICES)]
    answers = [f" {choice}" for four in choices for choice in four]
    gold = [four.index(row["label"]) for four, row in zip(choices, rows, strict=True)]
    return encode(name, tokenizer, repeated, answers), gold


def draw_choices(row: dict[str, str], labels: Sequence[str]) -> list[str]:
    """Return the right topic and three others, in an order of their own for each article."""
    generator = random.Random(f"{SEED}-{row['title']}")
    others = [label for label in labels if label != row["label"]]
    return generator.sample([row["label"], *generator.sample(others, NUM_CHOICES - 1)], NUM_CHOICES)


def encode(name: str, tokenizer: Any, rows: Sequence[dict[str, str]], answers: Sequence[str]) -> Rows:
    """Return rows of the task's one length; an empty answer leaves the prompt alone."""
    form = FORMATS[name]
    texts = [f"{row['title']}: {row['text']}" if form.kind == "gloss" else row["text"] for row in rows]
    question = tokenizer.encode(form.question, add_special_tokens=False).ids
    length = form.prompt_tokens + len(question)
    prompts, valid = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.bool)
    found = torch.zeros(len(rows), form.answer_tokens + 1, dtype=torch.long)
    labels = torch.full_like(found, -100)
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for i, (prompt, answer) in enumerate(zip(encoded, answers, strict=True)):
        row = prompt.ids[: form.prompt_tokens] + question
        prompts[i, length - len(row) :], valid[i, length - len(row) :] = torch.tensor(row), True
        if answer:
            row = [*tokenizer.encode(answer, add_special_tokens=False).ids[: form.answer_tokens], END]
            found[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
    return Rows(prompts, valid, found, labels)


def score(name: str, answers: Sequence[Any], gold: Sequence[Any]) -> list[float]:
    """Return each answer's score: right or not, or ROUGE-1 rounded to four places, as it is recorded."""
    if name == "short":
        return [round(rouge_n(a, g).fmeasure, 4) for a, g in zip(answers, gold, strict=True)]
    return [float(a == g) for a, g in zip(answers, gold, strict=True)]
