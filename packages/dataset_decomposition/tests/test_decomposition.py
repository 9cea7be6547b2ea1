"""Decomposition against a plain loop, its laws on random lengths, and the distribution of its draws."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from dataset_decomposition import decompose
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

OFFICIAL = json.loads((Path(__file__).parent / "reference" / "official.json").read_text())
LENGTHS = st.lists(st.integers(0, 5000), max_size=20)
OPTIONS = st.fixed_dictionaries(
    {
        "min_length": st.sampled_from([1, 2, 16, 32]),
        "max_length": st.sampled_from([32, 64, 256]),
        "policy": st.sampled_from(["random", "greedy", "equal"]),
        "tail": st.sampled_from(["drop", "pad", "pack"]),
        "overlap": st.sampled_from([0, 1]),
        "seed": st.integers(0, 2**64 - 1),
    }
)


def by_loop(length, smallest, largest, overlap=0):
    """The greedy rule as the paper words it, one document and one piece at a time."""
    pieces, position = [], 0
    while length - position > 1:
        k = int(math.log2(length - position - 1))
        if k < smallest:
            break
        k = min(k, largest)
        pieces.append((position, 2**k))
        position += 2**k + 1 - overlap
    return pieces


@pytest.mark.parametrize("overlap", [0, 1])
def test_greedy_is_the_plain_loop(overlap):
    lengths = np.random.default_rng(0).integers(0, 40_000, 1000)
    lengths[:600] = np.arange(600)
    lengths[600:615] = 2 ** np.arange(15) + 1
    lengths[615:620] = [16_384, 16_385, 16_386, 8193, 8194]
    plan = decompose(lengths, policy="greedy", overlap=overlap)
    expected = [(d, *piece) for d, n in enumerate(lengths.tolist()) for piece in by_loop(n, 8, 13, overlap)]
    assert list(zip(plan.doc.tolist(), plan.start.tolist(), plan.length.tolist(), strict=True)) == expected


def test_greedy_is_the_authors_on_random_lengths():
    """Their function ran on these lengths; see reference/SOURCE.md."""
    assert len(OFFICIAL["greedy"]) > 700
    for smallest, largest, tokens, buckets, starts in OFFICIAL["greedy"]:
        plan = decompose([tokens], min_length=2**smallest, max_length=2**largest, policy="greedy")
        assert (plan.length.tolist(), plan.start.tolist()) == ([2**k for k in buckets], starts)


def test_draws_are_distributed_as_the_authors():
    """Whole documents, so that what is left over after the draws is compared, too."""
    plan = decompose([2_000_000] * 20, seed=1)
    ours = [int((plan.length == 2**k).sum()) for k in range(8, 14)]
    theirs = [OFFICIAL["draws"][str(k)] for k in range(8, 14)]
    assert stats.chi2_contingency([ours, theirs]).pvalue > 1e-3
    assert stats.chi2_contingency([ours[::-1], theirs]).pvalue < 1e-9, "the test can fail"


@pytest.mark.parametrize("policy", ["random", "equal"])
def test_documents_up_to_twice_the_longest_need_no_draw(policy):
    lengths = np.random.default_rng(1).integers(0, 2 * 512 + 1, 500)
    drawn, greedy = (decompose(lengths, max_length=512, policy=name) for name in (policy, "greedy"))
    assert [drawn.start.tolist(), drawn.length.tolist()] == [greedy.start.tolist(), greedy.length.tolist()]


@given(LENGTHS, OPTIONS)
@settings(deadline=None, max_examples=200)
def test_pieces_are_disjoint_in_their_document_and_account_for_every_token(lengths, options):
    plan = decompose(np.array(lengths, dtype=np.int64), **options)
    sizes, overlap = np.array(lengths, dtype=np.int64), options["overlap"]
    end = plan.start + plan.tokens
    assert (plan.start >= 0).all() and (end <= sizes[plan.doc]).all()
    assert (plan.length & (plan.length - 1) == 0).all()
    assert ((plan.length >= options["min_length"]) & (plan.length <= options["max_length"])).all()
    same = plan.doc[1:] == plan.doc[:-1]
    assert (plan.start[1:] == end[:-1] - overlap)[same].all(), "contiguous from the document's start"
    assert (plan.start[np.flatnonzero(~same) + 1] == 0).all()
    covered = sum(len({*range(s, e)}) for s, e in zip(plan.start, end, strict=True)) - overlap * int(same.sum())
    assert covered + plan.dropped_tokens == plan.total_tokens == sizes.sum()
    whole = plan.tokens == plan.length + 1
    assert whole.all() if options["tail"] == "drop" else (plan.length[~whole] == options["min_length"]).all()


@given(LENGTHS, OPTIONS)
@settings(deadline=None, max_examples=100)
def test_rows_are_numbered_without_gaps_and_hold_what_fits(lengths, options):
    plan = decompose(np.array(lengths, dtype=np.int64), **options)
    for length in np.unique(plan.length):
        found = plan.length == length
        rows, counts = np.unique(plan.row[found], return_counts=True)
        assert rows.tolist() == list(range(len(rows)))
        assert np.bincount(plan.row[found], weights=plan.tokens[found]).max() <= length + 1
        assert options["tail"] == "pack" or (counts == 1).all()


@given(st.permutations(range(12)), st.integers(1, 11))
@settings(deadline=None, max_examples=50)
def test_a_document_is_cut_alike_wherever_it_stands(order, split):
    """Neither the order of documents nor how they are divided over workers changes a document's pieces."""
    lengths, keys = np.arange(12) * 5000, np.arange(100, 112)
    options = {"min_length": 16, "max_length": 256}

    def pieces(chosen):
        plan = decompose(lengths[chosen], keys=keys[chosen], **options)
        return [plan.length[plan.doc == i].tolist() for i in range(len(chosen))]

    whole, order = pieces(np.arange(12)), np.array(order)
    assert pieces(order) == [whole[i] for i in order]
    assert pieces(np.arange(12)[:split]) + pieces(np.arange(12)[split:]) == whole


