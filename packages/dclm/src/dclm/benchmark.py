"""CPU seconds on the same real pages: ours, and datatrove in a child environment; then models, `benchmark_lm`.

    dclm benchmark --budget laptop                  (two cores, about eight minutes)
    dclm benchmark --budget laptop --parts model    (about two minutes)

Each job runs in rounds, ours and the peer's in turn, and this process takes the CPU seconds of both: its own around
the work, and those of the peer's child less what the same child takes for one document (start, imports, models).
Outputs are compared first: on equal words Gopher's decisions must be datatrove's. A row gives median documents per CPU
second, the ratio (the peer's seconds over ours, median of rounds) and its spread. datatrove runs repetition before
quality, as FineWeb does; ours runs the cheaper quality rules first: equal decisions. Rows without a peer compare with
the bare library, or one process with two.
"""

from __future__ import annotations

import hashlib
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
DOCUMENTS = "documents per CPU s"


@dataclass(frozen=True)
class Plan:
    """Pages and rounds of one budget."""

    num_documents: int
    rounds: int
    copies: int  # of the corpus in the larger memory measurement
    pools: int  # copies of the sample pool for one process against two: starting them must not be what is measured


PLANS: dict[Budget, Plan] = {"smoke": Plan(60, 1, 4, 1), "laptop": Plan(400, 5, 8, 5), "full": Plan(685, 7, 16, 10)}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Measure everything and return one row per comparison, see `measure`."""
    return measure(out, budget=budget, seed=seed, parts=PARTS)


def measure(out: Path, *, budget: Budget, seed: int, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Measure and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of the draw of pages.
        parts: Filters and deduplication, or tokens and training.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, input_hash`.

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
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for job in progress(jobs if "data" in parts else (), description="benchmark", unit="jobs"):
            rows += job(Work(pages, texts, plan, Path(folder)))
        if "model" in parts:
            from dclm.benchmark_lm import compare_models

            rows += compare_models(texts, Path(folder), budget, _row)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return [{"paper": "dclm", **row, "input_hash": digest} for row in rows]


@dataclass(frozen=True)
class Work:
    """Input of all jobs: pages, their texts, how often, and a folder."""

    pages: list[Document]
    texts: list[str]
    plan: Plan
    folder: Path


def _copy(page: Document) -> Document:
    return Document(page.text, dict(page.fields), page.page)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _row(work: str, ours: Sequence[float], peer: Sequence[float], count: float, **rest: Any) -> dict[str, Any]:
    """Make a row of seconds: rates are `count` over seconds."""
    ratios = np.array(peer) / np.array(ours)
    rates = {"ours": count / float(np.median(ours)), "peer": count / float(np.median(peer))}
    spread = [float(ratios.min()), float(ratios.max())]
    return {"work": work, **rates, "ratio": float(np.median(ratios)), "spread": spread, "threads": 1, **rest}


def _compare_datatrove(work: Work) -> list[dict[str, Any]]:
    """Gopher's rules and MinHash, each as its users run it; and the peer with our words for nothing."""
    path, one = work.folder / "rows.jsonl", work.folder / "one.jsonl"
    write_rows(path, [Document(text) for text in work.texts])
    write_rows(one, [Document(work.texts[0])])
    ours: dict[str, list[float]] = {"gopher": [], "minhash": [], "split": []}
    peer: dict[str, list[float]] = {"gopher": [], "gopher-given": [], "minhash": []}
    for number in range(work.plan.rounds):
        for job in peer:
            answer = run_datatrove(job, path)
            peer[job].append(answer["seconds"] - run_datatrove(job, one)["seconds"])
            if job == "gopher-given" and number == 0:
                _check_decisions(work.texts, answer["reasons"])
        ours["gopher"].append(_seconds(lambda: list(gopher(map(Document, work.texts)))))
        ours["split"].append(_seconds(lambda: [Document(text).words.strings() for text in work.texts]))
        ours["minhash"].append(_minhash_seconds(work, number))
    with_splitter = [given + split for given, split in zip(peer["gopher-given"], ours["split"], strict=True)]
    gopher_row = partial(_row, "Gopher quality + repetition", ours["gopher"], count=len(work.texts), unit=DOCUMENTS)
    return [
        gopher_row(peer=peer["gopher"], peer_name=DATATROVE, aim=AIM_FILTERS),
        gopher_row(peer=with_splitter, peer_name=f"{DATATROVE} with our splitter", aim=None),
        _row(
            "MinHash 14 x 8, from and to files",
            ours["minhash"],
            peer["minhash"],
            len(work.texts),
            peer_name=DATATROVE,
            aim=AIM_MINHASH,
            unit=DOCUMENTS,
        ),
    ]


