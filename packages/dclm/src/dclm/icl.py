"""Task files to scored sequences: few-shot prompts and the four ways an answer is judged, as the authors' evaluator.

Items come as JSON lines in the official layout: multiple choice `query`, `choices`, `gold`; language modeling
`context`, `continuation`; schema `context_options`, `continuation`, `gold`; question answering `context`, `answer`,
`aliases`, perhaps `chain_of_thought`. Strings are stripped, examples joined by line breaks, a context never ends in a
space and an answer begins with one, since byte-pair tokenizers glue spaces to the words after them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

from dclm.tasks import CHOICE, LM, QA, SCHEMA, TASKS, Task
from dclm.tokenizer import Tokenizer

__all__ = ["FEWSHOT_SEED", "Item", "Prompts", "Row", "find_tasks", "read_task", "task_rows"]

FEWSHOT_SEED = 1234
COT = " #### "
STEPS = "\nA: Let's think step by step. "
ANSWER = "\nAnswer: "
STOPS = ("\n\n", "Q:", "Q: ")
# What stands between question and answer, where it is no space.
DELIMITERS = {
    "mmlu_zeroshot": "Answer: ",
    "gsm8k_cot": STEPS,
    "agi_eval_sat_math_cot": STEPS,
    "aqua_cot": STEPS,
    "svamp_cot": "\nUsing the formula below:\n",
} | dict.fromkeys(
    ("jeopardy", "arc_easy", "arc_challenge", "mmlu_fewshot", "piqa", "logi_qa", "boolq", "gpqa_main", "gpqa_diamond"),
    ANSWER,
)
# Official names of files that are not those of their task.
FILES = {
    "mmlu_zeroshot": ("mmlu",),
    "mmlu_fewshot": ("mmlu",),
    "hellaswag_zeroshot": ("hellaswag",),
    "jeopardy": ("jeopardy_all", "jeopardy"),
    "winograd": ("winograd_wsc", "winograd"),
    "gsm8k_cot": ("gsm8k",),
    "agi_eval_sat_math_cot": ("agi_eval_sat_math",),
    "aqua_cot": ("aqua",),
    "svamp_cot": ("svamp",),
}
FIELDS = {
    CHOICE: ("query", "choices", "gold"),
    SCHEMA: ("context_options", "continuation", "gold"),
    LM: ("context", "continuation"),
    QA: ("context", "answer"),
}
Item = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A sequence of which the last ids are scored.

    Attributes:
        ids: Prompt and answer.
        start: Where the answer begins.
        item: Number of the question.
        option: Number of the answer.
        num_bytes: UTF-8 bytes of the answer.
    """

    ids: tuple[int, ...]
    start: int
    item: int
    option: int
    num_bytes: int


def find_tasks(folder: str | Path) -> dict[str, Path]:
    """Return the tasks whose files lie in a folder or below, under their official names.

    Raises:
        InputError: Not one.
    """
    files = {path.stem: path for path in sorted(Path(folder).rglob("*.jsonl"))}
    found = {}
    for task in TASKS:
        path = next((files[name] for name in FILES.get(task.name, (task.name,)) if name in files), None)
        if path is not None:
            found[task.name] = path
    if not found:
        raise InputError(f"no task files below {folder}; expected names such as arc_easy.jsonl or copa.jsonl.")
    return found


def read_task(task: Task, path: str | Path) -> list[Item]:
    """Read the items of a task, strings stripped.

    Raises:
        InputError: A line that is no item of the task's kind, or a gold index outside the choices.
    """
    items = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), start=1):
        if line.strip():
            items.append(_checked(task, path, number, line))
    if not items:
        raise InputError(f"{path} holds no items.")
    return items


def _checked(task: Task, path: str | Path, number: int, line: str) -> Item:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is not JSON ({error}).") from error
    missing = [name for name in FIELDS[task.kind] if not isinstance(item, dict) or name not in item]
    if missing:
        raise InputError(f"{path}: line {number} lacks `{missing[0]}`, which {task.kind} needs.")
    options = item.get("choices" if task.kind == CHOICE else "context_options")
    if task.kind in (CHOICE, SCHEMA):
        gold = item["gold"]
        if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options):
            raise InputError(f"{path}: line {number} has gold {gold!r}; there are {len(options)} choices, from 0.")
    return {name: value.strip() if isinstance(value, str) else value for name, value in item.items()}


