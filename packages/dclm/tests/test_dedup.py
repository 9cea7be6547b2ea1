"""Deduplication against naive second implementations, closed forms and the known trap."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from dclm import Document, split_words
from dclm.config import Bloom, Exact, MinHash, Substring
from dclm.dedup import BloomFilter, SaturatedFilterError, bloom, exact, minhash, substring
from dclm.dedup.bloom import count_ngrams
from dclm.dedup.bloom_filter import filter_size
from dclm.dedup.exact import normalize_url
from dclm.dedup.minhash import Clusters, bands_and_rows, signature
from dclm.dedup.spill import count_buckets, make_rows, read_bucket, repeats, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from tenfold_shared.commands import InputError


class ExactSet:
    """What a Bloom filter approximates: the same interface without errors."""

    num_bits, num_hashes = 10**9, 1

    def __init__(self):
        self.held = set()

    def contains(self, hashes):
        return np.array([value in self.held for value in hashes.tolist()], dtype=bool)

    def add(self, hashes):
        self.held.update(hashes.tolist())

    def check(self):
        return None


def naive_old_both(texts, size, threshold, least):
    """The reference's procedure on strings: decisions and remaining texts."""
    seen, result = set(), []
    for text in texts:
        starts = [0, *[at for at, character in enumerate(text) if character == "\n"], len(text)]
        kept, total, contained = [], 0, 0
        for start, end in itertools.pairwise(starts):
            words = split_words(text[start:end])
            grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
            if not grams and len(words) >= least:
                grams = [tuple(words)]
            hits = sum(gram in seen for gram in grams)
            total, contained = total + len(grams), contained + hits
            if grams and hits / len(grams) > threshold:
                continue
            seen.update(grams)
            kept.append(text[start:end])
        rest = "".join(kept)
        result.append(None if not rest.strip() or (total and contained / total > threshold) else rest)
    return result


lines = st.lists(st.sampled_from(["a b c d", "b c d e f", "x", "a b c d a b c d", "q r s t u v", ""]), max_size=6)


@settings(deadline=None, max_examples=300)
@given(st.lists(lines.map("\n".join).filter(str.strip), max_size=6), st.sampled_from([1, 2, 3]))
def test_old_both_is_the_references_procedure(texts, least):
    config = Bloom(ngram_size=3, min_ngram_size=least)
    ours = [
        None if reason else document.text for document, reason in bloom(map(Document, texts), config, filter=ExactSet())
    ]
    assert ours == naive_old_both(texts, 3, 0.8, least)


def test_old_both_is_the_references_procedure_on_real_pages(pool_texts):
    texts = pool_texts[:150] + pool_texts[:20]
    ours = [None if reason else page.text for page, reason in bloom(map(Document, texts), filter=ExactSet())]
    assert ours == naive_old_both(texts, 13, 0.8, 13)
    assert ours[150:].count(None) >= 15


def test_size_has_the_closed_form():
    for count, rate in ((10**6, 0.01), (10**9, 0.01), (12345, 0.001)):
        bits, hashes = filter_size(count, rate)
        assert bits / count == pytest.approx(-math.log(rate) / math.log(2) ** 2, rel=1e-3)
        assert hashes == round(bits / count * math.log(2))


def test_a_filled_filter_errs_as_often_as_it_was_asked_to():
    filter = BloomFilter.for_count(50_000, 0.01)
    rng = np.random.default_rng(0)
    filter.add(rng.integers(0, 2**63, 50_000, dtype=np.uint64))
    fresh = rng.integers(0, 2**63, 50_000, dtype=np.uint64)
    assert filter.contains(fresh).mean() == pytest.approx(0.01, abs=0.002)
    assert filter.error_rate() == pytest.approx(0.01, abs=0.001)
    assert filter.fill() == pytest.approx(1 - math.exp(-filter.num_hashes * 50_000 / filter.num_bits), abs=0.002)
    filter.check()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(0, 3))
def test_nothing_that_is_in_a_filter_is_missed(values, seed):
    filter = BloomFilter.for_count(50, 0.1, seed=seed)
    hashes = np.array(values, dtype=np.uint64)
    filter.add(hashes)
    assert filter.contains(hashes).all()


