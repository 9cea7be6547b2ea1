"""The arms of the filtering experiment as token arrays: prepared once on CPUs, trained anywhere.

    python -m dclm.filtering_arms POOL TASKS OUT

POOL is what `dclm.filtering_pool` wrote, TASKS a folder of task files (arc_easy, copa, piqa, winograd). All arms come
from one pool:

1. `raw`: the pool without documents that share 13 words in a row with the evaluation texts (sources B and C).
2. `refinedweb`: those that RefinedWeb's rules keep. 3. `dedup`: then the Bloom filter.
4. `classifier`: of `dedup`, the documents that the paper's fastText classifier likes best, up to a tenth of its tokens.
   Its positives are source A, its negatives as many random documents of `dedup`, cut to the same lengths.
5. `random`: a random tenth. 6. `shuffled`: the best tenth by a classifier of the same documents with labels permuted.
7. `perplexity`: the tenth that a bigram model of source A finds least surprising (in bits per byte).
8. `mix`: three quarters of `classifier`, one quarter source A.

Every arm is cut to the unique tokens of the smallest one, or to `Sizes.max_tokens`; the contexts that stay are drawn at
random. Sources B and C are seen by no filter, classifier or tokenizer; each is split by documents into validation
(where rates are tuned), test, and the text of `oracle`, which is no arm but the positive control: the model trained on
it must do best.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dclm.classify import _one_line, score, train_classifier
from dclm.config import Bloom, Decontaminate, Recipe, RefinedWeb, Score
from dclm.data import read_documents
from dclm.document import Document
from dclm.engines import RunOptions
from dclm.filtering_data import Prepared, save_prepared
from dclm.icl import Prompts, find_tasks, read_task, task_rows
from dclm.pipeline import run
from dclm.tasks import TASKS
from dclm.tokenizer import END_OF_TEXT, Tokenizer

__all__ = ["prepare_arms"]

SEED = 0
TOKENIZER_DOCUMENTS = 8_000
TOKENIZER_CHARACTERS = 5_000  # of each
TASK_CHARACTERS = 600  # longer items might not fit into a context
QUIET = RunOptions(quiet=True, resume=True, file_format="jsonl.zst")


@dataclass(frozen=True)
class Sizes:
    """How much of everything is prepared.

    Args:
        vocab: Words of the tokenizer.
        context: Ids of a row: the model's context and one more.
        share: Of the deduplicated pool's tokens that a model keeps.
        max_tokens: Most tokens of an arm.
        evaluation_tokens: Of each source's test text; a third of it for validation.
        task_items: Most items of a task.
        epochs: Of the classifier: fastText's default, more where documents are few.
    """

    vocab: int = 8192
    context: int = 257
    share: float = 0.1
    max_tokens: int = 1_700_000
    evaluation_tokens: int = 240_000
    task_items: int = 300
    epochs: int = 5


@dataclass(frozen=True)
class Texts:
    """Documents of every stage, and the sources beside the pool."""

    raw: list[str]
    refinedweb: list[str]
    dedup: list[str]
    a: list[str]
    b: list[str]
    c: list[str]


def prepare_arms(texts: Texts, tasks: Path, sizes: Sizes = Sizes()) -> Prepared:
    """Score the pool, choose every arm's documents and turn them into contexts.

    Args:
        texts: From `stage_texts`.
        tasks: Folder of task files.
        sizes: Of tokenizer, arms and evaluation texts.
    """
    tokenizer = train_tokenizer(texts.raw, sizes.vocab)
    task_arrays = _task_arrays(tokenizer, tasks, sizes)
    ids = {name: _encode(tokenizer, getattr(texts, name)) for name in ("raw", "refinedweb", "dedup", "a")}
    chosen = _choose(texts, ids, sizes)
    counts = {name: {"documents": len(found), "tokens": sum(map(len, found))} for name, found in chosen.items()}
    budget = min(sizes.max_tokens, *(count["tokens"] for name, count in counts.items() if name != "mix"))
    arms = {name: _contexts(found, budget, name, sizes) for name, found in chosen.items()}
    part = len(arms["classifier"]) // 4
    own = _contexts(ids["a"], part * sizes.context, "a", sizes)
    arms["mix"] = np.concatenate([arms["classifier"][: len(arms["classifier"]) - len(own)], own])
    evaluation: dict[str, NDArray[np.uint16]] = {}
    for name in ("b", "c"):
        evaluation |= _split(name, _encode(tokenizer, getattr(texts, name)), sizes)
    oracle = np.concatenate([evaluation.pop("b_oracle"), evaluation.pop("c_oracle")])
    arms["oracle"] = oracle[: budget // sizes.context]
    facts = {"arms": counts, "budget_tokens": budget, "vocab": sizes.vocab, "context": sizes.context}
    return Prepared(arms, evaluation, _byte_counts(tokenizer), task_arrays, facts)


def stage_texts(pool: Path, work: Path) -> Texts:
    """Run the filters over the pool; stages that are done are kept."""
    sides = {}
    for name in ("b", "c"):
        (work / f"{name}.jsonl").write_bytes(gzip.decompress((pool / f"{name}.jsonl.gz").read_bytes()))
        sides[name] = _texts([str(pool / f"{name}.jsonl.gz")])
    clean = Recipe((Decontaminate((str(work / "b.jsonl"), str(work / "c.jsonl")), 13, False),))
    shards = sorted(str(path) for path in pool.glob("pool-*.jsonl.gz"))
    positives = run([str(pool / "a.jsonl.gz")], clean, out=work / "st" / "a", options=QUIET)["documents"]
    raw = run(shards, clean, out=work / "st" / "raw", options=QUIET)["documents"]
    kept = run(raw, Recipe((RefinedWeb(),)), out=work / "st" / "rw", options=QUIET)["documents"]
    unique = run(kept, Recipe((Bloom(),)), out=work / "st" / "dd", options=QUIET)["documents"]
    return Texts(_texts(raw), _texts(kept), _texts(unique), _texts(positives), **sides)


def _texts(paths: Sequence[str]) -> list[str]:
    return [document.text for path in paths for document in read_documents(path)]


def train_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """Train byte-pair encoding on random documents of the raw pool."""
    import tokenizers

    drawn = random.Random(SEED).sample(list(texts), min(TOKENIZER_DOCUMENTS, len(texts)))
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    engine.train_from_iterator((text[:TOKENIZER_CHARACTERS] for text in drawn), trainer)
    return Tokenizer("pool", engine, engine.token_to_id(END_OF_TEXT))


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
    found: list[NDArray[np.uint16]] = []
    for first in range(0, len(texts), 500):
        batch = tokenizer.encode_batch(texts[first : first + 500])
        found += [np.array([*ids, tokenizer.end_id], np.uint16) for ids in batch]
    return found


def _choose(
    texts: Texts, ids: dict[str, list[NDArray[np.uint16]]], sizes: Sizes
) -> dict[str, list[NDArray[np.uint16]]]:
    """Return the token arrays of every arm's documents."""
    unique = ids["dedup"]
    wanted = sizes.share * sum(map(len, unique))
    scores: dict[str, Callable[[], NDArray[np.float64]]] = {
        "classifier": lambda: classifier_scores(texts.dedup, texts.a, shuffled=False, epochs=sizes.epochs),
        "shuffled": lambda: classifier_scores(texts.dedup, texts.a, shuffled=True, epochs=sizes.epochs),
        "perplexity": lambda: _surprise(unique, ids["a"], texts.dedup, sizes.vocab),
        "random": lambda: np.random.default_rng(SEED).random(len(unique)),
    }
    chosen = {name: _best(unique, score_of(), wanted) for name, score_of in scores.items()}
    return chosen | {name: ids[name] for name in ("dedup", "refinedweb", "raw")}


