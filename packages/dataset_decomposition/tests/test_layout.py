"""The authors' files, written and read by another library, and parquet."""

import json
import weakref

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


def test_an_export_goes_on_but_not_over_one_of_other_buckets(store, tmp_path):
    first = export_store(store, tmp_path / "out", partial=True)
    shard = next((tmp_path / "out").glob("D_5/*.tar"))
    content, _ = shard.read_bytes(), shard.unlink()
    assert export_store(store, tmp_path / "out", partial=True) == first and shard.read_bytes() == content
    with pytest.raises(InputError, match="other buckets or with other options"):
        export_store(store, tmp_path / "out", partial=True, seed=1)
    store.decompose(min_length=32, max_length=128)
    with pytest.raises(InputError, match="other buckets or with other options"):
        export_store(store, tmp_path / "out", partial=True)
    assert shard.read_bytes() == content


def test_import_holds_one_sequence_at_a_time(store, tmp_path, monkeypatch):
    """Every sequence is on its way to the disk before the next is parsed."""
    export_store(store, tmp_path / "out", partial=True)
    alive, most = [], []
    read = layout._read_shard

    def watched(*arguments):
        for row in read(*arguments):
            alive.append(weakref.ref(row))
            yield row
            del row
            most.append(sum(ref() is not None for ref in alive[-50:]))

    monkeypatch.setattr(layout, "_read_shard", watched)
    import_store(tmp_path / "out", tmp_path / "back", vocab_size=32_000)
    assert len(alive) == sum(store.num_rows.values()) and max(most) <= 2


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
