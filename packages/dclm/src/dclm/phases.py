"""Stages that must see all shards: as phases of independent tasks, each with its result on disk.

A phase is a function of a step and a number. It writes atomically and gives the same result each time, so that any
engine can run it, and run it again after a kill.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.files import atomic_write, write_json

from dclm import classify
from dclm import config as stages
from dclm.data import read_documents
from dclm.dedup.bloom import BloomFilter, bloom, count_ngrams, make_filter
from dclm.dedup.exact import document_key
from dclm.dedup.minhash import band_hashes, duplicates_of, edges, signature
from dclm.dedup.spill import Rows, count_buckets, make_rows, read_bucket, repeats, write_runs
from dclm.dedup.substring import cut_windows, window_hashes
from dclm.document import Document
from dclm.stages import Pairs, Step, filter_shard, write_shard

__all__ = ["Phase", "phases_of"]

SNAPSHOT_SECONDS = 60.0  # how much work on one partition a kill may cost
PLACE = np.dtype([("shard", "<u4"), ("document", "<u4"), ("position", "<u4")])


@dataclass(frozen=True)
class Phase:
    """Tasks that may run side by side.

    Attributes:
        name: Of its markers.
        function: Takes the step and the task's number.
        num_tasks: How many there are.
    """

    name: str
    function: Callable[[Step, int], None]
    num_tasks: int


def phases_of(step: Step) -> Iterator[Phase]:
    """Yield the phases of a step; each is asked for when the ones before it are done.

    Args:
        step: Streaming stages, or one stage that must see all shards.

    Yields:
        Phases in order.
    """
    stage, shards = step.stages[0], len(step.inputs)
    if step.streams:
        yield Phase("filter", filter_shard, shards)
    elif isinstance(stage, stages.Bloom):
        if stage.saved_filter is None and stage.expected_ngrams is None:
            yield Phase("count", _count_ngrams, shards)
        yield Phase("deduplicate", _deduplicate_partition, min(stage.num_partitions, shards))
    elif isinstance(stage, stages.Threshold):
        yield Phase("scores", _collect_scores, shards)
        yield Phase("threshold", _choose_threshold, 1)
        yield Phase("filter", _keep_scored, shards)
    else:
        yield Phase("hash", _hash_shard, shards)
        buckets = count_buckets(_folder(step, "hash"), stage.max_bytes)
        write_json(step.folder / "buckets.json", {"num_buckets": buckets})
        yield Phase("match", _match_bucket, buckets)
        if isinstance(stage, stages.MinHash):
            yield Phase("cluster", _cluster, 1)
        yield Phase("filter", _drop_matches, shards)


def _folder(step: Step, name: str) -> Path:
    return step.folder / name


# Bloom filter


def _count_ngrams(step: Step, shard: int) -> None:
    count = count_ngrams(read_documents(step.inputs[shard]), step.stages[0])
    write_json(_folder(step, "count") / f"{shard:05d}.json", {"ngrams": count})


def _deduplicate_partition(step: Step, partition: int) -> None:
    """Go through the shards of one partition in order, with one filter; a snapshot says how far it came."""
    config = step.stages[0]
    shards = range(len(step.inputs))[partition :: config.num_partitions]
    snapshot = _folder(step, "deduplicate") / f"{partition:05d}.npz"
    done = 0
    if snapshot.exists():
        filter, state = BloomFilter.load(snapshot)
        done = state["shards_done"]
    else:
        counts = [_folder(step, "count") / f"{shard:05d}.json" for shard in shards]
        filter = make_filter(config, sum(json.loads(path.read_text())["ngrams"] for path in counts if path.exists()))
    saved = time.monotonic()
    for number, shard in enumerate(shards[done:], start=done + 1):
        write_shard(step, shard, [lambda documents: bloom(documents, config, filter=filter)])
        if number < len(shards) and time.monotonic() - saved > SNAPSHOT_SECONDS:
            filter.save(snapshot, shards_done=number)
            saved = time.monotonic()
    filter.save(_folder(step, "deduplicate") / f"filter-{partition:05d}.npz")


# Equal hashes: exact, URL, MinHash, substring


def _hash_shard(step: Step, shard: int) -> None:
    write_runs(_folder(step, "hash"), shard, _rows(step, shard))


def _rows(step: Step, shard: int) -> Iterator[Rows]:
    config = step.stages[0]
    for number, document in enumerate(read_documents(step.inputs[shard])):
        keys, checks = _keys(document, config)
        yield make_rows(keys, checks, shard, number)


def _keys(document: Document, config: Any) -> tuple[NDArray[np.uint64], NDArray[np.uint64] | int]:
    if isinstance(config, stages.MinHash):
        return band_hashes(signature(document.text, config), config), 0
    if isinstance(config, stages.Substring):
        return window_hashes(document, config)
    key = document_key(document, config)
    pairs = np.array([key] if key else [], dtype=np.uint64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _match_bucket(step: Step, bucket: int) -> None:
    """Find rows with an equal one before them: places to drop, or for MinHash pairs to join."""
    num_buckets = json.loads((step.folder / "buckets.json").read_text())["num_buckets"]
    rows = read_bucket(_folder(step, "hash"), bucket, num_buckets)
    if isinstance(step.stages[0], stages.MinHash):
        found = edges(rows)
    else:
        found = np.sort(rows[repeats(rows)[0]][list(PLACE.names or ())].astype(PLACE))
    _save(_folder(step, "match") / f"{bucket:05d}.npy", found)


def _cluster(step: Step, _: int) -> None:
    pairs = [np.load(path) for path in sorted(_folder(step, "match").glob("*.npy"))]
    names = duplicates_of(np.concatenate([part.reshape(-1, 2) for part in pairs]))
    places: NDArray[Any] = np.zeros(len(names), dtype=PLACE)
    places["shard"], places["document"] = names >> np.uint64(32), names & np.uint64(0xFFFFFFFF)
    _save(_folder(step, "cluster") / "00000.npy", places)


def _save(path: Path, array: NDArray) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


def _drop_matches(step: Step, shard: int) -> None:
    name = "cluster" if isinstance(step.stages[0], stages.MinHash) else "match"
    parts = [np.zeros(0, dtype=PLACE)]
    for path in sorted(_folder(step, name).glob("*.npy")):
        places = np.load(path, mmap_mode="r")
        low, high = np.searchsorted(places["shard"], [shard, shard + 1])
        parts.append(np.array(places[low:high]))
    found = np.sort(np.concatenate(parts))
    write_shard(step, shard, [lambda documents: _judge_places(documents, found, step.stages[0])])


def _judge_places(documents: Iterable[Document], places: NDArray, config: Any) -> Pairs:
    for number, document in enumerate(documents):
        low, high = np.searchsorted(places["document"], [number, number + 1])
        if isinstance(config, stages.Substring):
            yield document, cut_windows(document, places["position"][low:high].astype(np.int64), config)
        elif low == high:
            yield document, None
        else:
            yield document, "near_duplicate" if isinstance(config, stages.MinHash) else f"duplicate_{config.key}"


# Share of the best scores


def _collect_scores(step: Step, shard: int) -> None:
    config = step.stages[0]
    scores = classify.scores_of(read_documents(step.inputs[shard]), config.field)
    _save(_folder(step, "scores") / f"{shard:05d}.npy", np.fromiter(scores, dtype=np.float32))


def _choose_threshold(step: Step, _: int) -> None:
    config = step.stages[0]
    files = sorted(_folder(step, "scores").glob("*.npy"))
    minimum = classify.share_threshold((lambda: map(np.load, files)), config)
    write_json(_folder(step, "threshold") / "threshold.json", {"threshold": minimum})


def _keep_scored(step: Step, shard: int) -> None:
    threshold = json.loads((_folder(step, "threshold") / "threshold.json").read_text())["threshold"]
    write_shard(step, shard, [lambda documents: classify.keep_scored(documents, step.stages[0], threshold)])