def _best(found: list[NDArray[np.uint16]], scores: NDArray[np.float64], wanted: float) -> list[NDArray[np.uint16]]:
    """Take the documents with the highest scores until they hold the wanted number of tokens."""
    order = np.argsort(-scores, kind="stable")
    total = np.cumsum([len(found[place]) for place in order])
    return [found[place] for place in order[: int(np.searchsorted(total, wanted)) + 1]]


def classifier_scores(
    documents: Sequence[str], wanted: Sequence[str], *, shuffled: bool, epochs: int = 5
) -> NDArray[np.float64]:
    """Train the paper's classifier and score documents; `shuffled` permutes the labels of its training documents."""
    generator = random.Random(SEED)
    lengths = [len(text) for text in wanted]
    others = generator.sample(list(documents), min(len(wanted), len(documents)))
    others = [text[: generator.choice(lengths)] for text in others]
    both = [*wanted, *others]
    if shuffled:
        generator.shuffle(both)
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model.bin"))
        halves = (map(Document, both[: len(wanted)]), map(Document, both[len(wanted) :]))
        train_classifier(*halves, out=model, seed=SEED, epochs=epochs)
        found = score((Document(_one_line(text)) for text in documents), Score(model))
        return np.array([document.fields["quality"] for document, _ in found])