def test_the_trap_of_a_guessed_size_raises_the_alarm(pool_texts):
    """dclm issues 71 and 83: too small an expected count fills the filter, and most text passes for old."""
    documents = [Document(text) for text in dict.fromkeys(pool_texts)]
    count = count_ngrams(documents)
    with pytest.raises(SaturatedFilterError, match=r"filter is saturated: .* leave `expected_ngrams` out"):
        list(bloom(documents, Bloom(expected_ngrams=count // 50)))
    counted = [reason for _, reason in bloom([Document(text) for text in dict.fromkeys(pool_texts)])]
    assert 0 < len(counted) - counted.count(None) < 0.2 * len(counted)


class Deaf(BloomFilter):
    """A filter whose alarm is off."""

    def check(self):
        return None


def test_without_the_alarm_the_trap_removes_almost_everything(pool_texts):
    filter = Deaf(*filter_size(2000, 0.01), 0.01)
    reasons = [reason for _, reason in bloom([Document(text) for text in dict.fromkeys(pool_texts)], filter=filter)]
    gone = [reason is not None for reason in reasons[len(reasons) // 2 :]]
    assert sum(gone) > 0.9 * len(gone)


def test_the_budget_is_hard():
    with pytest.raises(InputError, match=r"takes 119813\d bytes, `max_bytes` is 1000000; .*at least 2\)"):
        BloomFilter.for_count(1_000_000, 0.01, max_bytes=1_000_000)


def test_a_saved_filter_goes_on(tmp_path, pool_texts):
    filter = BloomFilter.for_count(10**6, 0.01)
    list(bloom(map(Document, pool_texts[:20]), filter=filter))
    filter.save(tmp_path / "f.npz", shards_done=3)
    loaded, state = BloomFilter.load(tmp_path / "f.npz")
    assert state == {"shards_done": 3} and (loaded.bits == filter.bits).all()
    config = Bloom(saved_filter=str(tmp_path / "f.npz"), update=False)
    reasons = [reason for _, reason in bloom(map(Document, pool_texts[:20]), config)]
    assert reasons.count(None) <= 5
    assert (BloomFilter.load(tmp_path / "f.npz")[0].bits == filter.bits).all()


LINE = "the quick brown fox jumps over the lazy dog near the old river bank today again"


def test_spans_explain_what_went():
    first, second = Document(LINE), Document("something quite new\n" + LINE + "\nand its end")
    pairs = list(bloom([first, second], Bloom(threshold=0.5, mode="paragraph")))
    [[start, end, share]] = second.fields["bloom_removed_spans"]
    assert pairs[1][1] is None and share == 1.0
    assert second.text == "something quite new\nand its end"
    assert ("something quite new\n" + LINE + "\nand its end")[start:end].strip() == LINE


def test_modes_differ_as_they_say():
    def outcome(mode):
        documents = [Document(LINE), Document("a new line of words\n" + LINE)]
        return [(reason, document.text) for document, reason in bloom(documents, Bloom(mode=mode))][1]

    assert outcome("old-both")[0] == "bloom_document"
    assert outcome("paragraph") == (None, "a new line of words")
    assert outcome("document")[0] is None, "n-grams across the new line make up more than a fifth"
    assert outcome("ngram") == (None, "a new line of words\n")


def test_paragraphs_too_short_for_an_ngram_stay():
    assert [reason for _, reason in bloom([Document("Home\nAbout")] * 2)] == [None, None]


def test_seeds_change_bits_not_decisions(pool_texts):
    results = []
    for seed in (0, 1):
        filter = BloomFilter.for_count(10**7, 1e-6, seed=seed)
        pairs = bloom(map(Document, pool_texts[:100] * 2), filter=filter)
        results.append(([reason for _, reason in pairs], filter.bits.copy()))
    assert results[0][0] == results[1][0]
    assert (results[0][1] != results[1][1]).any()


# MinHash


def jaccard_pair(share, size=2000, seed=0):
    """Two texts of distinct words with a given Jaccard similarity of their sets."""
    rng = random.Random(seed)
    common = round(size * 2 * share / (1 + share))
    words = [f"w{number}" for number in range(2 * size - common)]
    rng.shuffle(words)
    return " ".join(words[:size]), " ".join(words[size - common :])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_equal_shares_of_signatures_estimate_jaccard(share):
    config = MinHash(ngram_size=1, bands=40, rows=25)
    first, second = (signature(text, config) for text in jaccard_pair(share))
    assert (first == second).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000))


def test_banding_from_a_threshold():
    for threshold in (0.3, 0.5, 0.75, 0.9):
        bands, rows = bands_and_rows(threshold, 128)
        assert bands * rows <= 128
        assert (1 / bands) ** (1 / rows) == pytest.approx(threshold, abs=0.1)
    # the paper's own banding, 93 x 15, has its knee at 0.74
    assert (1 / 93) ** (1 / 15) == pytest.approx(0.739, abs=0.001)


def test_near_duplicates_go_and_others_stay(pool_texts):
    config = MinHash(threshold=0.7)
    texts = [text for text in dict.fromkeys(pool_texts) if len(text) > 2000][:60]
    copies = [text + "\nA line at the end of a copy." for text in texts]
    reasons = [reason for _, reason in minhash(map(Document, texts + copies), config)]
    assert reasons[60:].count("near_duplicate") == 60
    assert [reason for _, reason in minhash(map(Document, [*jaccard_pair(0.1)]), config)] == [None, None]
    assert [reason for _, reason in minhash([Document("..."), Document("...")], config)] == [None, None]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_clusters_are_connected_components(pairs):
    clusters = Clusters()
    labels = list(range(13))
    for first, second in pairs:
        clusters.join(first, second)
        low, high = sorted((labels[first], labels[second]))
        labels = [low if label == high else label for label in labels]
    assert [clusters.root(number) for number in range(13)] == labels


# Exact and substring


def test_exact_keeps_the_first():
    texts = ["a", "b", "a", "", "b"]
    assert [reason for _, reason in exact(map(Document, texts))] == [
        None,
        None,
        *["duplicate_text"] * 1,
        None,
        "duplicate_text",
    ]
    urls = ["http://a.com/x", "https://www.a.com/x/", "a.com/x?utm_source=1", "", ""]
    pages = [Document(str(number), {"url": url}) for number, url in enumerate(urls)]
    reasons = [reason for _, reason in exact(pages, Exact(key="url"))]
    assert reasons == [None, "duplicate_url", "duplicate_url", None, None]


def test_urls_are_compared_without_what_changes():
    assert normalize_url("HTTPS://www.A.com/b/?ref=c") == "A.com/b"


def naive_substring(texts, size):
    seen, result = set(), []
    for text in texts:
        words = split_words(text)
        gone = set()
        for at in range(len(words) - size + 1):
            window = tuple(words[at : at + size])
            if window in seen:
                gone.update(range(at, at + size))
            seen.add(window)
        result.append([word for at, word in enumerate(words) if at not in gone])
    return result


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("ab."), min_size=1, max_size=12).map(" ".join), max_size=5), st.integers(2, 4))
def test_substring_is_that_of_a_naive_implementation(texts, size):
    pairs = list(substring(map(Document, texts), Substring(num_tokens=size)))
    expected = naive_substring(texts, size)
    assert [[] if reason else split_words(document.text) for document, reason in pairs] == expected


def test_buckets_together_are_all_rows_and_equal_keys_meet(tmp_path):
    rng = np.random.default_rng(0)
    keys = rng.choice(rng.integers(0, 2**64, 300, dtype=np.uint64), 1000)
    for shard in range(3):
        write_runs(tmp_path, shard, [make_rows(keys[shard::3], 0, shard, number) for number in range(2)])
    assert count_buckets(tmp_path, 10**9) == 1
    num_buckets = count_buckets(tmp_path, 20_000)
    buckets = [read_bucket(tmp_path, bucket, num_buckets) for bucket in range(num_buckets)]
    assert num_buckets > 5 and sum(map(len, buckets)) == 2000
    repeated = sum(int(repeats(rows)[0].sum()) for rows in buckets)
    assert repeated == 2000 - len(set(keys.tolist()))
    assert Counter(np.concatenate([rows["key"] for rows in buckets]).tolist()) == Counter(
        {k: 2 * n for k, n in Counter(keys.tolist()).items()}
    )
