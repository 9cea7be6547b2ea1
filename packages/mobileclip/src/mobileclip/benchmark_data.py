"""Rates of the data side in one run: loaders, reinforcement and search, each beside what one would do without."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.commands import require_extra

from mobileclip.overhead import BATCH, ROUNDS, Loaders
from mobileclip.timing import interleave

Budget = Literal["smoke", "laptop", "full"]
NUM_INDEXED: dict[Budget, int] = {"smoke": 2_000, "laptop": 50_000, "full": 200_000}
WIDTH, TOP, QUERIES = 512, 10, 64
MIN_RECALL = 0.9


def data_rows(out: Path, *, budget: Budget, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of loaders, reinforcement and search; see `mobileclip.benchmark.benchmark`.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: How much is read and indexed.
        seed: Of order and vectors.
    """
    with tempfile.TemporaryDirectory(dir=out) as folder:
        loaders = Loaders(Path(folder), budget)
        seconds = interleave(loaders.ways(), ROUNDS[budget], seed=seed)
        digest = hashlib.sha256((Path(folder) / "plain/00000000.tar").read_bytes()).hexdigest()[:16]
    for peer, aim in (("plain", 0.9), ("online", None)):
        times = np.array(seconds[peer]), np.array(seconds["reinforced"])
        yield _row(f"loader, batch {BATCH}: reinforced", f"{peer} loader", times, BATCH, aim=aim, digest=digest)
    # Reinforcing has no peer: the rate stands alone, per stored sample of five augmentations and captions.
    rate = loaders.tally.kept / loaders.reinforce_seconds
    row = _row("reinforcement, two tiny teachers, 5 augmentations", "", (np.ones(1), np.ones(1)), 1, digest=digest)
    yield {**row, "ours": rate, "peer": None, "ratio": None, "spread": None}
    yield _search_row(budget, seed)


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
    ways = {
        "index": lambda step: [index.search(query, TOP) for query in queries],
        "exact": lambda step: [exact(query) for query in queries],
    }
    seconds = interleave(ways, ROUNDS[budget], seed=seed)
    times = np.array(seconds["exact"]), np.array(seconds["index"])
    digest = hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
    return _row(f"search, {len(vectors):,} pictures, top {TOP}", "numpy, exact", times, QUERIES, digest=digest)


def _row(
    work: str, peer: str, times: tuple[np.ndarray, np.ndarray], count: int, *, aim: float | None = None, digest: str
) -> dict[str, Any]:
    """Return a row of rates from seconds of the peer and of ours, for `count` items each."""
    ratios = times[0] / times[1]
    return {
        "paper": "mobileclip",
        "work": work,
        "ours": count / float(np.median(times[1])),
        "peer_name": peer,
        "peer": count / float(np.median(times[0])),
        "ratio": float(np.median(ratios)),
        "spread": [float(ratios.min()), float(ratios.max())],
        "unit": "items per second",
        "threads": torch.get_num_threads(),
        "aim": aim,
        "input_hash": digest,
    }
