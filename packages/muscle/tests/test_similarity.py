"""Similarities against the libraries that define them, on real text worsened at random."""

import random

import pytest
import sacrebleu
from muscle.corpus import read_tasks
from muscle.similarity import SIMILARITIES, bleu, chrf, exact_match, find_similarity
from rouge_score import rouge_scorer


def worsened(text, draw):
    words = text.split()
    for _ in range(draw.randint(0, 8)):
        words[draw.randrange(len(words))] = draw.choice(["the", ",", "x-1", "3.5", "&amp;", "<skipped>", "naïve"])
    return " ".join(words[draw.randint(0, 3) : draw.randint(1, len(words) + 1)])


@pytest.fixture(scope="module")
def pairs():
    draw = random.Random(0)
    rows = read_tasks("lead")["test"][:150]
    long = [(worsened(row["text"], draw), [row["text"], row["description"]]) for row in rows]
    short = [(row["description"], [row["label"], row["title"]]) for row in rows]
    return [*long, *short, ("", ["a b"]), ("a", ["a"]), ("a b c", ["d e f"]), ("ab", ["a  b", "b"])]


def test_rouge_equals_rouge_score(pairs):
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for answer, references in pairs:
        for name in ("rouge1", "rouge2", "rougeL"):
            expected = max(scorer.score(reference, answer)[name].fmeasure for reference in references)
            assert SIMILARITIES[name](answer, references) == pytest.approx(expected, abs=1e-12)


def test_bleu_and_chrf_equal_sacrebleu(pairs):
    theirs = sacrebleu.metrics.BLEU(effective_order=True), sacrebleu.metrics.CHRF()
    for answer, references in pairs:
        for ours, metric in zip((bleu, chrf), theirs, strict=True):
            expected = metric.sentence_score(answer, references).score / 100
            assert ours(answer, references) == pytest.approx(expected, abs=1e-9), (answer, references)


def test_exact_match_and_functions_of_the_user():
    assert exact_match(" yes", ["no", "yes "]) == 1 and exact_match("Yes", ["yes"]) == 0
    assert find_similarity("muscle.similarity:chrf") is chrf


@pytest.mark.parametrize("name, sentence", [("rouge", "did you mean 'rouge"), ("no_module:f", "no similarity")])
def test_unknown_similarities(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_similarity(name)
