"""Nearest neighbours by cosine: exact in blocks, or approximate with faiss or usearch and a measured recall."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from tenfold_shared.commands import require_extra, unknown_name

from vfm_transfer.embeddings import Embeddings, are_units

DIST = "vfm-transfer"
Backend = Literal["exact", "faiss", "usearch"]
QUERY_ROWS, SAMPLE, TARGET_RECALL = 1024, 100, 0.95
STRIP_ROWS = 1024  # a strip's cosines with all queries stay in the cache
ROWS_PER_LIST, TRAINING_ROWS = 200, 50_000


class Searcher(Protocol):
    """Finds the gallery's nearest images for unit query vectors."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers [queries, k] and cosines, the most similar first; -1 where none was found."""
        ...


class ExactSearcher:
    """Every query against every vector, a strip of the gallery at a time.

    Memory is a block, the neighbours and a length for each vector. The lengths are taken once, when the searcher is
    made; a search multiplies plain vectors and scales the products where they are not of length one. Equal cosines are
    ordered by number.
    """

    def __init__(self, gallery: Embeddings) -> None:
        self.gallery, lengths = gallery, gallery.lengths()
        self.scale = None if are_units(lengths) else 1 / lengths

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest of each query."""
        k = min(k, len(self.gallery))
        best = [_Best(queries[start : start + QUERY_ROWS], k) for start in range(0, len(queries), QUERY_ROWS)]
        for first, block in self.gallery.raw_blocks():
            for place in range(0, len(block), STRIP_ROWS):
                vectors = block[place : place + STRIP_ROWS]
                scale = None if self.scale is None else self.scale[first + place :][: len(vectors)]
                for found in best:
                    found.add(vectors, scale, first + place)
        pairs = [found.sorted() for found in best]
        return np.concatenate([ids for ids, _ in pairs]), np.concatenate([values for _, values in pairs])


class _Best:
    """The k best of each query so far, and what has beaten a query's k-th best since they were last ordered.

    What beats it is picked out with one comparison an entry. Ordering anew only when there is as much of it as there
    are places means doing so about as often as the gallery doubles.
    """

    def __init__(self, queries: np.ndarray, k: int) -> None:
        self.queries, self.k, self.full, self.num_later = queries, k, False, 0
        self.values = np.full((len(queries), k), -2.0, np.float32)
        self.ids = np.full((len(queries), k), -1, np.int64)
        self.later: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # Kept, since fresh memory of this size costs more than the comparison that is written to it.
        shape = (len(queries), STRIP_ROWS)
        self.room = np.empty(shape, np.float32), np.empty(shape, bool)

    def add(self, vectors: np.ndarray, scale: np.ndarray | None, first: int) -> None:
        """Look at a strip of the gallery [rows, dim], whose first row has the number `first`."""
        columns = len(vectors)
        whole = columns == STRIP_ROWS
        cosines = np.matmul(self.queries, vectors.T, out=self.room[0] if whole else None)
        if scale is not None:
            cosines *= scale
        if not self.full:
            self._order(cosines, np.broadcast_to(np.arange(first, first + columns), cosines.shape))
            self.full = bool((self.values[:, -1] > -2).all())
            return
        places = _nonzero(np.greater(cosines, self.values[:, -1:], out=self.room[1] if whole else None))
        self.later.append((places // columns, places % columns + first, cosines.ravel()[places]))
        self.num_later += len(places)
        if self.num_later > self.values.size:
            self._order_later()

    def _order_later(self) -> None:
        if self.num_later:
            self._order(*_pack(*(np.concatenate(parts) for parts in zip(*self.later, strict=True)), len(self.values)))
        self.later, self.num_later = [], 0

    def _order(self, cosines: np.ndarray, numbers: np.ndarray) -> None:
        """Merge candidates [queries, some], in the order of their numbers, into the k best."""
        values, ids = np.concatenate([self.values, cosines], 1), np.concatenate([self.ids, numbers], 1)
        places = _top(values, self.k)
        self.values, self.ids = np.take_along_axis(values, places, 1), np.take_along_axis(ids, places, 1)

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and cosines, best first, equal ones by number."""
        self._order_later()
        order = np.lexsort((self.ids, -self.values), axis=1)
        return np.take_along_axis(self.ids, order, 1), np.take_along_axis(self.values, order, 1)


def _nonzero(mask: np.ndarray) -> np.ndarray:
    """Return the flat places where a mask is true; eight are looked at together, since few are."""
    flat = mask.ravel()
    if flat.size % 8:
        return np.flatnonzero(flat)
    words = np.flatnonzero(flat.view(np.uint64) != 0)
    which, byte = np.nonzero(flat.reshape(-1, 8)[words])
    return words[which] * 8 + byte


