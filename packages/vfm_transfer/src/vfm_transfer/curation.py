"""A transfer set out of a gallery: the neighbours of the labelled images, evenly over them and without duplicates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tenfold_shared.commands import unknown_name

from vfm_transfer.embeddings import Embeddings
from vfm_transfer.search import Backend, ExactSearcher, Searcher, make_searcher, measure_recall

__all__ = ["Curated", "cover", "curate", "curate_report", "images_per_query", "random_images"]

LOG = logging.getLogger(__name__)
Balance = Literal["query", "class", "none"]
DEPTH_FACTOR = 3  # neighbours looked up at first, as a multiple of what each query will get
PUBLISHED_TOTAL = 153_680  # 8 x the 19,210 training images of ADE20K
COVER_FACTOR = 3  # relevant candidates of `cover`, as a multiple of the total


def curate(
    queries: Any,
    gallery: Any,
    total: int,
    *,
    balance: Balance = "query",
    dedup_threshold: float | None = None,
    backend: Backend = "exact",
) -> np.ndarray:
    """Choose `total` images of a gallery for a transfer set.

    With balance "query" the queries take turns, round by round: in each round every query takes the nearest of its
    neighbours (by cosine) that nobody has taken, so that after r rounds each has exactly r images and none is there
    twice; where `total` is no multiple of the queries, the first ones have one more. "class" lets the classes of the
    queries take turns, and within a class its queries. "none" is the global top: the images with the highest cosine to
    any query. The queries themselves are not counted: the paper's sets of constant size are `images_per_query` for
    each query plus the queries.

    Args:
        queries: Embeddings of the labelled images [num, dim], an array or `Embeddings` (with labels for "class").
        gallery: Embeddings of the pile [num, dim], an array, a memory-mapped one, a list of them, or `Embeddings`.
        total: How many images are chosen.
        balance: What takes turns.
        dedup_threshold: Leave out an image whose cosine to a chosen one, or to a query, is above this; None keeps all.
        backend: "exact", or approximate with "faiss" or "usearch".

    Returns:
        Numbers of the chosen images in the order in which they were taken, int64 [total].

    Raises:
        ValueError: A total over the gallery, values that are not finite, other dimensions, embeddings of different
            models, "class" without labels, or too few images after duplicates were left out.

    Example:
        >>> curate(np.eye(2), np.array([[1, 0.1], [1, 0.2], [0.1, 1]]), 2).tolist()
        [0, 2]
    """
    return curate_report(
        queries, gallery, total, balance=balance, dedup_threshold=dedup_threshold, backend=backend
    ).indices


@dataclass(frozen=True)
class Curated:
    """A chosen set and how it came about.

    Attributes:
        indices: Chosen images.
        query: The query that took each; -1 where none did.
        per_query: How many each query has.
        duplicates: How many candidates were left out as near-duplicates.
        depth: Neighbours of a query that were looked up.
        recall: Of the search at that depth, measured on a sample.
    """

    indices: np.ndarray
    query: np.ndarray
    per_query: np.ndarray
    duplicates: int
    depth: int
    recall: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        counts = self.per_query
        return {
            "chosen": len(self.indices),
            "queries": len(counts),
            "per_query_min": int(counts.min()),
            "per_query_max": int(counts.max()),
            "queries_without": int((counts == 0).sum()),
            "duplicates_left_out": self.duplicates,
            "depth": self.depth,
            "recall": round(self.recall, 4),
        }


def images_per_query(num_queries: int, total: int = PUBLISHED_TOTAL) -> int:
    """Return how many images each query gets where the queries are counted in a constant total: total // Q - 1.

    With the paper's total it gives the published counts for 1,200 to 19,210 queries of ADE20K.

    Example:
        >>> [images_per_query(q) for q in (1200, 2401, 4802, 9605, 19210)]
        [127, 63, 31, 15, 7]
    """
    if not 1 <= num_queries <= total // 2:
        raise ValueError(f"`num_queries` (={num_queries}) must be from 1 to half of the total, {total // 2}.")
    return total // num_queries - 1


def curate_report(
    queries: Any,
    gallery: Any,
    total: int,
    *,
    balance: Balance = "query",
    dedup_threshold: float | None = None,
    backend: Backend = "exact",
) -> Curated:
    """Do what `curate` does, and say how it came about.

    Args:
        queries: See `curate`.
        gallery: See `curate`.
        total: See `curate`.
        balance: See `curate`.
        dedup_threshold: See `curate`.
        backend: See `curate`.

    Returns:
        The set with its figures.
    """
    if balance not in ("query", "class", "none"):
        raise unknown_name("balance", balance, ["query", "class", "none"])
    if dedup_threshold is not None and not -1 <= dedup_threshold <= 1:
        raise ValueError(f"`dedup_threshold` (={dedup_threshold}) must be a cosine, from -1 to 1, or None.")
    asked, pile = Embeddings.of(queries), Embeddings.of(gallery)
    check_pair(asked, pile, total)
    vectors = np.concatenate([block for _, block in asked.blocks()])
    if balance == "class" and asked.labels is None:
        raise ValueError("balance 'class' needs the classes of the queries: Embeddings.of(vectors, labels=...).")
    neighbours = _Neighbours(vectors, pile, make_searcher(pile, backend), _first_depth(len(vectors), total))
    taken = _Taken(pile, vectors, dedup_threshold)
    if balance == "none":
        pairs = _global_top(neighbours, taken, total)
    else:
        pairs = _take_turns(neighbours, taken, total, _turns(asked, balance))
    indices, query = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)
    found = Curated(
        indices,
        query,
        np.bincount(query, minlength=len(vectors)),
        taken.duplicates,
        neighbours.depth,
        measure_recall(neighbours.searcher, pile, vectors, neighbours.depth),
    )
    LOG.info("curated: %s", found.to_dict())
    return found


def check_pair(queries: Embeddings, gallery: Embeddings, total: int) -> None:
    """Refuse a total over the gallery, other dimensions, other models, values that are not finite."""
    if len(queries) == 0:
        raise ValueError("no queries; give the embeddings of the labelled images.")
    if not 1 <= total <= len(gallery):
        raise ValueError(f"`total` (={total}) must be from 1 to the gallery's {len(gallery)} images.")
    for embeddings in (queries, gallery):
        embeddings.lengths()
    if queries.fingerprint and gallery.fingerprint and queries.fingerprint != gallery.fingerprint:
        raise ValueError(
            f"queries and gallery come from different models ({queries.fingerprint} and {gallery.fingerprint}); "
            "embed both with one."
        )
    if queries.dim != gallery.dim:
        raise ValueError(f"queries have {queries.dim} dimensions, the gallery {gallery.dim}; embed both alike.")


def _first_depth(num_queries: int, total: int) -> int:
    return max(8, DEPTH_FACTOR * -(-total // num_queries))


def _turns(queries: Embeddings, balance: Balance) -> list[list[int]]:
    """Groups that take turns; inside a group its queries do."""
    if balance == "query":
        return [[number] for number in range(len(queries))]
    labels = queries.labels or ()
    return [[i for i, label in enumerate(labels) if label == name] for name in sorted(set(labels), key=str)]


class _Neighbours:
    """Every query's neighbours, looked up deeper where they run out."""

    def __init__(self, queries: np.ndarray, gallery: Embeddings, searcher: Searcher, depth: int) -> None:
        self.queries, self.gallery, self.searcher = queries, gallery, searcher
        self.depth = min(depth, len(gallery))
        self.ids, self.values = searcher.search(queries, self.depth)
        self.deeper: dict[int, np.ndarray] = {}

    def of(self, query: int, rank: int) -> int:
        """Return the neighbour of a query at a rank; -1 beyond the gallery."""
        row = self.deeper.get(query, self.ids[query])
        while rank >= len(row) or row[rank] < 0:
            if len(row) >= len(self.gallery):
                return -1
            row = self.deeper[query] = self._deepen(query, row)
        return int(row[rank])

    def _deepen(self, query: int, known: np.ndarray) -> np.ndarray:
        """Look up four times as many; exactly, since an approximate search may have no more to give."""
        depth = min(len(self.gallery), 4 * len(known))
        ids = ExactSearcher(self.gallery).search(self.queries[query : query + 1], depth)[0][0]
        self.depth = max(self.depth, depth)
        seen = known[known >= 0]
        return np.concatenate([seen, ids[~np.isin(ids, seen)]])


