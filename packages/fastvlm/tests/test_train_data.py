"""Training data: lists of data sets, batches, what processes share, and bad records: skipped, counted, named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fastvlm.data import BadRecords, Collator, Source, Steps, epoch_batches, pair_sources, read_records, stack_views
from fastvlm.start import Start
from make_training import TINY, make_rows, run, same, weights, write_data
from tenfold_shared.commands import InputError
from tenfold_shared.files import read_jsonl


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_has_every_record_once(seed):
    lengths, has_image = [3, 9, 1, 7, 5, 2, 8, 6, 4, 11], [True, False] * 5
    config = dataclasses.replace(TINY, seed=seed, batch_size=4)
    batches = epoch_batches(lengths, has_image, config, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(10)) and len(batches) == 3
    assert all(len({has_image[i] for i in batch}) == 1 for batch in batches[:2]), "only the last ones mix"
    assert all([lengths[i] for i in b] == sorted((lengths[i] for i in b), reverse=True) for b in batches)
    assert batches != epoch_batches(lengths, has_image, config, 1)


def test_processes_share_a_step(tiny_folder, data):
    processor = Start.from_pretrained(tiny_folder).processor
    records, _ = read_records([Source(data / "talk.json", data)])
    collator = Collator(processor, TINY)
    whole = Steps(records, TINY, collator)
    shares = [Steps(records, TINY, collator, rank, 2) for rank in range(2)]
    for step in range(4):
        names = [name for batch in whole[step] for name in batch.names]
        parts = [[batch.names for batch in share[step]] for share in shares]
        assert len(parts[0]) == len(parts[1])
        assert sorted(names) == sorted(n for part in parts for batch in part for n in batch if n != "nothing")


def test_lists_of_data_sets():
    a, b = Path("a.json"), Path("x/b.json")
    assert [source.images for source in pair_sources([a, b], [])] == [Path(), Path("x")]
    assert [source.images for source in pair_sources([a, b], [Path("i")])] == [Path("i"), Path("i")]
    assert [source.images for source in pair_sources([a, b], [Path("i"), Path("j")])] == [Path("i"), Path("j")]
    with pytest.raises(InputError, match="3 data sets and 2 image folders"):
        pair_sources([a, b, a], [Path("i"), Path("j")])


def test_json_lines_are_read(data, tmp_path):
    rows = make_rows(4)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records, bad = read_records([Source(tmp_path / "a.jsonl", data), Source(data / "talk.json", data)])
    assert [record.name for record in records[:2]] == ["a.jsonl:r0", "a.jsonl:r1"] and len(records) == 18 and not bad


def spoil(data, folder, count):
    """A set of fourteen good records and some of each kind of bad one."""
    rows = make_rows(14)
    turns = [{"from": "human", "value": "<image>\nthe"}, {"from": "gpt", "value": "cat"}]
    (folder / "torn.png").write_bytes(b"no picture")
    bad = [
        {"id": "b0"},
        {"id": "b1", "conversations": [{"from": "robot", "value": "x"}]},
        {"id": "b2", "image": "nowhere.png", "conversations": turns},
        {"id": "b3", "image": ["1.png", "2.png"], "conversations": turns},
        {"id": "b4", "conversations": [{"from": "human", "value": "cat " * 400}, turns[1]]},
        {"id": "b5", "image": "torn.png", "conversations": turns},
    ][:count]
    for row in rows:
        if "image" in row:
            (folder / row["image"]).write_bytes((data / row["image"]).read_bytes())
    (folder / "talk.json").write_text(json.dumps(rows + bad))


REASONS = ("no conversations", "unknown role", "is missing", "1 `<image>` but 2", "longer than the context", "torn.png")


def test_bad_records_are_skipped_counted_and_named(tiny_folder, data, tmp_path):
    spoil(data, tmp_path, 6)
    config = dataclasses.replace(TINY, max_bad_share=0.35, max_length=200, num_steps=10)
    run(tiny_folder, tmp_path, tmp_path / "run", config)
    rows = {row["record"]: row["reason"] for row in read_jsonl(tmp_path / "run/skipped.jsonl")}
    assert sorted(rows) == [f"talk.json:b{i}" for i in range(6)]
    for number, reason in enumerate(REASONS):
        assert reason in rows[f"talk.json:b{number}"]
    assert read_jsonl(tmp_path / "run/metrics.jsonl")[-1]["train/bad_records"] == 6


def test_a_resumed_run_names_the_same_records(tiny_folder, data, tmp_path):
    spoil(data, tmp_path, 6)
    config = dataclasses.replace(TINY, max_bad_share=0.35, max_length=200, num_steps=10)
    run(tiny_folder, tmp_path, tmp_path / "whole", config)
    for stop in (2, 5, None):
        run(tiny_folder, tmp_path, tmp_path / "cut", config, resume=True, stop_after=stop)
    whole, cut = (sorted(r["record"] for r in read_jsonl(tmp_path / n / "skipped.jsonl")) for n in ("whole", "cut"))
    assert whole == cut and same(weights(tmp_path / "whole/model"), weights(tmp_path / "cut/model"))


@pytest.mark.parametrize("share", [0.0, 0.15, 0.25])
def test_too_many_bad_records_stop_the_run(tiny_folder, data, tmp_path, share):
    """Four of twenty are seen to be bad at once, the fifth and sixth when their batches come."""
    spoil(data, tmp_path, 6)
    config = dataclasses.replace(TINY, max_bad_share=share, max_length=200, num_steps=10)
    with pytest.raises(InputError, match=r"\d of 20 records are bad, named in .*skipped.jsonl"):
        run(tiny_folder, tmp_path, tmp_path / "run", config)
    assert len(read_jsonl(tmp_path / "run/skipped.jsonl")) == {0.0: 4, 0.15: 4, 0.25: 6}[share]


def test_a_record_counts_once():
    bad = BadRecords(None, 0.2, 10)
    bad.add([("a", "x")], 1)
    bad.add([("a", "x"), ("b", "y")], 2)
    with pytest.raises(InputError, match="3 of 10 records are bad, the last because z"):
        bad.add([("c", "z")], 3)


def test_views_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="mixed image sizes"):
        stack_views([torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 128, 64)])
