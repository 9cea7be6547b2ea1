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


def test_a_finished_store_is_not_taken_for_one_of_other_rows(tmp_path):
    """Nothing tells two generators apart; data sets of the `datasets` library have a fingerprint."""
    import datasets

    tokenize([{"text": "one"}], tmp_path / "rows")
    with pytest.raises(InputError, match="cannot be told from these; open it with TokenStore"):
        tokenize([{"text": "two"}], tmp_path / "rows")
    one, two = (datasets.Dataset.from_dict({"text": [text]}) for text in ("one", "two"))
    first = tokenize(one, tmp_path / "set")
    assert tokenize(one, tmp_path / "set").manifest == first.manifest
    with pytest.raises(InputError, match="already holds a store of other inputs"):
        tokenize(two, tmp_path / "set")


# Kills itself at the n-th call that changes a file, of each of 26 runs; another process ends each of them.
KILLS = """
import json, os, random, signal, sys
from pathlib import Path
from dataset_decomposition import tokenization, decomposition, store, readers, tokenizers

tokenization.SYNC_TOKENS, tokenization.BLOCK_DOCUMENTS = 500, 6
corpus, folder = map(Path, sys.argv[1:])
calls, last = 0, 0

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

for name in ("fsync", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))

def work(out):
    global tokenized
    made = tokenization.tokenize([corpus], out)
    tokenized = calls
    for length in (64, 128, 256):
        made.decompose(min_length=32, max_length=length)

work(folder / "whole")
draw = random.Random(0).sample
for point in sorted(draw(range(1, tokenized + 1), 20) + draw(range(tokenized + 1, calls + 1), 6)):
    out = folder / str(point)
    pid = os.fork()
    if pid == 0:
        calls, last = 0, point
        work(out)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (point, status)
    found = {path.name: path.stat().st_size for path in out.iterdir()}
    rows = (out / "journal.jsonl").read_text().count(chr(10)) if "journal.jsonl" in found else None
    place = {"point": point, "journal": rows, "bytes": sum(found.values()), "manifest": "manifest.json" in found}
    print(json.dumps(place))
    work(out)
"""


@pytest.mark.slow
def test_twenty_kills_while_tokenising_and_six_after_lose_nothing(corpus, tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLS, corpus, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    places = [json.loads(line) for line in result.stdout.splitlines()]
    assert len({(place["journal"], place["bytes"]) for place in places[:20]}) > 15, "kills hit different places"
    assert [place["manifest"] for place in places[20:]] == [True] * 6, "tokenised, while buckets are cut"
    whole = TokenStore(tmp_path / "whole")
    names = {entry["name"] for entry in whole._entries()} | {"manifest.json"}
    for place in places:
        killed = files_of(tmp_path / str(place["point"]))
        assert {name: killed[name] for name in names} == {name: files_of(whole.path)[name] for name in names}
        assert not {"journal.jsonl", "tokens.partial", "lengths.partial"} & set(killed)
