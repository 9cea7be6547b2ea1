"""The splitter against two other implementations of UAX #29, and its hashes against strings."""

import importlib.util
import lzma
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import uniseg.wordbreak
from dclm import split_words
from dclm.words import Characters, Words, ngram_hashes, span_sums
from hypothesis import given, settings
from hypothesis import strategies as st

# One or more of every class of the rules, so that short strings meet them all.
ALPHABET = " \r\n\u2028aZ1.,:';\"_\u0301\u200d\u00ad👨❤🇩🇫אבア中\t\u3000\u0e01-"
texts = st.text(st.sampled_from(ALPHABET), max_size=14)


def boundaries(text):
    starts, at = [], 0
    for word in uniseg.wordbreak.words(text):
        starts.append(at)
        at += len(word)
    return starts


@settings(max_examples=1500, deadline=None)
@given(texts)
def test_boundaries_are_those_of_uniseg(text):
    assert Characters(text).boundaries.tolist() == boundaries(text)


def test_words_of_real_pages_are_those_of_uniseg(pool_texts):
    for text in pool_texts[::60]:
        assert split_words(text) == [word for word in uniseg.wordbreak.words(text) if not word[0].isspace()]


def test_the_table_is_what_its_script_builds():
    path = Path(__file__).with_name("scripts") / "build_characters.py"
    spec = importlib.util.spec_from_file_location("build_characters", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    packed = resources.files("dclm").joinpath("data", "characters.bin.xz").read_bytes()
    assert (np.frombuffer(lzma.decompress(packed), dtype="<u2") == script.build()).mean() > 0.999


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n ", []),
        ("don't 3.14 e.g. a_b", ["don't", "3.14", "e.g", ".", "a_b"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("👨‍👩‍👧 né", ["👨‍👩‍👧", "né"]),
    ],
)
def test_known_words(text, words):
    assert split_words(text) == words


@settings(deadline=None)
@given(st.text(max_size=200))
def test_equal_words_and_only_they_have_equal_hashes(text):
    words = Words.of(text)
    by_hash = {}
    for word, value in zip(words.strings(), words.hashes.tolist(), strict=True):
        assert by_hash.setdefault(value, word) == word
    assert len(by_hash) == len(set(words.strings()))


def test_a_hash_does_not_depend_on_where_the_word_stands(monkeypatch):
    long = Words.of("filler " * 500 + "word")
    assert long.hashes[-1] == Words.of("word").hashes[0] == Words.of("é word").hashes[1]
    monkeypatch.setattr("dclm.words.POWERS_KEPT", 64)  # many blocks instead of one
    assert (Words.of("filler " * 500 + "word").hashes == long.hashes).all()


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_ngram_hashes_tell_ngrams_apart(tokens, size):
    grams = ngram_hashes(np.array(tokens, dtype=np.uint64), size).tolist()
    expected = [tuple(tokens[at : at + size]) for at in range(max(0, len(tokens) - size + 1))]
    assert len(grams) == len(expected)
    assert len(set(grams)) == len(set(expected))
    assert len(set(zip(grams, expected, strict=True))) == len(set(expected))


def test_span_sums():
    values = np.array([1, 0, 2, 5])
    assert span_sums(values, np.array([0, 1, 4]), np.array([2, 4, 4])).tolist() == [1, 7, 0]


def test_lone_surrogates_are_words_like_others():
    assert len(Words.of("a \ud800 b")) == 3
