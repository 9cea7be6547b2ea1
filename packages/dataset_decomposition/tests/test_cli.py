"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from dataset_decomposition import PRESETS, TokenStore, cli, tokenize


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["dataset-decomposition", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def test_tokenize_in_a_process_of_its_own(corpus, tmp_path):
    command = [sys.executable, "-m", "dataset_decomposition", "tokenize", corpus, "--out", tmp_path / "s", "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["documents"] == TokenStore(tmp_path / "s").manifest["documents"]
    assert result.stderr == ""


def test_from_text_to_a_model(monkeypatch, capsys, corpus, tmp_path):
    monkeypatch.chdir(tmp_path)

    def answer(*arguments):
        status, out, err = run(monkeypatch, capsys, *arguments, "--json", "--quiet")
        assert status == 0, err
        return json.loads(out)

    answer("tokenize", corpus)
    rows = answer("decompose", "store", "--min-length", "32", "--max-length", "128")
    assert sum(row["share"] for row in rows) == pytest.approx(1), "every token is accounted for"
    assert answer("stats", "store")["decomposition"]["config"]["max_length"] == 128
    assert answer("verify", "store")["dropped_tokens"] == rows[-1]["tokens"]
    assert [row["method"] for row in answer("simulate", "store", "--out", "plots")][-1] == "decomposition"
    assert {path.name for path in Path("plots").iterdir()} == {"cost.svg", "steps.svg"}
    plan = answer("plan", "--store", "store", "--tokens", "20000", "--tokens-per-step", "512", "--cycles", "1")
    assert plan["tokens_per_cycle"] % 512 == 0
    answer("export", "store", "--out", "shards", "--partial")
    answer("import", "shards", "--out", "again", "--vocab-size", "259")
    options = ("--out", "run", "--tokens-per-step", "512", "--max-steps", "3", "--vocab-size", "320")
    assert answer("train", "store", *options, "--dry-run")["model"]["vocab_size"] == 320
    assert answer("train", "store", *options)["steps"] == 3
    assert answer("evaluate", "run/model", "--inputs", corpus)["bits_per_byte"] > 0
    status, _, err = run(monkeypatch, capsys, "train", "store", *options, "--no-resume")
    assert status == 2 and "holds a run already" in err


def test_presets_lists_all_models(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "presets", "--json")
    assert status == 0
    assert json.loads(out) == {name: json.loads(json.dumps(config.to_dict())) for name, config in PRESETS.items()}
    assert "160m" in run(monkeypatch, capsys, "presets")[1]


def make_store(folder, length=3000):
    return tokenize([{"text": "x" * length}], folder / "store").decompose(min_length=32, max_length=256)


def truncated_zst(folder):
    content = zstandard.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(99_999)))
    (folder / "x.jsonl.zst").write_bytes(content[: len(content) // 2])


def other_manifest(folder):
    store = make_store(folder)
    store.manifest["files"]["tokens"]["bytes"] += 1
    (folder / "store" / "manifest.json").write_text(json.dumps(store.manifest))


def full_disk(folder):
    (folder / "x.jsonl").write_text('{"text": "hello"}\n')
    (folder / "store").mkdir()
    (folder / "store" / "tokens.partial").symlink_to("/dev/full")


def no_text(folder):
    pq.write_table(pa.table({"body": ["x"]}), folder / "x.parquet")


# One row per item of the list, in its order: the files, the arguments, the sentence.
REFUSED = {
    "empty documents": (
        lambda f: (f / "x.jsonl").write_text('{"text": ""}\n\n{"text": ""}\n'),
        ["tokenize", "x.jsonl", "--quiet"],
        "no document with text",
    ),
    "invalid UTF-8": (
        lambda f: (f / "x.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n'),
        ["tokenize", "x.jsonl"],
        "x.jsonl, line 2: invalid UTF-8 at byte 10",
    ),
    "truncated zst": (truncated_zst, ["tokenize", "x.jsonl.zst"], "x.jsonl.zst: cut off after line"),
    "parquet without the text column": (no_text, ["tokenize", "x.parquet"], "no column 'text'; it has 'body'"),
    "token id over the vocabulary": (
        lambda f: np.save(f / "x.npy", np.array([1, 2, 300])),
        ["tokenize", "x.npy"],
        "token id 300 is outside the vocabulary of 259",
    ),
    "bucket smaller than a step needs": (
        make_store,
        ["train", "store", "--tokens-per-step", "4096"],
        "a step of 4096 tokens needs",
    ),
    "manifest that does not match": (
        other_manifest,
        ["verify", "store"],
        "the manifest says 6003; make the store again",
    ),
    "disk full": (full_disk, ["tokenize", "x.jsonl"], "No space left on device"),
    "no inputs": (lambda f: None, ["tokenize"], "no inputs given"),
    "missing input": (lambda f: None, ["tokenize", "x.jsonl"], "no input at x.jsonl"),
    "missing store": (lambda f: None, ["stats", "store"], "no store at store; make one"),
    "unknown format": (lambda f: (f / "x.doc").touch(), ["tokenize", "x.doc"], "no format that can be read"),
    "missing field": (
        lambda f: (f / "x.jsonl").write_text('{"body": 1}\n'),
        ["tokenize", "x.jsonl"],
        "line 1: no field 'text'; it has 'body'",
    ),
    "missing tokenizer": (
        lambda f: (f / "x.jsonl").write_text('{"text": "a"}\n'),
        ["tokenize", "x.jsonl", "--tokenizer", "none.json"],
        "no tokenizer at none.json",
    ),
    "no power of two": (make_store, ["decompose", "store", "--min-length", "300"], "must be a power of two; use 512"),
}


def snapshot(folder):
    """Files and contents, without the journal that an unfinished run keeps to go on from."""
    kept = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith((".partial", "journal.jsonl"))]
    return {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, case):
    make, arguments, sentence = REFUSED[case]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments)
    lines = err.splitlines()
    assert (status, out, len(lines)) == (2, "", 1), err
    assert sentence in lines[0] and lines[0].startswith("dataset-decomposition: error: ")
    assert snapshot(tmp_path) == before


def test_a_document_of_ten_million_tokens_is_handled(monkeypatch, capsys, tmp_path):
    (tmp_path / "x.txt").write_text("x" * 10_000_000)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, capsys, "tokenize", "x.txt", "--quiet")[0] == 0
    status, out, err = run(monkeypatch, capsys, "decompose", "store", "--json")
    assert status == 0, err
    assert sum(row["tokens"] for row in json.loads(out)) == 10_000_001


@pytest.mark.parametrize(
    "arguments", [["tokenise"], ["train", "store", "--preset", "2b"], ["plan", "--curiculum", "x"]]
)
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_one_sentence_and_a_run_that_goes_on(tmp_path, workers):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "some words " * 80}) + "\n" + '{"text": "y"}\n' * 9, "utf-8")
    (tmp_path / "x.jsonl").write_text((tmp_path / "x.jsonl").read_text() * 60_000, "utf-8")
    command = [
        sys.executable,
        "-m",
        "dataset_decomposition",
        "tokenize",
        "x.jsonl",
        "--workers",
        str(workers),
        "--quiet",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    partial = tmp_path / "store" / "tokens.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, len(err.splitlines())) == (130, 1), err
    assert "interrupted" in err and not (tmp_path / "store" / "manifest.json").exists()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert TokenStore(tmp_path / "store").manifest["documents"] == 600_000
