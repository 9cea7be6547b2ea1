"""Preparation, loader, sampler and resume beside other ways of doing them, on one corpus in one run.

    dataset-decomposition benchmark --budget laptop        (two cores, about four minutes)

Documents have the lengths of a log-normal distribution like that of web text; token values do not matter and are
random. Rates are tokens (or draws) per CPU second, medians over interleaved rounds; a row gives the ratio (over 1: ours
is better) and its spread. An aim in a work's name is a rate, one in its own column a ratio. TRL's packing runs in a
process with an environment of its own, whose CPU seconds this process reads. Outputs are checked: every token is in a
piece or counted as dropped, TRL keeps the tokens that it should, and a resumed loader gives the step that the
uninterrupted one gives.
"""

from __future__ import annotations

import hashlib
import math
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.benchmarks import Seconds, comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.progress import progress

from dataset_decomposition.config import BucketConfig, ModelConfig
from dataset_decomposition.corpus import read_sources
from dataset_decomposition.curriculum import bucket_odds, draw_cycle
from dataset_decomposition.decomposition import decompose
from dataset_decomposition.loader import BucketLoader
from dataset_decomposition.peers import REPEATS, Pack, trl_packer
from dataset_decomposition.readers import DIST
from dataset_decomposition.store import TokenStore, write_store
from dataset_decomposition.tokenization import tokenize
from dataset_decomposition.tokenizers import TokenizerSpec