class Prompts:
    """Prompts of one task.

    Args:
        task: Kind and number of shots.
        items: All items: examples are drawn from them.
        seed: Of the draw of examples.
        num_shots: By default the task's.
    """

    def __init__(
        self, task: Task, items: Sequence[Item], seed: int = FEWSHOT_SEED, num_shots: int | None = None
    ) -> None:
        self.task, self.items = task, items
        self.delimiter = DELIMITERS.get(task.name, " ")
        self.before = "Q: " if task.kind == QA and task.name.endswith("_cot") else ""
        self.cot = COT if self.before else ""
        self.num_shots = task.num_shots if num_shots is None else num_shots
        draw = random.Random(seed)
        self.shots = [self._draw(number, draw) for number in range(len(items))]

    def _draw(self, number: int, draw: random.Random) -> set[int]:
        """Draw other items as examples; the order is that of Python's set, as in the authors' evaluator."""
        total = len(self.items)
        wanted = min(total - 1, self.num_shots)
        if not wanted:
            return set()
        found = set(draw.sample(range(total), wanted))
        if number in found:
            found.remove(number)
            if len(found) >= total - 1:
                return found
            other = draw.choice(range(total))
            while other in found or other == number:
                other = draw.choice(range(total))
            found.add(other)
        return found

    def examples(self, number: int) -> str:
        """Return the solved examples before an item."""
        text = ""
        for shot in self.shots[number]:
            item = self.items[shot]
            gap = "\n" if text else ""
            if self.task.kind == SCHEMA:
                context = f"{self.before}{gap}{item['context_options'][item['gold']]}"
                text += f"{context}{self.delimiter}{item['continuation']}"
            else:
                text += f"{gap}{self.before}{self._context(item)}{self.delimiter}{self._answer(item)}"
        return text

    def _context(self, item: Item) -> str:
        return item["query"] if self.task.kind == CHOICE else item["context"]

    def _answer(self, item: Item) -> str:
        if self.task.kind == CHOICE:
            return item["choices"][item["gold"]]
        if self.task.kind == QA:
            thought = item.get("chain_of_thought", "")
            return f"{thought}{self.cot}{item['answer']}" if thought else item["answer"]
        return item["continuation"]

    def pairs(self, number: int) -> list[tuple[str, str]]:
        """Return context (without examples) and answer of every option; question answering has an empty answer."""
        item = self.items[number]
        gap = "\n" if self.shots[number] else ""
        if self.task.kind == SCHEMA:
            contexts = [f"{gap}{self.before}{option}{self.delimiter}" for option in item["context_options"]]
            return [(context.rstrip(), item["continuation"]) for context in contexts]
        context = f"{gap}{self.before}{self._context(item)}{self.delimiter}".rstrip()
        if self.task.kind == QA:
            return [(context, "")]
        answers = item["choices"] if self.task.kind == CHOICE else [item["continuation"]]
        return [(context, answer) for answer in answers]


def task_rows(prompts: Prompts, tokenizer: Tokenizer, length: int, items: Sequence[int] | None = None) -> list[Row]:
    """Return the sequences of a task: prompts cut from the left to fit.

    Args:
        prompts: Of the task.
        tokenizer: The model's.
        length: Most ids of a sequence.
        items: Numbers of the items; all by default.

    Raises:
        InputError: An answer alone is longer.
    """
    chosen = range(len(prompts.items)) if items is None else items
    plain = [(number, prompts.examples(number), prompts.pairs(number)) for number in chosen]
    texts = [examples for _, examples, _ in plain] + [part for _, _, pairs in plain for pair in pairs for part in pair]
    spaced = _with_spaces(texts, len(plain))
    ids = iter(tokenizer.encode_batch(spaced))
    before = [next(ids) for _ in plain]
    rows = []
    for (number, _, pairs), examples in zip(plain, before, strict=True):
        for option, (_, answer) in enumerate(pairs):
            context, found = next(ids), next(ids)
            if len(found) > length:
                raise InputError(f"an answer of {prompts.task.name} has {len(found)} ids; the model reads {length}.")
            context = (examples + context)[-(length - len(found)) :] if len(found) < length else []
            rows.append(Row((*context, *found), len(context), number, option, len(answer.encode()) + 1))
    return rows


def _with_spaces(texts: list[str], num_examples: int) -> list[str]:
    """Put a space before answers (every second text after the examples) that have none."""
    answers = range(num_examples + 1, len(texts), 2)
    spaced = list(texts)
    for at in answers:
        if texts[at] and not texts[at].startswith(" "):
            spaced[at] = f" {texts[at]}"
    return spaced