def _check_decisions(texts: list[str], theirs: list[str | None]) -> None:
    ours = [reason for _, reason in gopher(map(Document, texts))]
    different = sum((mine is None) != (other is None) for mine, other in zip(ours, theirs, strict=True))
    if different:
        raise RuntimeError(f"{different} of {len(texts)} decisions differ from {DATATROVE}'s on equal words.")


def _minhash_seconds(work: Work, number: int) -> float:
    path = work.folder / "texts.jsonl"
    write_documents(str(path), map(Document, work.texts))
    recipe = Recipe((MinHash(bands=14, rows=8),))
    options = RunOptions(quiet=True, file_format="jsonl")
    return _seconds(lambda: run([str(path)], recipe, out=work.folder / f"minhash{number}", options=options))


def _compare_extraction(work: Work) -> list[dict[str, Any]]:
    """Our stage, decoding and bookkeeping included, against the library's two calls alone."""
    from resiliparse.extract.html2text import extract_plain_text

    decoded = [decode_page(page.page or b"") for page in work.pages]
    ours, peer = [], []
    for _ in range(work.plan.rounds):
        pages = [_copy(page) for page in work.pages]
        ours.append(_seconds(lambda pages=pages: list(extract(pages))))
        peer.append(_seconds(lambda: [extract_plain_text(text, main_content=True) for text in decoded]))
    rest = {"peer_name": "resiliparse alone", "unit": "pages per CPU s", "aim": AIM_EXTRACTION}
    return [_row("extraction of main content", ours, peer, len(work.pages), **rest)]


def _measure_bloom(work: Work) -> list[dict[str, Any]]:
    """n-grams per second through the Bloom filter, splitting included, against a set of Python strings."""
    count = count_ngrams(map(Document, work.texts), Bloom())
    ours, peer = [], []
    for _ in range(work.plan.rounds):
        filter = BloomFilter.for_count(count, 0.01)
        ours.append(_seconds(lambda filter=filter: list(bloom(map(Document, work.texts), filter=filter))))
        peer.append(_seconds(lambda: _string_set(work.texts)))
    rest = {"peer_name": "Python set of our words joined", "unit": "13-grams per CPU s", "aim": None}
    return [_row("Bloom filter, old-both", ours, peer, count, **rest)]


def _string_set(texts: list[str]) -> int:
    seen: set[str] = set()
    for text in texts:
        for line in text.split("\n"):
            words = Document(line).words.strings()
            seen.update(" ".join(words[at : at + 13]) for at in range(len(words) - 12))
    return len(seen)


def _compare_processes(work: Work) -> list[dict[str, Any]]:
    """Wall seconds of two processes against one, starting them included, from WARC files to filtered documents."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    shards = sample_pool() * work.plan.pools
    count = sum(1 for path in shards for _ in read_documents(path))
    for number in range(work.plan.rounds):
        for workers, seconds in walls.items():
            options = RunOptions(engine="processes", num_workers=workers, quiet=True)
            start = time.perf_counter()
            run(shards, Recipe((Extract(), RefinedWeb())), out=work.folder / f"p{workers}-{number}", options=options)
            seconds.append(time.perf_counter() - start)
    rest = {"peer_name": "one process", "unit": "pages per wall s", "aim": None}
    return [_row("extraction and RefinedWeb's rules on two processes", walls[2], walls[1], count, **rest)]


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


def _measure_memory(work: Work) -> list[dict[str, Any]]:
    """Peak memory of a process on one copy of the corpus and on many."""
    peaks = []
    for copies in (1, work.plan.copies):
        paths = _shards(work, f"memory{copies}", copies)
        command = [sys.executable, "-c", MEMORY, str(work.folder / f"m{copies}"), *paths]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        unit = 1 if sys.platform == "darwin" else 1024
        peaks.append(int(done.stdout) * unit / MEGABYTE)
    ratio = peaks[1] / peaks[0]
    row = {"work": f"peak memory, {work.plan.copies} copies of the corpus", "ours": peaks[1], "peer": peaks[0]}
    return [
        {
            **row,
            "peer_name": "ours on one copy",
            "ratio": ratio,
            "spread": [ratio, ratio],
            "unit": "MB",
            "aim": 1.0,
            "threads": 1,
        }
    ]
