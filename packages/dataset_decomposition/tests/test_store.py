"""The store: what is gathered, re-bucketing, checks, kills, and the same bytes for any number of workers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from dataset_decomposition import TokenStore, decompose, tokenize
from dataset_decomposition.store import write_store
from tenfold_shared.commands import InputError


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_the_pieces_with_their_next_tokens(store, documents):
    plan = decompose([len(d) for d in documents], min_length=32, max_length=256)
    for length, count in store.num_rows.items():
        batch = store.rows(length, np.arange(count))
        found = np.flatnonzero(plan.length == length)
        for row, piece in enumerate(found[np.argsort(plan.row[found])]):
            tokens = documents[plan.doc[piece]][plan.start[piece] : plan.start[piece] + length + 1]
            assert batch["input_ids"][row].tolist() == tokens[:-1].tolist()
            assert batch["labels"][row].tolist() == tokens[1:].tolist()
    assert sum(store.num_rows.values()) == len(plan)


@pytest.mark.parametrize("tail", ["pad", "pack"])
def test_tails_are_trained_once_and_never_across_documents(store, tail):
    store.decompose(min_length=32, max_length=256, tail=tail)
    batch = store.rows(32, np.arange(store.num_rows[32]))
    inputs, labels, kept = batch["input_ids"], batch["labels"], batch["labels"] != -100
    assert (inputs[kept] // 64 == labels[kept] // 64).all(), "no target in another document"
    assert ((inputs[kept] % 64 + 1) % 64 == labels[kept] % 64).all(), "the next token of the same document"
    pieces = store.bucket(32).pieces
    assert kept.sum() == (pieces[:, 2] - 1).sum()
    assert store.verify()["dropped_tokens"] <= len(store.lengths)
    assert (batch["segments"].max() > 0) == (tail == "pack")


def test_overlap_makes_every_token_but_the_first_a_target(store, documents):
    store.decompose(min_length=1, max_length=256, overlap=1)
    predicted = sum(length * count for length, count in store.num_rows.items())
    assert predicted == sum(len(document) - 1 for document in documents)


def test_buckets_anew_leave_the_tokens_alone(store):
    before = (store.path / "tokens.bin").stat().st_mtime_ns, len(list(store.path.iterdir()))
    first = dict(store.num_rows)
    store.decompose(min_length=64, max_length=128)
    assert list(store.num_rows) == [64, 128]
    store.decompose(min_length=32, max_length=256)
    assert store.num_rows == first
    assert ((store.path / "tokens.bin").stat().st_mtime_ns, len(list(store.path.iterdir()))) == before
    assert TokenStore(store.path).verify() == store.verify()


def test_verify_finds_a_changed_byte(store):
    for entry in [*store.manifest["files"].values(), store.manifest["decomposition"]["buckets"]["64"]]:
        path = store.path / entry["name"]
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="differs from its checksum"):
            TokenStore(store.path).verify()
        content[-2] ^= 1
        path.write_bytes(content)
    TokenStore(store.path).verify()


def test_a_manifest_with_a_path_is_refused(store):
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["files"]["tokens"]["name"] = "../elsewhere"
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="names a file outside the store"):
        TokenStore(store.path)


def test_large_vocabularies_take_four_bytes(tmp_path):
    store = write_store(tmp_path, [np.array([70_000, 5, 3])], vocab_size=100_000)
    assert (store.dtype.itemsize, store.tokens.tolist()) == (4, [70_000, 5, 3])


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(corpus, tmp_path, workers):
    one = tokenize([corpus], tmp_path / "one")
    many = tokenize([corpus], tmp_path / "many", workers=workers)
    assert files_of(one.path) == files_of(many.path)
    assert (
        one.decompose(min_length=32, max_length=128).manifest == many.decompose(min_length=32, max_length=128).manifest
    )


def test_a_finished_store_is_opened_and_another_corpus_is_refused(corpus, tmp_path):
    first = tokenize([corpus], tmp_path / "s")
    before = files_of(first.path)
    tokenize([corpus], tmp_path / "s")
    assert files_of(first.path) == before
    with pytest.raises(InputError, match="already holds a store of other inputs"):
        tokenize([corpus], tmp_path / "s", key="body")
    assert files_of(first.path) == before


KILLS = """
import json, os, random, sys, time
from pathlib import Path
from dataset_decomposition import tokenization, decomposition, store, readers, tokenizers

tokenization.SYNC_TOKENS, tokenization.BLOCK_DOCUMENTS = 500, 2
corpus, whole, killed = map(Path, sys.argv[1:])

def work(out):
    made = tokenization.tokenize([corpus], out)
    for length in (64, 128, 256):
        made.decompose(min_length=32, max_length=length)

start = time.perf_counter()
work(whole)
seconds = time.perf_counter() - start
random.seed(0)
places = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        work(killed)
        os._exit(0)
    time.sleep(random.uniform(0, seconds / 5))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    journal = killed / "journal.jsonl"
    places.append(len(journal.read_bytes()) if journal.exists() else "finished")
work(killed)
print(json.dumps(places))
"""


@pytest.mark.slow
def test_twenty_kills_lose_nothing(corpus, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = subprocess.run([sys.executable, "-c", KILLS, corpus, whole, killed], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(set(json.loads(result.stdout))) > 3, "kills hit different places"
    left = {name: content for name, content in files_of(killed).items() if not name.endswith(".tmp")}
    named = {entry["name"] for entry in TokenStore(killed)._entries()} | {"manifest.json"}
    assert {name: left[name] for name in named} == {name: files_of(whole)[name] for name in named}
    assert TokenStore(killed).verify() == TokenStore(whole).verify()
