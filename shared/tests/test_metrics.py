"""Metrics against scikit-learn, rouge-score and loops; states that merge to the same number."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics as sklearn_metrics
from tenfold_shared.metrics import (
    Mean,
    accuracy,
    auroc,
    bits_per_byte,
    mean_iou,
    recall_at_k,
    rmse,
    rouge_l,
    rouge_n,
)

CLASSES = 5
labels = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60)


@pytest.mark.parametrize("metric", [accuracy, rmse, lambda p, t: mean_iou(p, t, CLASSES)])
@given(pairs=labels, cut=st.integers(0, 60))
def test_batches_merge_to_the_whole(metric, pairs, cut):
    found, truth = np.array(pairs).T
    merged = metric(found[:cut], truth[:cut]) + metric(found[cut:], truth[cut:])
    assert merged.compute() == pytest.approx(metric(found, truth).compute(), rel=1e-12)


def test_nothing_counted_is_nan():
    assert math.isnan(Mean().compute())
    assert math.isnan(mean_iou(np.zeros(0, int), np.zeros(0, int), CLASSES).compute())


@given(labels)
def test_accuracy_rmse_and_iou_equal_scikit_learn(pairs):
    found, truth = np.array(pairs).T
    present = np.union1d(found, truth)
    iou = sklearn_metrics.jaccard_score(truth, found, average="macro", labels=present)
    assert accuracy(found, truth).compute() == pytest.approx(sklearn_metrics.accuracy_score(truth, found))
    assert rmse(found, truth).compute() == pytest.approx(sklearn_metrics.root_mean_squared_error(truth, found))
    assert mean_iou(found, truth, CLASSES).compute() == pytest.approx(iou)


def test_iou_by_hand_and_ignored_pixels():
    truth, found = np.array([[0, 0, 1], [1, 255, 255]]), np.array([[0, 1, 1], [1, 0, 2]])
    assert mean_iou(found, truth, 3, ignore_index=255).compute() == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize(("found", "truth", "name"), [([3], [0], "predictions"), ([0], [-1], "targets")])
def test_iou_refuses_labels_out_of_range(found, truth, name):
    with pytest.raises(ValueError, match=f"`{name}` .* must be from 0 to 2"):
        mean_iou(found, truth, 3)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_negative_labels_are_refused_in_every_type(dtype):
    """Also where the classes are more than the type can count."""
    with pytest.raises(ValueError, match=r"`predictions` -1\.\.0 must be from 0 to 299"):
        mean_iou(np.array([0, -1], dtype), np.array([0, 0], dtype), 300)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8])
def test_labels_of_small_types_are_counted(dtype):
    found, truth = np.array([0, 1, 1, 0], dtype), np.array([0, 1, 0, 0], dtype)
    assert mean_iou(found, truth, 300).compute() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_shapes_are_not_broadcast():
    for metric in (accuracy, rmse, auroc):
        with pytest.raises(ValueError, match="must be the same"):
            metric([[1], [0]], [1, 0])


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_recall_equals_scikit_learn_and_a_loop(num_queries, num_candidates, k, seed):
    rng = np.random.default_rng(seed)
    scores, truth = (
        rng.normal(size=(num_queries, num_candidates)),
        rng.integers(num_candidates, size=num_queries),
    )
    k = min(k, num_candidates)
    loop = sum(t in np.argsort(-row)[:k] for row, t in zip(scores, truth, strict=True)) / num_queries
    value = recall_at_k(scores, k, truth).compute()
    assert value == pytest.approx(loop)
    if k < num_candidates > 2:
        peer = sklearn_metrics.top_k_accuracy_score(truth, scores, k=k, labels=range(num_candidates))
        assert value == pytest.approx(peer)
    assert recall_at_k(scores, k, np.eye(num_candidates, dtype=bool)[truth]).compute() == value


def test_recall_with_several_right_answers():
    scores = [[0.9, 0.8, 0.1, 0.7], [0.1, 0.2, 0.3, 0.4]]
    right = np.array([[False, True, True, False], [True, False, False, True]])
    assert recall_at_k(scores, 1, right).compute() == 0.5
    assert recall_at_k(scores, 2, right).compute() == 1.0


def test_collapsed_model_recalls_nothing():
    assert recall_at_k(np.ones((4, 4)), 3, [0, 1, 2, 3]).compute() == 0.0
    assert recall_at_k(np.ones((4, 4)), 4, [0, 1, 2, 3]).compute() == 1.0


@pytest.mark.parametrize(
    ("scores", "k", "targets", "message"),
    [
        ([[1.0, math.nan]], 1, [0], "nan"),
        ([[1.0, 2.0]], 3, [0], "`k` \\(=3\\)"),
        ([[1.0, 2.0]], 0, [0], "`k` \\(=0\\)"),
        ([[1.0, 2.0]], 1, [2], "`targets`"),
        ([[1.0, 2.0]], 1, [0, 1], "`targets`"),
        ([[1.0, 2.0]], 1, np.array([[False, False]]), "`targets`"),
    ],
)
def test_recall_refuses(scores, k, targets, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(scores, k, targets)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=50))
def test_auroc_equals_scikit_learn_with_ties(examples):
    scores, truth = np.array([s for s, _ in examples]), np.array([t for _, t in examples])
    if truth.all() or not truth.any():
        with pytest.raises(ValueError, match="both classes"):
            auroc(scores, truth)
        return
    assert auroc(scores, truth) == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores), abs=1e-12)
    assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth), abs=1e-12)


def test_auroc_refuses_nan():
    with pytest.raises(ValueError, match="nan"):
        auroc([0.1, math.nan], [0, 1])


def test_bits_per_byte_does_not_depend_on_the_tokenizer():
    text = "ab" * 50
    by_byte = bits_per_byte(np.full(100, math.log(4)), len(text))  # 2 bits a byte
    by_pair = bits_per_byte(np.full(50, math.log(16)), len(text))  # 4 bits for two bytes
    assert by_byte.compute() == pytest.approx(2.0)
    assert (by_byte + by_pair).compute() == pytest.approx(2.0)
    assert bits_per_byte([math.log(2)], 1).compute() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="`num_bytes`"):
        bits_per_byte([1.0], 0)


words = st.lists(st.sampled_from(["the", "cat", "Cat,", "sat-on", "é", "7", "!", "mat"]), max_size=25).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(words, words)
def test_rouge_equals_rouge_score(prediction, reference):
    peer = RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL"], use_stemmer=False).score(reference, prediction)
    for n in (1, 2, 3):
        assert rouge_n(prediction, reference, n=n) == pytest.approx(tuple(peer[f"rouge{n}"]))
    assert rouge_l(prediction, reference) == pytest.approx(tuple(peer["rougeL"]))


def test_rouge_on_long_text():
    rng = random.Random(0)
    prediction, reference = (" ".join(rng.choices("abcdefgh", k=700)) for _ in range(2))
    peer = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"]
    assert rouge_l(prediction, reference) == pytest.approx(tuple(peer))


def test_rouge_needs_a_length():
    with pytest.raises(ValueError, match="`n`"):
        rouge_n("a", "a", n=0)
