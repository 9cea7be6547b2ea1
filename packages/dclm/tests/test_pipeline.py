"""One plan, any engine, any number of kills: the same bytes."""

import dataclasses
import importlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import dclm_process
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from dclm import PRESETS, Document, Recipe, RunOptions, read_documents, run, sample_pool, write_documents
from dclm.config import Bloom, Exact, Gopher, MinHash, RefinedWeb, Substring, Threshold
from dclm.dedup import bloom, exact, minhash, substring
from tenfold_shared.commands import InputError

QUIET = RunOptions(quiet=True)


@pytest.fixture(scope="session")
def text_shards(tmp_path_factory, pool_texts):
    """Six shards of the pool's texts with duplicates in other shards."""
    folder = tmp_path_factory.mktemp("text")
    texts = pool_texts[:240] + [text + "\nOne more line at the end." for text in pool_texts[:30]] + pool_texts[:30]
    for shard in range(6):
        rows = [
            Document(text, {"id": f"{shard}-{n}", "quality": len(text), "url": address(shard, n)})
            for n, text in enumerate(texts[shard::6])
        ]
        write_documents(str(folder / f"{shard}.jsonl"), rows)
    return folder


def address(shard, number):
    """Every page three times, in other shards and otherwise written; some pages without an address."""
    page = (6 * number + shard) % 100
    return "" if page < 5 else (f"https://www.a.example/{page}/", f"http://a.example/{page}?utm_source=x")[shard % 2]


def texts_of(made):
    return [document.text for path in made["documents"] for document in read_documents(path)]


@pytest.fixture(scope="session")
def serial(tmp_path_factory):
    out = tmp_path_factory.mktemp("serial") / "out"
    options = dataclasses.replace(QUIET, keep_removed=True)
    return out, run(sample_pool(), PRESETS["dclm_baseline"], out=out, options=options)


def test_every_document_is_kept_or_removed_with_its_reason(serial):
    out, made = serial
    statistics = json.loads(Path(made["statistics"]).read_text())
    counts = [
        sum(1 for path in (out / "removed" / stage["stage"]).iterdir() for _ in read_documents(str(path)))
        for stage in statistics["stages"]
    ]
    pages = sum(1 for path in sample_pool() for _ in read_documents(path))
    assert pages == statistics["stages"][0]["documents_in"] == sum(counts) + made["num_documents"]
    assert counts == [stage["documents_in"] - stage["documents_out"] for stage in statistics["stages"]]
    removed = [page for path in (out / "removed" / "01-refinedweb").iterdir() for page in read_documents(str(path))]
    assert {page.fields["removed_by"] for page in removed} == {"01-refinedweb"}
    assert {page.fields["reason"] for page in removed} == set(statistics["stages"][1]["reasons"])
    assert not (out / "work").exists()


def test_kept_records_have_the_pools_fields(serial):
    [first, *_] = read_documents(serial[1]["documents"][0])
    for name in ("id", "url", "metadata", "warcinfo", "extractor", "language_id_whole_page_fasttext"):
        assert first.fields[name]
    assert first.fields["extractor"].startswith("resiliparse 2.")
    assert first.fields["bff_contained_ngram_count_before_dedupe"] >= 0


@pytest.mark.slow
def test_processes_give_the_same_bytes(serial, tmp_path, digest):
    options = dataclasses.replace(QUIET, engine="processes", keep_removed=True)
    run(sample_pool(), PRESETS["dclm_baseline"], out=tmp_path / "out", options=options)
    mine, expected = digest(tmp_path / "out"), digest(serial[0])
    changed = {"statistics.json"}  # names its own folder
    assert {k: v for k, v in mine.items() if k not in changed} == {
        k: v for k, v in expected.items() if k not in changed
    }


GLOBAL = {
    "bloom": (Bloom(), bloom),
    "text": (Exact(), exact),
    "url": (Exact(key="url"), exact),
    "minhash": (MinHash(), minhash),
    "substring": (Substring(), substring),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_phases_over_shards_decide_as_the_function_in_memory(text_shards, tmp_path, name):
    stage, function = GLOBAL[name]
    if name != "bloom":  # many small buckets instead of one
        stage = dataclasses.replace(stage, max_bytes=200_000)
    shards = [str(path) for path in sorted(text_shards.iterdir())]
    made = run(shards, Recipe((stage,)), out=tmp_path / "out", options=QUIET)
    documents = [document for path in shards for document in read_documents(path)]
    expected = [document.text for document, reason in function(documents, stage) if reason is None]
    assert texts_of(made) == expected
    assert len(expected) < len(documents) or name == "substring"
    if name == "url":
        assert len(expected) == 95 + sum(not document.url for document in documents)


def test_partitions_do_not_see_each_other(text_shards, tmp_path):
    shards = [str(path) for path in sorted(text_shards.iterdir())]
    made = run(shards, Recipe((Bloom(num_partitions=2),)), out=tmp_path / "two", options=QUIET)
    for partition in range(2):
        alone = run(shards[partition::2], Recipe((Bloom(),)), out=tmp_path / str(partition), options=QUIET)
        assert [list(map(Document.to_record, read_documents(path))) for path in made["documents"][partition::2]] == [
            list(map(Document.to_record, read_documents(path))) for path in alone["documents"]
        ]
    assert len(made["filters"]) == 2


def test_the_best_tenth_is_that_of_a_sort(text_shards, tmp_path):
    made = run([str(text_shards)], Recipe((Threshold(keep_share=0.1),)), out=tmp_path / "out", options=QUIET)
    scores = [page.fields["quality"] for path in sorted(text_shards.iterdir()) for page in read_documents(str(path))]
    limit = sorted(scores)[-round(0.1 * len(scores))]
    assert sorted(map(len, texts_of(made))) == sorted(score for score in scores if score >= limit)


@pytest.mark.parametrize("file_format", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_formats_hold_the_same_documents_twice_alike(text_shards, tmp_path, digest, file_format):
    options = dataclasses.replace(QUIET, file_format=file_format)
    runs = []
    for name in "ab":
        made = run([str(text_shards / "0.jsonl")], Recipe((Exact(),)), out=tmp_path / name, options=options)
        runs.append(digest(tmp_path / name / "documents"))
    assert runs[0] == runs[1]
    expected = [
        document.to_record()
        for document, reason in exact(read_documents(str(text_shards / "0.jsonl")))
        if reason is None
    ]
    assert [document.to_record() for document in read_documents(made["documents"][0])] == expected


def test_parquet_of_another_writer_is_read(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"text": ["a", "b"], "score": [1, 2]}), tmp_path / "x.parquet")
    assert [d.to_record() for d in read_documents(str(tmp_path / "x.parquet"))] == [
        {"text": "a", "score": 1},
        {"text": "b", "score": 2},
    ]


