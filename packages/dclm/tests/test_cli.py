"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import errno
import gzip
import json
import os
import random
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from dclm import PRESETS, cli, read_documents, sample_pool

LINE = json.dumps({"text": "some text"}) + "\n"


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["dclm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The pool's text, by the command in a process of its own."""
    out = tmp_path_factory.mktemp("text") / "out"
    command = [sys.executable, "-m", "dclm", "extract", *sample_pool()[:2], "--out", str(out), "--json", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    made = json.loads(result.stdout)
    assert all(Path(path).is_file() for path in (*made["documents"], made["statistics"], made["page"]))
    return out


@pytest.mark.parametrize("rules", ["refinedweb", "refinedweb_curated", "gopher", "c4", "fineweb", "language"])
def test_filters(monkeypatch, capsys, texts, tmp_path, rules):
    status, out, _ = run(
        monkeypatch, capsys, "filter", rules, texts / "documents", "--out", tmp_path / "o", "--json", "--quiet"
    )
    made = json.loads(out)
    assert status == 0
    assert 0 < made["num_documents"] < 340
    assert sum(1 for path in made["documents"] for _ in read_documents(path)) == made["num_documents"]


@pytest.mark.parametrize("method", ["bloom", "minhash", "text", "url", "substring"])
def test_dedup(monkeypatch, capsys, texts, tmp_path, method):
    inputs = [texts / "documents", texts / "documents" / "00000.jsonl.gz"]
    status, out, err = run(monkeypatch, capsys, "dedup", method, *inputs, "--out", tmp_path / "o", "--json", "--quiet")
    assert status == 0, err
    counts = [sum(1 for _ in read_documents(path)) for path in json.loads(out)["documents"]]
    assert counts[2] < 0.2 * counts[0], "the third shard is the first again"


def test_classify_from_training_to_threshold(monkeypatch, capsys, texts, tmp_path):
    first, second = sorted((texts / "documents").iterdir())
    model = tmp_path / "m.bin"
    arguments = (
        "classify",
        "train",
        "--wanted",
        first,
        "--others",
        second,
        "--out",
        model,
        "--num-buckets",
        5000,
        "--epochs",
        40,
    )
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    arguments = ("classify", "score", texts / "documents", "--model", model, "--out", tmp_path / "s", "--quiet")
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    arguments = (
        "classify",
        "threshold",
        tmp_path / "s" / "documents",
        "--keep-share",
        "0.1",
        "--out",
        tmp_path / "t",
        "--json",
    )
    status, out, _ = run(monkeypatch, capsys, *arguments, "--quiet")
    total = sum(1 for path in (first, second) for _ in read_documents(str(path)))
    assert status == 0
    assert json.loads(out)["num_documents"] == pytest.approx(total / 10, rel=0.2)


def test_decontaminate_reports_per_task(monkeypatch, capsys, texts, tmp_path):
    [page, *_] = read_documents(str(sorted((texts / "documents").iterdir())[0]))
    (tmp_path / "task.jsonl").write_text(json.dumps({"text": page.text}) + "\n")
    arguments = (
        "decontaminate",
        texts / "documents",
        "--tasks",
        tmp_path / "task.jsonl",
        "--out",
        tmp_path / "o",
        "--quiet",
    )
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    [row] = json.loads((tmp_path / "o" / "contamination.json").read_text())
    assert (row["task"], row["items"], row["items_found"]) == ("task", 1, 1) and row["documents"] >= 1


def test_recipes_are_presets_or_python_files(monkeypatch, capsys, texts, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from dclm.config import *\nRECIPE = Recipe((Gopher(min_words=100), Exact()))\n")
    status, out, _ = run(
        monkeypatch, capsys, "run", file, texts / "documents", "--out", tmp_path / "o", "--json", "--quiet"
    )
    assert status == 0
    assert json.loads(out)["num_documents"] > 10
    status, _, err = run(monkeypatch, capsys, "run", "dclm_baselin", "--out", tmp_path / "p")
    assert status == 2 and "did you mean 'dclm_baseline'?" in err


def test_stats_and_resume_of_a_finished_run(monkeypatch, capsys, texts):
    status, out, _ = run(monkeypatch, capsys, "stats", texts)
    assert status == 0 and "00-extract" in out
    assert json.loads(run(monkeypatch, capsys, "stats", texts, "--json")[1])["num_shards"] == 2
    arguments = ("extract", *sample_pool()[:2], "--out", texts, "--json", "--quiet")
    assert run(monkeypatch, capsys, *arguments)[0] == 2
    assert run(monkeypatch, capsys, *arguments, "--resume")[0] == 0


def test_pool_writes_the_same_bytes_again(monkeypatch, capsys, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for number in range(5):
        (site / f"{number}.html").write_text(f"<html><body><main><p>Page {number}.</p></main></body></html>")
    for name in "ab":
        assert run(monkeypatch, capsys, "pool", site, "--out", tmp_path / name, "--num-shards", 2)[0] == 0
    assert [(tmp_path / "a" / f"pool-0000{n}.warc.gz").read_bytes() for n in (0, 1)] == [
        (tmp_path / "b" / f"pool-0000{n}.warc.gz").read_bytes() for n in (0, 1)
    ]
    urls = {page.url for path in (tmp_path / "a").iterdir() for page in read_documents(str(path))}
    assert urls == {f"https://site.docs.example/{number}.html" for number in range(5)}
    with gzip.open(tmp_path / "a" / "pool-00000.warc.gz") as file:
        names = re.findall(rb"WARC-Record-ID: <urn:uuid:(.*)>", file.read())
    assert len({uuid.UUID(name.decode()) for name in names}) == len(names) > 2


def test_presets_lists_all_recipes(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "presets", "--json")
    assert status == 0
    assert {name: len(stages) for name, stages in json.loads(out).items()} == {
        n: len(r.stages) for n, r in PRESETS.items()
    }


def write_jsonl(folder, *lines, name="x.jsonl"):
    (folder / name).write_text("".join(lines))


def cut_gzip(folder):
    packed = gzip.compress(random.Random(0).randbytes(400).hex().encode() + LINE.encode() * 100)
    (folder / "x.jsonl.gz").write_bytes(packed[: len(packed) // 2])


def pool_record(folder, change):
    content = gzip.decompress(Path(sample_pool()[0]).read_bytes())[:300_000]
    end = content.rindex(b"\r\n\r\nWARC/1.1") + 4
    (folder / "x.warc").write_bytes(change(content[:end]))


def longer(content):
    at = content.index(b"WARC-Type: response")
    start = content.index(b"Content-Length: ", at) + 16
    end = content.index(b"\r\n", start)
    return content[:start] + str(int(content[start:end]) + 900).encode() + content[end:]


EXTRACT = ("extract", "x.warc")
EXACT = ("dedup", "text", "x.jsonl")
# One row per kind of bad input that is refused, in the order: the files, the arguments, the sentence.
REFUSED = {
    "truncated gzip": (cut_gzip, ("dedup", "text", "x.jsonl.gz"), "x.jsonl.gz is cut short or damaged"),
    "truncated WARC": (lambda f: pool_record(f, lambda c: c[:-900]), EXTRACT, "the file is cut short"),
    "WARC with a wrong length": (lambda f: pool_record(f, longer), EXTRACT, "reaches into the next record"),
    "no WARC at all": (
        lambda f: write_jsonl(f, "hello\n" * 50, name="x.warc"),
        EXTRACT,
        "x.warc is no whole WARC file",
    ),
    "invalid JSON line": (lambda f: write_jsonl(f, LINE, "{oops\n"), EXACT, "x.jsonl: line 2 is not JSON"),
    "missing text": (
        lambda f: write_jsonl(f, LINE, '{"txt": 1}\n'),
        EXACT,
        "x.jsonl: line 2 is no object with a string `text`",
    ),
    "unknown language model file": (
        lambda f: (
            write_jsonl(f, LINE),
            (f / "r.py").write_text("from dclm.config import *\nRECIPE = Recipe((Language(model='no.bin'),))"),
        ),
        ("run", "r.py", "x.jsonl"),
        "no model at no.bin",
    ),
    "a model that is none": (
        lambda f: (write_jsonl(f, LINE), write_jsonl(f, LINE, name="m.bin")),
        ("classify", "score", "x.jsonl", "--model", "m.bin"),
        "m.bin is no fastText model",
    ),
    "filter too small for the budget": (
        lambda f: write_jsonl(f, json.dumps({"text": " ".join(map(str, range(2000)))})),
        ("dedup", "bloom", "x.jsonl", "--max-bytes", "100"),
        "`max_bytes` is 100; give more, or more partitions",
    ),
    "a filter that fills up": (
        lambda f: write_jsonl(f, json.dumps({"text": " ".join(map(str, range(2000)))})),
        ("dedup", "bloom", "x.jsonl", "--expected-ngrams", "20"),
        "the Bloom filter is saturated",
    ),
    "no such file": (lambda f: None, EXACT, "no documents at x.jsonl"),
    "unknown kind of file": (
        lambda f: write_jsonl(f, LINE, name="x.csv"),
        ("dedup", "text", "x.csv"),
        "x.csv is none of",
    ),
    "no inputs": (lambda f: None, ("dedup", "text"), "no inputs given"),
    "no evaluation set": (
        lambda f: write_jsonl(f, LINE),
        ("decontaminate", "x.jsonl", "--tasks", "no.jsonl"),
        "no evaluation set at no.jsonl",
    ),
    "no score": (lambda f: write_jsonl(f, LINE), ("classify", "threshold", "x.jsonl"), "has no number in `quality`"),
    "no run": (lambda f: None, ("stats", "."), "no statistics in ."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, case):
    make, arguments, sentence = REFUSED[case]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = () if arguments[0] == "stats" else ("--out", "out", "--quiet")
    status, printed, err = run(monkeypatch, capsys, *arguments, *out)
    assert (status, printed, len(err.splitlines())) == (2, "", 1), err
    assert sentence in err and err.startswith("dclm: error: ")
    documents = tmp_path / "out" / "documents"
    assert not documents.exists() or list(documents.iterdir()) == [], "no half file"


def huge_page(folder):
    (folder / "x.jsonl").write_text(json.dumps({"text": "a b " * 25_000_000}) + "\n" + LINE)


# Bad input that is handled: the files, the arguments, how many documents are left.
HANDLED = {
    "100 MB page": (huge_page, ("extract", "x.jsonl"), 1),
    "null bytes": (lambda f: write_jsonl(f, json.dumps({"text": "a\0b" * 40}) + "\n"), ("run", "gopher", "x.jsonl"), 0),
    "null bytes kept": (lambda f: write_jsonl(f, json.dumps({"text": "a\0b"}) + "\n"), EXACT, 1),
    "duplicate ids": (lambda f: write_jsonl(f, '{"text": "a", "id": "1"}\n{"text": "b", "id": "1"}\n'), EXACT, 2),
    "empty shard": (lambda f: write_jsonl(f, ""), ("run", "refinedweb", "x.jsonl"), 0),
    "lone surrogate": (lambda f: write_jsonl(f, '{"text": "a \\ud800 b"}\n'), EXACT, 1),
}


@pytest.mark.parametrize("case", HANDLED)
def test_odd_input_is_handled(monkeypatch, capsys, tmp_path, case):
    make, arguments, left = HANDLED[case]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments, "--out", "out", "--json", "--quiet")
    assert status == 0, err
    assert json.loads(out)["num_documents"] == left


@pytest.mark.parametrize("stage", ["gopher", "minhash"])
def test_a_full_disk_is_one_sentence_and_resume_goes_on(monkeypatch, capsys, tmp_path, texts, stage):
    verb = ("filter", stage) if stage == "gopher" else ("dedup", stage)
    arguments = (*verb, texts / "documents", "--out", tmp_path / "o", "--quiet")
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, out, err = run(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    assert err == "dclm: error: No space left on device\n"
    assert run(monkeypatch, capsys, *arguments, "--resume")[0] == 0


@pytest.mark.parametrize("arguments", [["filter"], ["flter", "x"], ["dedup", "bloom", "x", "--mod", "document"]])
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2