def _top(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of each row, of equal ones those that stand first; the smallest stands last."""
    best, places = torch.topk(torch.from_numpy(values), min(k + 1, values.shape[1]), dim=1)
    if values.shape[1] > k and bool((best[:, k - 1] == best[:, k]).any()):
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    return places[:, :k].numpy()


def _pack(rows: np.ndarray, numbers: np.ndarray, found: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring hits into a dense [queries, most hits of a query], with -2 and -1 where a query has fewer."""
    order = np.argsort(rows, kind="stable")
    rows, numbers, found = rows[order], numbers[order], found[order]
    counts = np.bincount(rows, minlength=num)
    place = np.arange(len(rows)) - (counts.cumsum() - counts)[rows]
    values = np.full((num, counts.max()), -2.0, np.float32)
    ids = np.full(values.shape, -1, np.int64)
    values[rows, place], ids[rows, place] = found, numbers
    return values, ids


class FaissSearcher:
    """Inverted lists of faiss; as many lists are looked at as a sample of queries needs for the recall asked for."""

    def __init__(self, gallery: Embeddings, recall: float = TARGET_RECALL) -> None:
        faiss = require_extra("faiss", "search", DIST)
        self.gallery, self.recall, self.tuned = gallery, recall, False
        lists = max(1, len(gallery) // ROWS_PER_LIST)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(gallery.dim), gallery.dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.seed = 10, 0
        rows = np.sort(np.random.default_rng(0).permutation(len(gallery))[:TRAINING_ROWS])
        index.cp.min_points_per_centroid = 1
        index.train(gallery.take(rows))
        for _, block in gallery.blocks():
            index.add(block)
        self.index = index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest that the lists hold."""
        k = min(k, len(self.gallery))
        if not self.tuned:
            self.tune(queries, k)
        values, ids = self.index.search(np.ascontiguousarray(queries), k)
        return ids, values

    def tune(self, queries: np.ndarray, k: int) -> None:
        """Double the lists that are looked at until a sample of queries has its recall."""
        sample, right = _sample(queries, self.gallery, k)
        self.index.nprobe, self.tuned = 1, True
        while self.index.nprobe < self.index.nlist:
            found = self.index.search(sample, k)[1]
            if recall_of(found, right) >= self.recall:
                return
            self.index.nprobe = min(self.index.nlist, 2 * self.index.nprobe)


class UsearchSearcher:
    """A graph of usearch; as wide a search as a sample of queries needs for the recall asked for."""

    def __init__(self, gallery: Embeddings, recall: float = TARGET_RECALL) -> None:
        usearch = require_extra("usearch.index", "search", DIST)
        self.gallery, self.recall, self.tuned = gallery, recall, False
        self.index = usearch.Index(ndim=gallery.dim, metric="ip", dtype="f32", connectivity=16, expansion_add=64)
        for first, block in gallery.blocks():
            self.index.add(np.arange(first, first + len(block)), block, threads=torch.get_num_threads())

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest that the graph finds."""
        k = min(k, len(self.gallery))
        if not self.tuned:
            self.tune(queries, k)
        return self._search(queries, k)

    def tune(self, queries: np.ndarray, k: int) -> None:
        """Double the width until a sample of queries has its recall."""
        sample, right = _sample(queries, self.gallery, k)
        self.index.expansion_search, self.tuned = max(16, k), True
        while self.index.expansion_search < len(self.gallery):
            if recall_of(self._search(sample, k)[0], right) >= self.recall:
                return
            self.index.expansion_search *= 2

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found: Any = self.index.search(queries, k, threads=torch.get_num_threads())
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return keys.astype(np.int64), (1 - distances).astype(np.float32)


def _sample(queries: np.ndarray, gallery: Embeddings, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).permutation(len(queries))[:SAMPLE]
    sample = np.ascontiguousarray(queries[rows])
    return sample, ExactSearcher(gallery).search(sample, k)[0]


def recall_of(found: np.ndarray, right: np.ndarray) -> float:
    """Return the share of the right neighbours that were found."""
    hits = [len(np.intersect1d(row[row >= 0], wanted)) for row, wanted in zip(found, right, strict=True)]
    return float(sum(hits) / right.size)


def make_searcher(gallery: Embeddings, backend: Backend) -> Searcher:
    """Return the searcher of a name."""
    if backend == "exact":
        return ExactSearcher(gallery)
    if backend == "faiss":
        return FaissSearcher(gallery)
    if backend == "usearch":
        return UsearchSearcher(gallery)
    raise unknown_name("backend", backend, ["exact", "faiss", "usearch"])


def measure_recall(searcher: Searcher, gallery: Embeddings, queries: np.ndarray, k: int) -> float:
    """Return the recall at k of a searcher for a sample of at most a hundred queries, against the exact search."""
    if isinstance(searcher, ExactSearcher):
        return 1.0
    sample, right = _sample(queries, gallery, min(k, len(gallery)))
    return recall_of(searcher.search(sample, k)[0], right)