class _Taken:
    """What was taken or left out; with a threshold also whether a candidate is too near to it."""

    def __init__(self, gallery: Embeddings, queries: np.ndarray, threshold: float | None) -> None:
        self.gallery, self.threshold = gallery, threshold
        self.closed = np.zeros(len(gallery), dtype=bool)
        self.duplicates = 0
        self.kept = np.empty((0 if threshold is None else len(queries) + 1024, gallery.dim), np.float32)
        self.num_kept = 0
        if threshold is not None:
            self.kept[: len(queries)] = queries
            self.num_kept = len(queries)
        self.vectors: dict[int, np.ndarray] = {}

    def prefetch(self, candidates: np.ndarray) -> None:
        """Read the vectors of candidates at once; one by one a memory-mapped gallery is slow."""
        if self.threshold is not None:
            missing = np.array([c for c in np.unique(candidates[candidates >= 0]) if not self.closed[c]], np.int64)
            self.vectors = dict(zip(missing.tolist(), self.gallery.take(missing), strict=True))

    def take(self, candidate: int) -> bool:
        """Take a candidate unless it was taken, left out, or is a near-duplicate; it is closed then in any case."""
        if self.closed[candidate]:
            return False
        self.closed[candidate] = True
        if self.threshold is None:
            return True
        vector = self.vectors.get(candidate)
        vector = self.gallery.take(np.array([candidate]))[0] if vector is None else vector
        if self.num_kept and float((self.kept[: self.num_kept] @ vector).max()) > self.threshold:
            self.duplicates += 1
            return False
        if self.num_kept == len(self.kept):
            self.kept = np.concatenate([self.kept, np.empty_like(self.kept)])
        self.kept[self.num_kept] = vector
        self.num_kept += 1
        return True


