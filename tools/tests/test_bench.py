"""`tenfold bench` on real little benchmarks."""

import json

import pytest

GOOD = """
def benchmark(out, *, budget, seed):
    return [dict(paper=__package__, work="sums", ours=1.0, peer_name="slow", peer=2.0, ratio=2.0,
                 spread=[1.9, 2.1], unit="ms")]
"""


def test_bench_writes_rows_and_prints_them(papers, tmp_path):
    papers.install("good", GOOD)
    done = papers.run("bench", "good", "--out", tmp_path / "bench", "--budget", "smoke")
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert table == [
        ["paper", "work", "ours", "peer_name", "peer", "ratio", "spread", "unit"],
        ["good", "sums", "1", "slow", "2", "2", "1.9", "to", "2.1", "ms"],
    ]
    [row] = json.loads((tmp_path / "bench" / "benchmarks.json").read_text())
    assert row["ratio"] == 2.0 and row["unit"] == "ms"


def test_bench_prints_json(papers, tmp_path):
    papers.install("good", GOOD)
    done = papers.run("bench", "good", "--out", tmp_path / "bench", "--json", "--quiet")
    assert json.loads(done.stdout) == json.loads((tmp_path / "bench" / "benchmarks.json").read_text())
    assert done.stderr == ""


BAD = {
    "raises": ("raise RuntimeError('slow')", "exit status 1 (RuntimeError: slow)"),
    "lacks_peer": ("return [dict(paper='p', work='w', ours=1.0)]", "without peer_name, peer, ratio, spread"),
    "quits": ("os._exit(0)", "its process wrote no rows"),
    "not_json": ("return [dict(paper=os, work='', ours=1, peer_name='', peer=1, ratio=1, spread=0)]", "JSON"),
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory, make_papers):
    """Standard error and rows of one call with every failing benchmark and a good one."""
    folder = tmp_path_factory.mktemp("bench")
    papers = make_papers(folder / "site")
    for name, (body, _) in BAD.items():
        papers.install(name, f"def benchmark(out, *, budget, seed):\n    {body}\n")
    papers.install("good", GOOD)
    done = papers.run("bench", *BAD, "good", "--out", folder / "bench")
    assert done.returncode == 1
    return done.stderr, json.loads((folder / "bench" / "benchmarks.json").read_text())


@pytest.mark.parametrize("name", BAD)
def test_a_failing_benchmark_is_named(failures, name):
    [line] = [line for line in failures[0].splitlines() if f"{name}: FAILED" in line]
    assert BAD[name][1] in line


def test_a_failing_benchmark_stops_nobody(failures):
    assert [row["paper"] for row in failures[1]] == ["good"]


def test_rows_of_an_earlier_call_are_not_taken_for_new_ones(papers, tmp_path):
    module = papers.install("good", GOOD) / "reproduce.py"
    papers.run("bench", "good", "--out", tmp_path)
    module.write_text("import os\n\ndef benchmark(out, *, budget, seed):\n    os._exit(0)\n")
    done = papers.run("bench", "good", "--out", tmp_path)
    assert done.returncode == 1
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == []
