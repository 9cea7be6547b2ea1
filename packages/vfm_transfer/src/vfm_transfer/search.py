"""Nearest neighbours by cosine: exact in blocks, or approximate with faiss or usearch and a measured recall."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from tenfold_shared.commands import require_extra, unknown_name

from vfm_transfer.embeddings import Embeddings

DIST = "vfm-transfer"
Backend = Literal["exact", "faiss", "usearch"]
QUERY_ROWS, SAMPLE, TARGET_RECALL = 1024, 100, 0.95
ROWS_PER_LIST, TRAINING_ROWS = 200, 50_000


class Searcher(Protocol):
    """Finds the gallery's nearest images for unit query vectors."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers [queries, k] and cosines, the most similar first; -1 where none was found."""
        ...


class ExactSearcher:
    """Every query against every vector, a block of the gallery at a time: memory does not grow with the gallery.

    Of each block only what beats a query's k-th best so far is looked at, so that after the first blocks selecting
    costs a comparison an entry. Equal cosines are ordered by number.
    """

    def __init__(self, gallery: Embeddings) -> None:
        self.gallery = gallery

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest of each query."""
        k = min(k, len(self.gallery))
        best = [_Best(min(QUERY_ROWS, len(queries) - start), k) for start in range(0, len(queries), QUERY_ROWS)]
        for first, block in self.gallery.blocks():
            columns = torch.from_numpy(block).T
            for place, found in enumerate(best):
                rows = torch.from_numpy(queries[place * QUERY_ROWS : (place + 1) * QUERY_ROWS])
                found.add(rows @ columns, first)
        pairs = [found.sorted() for found in best]
        return np.concatenate([ids for ids, _ in pairs]), np.concatenate([values for _, values in pairs])


class _Best:
    """The k best of each query so far: full from the start with places that anything beats."""

    def __init__(self, num: int, k: int) -> None:
        self.k = k
        self.values = torch.full((num, k), -2.0)
        self.ids = torch.full((num, k), -1, dtype=torch.int64)

    def add(self, similarity: torch.Tensor, first: int) -> None:
        """Look at one block [queries, rows] whose first row has the number `first`."""
        if similarity.shape[1] > 4 * self.k and bool((self.values[:, -1] > -2).all()):
            rows, columns = self._above(similarity)
            if len(rows) == 0:
                return
            similarity, columns = _pack(similarity, rows, columns)
            ids = torch.where(columns >= 0, columns + first, -1)
        else:
            ids = torch.arange(first, first + similarity.shape[1]).expand(len(similarity), -1)
        values = torch.cat([self.values, similarity], 1)
        ids = torch.cat([self.ids, ids], 1)
        self.values, places = _top(values, self.k)
        self.ids = ids.gather(1, places)

    def _above(self, similarity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hits = torch.nonzero(similarity > self.values[:, -1:])
        return hits[:, 0], hits[:, 1]

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and cosines, best first, equal ones by number."""
        ids, values = self.ids.numpy(), self.values.numpy()
        order = np.lexsort((ids, -values), axis=1)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def _top(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, of equal ones those that stand first; the smallest stands last."""
    best, places = torch.topk(values, min(k + 1, values.shape[1]), dim=1)
    if values.shape[1] > k and bool((best[:, k - 1] == best[:, k]).any()):
        places = torch.sort(values, dim=1, descending=True, stable=True).indices
        return values.gather(1, places[:, :k]), places[:, :k]
    return best[:, :k], places[:, :k]


def _pack(similarity: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring scattered hits into a dense [queries, most hits of a query] with -2 and -1 where there are fewer."""
    counts = torch.bincount(rows, minlength=len(similarity))
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    values = torch.full((len(similarity), int(counts.max())), -2.0)
    ids = torch.full(values.shape, -1, dtype=torch.int64)
    values[rows, place], ids[rows, place] = similarity[rows, columns], columns
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