def test_drawn_lengths_have_the_authors_probabilities():
    """P(k) is proportional to 2^(max - k), so that over-long documents give every bucket as many tokens."""
    plan = decompose([4_000_000] * 4, seed=3)
    drawn = plan.length
    counts = np.array([(drawn == 2**k).sum() for k in range(8, 14)])
    shares = 2.0 ** np.arange(5, -1, -1) / 63
    assert stats.chisquare(counts, shares * counts.sum()).pvalue > 1e-3
    assert stats.chisquare(counts, np.full(6, counts.sum() / 6)).pvalue < 1e-9, "the test can fail"


def test_equal_gives_every_bucket_as_many_tokens_without_chance():
    plan = decompose([10_000_000], policy="equal")
    tokens = np.array([plan.length[plan.length == 2**k].sum() for k in range(8, 14)])
    assert np.ptp(tokens) / tokens.mean() < 0.02


def test_seeds_and_documents_draw_differently():
    lengths = [100_000, 100_000]
    first, second = (decompose(lengths, seed=seed) for seed in (0, 1))
    assert first.length[:20].tolist() != second.length[:20].tolist()
    assert first.length[first.doc == 0][:20].tolist() != first.length[first.doc == 1][:20].tolist()


def test_a_document_of_ten_million_tokens():
    plan = decompose([10_000_000])
    assert plan.dropped_tokens <= 256
    assert plan.tokens.sum() + plan.dropped_tokens == 10_000_000


@pytest.mark.parametrize("policy", ["random", "equal"])
def test_of_a_long_document_less_than_the_shortest_row_is_left(policy):
    """Also of one with more pieces than are drawn at once."""
    lengths = np.arange(100_000, 100_400)
    plan = decompose(lengths, policy=policy)
    left = lengths - np.bincount(plan.doc, weights=plan.tokens)
    assert left.min() >= 0 and left.max() <= 256


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lengths": [-1]}, "`lengths` holds -1"),
        ({"lengths": [1.5]}, "row of integers"),
        ({"lengths": [1], "min_length": 300}, "`min_length` (=300) must be a power of two; use 512."),
        ({"lengths": [1], "min_length": 512, "max_length": 256}, "must be at most `max_length`"),
        ({"lengths": [1], "policy": "best"}, "`policy` (='best') must be one of random, greedy, equal."),
        ({"lengths": [1], "overlap": 2}, "`overlap` (=2) must be 0 or 1."),
        ({"lengths": [1], "keys": [1, 2]}, "one key per document"),
    ],
)
def test_options_out_of_range_are_named(arguments, sentence):
    with pytest.raises(ValueError) as error:
        decompose(**arguments)
    assert sentence in str(error.value)