def test_any_file_system(text_shards, tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe("/in/0.jsonl", (text_shards / "0.jsonl").read_bytes())
    options = dataclasses.replace(QUIET, work=str(tmp_path / "work"))
    made = run(["memory://in"], PRESETS["gopher"], out="memory://out", options=options)
    local = run([str(text_shards / "0.jsonl")], PRESETS["gopher"], out=tmp_path / "out", options=QUIET)
    assert system.cat("/out/documents/00000.jsonl.gz") == Path(local["documents"][0]).read_bytes()
    assert made["num_documents"] == local["num_documents"] > 0


def test_another_recipe_does_not_go_on_in_the_same_folder(text_shards, tmp_path):
    run([str(text_shards)], Recipe((Exact(),)), out=tmp_path, options=QUIET)
    with pytest.raises(InputError, match="holds a run already"):
        run([str(text_shards)], Recipe((Exact(),)), out=tmp_path, options=QUIET)
    with pytest.raises(InputError, match="holds a run with other stages"):
        run([str(text_shards)], Recipe((Gopher(),)), out=tmp_path, options=dataclasses.replace(QUIET, resume=True))


def test_the_page_is_one_file_that_loads_nothing(serial):
    page = Path(serial[1]["page"]).read_text()
    assert "default-src 'none'" in page and "<script" not in page and "src=" not in page
    assert "repeated_lines" in page and "<svg" in page and "Examples of" in page
    assert page.count("<h2") == 1 + 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_kills_give_the_same_bytes(text_shards, tmp_path, digest):
    """Each attempt dies at a seeded moment; every file that is there at a kill is whole and final."""
    shards = [str(path) for path in sorted(text_shards.iterdir())][:3]
    recipe = Recipe((RefinedWeb(), MinHash(), Bloom()))
    expected_folder = tmp_path / "expected"
    run(shards, recipe, out=expected_folder, options=QUIET)
    expected = digest(expected_folder / "documents")
    rng = random.Random(0)
    kills = attempts = 0
    out = tmp_path / "out"
    while kills < 20:
        attempts += 1
        process = dclm_process.start(dclm_process.clean, shards, out)
        while not (out / "config.json").exists() and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.6))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it was done before: begin again
            assert digest(out / "documents") == expected
            shutil.rmtree(out)
            continue
        for name, value in digest(out).items():
            if name.startswith("documents/") and "/." not in name:
                assert expected[name.removeprefix("documents/")] == value
    dclm_process.clean(shards, out)
    final = {name: value for name, value in digest(out / "documents").items() if not name.startswith(".")}
    assert final == expected


KILL_ONCE = """
import os, signal

def kill_once(marker, number):
    if number == 0 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    open(f"{marker}-{number}", "w").close()
"""


def test_a_killed_worker_of_the_process_engine_is_replaced(tmp_path, monkeypatch):
    from dclm.engines import open_engine

    (tmp_path / "killing.py").write_text(KILL_ONCE)
    monkeypatch.syspath_prepend(tmp_path)
    killing = importlib.import_module("killing")
    marker = tmp_path / "killed"
    with open_engine(RunOptions(engine="processes", num_workers=2)) as execute:
        list(execute(killing.kill_once, [(str(marker), 0), (str(marker), 1)]))
    assert [path.name for path in sorted(tmp_path.glob("killed*"))] == ["killed", "killed-0", "killed-1"]


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_gives_the_same_bytes_also_when_a_worker_is_killed(serial, tmp_path, digest):
    ray = pytest.importorskip("ray")
    from dclm.engines import open_engine

    options = dataclasses.replace(QUIET, engine="ray", keep_removed=True)
    run(sample_pool(), PRESETS["dclm_baseline"], out=tmp_path / "out", options=options)
    for part in ("documents", "removed"):
        assert digest(tmp_path / "out" / part) == digest(serial[0] / part)
    assert not ray.is_initialized()
    marker = tmp_path / "killed"

    def kill_once(marker, number):
        if number == 0 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    with open_engine(options) as execute:
        assert len(list(execute(kill_once, [(str(marker), 0), (str(marker), 1)]))) == 2
    assert marker.exists()


def test_memory_of_scores_is_bounded_by_two_passes():
    from dclm.classify import share_threshold

    rng = np.random.default_rng(0)
    parts = [rng.normal(size=1000).astype(np.float32) for _ in range(5)]
    for share in (0.001, 0.1, 0.5):
        for higher in (True, False):
            stage = Threshold(keep_share=share, higher_is_better=higher)
            everything = np.sort(np.concatenate(parts))[:: -1 if higher else 1]
            assert share_threshold(lambda: parts, stage) == everything[round(share * 5000) - 1]