Budget = Literal["smoke", "laptop", "full"]
TOKENS: dict[Budget, int] = {"smoke": 1_000_000, "laptop": 20_000_000, "full": 50_000_000}
ROUNDS: dict[Budget, int] = {"smoke": 3, "laptop": 5, "full": 9}
STEP_TOKENS, LONGEST = 65_536, 8192
# Attention takes a quarter of the compute, as in 1B at 8k; the lengths are an eighth of the paper's.
STEP_MODEL, STEP_SCALE = ModelConfig(256, 2, 4, 1024), 8
MILLIONS = "million per CPU second"


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time every part and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: Size of the corpus and number of rounds.
        seed: Of lengths and order.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, input_hash`; `ratio` over 1: ours is
        better.

    Raises:
        RuntimeError: A check of the outputs fails.
    """
    rounds = ROUNDS[budget]
    with tempfile.TemporaryDirectory(dir=out) as folder:
        documents = _documents(TOKENS[budget], seed)
        store = write_store(Path(folder) / "store", documents, vocab_size=32_000).decompose()
        digest = store.manifest["files"]["tokens"]["sha256"][:16]
        parts = (
            lambda: _preparation(store, Path(folder), rounds),
            lambda: _planning(store, rounds),
            lambda: _sampling(rounds),
            lambda: _loading(store, rounds),
            lambda: _end_to_end(Path(folder), budget, rounds),
            lambda: _training(store, rounds),
        )
        rows = [row for part in progress(parts, description="benchmark", unit="parts") for row in part()]
    return [{"paper": "dataset_decomposition", **row, "input_hash": digest} for row in rows]


def _documents(total: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(6.75, 1.4, total // 1200), 2, 200_000).astype(np.int64)
    tokens = generator.integers(0, 32_000, int(lengths.sum()), dtype=np.uint16)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def _preparation(store: TokenStore, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """From tokens in memory to rows on disk: plan, gather, write; of TRL and `datasets` writing is not counted."""
    tokens, lengths, work = np.array(store.tokens), store.lengths, "plan, gather and write (tokens; aim 50)"

    def ours() -> None:
        plan = decompose(lengths)
        start = (np.cumsum(lengths) - lengths)[plan.doc] + plan.start
        for length in BucketConfig().bucket_lengths:
            first = start[plan.length == length]
            np.save(folder / "rows.npy", tokens[first[:, None] + np.arange(length + 1)])

    def numpy_chunks() -> None:
        count = len(tokens) // LONGEST
        np.save(folder / "chunks.npy", tokens[: count * LONGEST].reshape(count, LONGEST))

    calls: dict[str, Callable[[], object]] = {
        "ours": ours,
        "numpy concat-and-chunk": numpy_chunks,
        "datasets.map concat-and-chunk": _datasets_map(store),
    }
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "offsets.npy", np.array(store.offsets))
    with trl_packer(folder, LONGEST) as pack:
        calls |= {f"TRL {name}": partial(_pack, pack, name, store) for name in REPEATS}
        seconds = interleave(calls, rounds)
    amount = len(tokens) / 1e6
    return [comparison(work, seconds, name, MILLIONS, amount=amount) for name in seconds if name != "ours"]


def _pack(pack: Pack, strategy: str, store: TokenStore) -> Seconds:
    """Let TRL pack, check what it kept, and return its seconds."""
    found, seconds = pack(strategy)
    kept = int(np.minimum(store.lengths, LONGEST).sum()) if strategy == "bfd" else len(store.tokens)
    if found["tokens"] != kept:
        raise RuntimeError(f"TRL's {strategy} kept {found['tokens']} tokens instead of {kept}.")
    if strategy == "wrapped" and found["first"] != int(store.tokens[:LONGEST].sum(dtype=np.int64)):
        raise RuntimeError("TRL's wrapped rows are not those of concat-and-chunk.")
    return Seconds(seconds)


def _datasets_map(store: TokenStore) -> Callable[[], object]:
    """The usual grouping function of training scripts."""
    datasets = require_extra("datasets", "hf", DIST)
    datasets.disable_progress_bars()
    documents = [store.tokens[a:b].tolist() for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    dataset = datasets.Dataset.from_dict({"input_ids": documents})

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [token for document in batch["input_ids"] for token in document]
        return {"input_ids": [joined[i : i + 8192] for i in range(0, len(joined) - 8191, 8192)]}

    return lambda: dataset.map(group, batched=True, load_from_cache_file=False, keep_in_memory=True)


def _planning(store: TokenStore, rounds: int) -> list[dict[str, Any]]:
    """The plan alone, against the rule in plain Python, one document after the other."""
    lengths = store.lengths
    plan = decompose(lengths, policy="greedy")
    if int(plan.tokens.sum()) + plan.dropped_tokens != int(lengths.sum()):
        raise RuntimeError("tokens are missing from the plan.")
    if len(plan) != sum(len(_cut(int(n))) for n in lengths):
        raise RuntimeError("the plan differs from the rule in plain Python.")
    peer, amount = "the same rule in plain Python", int(lengths.sum()) / 1e6
    calls = {
        "ours": lambda: decompose(lengths, policy="greedy"),
        peer: lambda: [_cut(int(n)) for n in lengths],
    }
    return [comparison("plan (tokens)", interleave(calls, rounds), peer, MILLIONS, amount=amount)]


def _cut(length: int) -> list[int]:
    """Return the lengths of a document's pieces by the greedy rule."""
    pieces = []
    while length > 256:
        k = min(int(math.log2(length - 1)), 13)
        pieces.append(1 << k)
        length -= (1 << k) + 1
    return pieces


def _sampling(rounds: int) -> list[dict[str, Any]]:
    counts = np.array([46, 78, 97, 82, 67, 60]) * 20

    def one_by_one() -> None:
        draw, left = random.Random(0), counts.tolist()
        weights = (bucket_odds("grow-p2", 6) * counts).tolist()
        while any(left):
            alive = [i for i in range(6) if left[i]]
            left[draw.choices(alive, [weights[i] for i in alive])[0]] -= 1

    peer, amount = "one draw at a time", int(counts.sum()) / 1e6
    calls = {"ours": lambda: draw_cycle(counts, "grow-p2", np.random.default_rng(0)), peer: one_by_one}
    return [comparison("sampler (draws; aim 0.3)", interleave(calls, rounds), peer, MILLIONS, amount=amount)]


def _loading(store: TokenStore, rounds: int) -> list[dict[str, Any]]:
    """Batches in int64, and the first batch after a resumption late in the epoch against one at its start."""
    loader = BucketLoader(store, tokens_per_step=STEP_TOKENS, cycles=1)
    steps = min(len(loader), 64)
    tokens = np.array(store.tokens)

    def numpy_rows() -> None:
        for step in range(steps):
            starts = np.random.default_rng(step).integers(0, len(tokens) - 8193, STEP_TOKENS // 8192)
            tokens[starts[:, None] + np.arange(8193)].astype(np.int64)

    peer, amount = "numpy rows of 8192", steps * STEP_TOKENS / 1e6
    seconds = interleave({"ours": lambda: [loader.batch(step) for step in range(steps)], peer: numpy_rows}, rounds)
    row = comparison("loader (tokens; aim 100)", seconds, peer, MILLIONS, amount=amount)
    state = {**loader.state_dict(), "step": len(loader) - 1}

    def first_batch(step: int) -> dict[str, Any]:
        resumed = BucketLoader(store, tokens_per_step=STEP_TOKENS, cycles=1)
        resumed.load_state_dict({**state, "step": step})
        return next(resumed)

    if not np.array_equal(first_batch(len(loader) - 1)["input_ids"], loader.batch(len(loader) - 1)["input_ids"]):
        raise RuntimeError("a resumed loader gives another batch.")
    peer, work = "the same at step 0", "resume at the last step (resumptions)"
    seconds = interleave({"ours": lambda: first_batch(len(loader) - 1), peer: lambda: first_batch(0)}, rounds)
    return [row, comparison(work, seconds, peer, "per CPU second", amount=1)]


def _end_to_end(folder: Path, budget: Budget, rounds: int) -> list[dict[str, Any]]:
    """Text to buckets, against the bare tokenizer on the same text."""
    library = require_extra("tokenizers", "hf", "tenfold-shared")
    texts = read_sources()[: 100 if budget == "smoke" else 1200]  # starting must not weigh
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(vocab_size=8192, special_tokens=["<|end|>"], show_progress=False)
    tokenizer.train_from_iterator(texts[:100], trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    bare = TokenizerSpec(str(path)).load().encoder
    turns = iter(range(10_000))

    def ours() -> None:
        rows = ({"text": text} for text in texts)
        tokenize(rows, folder / f"run-{next(turns)}", tokenizer=str(path)).decompose()

    def bare_ids() -> None:
        for start in range(0, len(texts), 256):
            for encoding in bare.encode_batch_fast(texts[start : start + 256], add_special_tokens=False):
                _ = encoding.ids

    amount = sum(len(encoding.ids) for encoding in bare.encode_batch_fast(texts, add_special_tokens=False))
    seconds = interleave({"ours": ours, "bare tokenizer": bare_ids}, rounds)
    work = f"text to buckets (tokens; text {hashlib.sha256(''.join(texts).encode()).hexdigest()[:16]})"
    return [comparison(work, seconds, "bare tokenizer", MILLIONS, amount=amount / 1e6, aim=0.95)]


def _training(store: TokenStore, rounds: int) -> list[dict[str, Any]]:
    """Training steps of the store's mixture of lengths against steps of the longest rows."""
    from dataset_decomposition.trials import Scale, step_seconds

    longest = LONGEST // STEP_SCALE
    scale = Scale(STEP_MODEL, longest, longest // 32, 0, 4 * longest, 0)
    found = step_seconds(scale, rounds, clock=time.process_time)
    tokens = {length // STEP_SCALE: rows * length for length, rows in store.num_rows.items()}
    mixed = sum(np.array(found[length]) * count for length, count in tokens.items()) / sum(tokens.values())
    seconds = {"ours": mixed, "rows of 1024": np.array(found[longest])}
    work, amount = "training step, width 256, rows of 32 to 1024 (tokens)", scale.tokens_per_step / 1e6
    return [comparison(work, seconds, "rows of 1024", MILLIONS, amount=amount)]
