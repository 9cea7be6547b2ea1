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

Every arm is cut to the unique tokens of the smallest one, or to `MAX_TOKENS`; the contexts that stay are drawn at
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
VOCAB = 8192
CONTEXT = 257
SHARE = 0.1
MAX_TOKENS = 1_700_000
EVALUATION_TOKENS = 240_000  # of each source, and a third of it for validation
TOKENIZER_DOCUMENTS = 8_000
TOKENIZER_CHARACTERS = 5_000  # of each
TASK_ITEMS = 300
TASK_CHARACTERS = 600  # longer items might not fit into a context
QUIET = RunOptions(quiet=True, resume=True, file_format="jsonl.zst")


@dataclass(frozen=True)
class Texts:
    """Documents of every stage, and the sources beside the pool."""

    raw: list[str]
    refinedweb: list[str]
    dedup: list[str]
    a: list[str]
    b: list[str]
    c: list[str]


def prepare_arms(texts: Texts, tasks: Path, *, max_tokens: int = MAX_TOKENS, vocab: int = VOCAB) -> Prepared:
    """Score the pool, choose every arm's documents and turn them into contexts.

    Args:
        texts: From `stage_texts`.
        tasks: Folder of task files.
        max_tokens: Most tokens of an arm.
        vocab: Words of the tokenizer, which is trained on the raw pool.
    """
    tokenizer = train_tokenizer(texts.raw, vocab)
    task_arrays = _task_arrays(tokenizer, tasks)
    ids = {name: _encode(tokenizer, getattr(texts, name)) for name in ("raw", "refinedweb", "dedup", "a")}
    chosen = _choose(texts, ids)
    counts = {name: {"documents": len(found), "tokens": sum(map(len, found))} for name, found in chosen.items()}
    budget = min(max_tokens, *(count["tokens"] for name, count in counts.items() if name != "mix"))
    arms = {name: _contexts(found, budget, name) for name, found in chosen.items()}
    part = len(arms["classifier"]) // 4
    own = _contexts(ids["a"], part * CONTEXT, "a")
    arms["mix"] = np.concatenate([arms["classifier"][: len(arms["classifier"]) - len(own)], own])
    evaluation: dict[str, NDArray[np.uint16]] = {}
    for name in ("b", "c"):
        evaluation |= _split(name, _encode(tokenizer, getattr(texts, name)))
    oracle = np.concatenate([evaluation.pop("b_oracle"), evaluation.pop("c_oracle")])
    arms["oracle"] = oracle[: budget // CONTEXT]
    facts = {"arms": counts, "budget_tokens": budget, "vocab": vocab, "context": CONTEXT}
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


def _choose(texts: Texts, ids: dict[str, list[NDArray[np.uint16]]]) -> dict[str, list[NDArray[np.uint16]]]:
    """Return the token arrays of every arm's documents."""
    unique = ids["dedup"]
    wanted = SHARE * sum(map(len, unique))
    scores: dict[str, Callable[[], NDArray[np.float64]]] = {
        "classifier": lambda: classifier_scores(texts.dedup, texts.a, shuffled=False),
        "shuffled": lambda: classifier_scores(texts.dedup, texts.a, shuffled=True),
        "perplexity": lambda: _surprise(unique, ids["a"], texts.dedup),
        "random": lambda: np.random.default_rng(SEED).random(len(unique)),
    }
    chosen = {name: _best(unique, score_of(), wanted) for name, score_of in scores.items()}
    return chosen | {name: ids[name] for name in ("dedup", "refinedweb", "raw")}


def _best(found: list[NDArray[np.uint16]], scores: NDArray[np.float64], wanted: float) -> list[NDArray[np.uint16]]:
    """Take the documents with the highest scores until they hold the wanted number of tokens."""
    order = np.argsort(-scores, kind="stable")
    total = np.cumsum([len(found[place]) for place in order])
    return [found[place] for place in order[: int(np.searchsorted(total, wanted)) + 1]]


def classifier_scores(documents: Sequence[str], wanted: Sequence[str], *, shuffled: bool) -> NDArray[np.float64]:
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
        train_classifier(*halves, out=model, seed=SEED)
        found = score((Document(_one_line(text)) for text in documents), Score(model))
        return np.array([document.fields["quality"] for document, _ in found])


def _surprise(
    found: list[NDArray[np.uint16]], own: list[NDArray[np.uint16]], texts: Sequence[str]
) -> NDArray[np.float64]:
    """Return minus the bits per byte of documents under an interpolated bigram model of source A."""
    stream = np.concatenate(own).astype(np.int64)
    single = np.bincount(stream, minlength=VOCAB) + 1.0
    single /= single.sum()
    keys, counts = np.unique(stream[:-1] * VOCAB + stream[1:], return_counts=True)
    heads = np.bincount(stream[:-1], minlength=VOCAB)
    types = np.bincount(keys // VOCAB, minlength=VOCAB)  # Witten-Bell: how often a word is followed by something new
    values = []
    for ids, text in zip(found, texts, strict=True):
        pairs = ids[:-1].astype(np.int64) * VOCAB + ids[1:]
        at = np.minimum(np.searchsorted(keys, pairs), len(keys) - 1)
        seen = np.where(keys[at] == pairs, counts[at], 0)
        head = ids[:-1].astype(np.int64)
        mixed = (seen + types[head] * single[ids[1:]]) / np.maximum(heads[head] + types[head], 1)
        bits = -np.log2(np.where(heads[head] > 0, mixed, single[ids[1:]])).sum() - np.log2(single[ids[0]])
        values.append(-bits / max(1, len(text.encode())))
    return np.array(values)


def _contexts(found: Sequence[NDArray[np.uint16]], budget: int, name: str) -> NDArray[np.uint16]:
    """Pack documents in a random order into contexts and draw as many as the budget allows."""
    generator = np.random.default_rng([SEED, len(name)])
    order = generator.permutation(len(found))
    stream = np.concatenate([found[place] for place in order])
    rows = stream[: len(stream) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    return rows[generator.permutation(len(rows))[: budget // CONTEXT]]


def _split(name: str, found: list[NDArray[np.uint16]]) -> dict[str, NDArray[np.uint16]]:
    """Split a source by documents: a fifth for validation, three tenths for the test, the rest for `oracle`."""
    order = np.random.default_rng([SEED, 7]).permutation(len(found))
    first, second = len(found) // 5, len(found) // 2
    parts = {
        "valid": (order[:first], EVALUATION_TOKENS // 3),
        "test": (order[first:second], EVALUATION_TOKENS),
        "oracle": (order[second:], MAX_TOKENS // 2),
    }
    return {
        f"{name}_{part}": _contexts([found[place] for place in places], budget, part)
        for part, (places, budget) in parts.items()
    }


def _byte_counts(tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """Return the UTF-8 bytes of every id; the end of a document has none."""
    words = tokenizer.engine.get_vocab()
    counts = np.zeros(len(words), np.uint16)
    for word, number in words.items():
        counts[number] = 0 if word == END_OF_TEXT else len(word)  # one symbol a byte
    return counts


def _task_arrays(tokenizer: Tokenizer, folder: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the tasks without examples (ten do not fit into a context), the first items of a seeded order."""
    known = {task.name: task for task in TASKS}
    arrays = {}
    for name, path in find_tasks(folder).items():
        items = read_task(known[name], path)
        fitting = [place for place, item in enumerate(items) if len(json.dumps(item)) < TASK_CHARACTERS]
        drawn = sorted(random.Random(SEED).sample(fitting, min(TASK_ITEMS, len(fitting))))
        rows = task_rows(Prompts(known[name], items, num_shots=0), tokenizer, CONTEXT - 1, drawn)
        ids = np.zeros((len(rows), CONTEXT), np.uint16)
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
