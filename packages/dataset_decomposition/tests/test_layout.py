"""The authors' files, written and read by another library, and parquet."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from dataset_decomposition import layout
from dataset_decomposition.layout import export_store, import_store
from tenfold_shared.commands import InputError

# webdataset leaves its shards open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def all_rows(store):
    found = {}
    for length, count in store.num_rows.items():
        batch = store.rows(length, np.arange(count))
        rows = np.concatenate([batch["input_ids"], batch["labels"][:, -1:]], axis=1)
        found[length] = sorted(rows.tolist())
    return found


def test_export_is_read_by_webdataset(store, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_TOKENS", 2048)
    summary = export_store(store, tmp_path / "out", partial=True)
    expected = all_rows(store)
    for line in summary:
        folder = tmp_path / "out" / f"D_{line['length'].bit_length() - 1}"
        manifest = [json.loads(row) for row in (folder / "manifest.jsonl").read_text().splitlines()]
        shards = sorted(folder.glob("*.tar"))
        assert [f"{row['shard']}.tar" for row in manifest] == [path.name for path in shards]
        rows = []
        for path, entry in zip(shards, manifest, strict=True):
            samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
            assert [sample["__key__"] for sample in samples] == [f"{i:012d}" for i in range(entry["num_sequences"])]
            rows += [json.loads(sample["txt"]) for sample in samples]
        assert sorted(rows) == expected[line["length"]]
        assert line["left_out"] == 0


def test_whole_shards_only_by_default_and_what_is_left_out_is_counted(store, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_TOKENS", 2048)
    for line in export_store(store, tmp_path / "out"):
        assert line["sequences"] % (2048 // line["length"]) == 0
        assert line["sequences"] + line["left_out"] == store.num_rows[line["length"]]


def test_import_brings_back_every_row(store, tmp_path):
    export_store(store, tmp_path / "out", partial=True)
    assert all_rows(import_store(tmp_path / "out", tmp_path / "back", vocab_size=32_000)) == all_rows(store)


def test_the_authors_end_token_is_read_as_an_id(tmp_path):
    folder = tmp_path / "D_2"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "shard-%07d.tar"), maxcount=9, verbose=0) as writer:
        writer.write({"__key__": "000000000000", "txt": str([5, 6, 7, 8, "<|endoftext|>"])})
    store = import_store(tmp_path, tmp_path / "store", vocab_size=10, end_token=3)
    assert store.rows(4, np.array([0]))["labels"].tolist() == [[6, 7, 8, 3]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1, 2]", "has 2 tokens; its bucket has 5"),
        ("[1, 2, 3, 4, 99]", "token id 99 is outside"),
        ("boo", "not a list"),
    ],
)
def test_foreign_shards_are_checked(tmp_path, content, sentence):
    (tmp_path / "D_2").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "D_2" / "shard-%07d.tar"), maxcount=9, verbose=0) as writer:
        writer.write({"__key__": "0", "txt": content})
    with pytest.raises(InputError, match=sentence):
        import_store(tmp_path, tmp_path / "store", vocab_size=10)
    assert not (tmp_path / "store").exists()


def test_parquet_holds_the_rows(store, tmp_path):
    export_store(store, tmp_path / "out", layout="parquet")
    for length, rows in all_rows(store).items():
        table = pq.read_table(tmp_path / "out" / f"D_{length.bit_length() - 1}.parquet")
        assert sorted(table["input_ids"].to_pylist()) == rows


def test_tails_cannot_be_exported(store, tmp_path):
    store.decompose(min_length=32, max_length=256, tail="pad")
    with pytest.raises(InputError, match='--tail "drop"'):
        export_store(store, tmp_path / "out")
