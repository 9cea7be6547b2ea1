"""Rates of the data side in one run: loaders, reinforcement and search, each beside what one would do without."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra

from mobileclip.overhead import BATCH, ROUNDS, Loaders

Budget = Literal["smoke", "laptop", "full"]
NUM_INDEXED: dict[Budget, int] = {"smoke": 2_000, "laptop": 50_000, "full": 200_000}
WIDTH, TOP, QUERIES = 512, 10, 64
MIN_RECALL = 0.9
UNIT = "items per second"


def data_rows(out: Path, *, budget: Budget, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of loaders, reinforcement and search; see `mobileclip.benchmark.benchmark`.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: How much is read and indexed.
        seed: Of the vectors.
    """
    for row in (*_reading_rows(out, budget), _search_row(budget, seed)):
        yield {"paper": "mobileclip", "threads": torch.get_num_threads(), **row}


def _reading_rows(out: Path, budget: Budget) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=out) as folder:
        loaders = Loaders(Path(folder), budget)
        seconds = interleave(loaders.ways(), ROUNDS[budget], clock=time.perf_counter)
        digest = hashlib.sha256((Path(folder) / "plain/00000000.tar").read_bytes()).hexdigest()[:16]
    work = f"loader, batch {BATCH}: reinforced"
    for way, aim in (("plain", 0.9), ("online", None)):
        peer = f"{way} loader"
        both = {"ours": seconds["reinforced"], peer: seconds[way]}
        yield {**comparison(work, both, peer, UNIT, amount=BATCH, aim=aim), "input_hash": digest}
    # Reinforcing has no peer: the rate stands alone, per stored sample of five augmentations and captions.
    rate = loaders.tally.kept / loaders.reinforce_seconds
    row = dict.fromkeys(("peer", "ratio", "spread", "aim")) | {"peer_name": "", "unit": UNIT, "input_hash": digest}
    yield {"work": "reinforcement, two tiny teachers, 5 augmentations", "ours": rate, **row}


def _search_row(budget: Budget, seed: int) -> dict[str, Any]:
    """Time the index against exact search in numpy, after checking that it finds nearly the same."""
    usearch = require_extra("usearch.index", "search", "mobileclip-torch")
    random = np.random.default_rng(seed)
    # Embeddings of pictures lie in clumps; uniform noise has no neighbours to find.
    centres = random.normal(size=(NUM_INDEXED[budget] // 100, WIDTH))
    vectors = centres[random.integers(len(centres), size=NUM_INDEXED[budget])]
    vectors = (vectors + 0.7 * random.normal(size=vectors.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = usearch.Index(ndim=WIDTH, metric="cos", dtype="f32")
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors)
    queries = vectors[random.integers(len(vectors), size=QUERIES)]

    def exact(query: np.ndarray) -> np.ndarray:
        return np.argpartition(vectors @ query, -TOP)[-TOP:]

    shared = [len(set(index.search(q, TOP).keys.tolist()) & set(exact(q).tolist())) / TOP for q in queries]
    if np.mean(shared) < MIN_RECALL:
        raise RuntimeError(f"the index finds {np.mean(shared):.0%} of what exact search finds, at least 90 % wanted.")
    peer, work = "numpy, exact", f"search, {len(vectors):,} pictures, top {TOP}"
    ways = {
        "ours": lambda: [index.search(query, TOP) for query in queries],
        peer: lambda: [exact(query) for query in queries],
    }
    seconds = interleave(ways, ROUNDS[budget], clock=time.perf_counter)
    row = comparison(work, seconds, peer, UNIT, amount=QUERIES)
    return {**row, "input_hash": hashlib.sha256(vectors.tobytes()).hexdigest()[:16]}