def _take_turns(
    neighbours: _Neighbours, taken: _Taken, total: int, turns: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """Round by round, each group's turn goes to the next of its queries; a query takes its nearest free neighbour."""
    ranks = [0] * len(neighbours.queries)
    pairs: list[tuple[int, int]] = []
    queues = [list(group) for group in turns]
    while len(pairs) < total and queues:
        taken.prefetch(np.array([neighbours.of(q, ranks[q]) for queue in queues for q in queue[:1]]))
        for queue in queues:
            while queue and len(pairs) < total:
                query = queue.pop(0)
                candidate = _next_free(neighbours, taken, ranks, query)
                if candidate >= 0:
                    pairs.append((candidate, query))
                    queue.append(query)
                    break
        queues = [queue for queue in queues if queue]
    return _enough(pairs, taken, total)


def _next_free(neighbours: _Neighbours, taken: _Taken, ranks: list[int], query: int) -> int:
    """Return the nearest neighbour of a query that can be taken, -1 where the gallery has no more."""
    while (candidate := neighbours.of(query, ranks[query])) >= 0:
        ranks[query] += 1
        if taken.take(candidate):
            return candidate
    return -1


def _global_top(neighbours: _Neighbours, taken: _Taken, total: int) -> list[tuple[int, int]]:
    """The images with the highest cosine to any query; equal ones by number."""
    best = np.full(len(neighbours.gallery), -2.0, np.float32)
    of = np.zeros(len(best), np.int64)
    for start, block in neighbours.gallery.blocks():
        similarity = block @ neighbours.queries.T
        best[start : start + len(block)] = similarity.max(1)
        of[start : start + len(block)] = similarity.argmax(1)
    pairs: list[tuple[int, int]] = []
    for candidate in np.lexsort((np.arange(len(best)), -best)).tolist():
        if len(pairs) == total:
            break
        if taken.take(candidate):
            pairs.append((candidate, int(of[candidate])))
    return _enough(pairs, taken, total)


def _enough(pairs: list[tuple[int, int]], taken: _Taken, total: int) -> list[tuple[int, int]]:
    if len(pairs) < total:
        raise ValueError(
            f"`total` (={total}): only {len(pairs)} images are left of the gallery's {len(taken.closed)} after "
            f"{taken.duplicates} near-duplicates (cosine above {taken.threshold})."
        )
    return pairs


def random_images(gallery: Any, total: int, seed: int = 0) -> np.ndarray:
    """Return `total` images of a gallery at random, sorted: the control of every curation.

    Args:
        gallery: Embeddings, or anything with a length.
        total: How many.
        seed: Of the draw.
    """
    if not 1 <= total <= len(gallery):
        raise ValueError(f"`total` (={total}) must be from 1 to the gallery's {len(gallery)} images.")
    return np.sort(np.random.default_rng(seed).permutation(len(gallery))[:total])


def cover(queries: Any, gallery: Any, total: int, *, relevant: int = 0) -> np.ndarray:
    """Choose images that are relevant and differ from each other: farthest first among the nearest to the queries.

    The `relevant` images with the highest cosine to any query are candidates (three times the total unless told);
    beginning with the nearest, the candidate whose highest cosine to the chosen ones is lowest is taken next.

    Args:
        queries: See `curate`.
        gallery: See `curate`.
        total: How many.
        relevant: Number of candidates; 0 is three times the total, at most the gallery.

    Returns:
        Numbers of the chosen images, int64 [total], in the order in which they were taken.
    """
    pile = Embeddings.of(gallery)
    candidates = curate(queries, pile, min(len(pile), max(total, relevant or COVER_FACTOR * total)), balance="none")
    check_pair(Embeddings.of(queries), pile, total)
    vectors = pile.take(candidates)
    nearest, chosen = vectors @ vectors[0], [0]
    while len(chosen) < total:
        nearest[chosen[-1]] = 2.0
        place = int(nearest.argmin())
        chosen.append(place)
        nearest = np.maximum(nearest, vectors @ vectors[place])
    return candidates[np.array(chosen)]
