"""Scores against what the benchmarks' own scripts gave (tests/reference), and examples worked by hand."""

import json
import math
import random
from pathlib import Path

import pytest
from fastvlm import scores

REFERENCE = json.loads((Path(__file__).parent / "reference/scores.ref.json").read_text())


def test_answers_are_normalised_as_the_script_does():
    for text, expected in REFERENCE["normalize"]:
        assert scores.normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("textvqa", scores.score_textvqa),
        ("anls", scores.score_anls),
        ("chartqa", scores.score_chartqa),
        ("open", scores.score_open),
        ("ocrbench", scores.score_ocrbench),
    ],
)
def test_scores_equal_the_scripts(kind, score):
    rows = REFERENCE[kind]
    assert len(rows) == 60 and len({row[-1] for row in rows}) > 1
    for *arguments, expected in rows:
        assert score(*arguments) == pytest.approx(expected, abs=1e-12), arguments


def test_choices_equal_the_script():
    drawn = 0
    for answer, options, expected in REFERENCE["choice"]:
        found = scores.read_choice(answer, options, "x")
        letters = [chr(ord("A") + i) for i in range(len(options))]
        assert found in letters if expected == "none" else found == expected, (answer, options)
        drawn += expected == "none"
    assert 0 < drawn < 60


def test_pope_equals_the_script():
    names = {"Accuracy": "accuracy", "Precision": "precision", "Recall": "recall", "F1 score": "f1"}
    names["Yes ratio"] = "yes_share"
    for answers, labels, expected in REFERENCE["pope"]:
        found = scores.summarize_pope([scores.read_yes_no(answer) for answer in answers], labels)
        assert {names[key]: value for key, value in expected.items()} == pytest.approx(found)


def test_textvqa_by_hand():
    """Ten people: three said A, two B, five C. Leaving each person out in turn."""
    people = ["a b"] * 3 + ["the cat"] * 2 + ["7"] * 5
    assert scores.score_textvqa("a b", people) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert scores.score_textvqa("cat", people) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert scores.score_textvqa("Seven", people) == 1.0
    assert scores.score_textvqa("dog", people) == 0.0


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Paris", ["paris"], 1.0),
        ("Pariss", ["paris", "london"], 1 - 1 / 6),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls_by_hand(answer, references, expected):
    assert scores.score_anls(answer, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("95", "100", 1.0),
        ("5%", "0.05", 1.0),
        ("Yes", "yes", 1.0),
        ("yes.", "yes", 0.0),
        ("0", "0", 1.0),
        ("0.0", "0", 0.0),
        ("-96", "-100", 1.0),
    ],
)
def test_relaxed_accuracy_by_hand(answer, reference, expected):
    assert scores.score_chartqa(answer, reference) == expected


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1, slow_distance(a[1:], b[1:]) + (a[0] != b[0]))


def test_edit_distance_is_the_naive_one():
    draw = random.Random(0)
    for _ in range(60):
        a, b = ("".join(draw.choices("abc", k=draw.randint(0, 5))) for _ in range(2))
        assert scores.edit_distance(a, b) == slow_distance(a, b) == scores.edit_distance(b, a)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"),
        ("The answer is (C).", "C"),
        ("(A) or rather (B)", "B"),
        ("A.", "A"),
        ("it must be the red house over there", "B"),
    ],
)
def test_choices_by_hand(answer, expected):
    assert scores.read_choice(answer, ["cat", "red house", "dog"]) == expected


def test_a_drawn_letter_depends_on_the_sample_alone():
    drawn = {name: scores.read_choice("?", ["x", "y", "z"], name) for name in "abcdefgh"}
    assert len(set(drawn.values())) > 1
    assert drawn == {name: scores.read_choice("?", ["x", "y", "z"], name) for name in "abcdefgh"}


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The result is 1,234.", ["1234"], 1.0),
        ("So it is 3.14159", ["3.14"], 1.0),
        ("x = 7", ["7"], 1.0),
        ("seventy", ["7"], 0.0),
        ("a", ["a"], 1.0),
        ("banana", ["a"], 0.0),
    ],
)
def test_open_answers_by_hand(answer, references, expected):
    assert scores.score_open(answer, references) == expected


def test_ocrbench_by_hand():
    assert scores.score_ocrbench("It says OPEN\nNOW", ["open now"], "IIIT5K") == 1.0
    assert scores.score_ocrbench("x ^ 2", ["x^2"], "HME100k") == 1.0
    assert scores.score_ocrbench("X^2", ["x^2"], "HME100k") == 0.0
    assert scores.score_ocrbench("ＡＢ", ["ab"], "svt") == 1.0


def test_pope_without_any_yes():
    found = scores.summarize_pope(["no", "no"], ["yes", "no"])
    assert found == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_share": 0.0}
    assert not any(math.isnan(value) for value in found.values())
