"""Kept beside live teacher outputs, our step beside timm's, our search beside faiss.

    vfm-transfer benchmark --budget laptop        (one core, under three minutes)

Training: `convnet` on 28-pixel images, taught by EfficientNet-Lite0 at 64 px, in steps of 64; with outputs that were
kept before, and with the teacher at every step (aim: kept five times as fast; computing what is kept is a row of its
own). The same pair, teacher at every step, as timm's `LogitDistillationTask` with the task's own loss at weight 0, on
the same pixels (aim: as fast). Search: 100 nearest of each query in clustered vectors of 384 dimensions; exact against
faiss's flat index (aim: at least as fast), and faiss's inverted lists at a measured recall of 0.95 and more against the
same (aim: ten times as fast; building the lists is a row of its own). CPU seconds of this process with one thread,
medians over interleaved rounds; `OMP_NUM_THREADS=1` in the environment keeps NumPy's matrix products to one thread too.
Checked: kept and live losses agree to the rounding of what is kept, ours and timm's agree, and the exact search finds
faiss's neighbours.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.progress import progress

from vfm_transfer.config import NetworkConfig, Schedule
from vfm_transfer.embeddings import Embeddings
from vfm_transfer.images import ArrayImages
from vfm_transfer.loss import match_predictions
from vfm_transfer.networks import Network, build_network
from vfm_transfer.search import ExactSearcher, FaissSearcher, recall_of
from vfm_transfer.targets import CachedTargets, LiveTargets
from vfm_transfer.train import Batch, make_batch

Budget = Literal["smoke", "laptop", "full"]
DIST = "vfm-transfer"
DIM, NEIGHBOURS, SPREAD = 384, 100, 0.5
CACHE_AIM, LOSS_AIM, EXACT_AIM, APPROXIMATE_AIM = 5.0, 1.0, 1.0, 10.0
UNIT = "CPU seconds"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    steps: int
    gallery: int
    queries: int


SIZES: dict[Budget, Size] = {
    "smoke": Size(2, 1, 4_000, 50),
    "laptop": Size(5, 4, 200_000, 500),
    "full": Size(9, 10, 200_000, 1_000),
}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time all parts and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: Rounds and sizes.
        seed: Of images and vectors.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, threads, aim, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: A check of the outputs fails.
    """
    before, size = torch.get_num_threads(), SIZES[budget]
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            parts = (
                lambda: _teaching(Path(folder), size, seed),
                lambda: _beside_timm(size, seed),
                lambda: _search(size, seed),
            )
            rows = [row for part in progress(parts, description="benchmark", unit="parts") for row in part()]
    finally:
        torch.set_num_threads(before)
    return [{"paper": "vfm_transfer", "threads": 1, **row} for row in rows]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _teaching(folder: Path, size: Size, seed: int) -> list[dict[str, Any]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 28, 28, 3), dtype=np.uint8)
    images, schedule = ArrayImages(pixels), Schedule(steps=size.steps, views=1)
    teacher, student = _pair(seed)
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.0)
    kept, live = CachedTargets(teacher, "logits", images, schedule, folder), LiveTargets(teacher, "logits")
    start = time.process_time()
    losses = {
        name: _step(student, optimiser, images, schedule, targets) for name, targets in (("kept", kept), ("live", live))
    }
    filling = time.process_time() - start
    if abs(losses["kept"] - losses["live"]) > 1e-2 * max(1.0, abs(losses["live"])):
        raise RuntimeError(f"the loss on kept outputs is {losses['kept']}, on a live teacher {losses['live']}.")

    def train(targets: Any) -> Callable[[], object]:
        return lambda: [_step(student, optimiser, images, schedule, targets) for _ in range(size.steps)]

    seconds = interleave({"ours": train(kept), "live teacher": train(live)}, size.rounds)
    filled = {"ours": filling, "one live epoch": float(np.median(seconds["live teacher"])) * 4 / size.steps}
    keeping = "keeping the outputs of 256 images, first two steps included"
    rows = (
        comparison(f"{size.steps} steps of 64 on kept outputs", seconds, "live teacher", UNIT, aim=CACHE_AIM),
        comparison(keeping, filled, "one live epoch", UNIT),
    )
    return [{**row, "input_hash": _digest(pixels)} for row in rows]


def _step(student: Any, optimiser: Any, images: ArrayImages, schedule: Schedule, targets: Any) -> float:
    batch = make_batch(images, schedule, 0, torch.device("cpu"))
    student.train()
    return _update(optimiser, match_predictions(student(batch.pixels), targets.batch(batch)))


