"""CPU seconds on the same real pages: ours, and datatrove in a child environment; then models, `benchmark_lm`.

    dclm benchmark --budget laptop                  (two cores, about nine minutes)
    dclm benchmark --budget laptop --parts model    (about two minutes)

Each job runs in rounds, ours and the peer's once each, and this process takes the CPU seconds of both: its own around
the work, and those of the peer's child less what the same child takes for one document (start, imports, models).
Outputs are compared first: on equal words Gopher's decisions must be datatrove's. A row gives median documents per CPU
second, the ratio (the peer's seconds over ours, median of rounds; over 1: ours is better) and its spread. datatrove
runs repetition before quality, as FineWeb does; ours runs the cheaper quality rules first: equal decisions. Rows
without a peer compare with the bare library, or one process with two.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.benchmarks import Seconds, comparison, interleave
from tenfold_shared.progress import progress

from dclm.config import Bloom, Extract, MinHash, Recipe, RefinedWeb
from dclm.data import read_documents, write_documents
from dclm.dedup.bloom import bloom, count_ngrams
from dclm.dedup.bloom_filter import BloomFilter
from dclm.document import Document
from dclm.engines import RunOptions
from dclm.extract import decode_page, extract
from dclm.filters.gopher import gopher
from dclm.peers import DATATROVE, run_datatrove, write_rows
from dclm.pipeline import run
from dclm.sample import sample_pool

Budget = Literal["smoke", "laptop", "full"]
Part = Literal["data", "model"]
PARTS: tuple[Part, ...] = ("data", "model")
AIM_FILTERS, AIM_MINHASH, AIM_EXTRACTION = 30.0, 20.0, 0.9
MEGABYTE = 2**20
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Pages and rounds of one budget."""

    num_documents: int
    rounds: int
    copies: int  # of the corpus in the larger memory measurement
    pools: int  # copies of the sample pool for one process against two: starting them must not be what is measured


PLANS: dict[Budget, Plan] = {"smoke": Plan(60, 1, 4, 1), "laptop": Plan(400, 5, 8, 5), "full": Plan(685, 7, 16, 10)}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[Row]:
    """Measure everything and return one row per comparison, see `measure`."""
    return measure(out, budget=budget, seed=seed, parts=PARTS)


def measure(out: Path, *, budget: Budget, seed: int, parts: Sequence[Part]) -> list[Row]:
    """Measure and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of the draw of pages.
        parts: Filters and deduplication, or tokens and training.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, threads, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: Decisions differ where they must be equal.
        InputError: datatrove's environment cannot be made.
    """
    plan = PLANS[budget]
    pages = [page for path in sample_pool() for page in read_documents(path)]
    order = np.random.default_rng(seed).permutation(len(pages))[: plan.num_documents]
    pages = [pages[index] for index in order]
    texts = [document.text for document, reason in extract(map(_copy, pages)) if reason is None]
    jobs = (_compare_datatrove, _compare_extraction, _measure_bloom, _compare_processes, _measure_memory)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for job in progress(jobs if "data" in parts else (), description="benchmark", unit="jobs"):
            rows += job(Work(pages, texts, plan, Path(folder)))
        if "model" in parts:
            from dclm.benchmark_lm import compare_models

            rows += compare_models(texts, Path(folder), budget)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return [{"paper": "dclm", "threads": 1, **row, "input_hash": digest} for row in rows]


@dataclass(frozen=True)
class Work:
    """Input of all jobs: pages, their texts, how often, and a folder."""

    pages: list[Document]
    texts: list[str]
    plan: Plan
    folder: Path


def _copy(page: Document) -> Document:
    return Document(page.text, dict(page.fields), page.page)


def _compare_datatrove(work: Work) -> list[Row]:
    """Gopher's rules and MinHash, each as its users run it; and the peer with our words for nothing."""
    path, one, texts = work.folder / "rows.jsonl", work.folder / "one.jsonl", work.folder / "texts.jsonl"
    write_rows(path, [Document(text) for text in work.texts])
    write_rows(one, [Document(work.texts[0])])
    write_documents(str(texts), map(Document, work.texts))
    recipe, options = Recipe((MinHash(bands=14, rows=8),)), RunOptions(quiet=True, file_format="jsonl")
    folders = (work.folder / f"minhash{number}" for number in itertools.count())

    def peer(job: str) -> Seconds:
        answer = run_datatrove(job, path)
        if job == "gopher-given":
            _check_decisions(work.texts, answer["reasons"])
        return Seconds(answer["seconds"] - run_datatrove(job, one)["seconds"])

    calls: dict[str, Callable[[], object]] = {
        "gopher": lambda: list(gopher(map(Document, work.texts))),
        "split": lambda: [Document(text).words.strings() for text in work.texts],
        "minhash": lambda: run([str(texts)], recipe, out=next(folders), options=options),
    }
    calls |= {f"peer's {job}": partial(peer, job) for job in ("gopher", "gopher-given", "minhash")}
    seconds = interleave(calls, work.plan.rounds)
    given = f"{DATATROVE} with our splitter"
    filters = {"ours": seconds["gopher"], DATATROVE: seconds["peer's gopher"]}
    filters[given] = seconds["peer's gopher-given"] + seconds["split"]
    dedup = {"ours": seconds["minhash"], DATATROVE: seconds["peer's minhash"]}
    row = partial(comparison, unit="documents per CPU s", amount=len(work.texts))
    return [
        row("Gopher quality + repetition", filters, DATATROVE, aim=AIM_FILTERS),
        row("Gopher quality + repetition", filters, given),
        row("MinHash 14 x 8, from and to files", dedup, DATATROVE, aim=AIM_MINHASH),
    ]


