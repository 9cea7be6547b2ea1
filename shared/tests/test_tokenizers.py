"""CLIP's ids against open_clip's own tokenizer, and what hostile text and files do."""

import gzip
import hashlib
import importlib.util
import random
import string
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tenfold_shared.tokenizers import ByteTokenizer, ClipTokenizer, FileTokenizer

TEXTS = [
    "", "   ", "a photo of a dog", "A Photo of a DOG!!", "it's we'll I'VE you're 'tis", "12345 3.14",
    "x" * 300,
    "caf\u00e9 cafe\u0301 \ufb01ne", "&amp;amp; &lt;b&gt; &#233;", "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "\U0001f642\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467", "schÃ¶n â€œquotesâ€\x9d",
    "\x00\x01\x7f", "<start_of_text>hi<end_of_text>",
    "<START_OF_TEXT>", "'\u017f <\u017ftart_of_text>", "\u0130\u0131 \u00df", "__init__ a_b",
    "aaaa banana", "tab\tnew\nline\r\n", "word " * 200,
]  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return ClipTokenizer()


@pytest.fixture(scope="module")
def peer():
    """open_clip's tokenizer from its file alone: the package around it takes twenty seconds to import."""
    package = importlib.util.find_spec("open_clip").origin
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", Path(package).parent / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_open_clip(text, clip, peer):
    assert clip.encode(text) == peer.encode(text)
    np.testing.assert_array_equal(clip(text), peer(text).numpy())


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=80) | st.text(string.ascii_letters + " '.", max_size=120))
def test_ids_equal_open_clip_on_any_text(clip, peer, text):
    assert clip.encode(text) == peer.encode(text)


def test_words_of_every_length_equal_open_clip(clip, peer):
    rng = random.Random(0)
    for length in [*range(1, 80), 200, 500]:
        word = "".join(rng.choices("abehinorst", k=length))
        assert clip.encode(word) == peer.encode(word)


def test_the_papers_numbers(clip):
    assert clip.vocab_size == 49408
    row = clip("a photo of a cat")[0]
    assert row.tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] + [0] * 70
    assert row.dtype == np.int64


@pytest.mark.parametrize("length", [2, 3, 10])
def test_truncation_keeps_the_end(length, clip, peer):
    texts = ["one two three four five six seven eight nine ten eleven", "a"]
    row = clip(texts, context_length=length)
    assert row.shape == (2, length) and row[0, 0] == 49406 and row[0, -1] == 49407
    np.testing.assert_array_equal(row, peer(texts, length))
    np.testing.assert_array_equal(ClipTokenizer(length)("a"), clip("a", length))


def test_no_texts(clip):
    assert clip([]).shape == (0, 77)


def test_refusals(clip):
    with pytest.raises(ValueError, match="`context_length`"):
        ClipTokenizer(1)
    with pytest.raises(ValueError, match="`context_length`"):
        clip("a", context_length=0)
    with pytest.raises(TypeError, match="must be a string, found int"):
        clip([3])
    for index in (-1, 49408):
        with pytest.raises(ValueError, match="token id"):
            clip.decode([index])


def test_decode(clip):
    assert clip.decode(clip("A Café — 🙂 DOG")[0]) == "a café — 🙂 dog"
    assert clip.decode([]) == ""


@settings(deadline=None)
# ASCII: what looks like a wrong decoding is mended on the way in, and so may change once more.
@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_decoded_text_encodes_to_the_same_ids(clip, text):
    ids = [i for i in clip.encode(text) if i < 49406]
    spaced = clip.decode(ids)
    assert clip.decode(clip.encode(spaced)) == spaced or "&" in spaced


def test_every_token_has_its_own_bytes(clip, peer):
    for index in range(49406):
        mine, theirs = clip.decode([index]), peer.decode([index])
        assert mine == theirs.rstrip()


def test_a_word_of_two_hundred_thousand_letters_ends(clip):
    word = "".join(random.Random(1).choices(string.ascii_lowercase, k=200_000))
    assert len(clip(word)[0]) == 77
    assert clip.decode(clip.encode(word)) == word


def test_vocabulary_is_the_one_its_source_note_names():
    data = resources.files("tenfold_shared") / "data"
    raw = (data / "clip_merges.txt.gz").read_bytes()
    text = gzip.decompress(raw)
    note = (data / "SOURCE").read_text()
    assert hashlib.sha256(text).hexdigest() in note
    assert len(text.splitlines()) == 49152 - 256 - 2
    assert raw[4:8] == bytes(4), "the compressed file carries a time"
    assert "Copyright (c) 2021 OpenAI" in (data / "LICENSE-clip").read_text()


@pytest.mark.parametrize(("missing", "extra"), [("regex", "clip"), ("ftfy", "clip"), ("tokenizers", "hf")])
def test_missing_extra_is_the_pip_line(missing, extra):
    make = "FileTokenizer('x')" if extra == "hf" else "ClipTokenizer()"
    code = f"import sys; sys.modules['{missing}'] = None\nfrom tenfold_shared.tokenizers import *\n{make}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"`{missing}` is not installed; run: pip install 'tenfold-shared[{extra}]'" in done.stderr


@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, tokenizer.pad_token_id]) == text


def test_file_tokenizer(tmp_path):
    vocabulary = {"[UNK]": 0, "a": 1, "dog": 2, "[CLS]": 3}
    written = hf.Tokenizer(hf.models.WordLevel(vocabulary, unk_token="[UNK]"))
    written.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    written.post_processor = hf.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 3)])
    written.save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a dog barks") == [1, 2, 0]
    assert tokenizer.decode(np.array([1, 2])) == "a dog"
    assert tokenizer.vocab_size == 4


def test_file_tokenizer_refuses(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileTokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json: not a tokenizer\.json"):
        FileTokenizer(tmp_path / "bad.json")
