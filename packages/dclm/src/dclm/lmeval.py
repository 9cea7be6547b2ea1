"""Evaluate a language model on task files: accuracies with standard errors, ready for CORE and EXTENDED."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError
from tenfold_shared.progress import progress

from dclm.icl import FEWSHOT_SEED, STOPS, Item, Prompts, Row, find_tasks, read_task, task_rows
from dclm.openlm import OpenLM
from dclm.tasks import CHOICE, LM, QA, SCHEMA, TASKS
from dclm.tokenizer import Tokenizer

__all__ = ["EvalOptions", "Scorer", "evaluate", "text_bits"]

VERSIONS = ("dclm", "jax", "flax", "numpy", "tokenizers")
LENGTH_STEP = 64  # sequences are padded to its multiples: few shapes, few compilations
ARTICLES = re.compile(r"\b(a|an|the)\b")
ANSWER_MARGIN = 10  # ids more than the longest gold answer, as in the authors' evaluator


@dataclass(frozen=True)
class EvalOptions:
    """How a model is evaluated.

    Args:
        seed: Of the few-shot examples.
        batch_size: Sequences at a time.
        max_items: Most items of a task, the first ones of its file; 0 for all. Scores of a part are no CORE.
        quiet: No progress.
    """

    seed: int = FEWSHOT_SEED
    batch_size: int = 16
    max_items: int = 0
    quiet: bool = False


class Scorer:
    """A model that says how likely the ids of a sequence are.

    Args:
        model: Its context length bounds sequences.
        batch_size: Sequences at a time.
    """

    def __init__(self, model: OpenLM, batch_size: int = 16) -> None:
        from flax import nnx

        self.config, self.batch_size = model.config, batch_size
        graph, self._state = nnx.split(model)

        def score(state: Any, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = nnx.merge(graph, state)(ids[:, :-1])
            picked = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
            return picked - jax.nn.logsumexp(logits, axis=-1), logits.argmax(axis=-1) == ids[:, 1:]

        def best(state: Any, ids: jax.Array, last: jax.Array) -> jax.Array:
            logits = nnx.merge(graph, state)(ids)
            return logits[jnp.arange(len(ids)), last].argmax(axis=-1)

        self._score, self._best = jax.jit(score), jax.jit(best)

    def score(self, rows: Sequence[Row]) -> Iterator[tuple[NDArray[np.float32], bool]]:
        """Yield for each row the log-probabilities of its answer, and whether each of its ids is the likeliest."""
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
        found: dict[int, tuple[NDArray[np.float32], bool]] = {}
        for first in range(0, len(order), self.batch_size):
            places = order[first : first + self.batch_size]
            ids = self._pad([rows[place].ids for place in places])
            logs, greedy = (np.asarray(part) for part in self._score(self._state, jnp.asarray(ids)))
            for at, place in enumerate(places):
                span = slice(max(rows[place].start, 1) - 1, len(rows[place].ids) - 1)
                found[place] = (logs[at, span], bool(greedy[at, span].all()))
        yield from (found[place] for place in range(len(rows)))

    def _pad(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        longest = max(map(len, sequences))
        ids = np.zeros((self.batch_size, -(-longest // LENGTH_STEP) * LENGTH_STEP + 1), np.int32)
        for place, sequence in enumerate(sequences):
            ids[place, : len(sequence)] = sequence
        return ids

    def generate(self, prompt: Sequence[int], max_new: int, stop: Callable[[list[int]], bool]) -> list[int]:
        """Return the likeliest continuation, id by id, until `stop` or `max_new`."""
        ids = list(prompt)[-(self.config.context_length - max_new) :]
        made: list[int] = []
        while len(made) < max_new and not stop(made):
            padded = self._pad([ids])[:, :-1]
            last = np.full(self.batch_size, len(ids) - 1)
            made.append(int(self._best(self._state, jnp.asarray(padded), jnp.asarray(last))[0]))
            ids.append(made[-1])
        return made


def evaluate(
    model: OpenLM, tokenizer: Tokenizer, folder: str | Path, options: EvalOptions = EvalOptions()
) -> dict[str, Any]:
    """Evaluate on every task whose file lies in a folder.

    Multiple choice takes the answer with the highest mean log-probability of its ids, schema the context under which
    the continuation has it; language modeling counts continuations that are all likeliest; question answering generates
    and compares normalised answers.

    Args:
        model: In any precision.
        tokenizer: The one it was trained with.
        folder: Task files in the official layout.
        options: Seed, sizes.

    Returns:
        `icl` (task to accuracy), `standard_errors` (binomial), `num_items`, `seed`, `tokenizer`, `versions`.

    Raises:
        InputError: No task files, bad items, or a tokenizer with more words than the model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} ids; the model's vocabulary has "
            f"{model.config.vocab_size}."
        )
    scorer, known = Scorer(model, options.batch_size), {task.name: task for task in TASKS}
    accuracies, errors, counts = {}, {}, {}
    for name, path in progress(find_tasks(folder).items(), description="evaluate", quiet=options.quiet):
        items = read_task(known[name], path)
        prompts = Prompts(known[name], items, options.seed)
        chosen = range(len(items))[: options.max_items or None]
        right = judge(prompts, scorer, tokenizer, chosen)
        accuracies[name], counts[name] = float(np.mean(right)), len(right)
        errors[name] = math.sqrt(accuracies[name] * (1 - accuracies[name]) / len(right))
    facts = {"icl": accuracies, "standard_errors": errors, "num_items": counts, "seed": options.seed}
    return {**facts, "tokenizer": tokenizer.name, "versions": {name: version(name) for name in VERSIONS}}