def _check_decisions(texts: list[str], theirs: list[str | None]) -> None:
    ours = [reason for _, reason in gopher(map(Document, texts))]
    different = sum((mine is None) != (other is None) for mine, other in zip(ours, theirs, strict=True))
    if different:
        raise RuntimeError(f"{different} of {len(texts)} decisions differ from {DATATROVE}'s on equal words.")


def _compare_extraction(work: Work) -> list[Row]:
    """Our stage, decoding and bookkeeping included, against the library's two calls alone."""
    from resiliparse.extract.html2text import extract_plain_text

    decoded = [decode_page(page.page or b"") for page in work.pages]
    fresh = iter([[_copy(page) for page in work.pages] for _ in range(work.plan.rounds + 1)])
    peer = "resiliparse alone"
    calls = {
        "ours": lambda: list(extract(next(fresh))),
        peer: lambda: [extract_plain_text(text, main_content=True) for text in decoded],
    }
    seconds, count = interleave(calls, work.plan.rounds), len(work.pages)
    return [
        comparison("extraction of main content", seconds, peer, "pages per CPU s", amount=count, aim=AIM_EXTRACTION)
    ]


def _measure_bloom(work: Work) -> list[Row]:
    """n-grams per second through the Bloom filter, splitting included, against a set of Python strings."""
    count = count_ngrams(map(Document, work.texts), Bloom())
    fresh = iter([BloomFilter.for_count(count, 0.01) for _ in range(work.plan.rounds + 1)])
    peer = "Python set of our words joined"
    calls = {
        "ours": lambda: list(bloom(map(Document, work.texts), filter=next(fresh))),
        peer: lambda: _string_set(work.texts),
    }
    seconds = interleave(calls, work.plan.rounds)
    return [comparison("Bloom filter, old-both", seconds, peer, "13-grams per CPU s", amount=count)]


def _string_set(texts: list[str]) -> int:
    seen: set[str] = set()
    for text in texts:
        for line in text.split("\n"):
            words = Document(line).words.strings()
            seen.update(" ".join(words[at : at + 13]) for at in range(len(words) - 12))
    return len(seen)


def _compare_processes(work: Work) -> list[Row]:
    """Wall seconds of two processes against one, starting them included, from WARC files to filtered documents."""
    shards, recipe = sample_pool() * work.plan.pools, Recipe((Extract(), RefinedWeb()))
    count = sum(1 for path in shards for _ in read_documents(path))
    folders = (work.folder / f"processes{number}" for number in itertools.count())

    def process(workers: int) -> None:
        options = RunOptions(engine="processes", num_workers=workers, quiet=True)
        run(shards, recipe, out=next(folders), options=options)

    peer, what = "one process", "extraction and RefinedWeb's rules on two processes"
    calls = {"ours": partial(process, 2), peer: partial(process, 1)}
    seconds = interleave(calls, work.plan.rounds, clock=time.perf_counter)
    return [comparison(what, seconds, peer, "pages per wall s", amount=count)]


def _shards(work: Work, name: str, copies: int) -> list[str]:
    paths = [str(work.folder / f"{name}-{number}.jsonl") for number in range(copies)]
    for number, path in enumerate(paths):
        write_documents(path, (Document(f"{text}\n{number}") for text in work.texts))
    return paths


MEMORY = """
import resource, sys
from dclm import RunOptions, run
from dclm.config import *
run(sys.argv[2:], Recipe((Gopher(), MinHash(max_bytes=2_000_000))), out=sys.argv[1], options=RunOptions(quiet=True))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _measure_memory(work: Work) -> list[Row]:
    """Peak memory of a process on one copy of the corpus and on many."""
    peaks = []
    for copies in (1, work.plan.copies):
        paths = _shards(work, f"memory{copies}", copies)
        command = [sys.executable, "-c", MEMORY, str(work.folder / f"m{copies}"), *paths]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        unit = 1 if sys.platform == "darwin" else 1024
        peaks.append(int(done.stdout) * unit / MEGABYTE)
    peer = "ours on one copy"
    peak = {"ours": peaks[1], peer: peaks[0]}
    return [comparison(f"peak memory, {work.plan.copies} copies of the corpus", peak, peer, "MB", aim=1.0)]