def _beside_timm(size: Size, seed: int) -> list[dict[str, Any]]:
    import timm.task.distillation as peer

    teacher, student = _pair(seed)
    pixels = torch.rand(64, 3, 28, 28, generator=torch.Generator().manual_seed(seed))
    labels = torch.zeros(64, dtype=torch.long)
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.0)
    facts = {"pretrained_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "num_classes": 10, "in_chans": 3}
    for network in (teacher, student):  # both normalise for themselves: timm is told that there is nothing to do
        vars(network).update(facts)
    options: dict[str, Any] = {"distill_loss_weight": 1.0, "task_loss_weight": 0.0, "temperature": 2.0}
    task = peer.LogitDistillationTask(student, teacher, torch.nn.CrossEntropyLoss(), verbose=False, **options)
    task.train()
    targets = LiveTargets(teacher, "logits")
    batch = Batch(pixels, np.arange(64), np.zeros(64, int), None)

    def ours() -> torch.Tensor:
        return match_predictions(student(pixels), targets.batch(batch), 2.0)

    def theirs() -> torch.Tensor:
        return task(pixels, labels)["loss"]

    if not torch.allclose(ours(), theirs(), rtol=1e-4):
        raise RuntimeError(f"our loss is {float(ours().detach())}, timm's {float(theirs().detach())}.")

    def repeat(loss_of: Callable[[], torch.Tensor]) -> Callable[[], object]:
        return lambda: [_update(optimiser, loss_of()) for _ in range(size.steps)]

    seconds = interleave({"ours": repeat(ours), "timm LogitDistillationTask": repeat(theirs)}, size.rounds)
    work = f"{size.steps} steps of 64, teacher at every step"
    row = comparison(work, seconds, "timm LogitDistillationTask", UNIT, aim=LOSS_AIM)
    return [{**row, "input_hash": _digest(pixels.numpy())}]


def _update(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.item())


def _pair(seed: int) -> tuple[Network, Network]:
    torch.manual_seed(seed)
    teacher = build_network(NetworkConfig("efficientnet-lite0", 10, image_size=64), pretrained=True)
    return teacher, build_network(NetworkConfig("convnet", 10))


def clustered_vectors(num: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors around random centres, a hundred to a centre, and queries around the same."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(1, num // 100), DIM)).astype(np.float32)

    def around(count: int) -> np.ndarray:
        noise = generator.normal(size=(count, DIM)).astype(np.float32)
        found = centres[generator.integers(0, len(centres), count)] + SPREAD * noise
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return around(num), around(queries)


def _search(size: Size, seed: int) -> list[dict[str, Any]]:
    faiss = require_extra("faiss", "demo", DIST)
    faiss.omp_set_num_threads(1)
    vectors, queries = clustered_vectors(size.gallery, size.queries, seed)
    gallery, flat = Embeddings.of(vectors), faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    exact, start = ExactSearcher(gallery), time.process_time()
    lists = FaissSearcher(gallery)
    lists.search(queries, NEIGHBOURS)  # how many lists are looked at is found here
    building = time.process_time() - start
    right = flat.search(queries, NEIGHBOURS)[1]
    if (same := recall_of(exact.search(queries, NEIGHBOURS)[0], right)) < 0.9999:
        raise RuntimeError(f"the exact search finds {same:.4%} of faiss's neighbours.")
    recall = recall_of(lists.search(queries, NEIGHBOURS)[0], right)
    peer = "faiss IndexFlatIP"
    calls = {
        "exact": lambda: exact.search(queries, NEIGHBOURS),
        "lists": lambda: lists.search(queries, NEIGHBOURS),
        peer: lambda: flat.search(queries, NEIGHBOURS),
    }
    seconds = interleave(calls, size.rounds)
    what = f"{size.queries} queries, {NEIGHBOURS} nearest of {size.gallery:,} x {DIM}"
    works: dict[str, tuple[np.ndarray | float, float | None]] = {
        f"exact search: {what}": (seconds["exact"], EXACT_AIM),
        f"faiss lists, recall {recall:.3f}: {what}": (seconds["lists"], APPROXIMATE_AIM),
        "building and tuning the lists": (building, None),
    }
    digest = _digest(vectors)
    return [
        {**comparison(work, {"ours": ours, peer: seconds[peer]}, peer, UNIT, aim=aim), "input_hash": digest}
        for work, (ours, aim) in works.items()
    ]
