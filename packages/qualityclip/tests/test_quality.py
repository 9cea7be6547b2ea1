"""Scores of captions: CLIPScore in its published form, and the others by hand."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
from qualityclip import caption_score
from qualityclip.quality import (
    PREFIX,
    FilterOptions,
    ScoreOptions,
    agreement,
    coverage,
    diversity,
    filter_samples,
    load_callable,
    score_samples,
    summarise,
)
from qualityclip.readers import Sample
from tenfold_shared.commands import InputError


class Letters:
    """Features that count letters, so that scores can be done by hand."""

    asked: list

    def __init__(self):
        self.asked = []

    def encode_images(self, images):
        return np.array([[*(image.count(letter) for letter in b"ab"), 1] for image in images], float)

    def encode_texts(self, texts):
        self.asked += texts
        plain = [text.removeprefix(PREFIX) for text in texts]
        return np.array([[*(text.count(letter) for letter in "ab"), 1] for text in plain], float)


def published(images, texts, weight=2.5):
    """CLIPScore as its equation stands (Hessel et al. 2021, equation 1)."""
    return [
        weight * max(float(np.dot(c, v) / np.sqrt(np.dot(c, c) * np.dot(v, v))), 0.0)
        for v, c in zip(images, texts, strict=True)
    ]


def test_the_published_equation_on_random_features():
    generator = np.random.default_rng(0)
    images, texts = generator.normal(size=(2, 50, 7))
    assert caption_score(images, texts) == pytest.approx(published(images, texts))
    assert (caption_score(images, texts) == 0).any(), "negative cosines count as none"
    assert caption_score(images * 9, texts * 0.1) == pytest.approx(caption_score(images, texts))


def test_references_by_hand():
    found = caption_score([[1.0, 0]], [[0.6, 0.8]], references=[[[0.0, 1.0], [1.0, 0.0]]])
    assert found == pytest.approx([2 * 1.5 * 0.8 / (1.5 + 0.8)])
    weak = caption_score([[0.1, 1.0]], [[1.0, 0.0]], references=[[[0.1, 1.0]]])
    cosine = 0.1 / math.sqrt(1.01)
    assert weak == pytest.approx([2 * 2.5 * cosine / 3.5]), "however small, it counts"
    assert caption_score([[-1.0, 0]], [[1.0, 0]], references=[[[-1.0, 0]]]) == pytest.approx([0])
    with pytest.raises(ValueError, match="references"):
        caption_score([[1.0, 0]], [[0.6, 0.8]], references=[])


def test_an_encoder_gets_the_prefix():
    encoder = Letters()
    assert caption_score([b"aab", b"b"], ["ab", "b"], encoder) == pytest.approx([2.5 * 4 / math.sqrt(18), 2.5])
    assert encoder.asked == ["A photo depicts ab", "A photo depicts b"]


def test_features_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="not zero"):
        caption_score([[0.0, 0.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="one shape"):
        caption_score([[1.0, 0.0]] * 2, [[1.0, 0.0]])


def test_coverage_diversity_agreement_by_hand():
    assert coverage("Two red dogs, a traffic light", ["dog", "cat", "traffic lights", "red"]) == 0.75
    assert coverage("the bus", ["bu"]) == 0, "short words keep their s"
    assert coverage("glass and grass", ["gla", "as"]) == 0 and math.isnan(coverage("x", []))
    assert diversity(["a b c", "a b d"]) == 0.75 and math.isnan(diversity(["a"]))
    assert agreement(["a b", "b c", "a b"]) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


SAMPLES = [
    Sample("1", ("a red dog",), ("a dog and a cat",), b"ab"),
    Sample("2", ("photo",), ("A red dog!",), b"aab"),
    Sample("3", ("photo",), (), b"b", objects=("owl",)),
]


def test_rows_of_samples():
    rows = list(score_samples(iter(SAMPLES), ScoreOptions(Letters(), nouns=("dog", "cat", "tree"))))
    assert [row["uid"] for row in rows] == ["1", "1", "2", "2", "3"]
    assert [row["kind"] for row in rows] == ["real", "synthetic", "real", "synthetic", "real"]
    assert [row["duplicates"] for row in rows] == [1, 0, 1, 1, 1]
    assert rows[0]["nouns"] == 0.5 and rows[1]["nouns"] == 1 and rows[4]["nouns"] == 0
    assert rows[0]["attributes"] == 1 and rows[1]["attributes"] == 0
    assert rows[1]["num_words"] == 5 and rows[1]["num_characters"] == 15
    assert rows[3]["clip_score"] == pytest.approx(2.5 / math.sqrt(6))
    means = {(row["kind"], row["measure"]): row["mean"] for row in summarise(rows)}
    assert means["real", "num_words"] == pytest.approx(5 / 3)
    assert ("real", "diversity") in means


def test_without_an_encoder_there_is_no_clip_score():
    rows = list(score_samples(iter(SAMPLES), ScoreOptions()))
    assert len(rows) == 5 and not any("clip_score" in row for row in rows)


def test_a_callable_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "written_here.py").write_text("def describe():\n    return 7\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_callable("written_here:describe")() == 7 and sys.path == before
    with pytest.raises(InputError, match="names no function"):
        load_callable("written_here:nothing")
    assert sys.path == before


def test_filters_count_what_they_drop():
    samples = [*SAMPLES, Sample("4", ("", "x" * 6000), ()), Sample("5", (), ("photo", "two words"))]
    dropped = Counter()
    kept = list(filter_samples(samples, FilterOptions(max_duplicates=0), None, dropped))
    assert [sample.uid for sample in kept] == ["1", "2", "5"]
    assert kept[1].captions == ("photo",) and kept[2].synthetic == ("two words",)
    assert dropped == {"duplicate": 3, "too few words": 1, "too long": 1, "sample without captions": 2}
    pair = Sample("6", ("photo",), ("a ab",), b"aab")
    low = list(filter_samples([pair], FilterOptions(min_clip_score=1.5), Letters(), dropped))
    assert [sample.captions for sample in low] == [("a ab",)]
