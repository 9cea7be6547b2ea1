"""Choosing a transfer set: turns, constant total, no image twice, no near-duplicates, any back end, any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfm_transfer import Embeddings, curate
from vfm_transfer.curation import cover, curate_report, images_per_query, random_images
from vfm_transfer.embeddings import open_embeddings, save_embeddings
from vfm_transfer.search import ExactSearcher, make_searcher, measure_recall


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def by_hand(queries, gallery, total, threshold=None, groups=None):
    """Query by query, round by round, over complete rankings."""
    q, g = unit(queries), unit(gallery)
    order = np.argsort(-(q @ g.T), axis=1, kind="stable")
    queues = [list(group) for group in groups or [[i] for i in range(len(q))]]
    place, closed, kept, chosen = [0] * len(q), set(), list(q), []
    while len(chosen) < total:
        for queue in queues:
            for _ in range(len(queue)):
                query = queue.pop(0)
                queue.append(query)
                found = None
                while place[query] < len(g) and found is None:
                    candidate = int(order[query, place[query]])
                    place[query] += 1
                    if candidate in closed:
                        continue
                    closed.add(candidate)
                    if threshold is None or max(float(k @ g[candidate]) for k in kept) <= threshold:
                        found = candidate
                if found is not None:
                    kept.append(g[found])
                    chosen.append(found)
                    break
            if len(chosen) == total:
                break
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(20, 120), st.floats(0.05, 1.0), st.booleans())
def test_turns_equal_a_naive_loop(seed, num, size, share, dedup):
    generator = np.random.default_rng(seed)
    queries, gallery = generator.normal(size=(num, 6)), generator.normal(size=(size, 6))
    total = max(1, int(share * size * (0.3 if dedup else 1)))
    threshold = 0.9 if dedup else None
    try:
        found = curate(queries, gallery, total, dedup_threshold=threshold)
    except ValueError as error:
        assert dedup and "near-duplicates" in str(error)
        return
    assert found.dtype == np.int64 and found.tolist() == by_hand(queries, gallery, total, threshold)
    assert len(set(found.tolist())) == total


def test_a_remainder_goes_to_the_first_queries():
    generator = np.random.default_rng(0)
    found = curate_report(generator.normal(size=(7, 5)), generator.normal(size=(200, 5)), 24)
    assert found.per_query.tolist() == [4, 4, 4, 3, 3, 3, 3]
    assert found.query.tolist() == ([*range(7)] * 4)[:24]


def test_queries_that_are_alike_take_the_next_neighbour():
    """Ten equal queries rank the gallery alike: each image once, the nearest first."""
    queries, gallery = np.ones((10, 2)), np.stack([np.ones(40), np.linspace(1.0, 2.0, 40)], 1)
    assert curate(queries, gallery, 40).tolist() == list(range(40))


def test_the_whole_gallery_can_be_taken():
    generator = np.random.default_rng(1)
    assert sorted(curate(generator.normal(size=(3, 4)), generator.normal(size=(50, 4)), 50).tolist()) == [*range(50)]


def test_classes_take_turns_and_in_a_class_its_queries():
    generator = np.random.default_rng(2)
    vectors, gallery, labels = (
        generator.normal(size=(6, 4)),
        generator.normal(size=(90, 4)),
        ("b", "a", "b", "b", "b", "b"),
    )
    found = curate_report(Embeddings.of(vectors, labels=labels), gallery, 40, balance="class")
    assert found.per_query.tolist() == [4, 20, 4, 4, 4, 4]
    assert found.indices.tolist() == by_hand(vectors, gallery, 40, groups=[[1], [0, 2, 3, 4, 5]])


def test_the_global_top_has_the_highest_cosine_to_any_query():
    generator = np.random.default_rng(3)
    queries, gallery = generator.normal(size=(5, 4)), generator.normal(size=(60, 4))
    best = (unit(gallery) @ unit(queries).T).max(1)
    assert curate(queries, gallery, 12, balance="none").tolist() == np.argsort(-best, kind="stable")[:12].tolist()


@pytest.mark.parametrize("balance", ["query", "class", "none"])
def test_near_duplicates_of_the_chosen_and_of_queries_are_left_out(balance):
    generator = np.random.default_rng(4)
    queries, base = generator.normal(size=(4, 16)), generator.normal(size=(50, 16))
    gallery = np.concatenate([base, base + 1e-3 * generator.normal(size=base.shape), queries])  # a copy of everything
    asked = Embeddings.of(queries, labels=(0, 1, 0, 1))
    found = curate_report(asked, gallery, 30, balance=balance, dedup_threshold=0.97)
    together = unit(np.concatenate([queries, gallery[found.indices]]))
    assert (together @ together.T - 2 * np.eye(len(together))).max() <= 0.97
    assert found.duplicates > 0 and found.to_dict()["duplicates_left_out"] == found.duplicates
    with pytest.raises(ValueError, match=r"only 50 images are left of the gallery's 104"):
        curate(asked, gallery, 60, balance=balance, dedup_threshold=0.97)
    assert len(curate(asked, gallery, 104, balance=balance)) == 104


@pytest.mark.parametrize("backend", ["exact", "faiss", "usearch"])
def test_back_ends_and_their_recall(backend):
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(40, 24))
    gallery = (centres[generator.integers(0, 40, 6000)] + 0.5 * generator.normal(size=(6000, 24))).astype(np.float32)
    queries = centres[:20] + 0.5 * generator.normal(size=(20, 24))
    found = curate_report(queries, gallery, 800, backend=backend)
    assert found.per_query.tolist() == [40] * 20 and len(np.unique(found.indices)) == 800
    exact = set(curate(queries, gallery, 800).tolist())
    assert found.recall == 1.0 if backend == "exact" else found.recall >= 0.95
    assert len(exact & set(found.indices.tolist())) >= (800 if backend == "exact" else 700)


def test_recall_is_measured_not_assumed():
    class Blind:
        def search(self, queries, k):
            return np.tile(np.arange(k), (len(queries), 1)), np.zeros((len(queries), k), np.float32)

    generator = np.random.default_rng(6)
    gallery, queries = Embeddings.of(generator.normal(size=(500, 8))), unit(generator.normal(size=(30, 8)))
    assert measure_recall(Blind(), gallery, queries, 50) < 0.3
    assert measure_recall(make_searcher(gallery, "exact"), gallery, queries, 50) == 1.0


def test_exact_search_is_brute_force_over_blocks_with_ties_by_number():
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(9000, 12)).astype(np.float32)
    gallery = Embeddings.of([vectors[:5000], vectors[5000:], vectors[:300]])
    queries = unit(vectors[:40])
    ids, values = ExactSearcher(gallery).search(queries, 25)
    similarity = queries @ unit(np.concatenate([vectors, vectors[:300]])).T
    assert np.array_equal(ids, np.argsort(-similarity, axis=1, kind="stable")[:, :25])
    assert np.allclose(values, -np.sort(-similarity, axis=1)[:, :25], atol=1e-6)
    assert ids[:, :2].tolist() == [[n, 9000 + n] for n in range(40)]


def test_a_gallery_on_disk_in_parts_is_read_in_blocks(tmp_path):
    generator = np.random.default_rng(8)
    vectors = generator.normal(size=(700, 8)).astype(np.float32)
    for number, part in enumerate((vectors[:400], vectors[400:])):
        names = [f"{number}-{row}.jpg" for row in range(len(part))]
        save_embeddings(tmp_path / f"part-{number}.npy", part, fingerprint="m", names=names)
    gallery = open_embeddings(tmp_path)
    assert all(isinstance(part, np.memmap) for part in gallery.parts) and len(gallery) == 700
    assert [start for start, _ in gallery.blocks(128)] == [0, 128, 256, 384, 400, 528, 656]
    queries = generator.normal(size=(6, 8))
    assert np.array_equal(curate(queries, gallery, 60), curate(queries, vectors, 60))
    assert gallery.names is not None and gallery.names[400] == "1-0.jpg"
    assert np.allclose(gallery.take(np.array([699, 0, 400])), unit(vectors[[699, 0, 400]]), atol=1e-6)


def test_the_exact_search_does_not_hold_the_gallery():
    import tracemalloc

    peaks = []
    for copies in (2, 8):
        block = np.random.default_rng(9).normal(size=(8192, 16)).astype(np.float32)
        gallery = Embeddings.of([block] * copies)
        tracemalloc.start()
        ExactSearcher(gallery).search(unit(block[:8]), 5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 6 * 8192 * 16  # a length and its inverse, not the 64 bytes of a vector


@pytest.mark.parametrize("size", [1024, 1023, 4000])
def test_exact_search_of_vectors_of_any_length_in_strips(size):
    """The k-th best is beaten early, late, and by many at once; lengths differ, or are one."""
    generator = np.random.default_rng(size)
    vectors = generator.normal(size=(size, 6)).astype(np.float32)
    vectors[size // 2 :] += 4  # all nearer to the queries than the first half
    queries = unit(generator.normal(size=(1100, 6)) + 4)
    for gallery in (vectors * generator.uniform(0.01, 50, (size, 1)).astype(np.float32), unit(vectors)):
        ids, values = ExactSearcher(Embeddings.of(gallery)).search(queries, 30)
        similarity = queries @ unit(gallery).T
        right = -np.sort(-similarity, axis=1)[:, :30]
        assert np.allclose(values, right, atol=1e-6)
        assert np.allclose(np.take_along_axis(similarity, ids, 1), right, atol=1e-6)
        assert all(len(set(row)) == 30 for row in ids.tolist())


def test_lengths_beyond_float32_squares():
    gallery = Embeddings.of(np.array([[1e30, 1e30], [1e-30, 0.0], [3.0, 4.0]], np.float32))
    assert np.allclose(gallery.lengths(), [2**0.5 * 1e30, 1e-30, 5], rtol=1e-5)
    assert np.allclose(np.linalg.norm(next(gallery.blocks())[1], axis=1), 1, atol=1e-6)


def test_cover_spreads_over_what_is_relevant():
    generator = np.random.default_rng(10)
    near = np.concatenate([np.tile([[1.0, 0, 0]], (50, 1)), [[1, 0.3, 0], [1, -0.3, 0], [1, 0, 0.3]]])
    gallery = np.concatenate([near, -np.ones((40, 3))])
    found = cover(np.array([[1.0, 0, 0]]), gallery, 4, relevant=53)
    assert found[0] == 0 and set(found[1:].tolist()) == {50, 51, 52}
    assert len(set(cover(generator.normal(size=(3, 3)), gallery, 30).tolist())) == 30


def test_random_images_follow_the_seed():
    assert np.array_equal(random_images(range(100), 10, 3), random_images(range(100), 10, 3))
    assert len(set(random_images(range(100), 100).tolist())) == 100
    with pytest.raises(ValueError, match="gallery's 5"):
        random_images(range(5), 6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"total": 101}, r"`total` \(=101\) must be from 1 to the gallery's 100 images"),
        ({"total": 0}, r"`total` \(=0\)"),
        ({"queries": np.full((2, 4), np.nan)}, "row 0 of the embeddings is not finite"),
        ({"gallery": np.eye(100, 4)}, "row 4 of the embeddings is zero"),
        ({"gallery": np.ones((100, 5))}, "queries have 4 dimensions, the gallery 5"),
        ({"balance": "class"}, "needs the classes"),
        ({"balance": "best"}, "unknown balance 'best'"),
        ({"backend": "annoy"}, "unknown backend 'annoy'"),
        ({"dedup_threshold": 97.0}, "must be a cosine"),
        ({"queries": np.empty((0, 4))}, "no queries"),
    ],
)
def test_what_cannot_be_curated(change, sentence):
    asked = {"queries": np.eye(2, 4), "gallery": np.ones((100, 4)), "total": 10} | change
    rest = {name: asked.pop(name) for name in list(asked) if name not in ("queries", "gallery", "total")}
    with pytest.raises(ValueError, match=sentence):
        curate(*asked.values(), **rest)


def test_embeddings_of_different_models_are_refused():
    queries, gallery = Embeddings.of(np.eye(3), fingerprint="a"), Embeddings.of(np.eye(3), fingerprint="b")
    with pytest.raises(ValueError, match=r"different models \(a and b\)"):
        curate(queries, gallery, 1)
    assert len(curate(queries, np.eye(3), 2)) == 2  # an unknown one goes with any


@pytest.mark.parametrize(("threshold", "kept"), [(1.0, 3), (-1.0, 0)])
def test_thresholds_at_the_ends(threshold, kept):
    """A cosine of one is never above one; one of at least minus one always is above it but where it is equal."""
    gallery = np.array([[1.0, 0], [0, 1], [1, 1]])
    if kept:
        assert len(curate(np.array([[1.0, 0]]), gallery, kept, dedup_threshold=threshold)) == kept
    else:
        with pytest.raises(ValueError, match="only 0 images are left"):
            curate(np.array([[1.0, 0]]), gallery, 1, dedup_threshold=threshold)


def test_no_query_can_ask_for_more_than_half_of_the_total():
    with pytest.raises(ValueError, match="`num_queries`"):
        images_per_query(153_680)
