"""Inputs written by other libraries, and tokenizers of every kind."""

import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from dataset_decomposition import tokenize
from dataset_decomposition.tokenizers import TokenizerSpec
from tenfold_shared.commands import InputError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = ["a first text", "größer, 日本", "third"]
IDS = [[*text.encode(), 257] for text in TEXTS]


def lines():
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS).encode()


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        for index, text in enumerate(TEXTS):
            name, content = (f"{index}.txt", text) if index else (f"{index}.json", json.dumps({"text": text}))
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))


WRITERS = {
    "x.jsonl": lambda path: path.write_bytes(lines()),
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines())),
    "x.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(lines()[:30]) + zstandard.compress(lines()[30:])),
    "x.parquet": lambda path: pq.write_table(pa.table({"n": [1, 2, 3], "text": TEXTS}), path),
    "x.tar": write_tar,
}


def documents_of(store):
    return [store.tokens[a:b].tolist() for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(name, tmp_path):
    WRITERS[name](tmp_path / name)
    assert documents_of(tokenize([tmp_path / name], tmp_path / "store")) == IDS


def test_a_folder_of_texts_is_read_in_the_order_of_names(tmp_path):
    for index, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{index % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{index % 2}" / f"{index}.txt").write_text(text, encoding="utf-8")
    found = documents_of(tokenize([tmp_path / "in"], tmp_path / "store"))
    assert found == [IDS[0], IDS[2], IDS[1]]


def test_data_sets_of_the_datasets_library_map_style_and_streaming(tmp_path):
    import datasets

    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    assert documents_of(tokenize(dataset, tmp_path / "map")) == IDS
    assert documents_of(tokenize(dataset.to_iterable_dataset(), tmp_path / "stream")) == IDS


def test_token_ids_are_taken_as_they_are(tmp_path):
    rows = [{"input_ids": np.array([5, 6])}, {"input_ids": [7, 257]}]
    assert documents_of(tokenize(rows, tmp_path / "rows", key="input_ids")) == [[5, 6, 257], [7, 257]]
    np.save(tmp_path / "flat.npy", np.array([5, 6, 257, 7, 257, 8], dtype=np.uint16))
    flat = tokenize([tmp_path / "flat.npy"], tmp_path / "flat")
    assert documents_of(flat) == [[5, 6, 257], [7, 257], [8, 257]]
    pq.write_table(pa.table({"ids": [[1, 2], [3]]}), tmp_path / "ids.parquet")
    assert documents_of(tokenize([tmp_path / "ids.parquet"], tmp_path / "p", key="ids")) == [[1, 2, 257], [3, 257]]


def test_empty_documents_are_counted_and_left_out(tmp_path):
    store = tokenize([{"text": text} for text in ["", "x", ""]], tmp_path / "store")
    assert (store.manifest["documents"], store.manifest["empty_documents"]) == (1, 2)


@pytest.fixture
def library(tmp_path):
    """A small BPE tokenizer of the `tokenizers` library with two special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 9, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer


def test_the_end_token_is_the_tokenizers_own(library, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"name it with --end-token \(special tokens: '<pad>', '<\|endoftext\|>'\)"):
        TokenizerSpec(str(path)).load()
    with pytest.raises(ValueError, match=r"unknown end token of .* '<eos>'"):
        TokenizerSpec(str(path), "<eos>").load()
    named = TokenizerSpec(str(path), "<|endoftext|>").load()
    assert named.end_token == library.token_to_id("<|endoftext|>") == 1
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<pad>"}}))
    assert TokenizerSpec(str(tmp_path)).load().end_token == 0


def test_text_that_spells_the_end_token_does_not_end_the_document_elsewhere(library, tmp_path):
    spec = TokenizerSpec(str(tmp_path / "tokenizer.json"), "<|endoftext|>")
    store = tokenize([{"text": text} for text in TEXTS], tmp_path / "store", tokenizer=spec)
    assert documents_of(store) == [[*library.encode(text).ids, 1] for text in TEXTS]
    assert store.manifest["tokenizer"]["vocab_size"] == library.get_vocab_size()


def test_a_transformers_tokenizer_gives_its_own_ids(library, tmp_path):
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<|endoftext|>")
    fast.save_pretrained(tmp_path / "fast")
    store = tokenize([{"text": text} for text in TEXTS], tmp_path / "store", tokenizer=str(tmp_path / "fast"))
    assert documents_of(store) == [[*fast(text)["input_ids"], fast.eos_token_id] for text in TEXTS]