def _surprise(
    found: list[NDArray[np.uint16]], own: list[NDArray[np.uint16]], texts: Sequence[str], vocab: int
) -> NDArray[np.float64]:
    """Return minus the bits per byte of documents under an interpolated bigram model of source A."""
    stream = np.concatenate(own).astype(np.int64)
    single = np.bincount(stream, minlength=vocab) + 1.0
    single /= single.sum()
    keys, counts = np.unique(stream[:-1] * vocab + stream[1:], return_counts=True)
    heads = np.bincount(stream[:-1], minlength=vocab)
    types = np.bincount(keys // vocab, minlength=vocab)  # Witten-Bell: how often a word is followed by something new
    values = []
    for ids, text in zip(found, texts, strict=True):
        pairs = ids[:-1].astype(np.int64) * vocab + ids[1:]
        at = np.minimum(np.searchsorted(keys, pairs), len(keys) - 1)
        seen = np.where(keys[at] == pairs, counts[at], 0)
        head = ids[:-1].astype(np.int64)
        mixed = (seen + types[head] * single[ids[1:]]) / np.maximum(heads[head] + types[head], 1)
        bits = -np.log2(np.where(heads[head] > 0, mixed, single[ids[1:]])).sum() - np.log2(single[ids[0]])
        values.append(-bits / max(1, len(text.encode())))
    return np.array(values)


def _contexts(found: Sequence[NDArray[np.uint16]], budget: int, name: str, sizes: Sizes) -> NDArray[np.uint16]:
    """Pack documents in a random order into contexts and draw as many as the budget allows."""
    generator = np.random.default_rng([SEED, len(name)])
    order = generator.permutation(len(found))
    stream = np.concatenate([found[place] for place in order])
    rows = stream[: len(stream) // sizes.context * sizes.context].reshape(-1, sizes.context)
    return rows[generator.permutation(len(rows))[: budget // sizes.context]]


def _split(name: str, found: list[NDArray[np.uint16]], sizes: Sizes) -> dict[str, NDArray[np.uint16]]:
    """Split a source by documents: a fifth for validation, three tenths for the test, the rest for `oracle`."""
    order = np.random.default_rng([SEED, 7]).permutation(len(found))
    first, second = len(found) // 5, len(found) // 2
    parts = {
        "valid": (order[:first], sizes.evaluation_tokens // 3),
        "test": (order[first:second], sizes.evaluation_tokens),
        "oracle": (order[second:], sizes.max_tokens // 2),
    }
    return {
        f"{name}_{part}": _contexts([found[place] for place in places], budget, part, sizes)
        for part, (places, budget) in parts.items()
    }


def _byte_counts(tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """Return the UTF-8 bytes of every id; the end of a document has none."""
    words = tokenizer.engine.get_vocab()
    counts = np.zeros(len(words), np.uint16)
    for word, number in words.items():
        counts[number] = 0 if word == END_OF_TEXT else len(word)  # one symbol a byte
    return counts


def _task_arrays(tokenizer: Tokenizer, folder: Path, sizes: Sizes) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the tasks without examples (ten do not fit into a context), the first items of a seeded order."""
    known = {task.name: task for task in TASKS}
    arrays = {}
    for name, path in find_tasks(folder).items():
        items = read_task(known[name], path)
        fitting = [place for place, item in enumerate(items) if len(json.dumps(item)) < TASK_CHARACTERS]
        drawn = sorted(random.Random(SEED).sample(fitting, min(sizes.task_items, len(fitting))))
        rows = task_rows(Prompts(known[name], items, num_shots=0), tokenizer, sizes.context - 1, drawn)
        ids = np.zeros((len(rows), sizes.context), np.uint16)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
        columns = {"start": "start", "item": "item", "option": "option", "bytes": "num_bytes"}
        arrays[name] = {ours: np.array([getattr(row, theirs) for row in rows]) for ours, theirs in columns.items()}
        arrays[name] |= {"ids": ids, "length": np.array([len(row.ids) for row in rows])}
        arrays[name]["gold"] = np.array([items[row.item].get("gold", 0) for row in rows])
    return arrays


if __name__ == "__main__":
    pool_folder, task_folder, out_folder = map(Path, sys.argv[1:4])
    save_prepared(prepare_arms(stage_texts(pool_folder, out_folder), task_folder), out_folder)