def judge(prompts: Prompts, scorer: Scorer, tokenizer: Tokenizer, chosen: Sequence[int]) -> list[bool]:
    """Return which of the chosen items are answered rightly."""
    if prompts.task.kind == QA:
        longest = min(_longest(prompts, tokenizer), scorer.config.context_length // 2)
        return [_answers(prompts, scorer, tokenizer, number, longest) for number in chosen]
    rows = task_rows(prompts, tokenizer, scorer.config.context_length, chosen)
    found = list(scorer.score(rows))
    if prompts.task.kind == LM:
        return [greedy for _, greedy in found]
    return list(_choices(prompts, rows, [float(logs.mean()) for logs, _ in found]))


def _choices(prompts: Prompts, rows: Sequence[Row], means: Sequence[float]) -> Iterator[bool]:
    """Yield whether the best option of each item is the gold one; the first wins a tie."""
    assert prompts.task.kind in (CHOICE, SCHEMA)
    by_item: dict[int, list[float]] = {}
    for row, mean in zip(rows, means, strict=True):
        by_item.setdefault(row.item, []).append(mean)
    for number, values in by_item.items():
        yield int(np.argmax(values)) == prompts.items[number]["gold"]


def _answers(prompts: Prompts, scorer: Scorer, tokenizer: Tokenizer, number: int, longest: int) -> bool:
    item = prompts.items[number]
    [(context, _)] = prompts.pairs(number)
    ids = tokenizer.encode(prompts.examples(number)) + tokenizer.encode(context)
    stops = STOPS if prompts.cot else ()

    def done(made: list[int]) -> bool:
        text = tokenizer.decode(made)
        return bool(made) and (made[-1] == tokenizer.end_id or any(stop in text for stop in stops))

    made = scorer.generate(ids, longest, done)
    return is_right(tokenizer.decode([value for value in made if value != tokenizer.end_id]), item, prompts.cot)


def _longest(prompts: Prompts, tokenizer: Tokenizer) -> int:
    """Return how many ids the longest gold answer has, with its reasoning and a margin."""
    texts = [
        f"{item.get('chain_of_thought', '')}{prompts.cot}{answer}"
        for item in prompts.items
        for answer in (item["answer"], *item.get("aliases", []))
    ]
    return max(map(len, tokenizer.encode_batch(texts))) + (ANSWER_MARGIN if prompts.cot else 0)


def is_right(text: str, item: Item, cot: str) -> bool:
    """Return whether a generated text begins with one of an item's answers, both normalised.

    With reasoning only what follows its delimiter counts.

    Example:
        >>> is_right("The Beatles, of course", {"answer": "Beatles", "aliases": []}, "")
        True
    """
    for stop in STOPS if cot else ():
        text = text.split(stop)[0]
    text = text.split(cot)[-1] if cot else text
    said = _normal(text)
    return any(said.startswith(_normal(answer)) for answer in (item["answer"], *item.get("aliases", [])))


def _normal(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    text = text.replace("_", " ").lower()
    text = "".join(" " if letter in set(string.punctuation) | set("‘’´`") else letter for letter in text)
    return " ".join(ARTICLES.sub(" ", text).split())


def text_bits(model: OpenLM, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 16) -> float:
    """Return bits per UTF-8 byte of texts, cut into contexts that do not overlap.

    Args:
        model: Any.
        tokenizer: The one it was trained with.
        texts: Each begins after the end of the one before.
        batch_size: Contexts at a time.
    """
    ids = [value for found in tokenizer.encode_batch(texts) for value in (tokenizer.end_id, *found)]
    step = model.config.context_length
    pieces = [ids[first : first + step + 1] for first in range(0, len(ids) - 1, step)]
    rows = [Row(tuple(piece), 1, number, 0, 0) for number, piece in enumerate(pieces) if len(piece) > 1]
    total = sum(float(logs.sum()) for logs, _ in Scorer(model, batch_size).score(rows))
    return -total / math.log(2) / sum(len(text.encode()) for text in texts)


def table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per task."""
    errors, counts = found["standard_errors"], found["num_items"]
    return [
        {"task": name, "accuracy": value, "standard_error": errors[name], "items": counts[name]}
        for name, value in found["icl"].items()
    ]
