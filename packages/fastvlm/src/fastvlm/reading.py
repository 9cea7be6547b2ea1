"""Resolution scaling alone gives the best trade-off (Sec. 3.2), tried on synthetic pages of real sentences.

Fixed before the run, of a size that two cores train in about an hour and a half. Data: `fastvlm.pages`: 24 to 40 words
of a Wikipedia article on a page of 512 px, downsampled to 128, 192, 256 or 384 px, so that resolution is information.
Question: which word follows X; exact match on 2,000 pages of articles and of word pairs that training never asks. Arms:
FastViTHD's shape (one token per 64 x 64 px), a ViT (16 x 16, where those are at most 64 tokens), the ViT with its
tokens pruned or pooled to FastViTHD's number or to a quarter, FastViTHD on 2 x 2 tiles and an overview; two language
models read every arm. Every encoder has the same word-contrastive pre-training. Every language model has learned to
find the word after X in words in cells (`fastvlm.cells`), in the layouts of all arms alike, without an image; there is
one of each size, for all seeds. Every reader then first aligns its projector with those cells, and trains projector and
language model on equal images, while its encoder stays as it is, so that pages are looked at once.

The ViT takes a CPU as long as FastViTHD and has 2.7 times its operations in pre-training; what follows costs the same
for equal tokens, so that equal images favour the ViT. For equal operations a ViT has fewer steps of pre-training. Each
arm's learning rate is the better of two on validation pages (seed 0, at its largest resolution, smaller language model,
all steps); both encoders have 0.003, which both preferred to 0.001 when they were tuned on shorter pages. Floors: blank
pages, and a language model that has trained on the questions alone; ceilings: words in cells, by layout. Power check:
FastViTHD at 384 px against itself at 128 px.

Primary: exact match of FastViTHD at 384 px (36 tokens) with the smaller language model; control: 36 of a ViT's 144
tokens at 192 px, pruned or pooled, whichever reads best on validation pages (at 384 px its 576 tokens come far later;
that is in the curves); three seeds, each with its own encoders and readers, pair; minimum effect 0.03. Seeds that the
time did not suffice for are left out, for both sides. The trade-off itself: against the ViT that keeps its 64 tokens at
128 px.

    fastvlm reproduce --parts reading --budget full --out X       goes on from what X holds
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, plain_json, write_json
from tenfold_shared.progress import progress

from fastvlm.pages import NAMES, PageOptions, Split, draw_pages
from fastvlm.reading_jobs import (
    LOW_RESOLUTION,
    MAIN_RESOLUTION,
    PLANS,
    PRIMARY,
    SMALL_LM,
    Budget,
    Laboratory,
    Plan,
    make_jobs,
)

CHUNK = 1000  # pages in a file
WAIT_SECONDS = 0.2


def prepare_pages(folder: Path, plan: Plan, workers: int) -> None:
    """Draw all pages into the folder, once, a thousand to a file."""
    options = PageOptions(plan.num_words, resolutions=plan.resolutions)
    splits: Sequence[tuple[Split, int]] = list(zip(("train", "validation", "test"), plan.pages, strict=True))
    home = folder / "pages"
    pieces = [
        (home / f"{split}.{start // CHUNK:03d}.npz", split, range(start, min(start + CHUNK, count)), options)
        for split, count in splits
        for start in range(0, count, CHUNK)
    ]
    missing = [piece for piece in pieces if not piece[0].exists()]
    with progress(total=len(missing), description="draw pages", unit="files") as bar:
        if workers == 1:
            for piece in missing:
                _draw_file(*piece)
                bar.update()
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_draw_file, *piece) for piece in missing]):
                done.result()
                bar.update()


def _draw_file(path: Path, split: Split, numbers: range, options: PageOptions) -> None:
    pages = draw_pages(split, numbers, options=options)
    pixels = {str(size): grey for size, grey in pages.pixels.items()}
    with atomic_write(path) as file:
        np.savez_compressed(file, **pixels, **{name: getattr(pages, name) for name in NAMES})


def work(folder: Path, plan: Plan, deadline: float, on_job: Callable[[], object] = lambda: None) -> None:
    """Do jobs, the first that nobody has begun and whose needs are there, until none is left or time is up."""
    torch.set_num_threads(1)
    lab, jobs = Laboratory(folder, plan), make_jobs(plan)
    while time.time() < deadline:
        open_jobs = [job for job in jobs if not (folder / "begun" / job.key).exists()]
        ready = [job for job in open_jobs if all(lab.record(need) for need in job.needs)]
        if not open_jobs:
            return
        if not ready or not _begin(folder, ready[0].key):
            time.sleep(0 if ready else WAIT_SECONDS)
            continue
        started = time.process_time(), time.perf_counter()
        try:
            found = ready[0].run(lab)
        except BaseException:  # so that no other process waits for it
            (folder / "begun" / ready[0].key).unlink()
            raise
        spent = {"cpu_seconds": time.process_time() - started[0], "seconds": time.perf_counter() - started[1]}
        lab.keep(ready[0].key, {**found, **spent})
        on_job()


def _begin(folder: Path, key: str) -> bool:
    """Claim a job; of several processes one succeeds."""
    try:
        (folder / "begun" / key).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def run_jobs(folder: Path, budget: Budget, *, seconds: float, workers: int = 1) -> list[dict[str, Any]]:
    """Draw pages, train what the plan asks for, and return the records.

    What was begun and not finished by an earlier call is done again; readers that have a record are not.

    Args:
        folder: Of pages, parts and records; made if missing.
        budget: Which plan.
        seconds: After which no job is begun.
        workers: Processes, one core each; 1 works here.

    Raises:
        InputError: The folder holds a run of another plan.
    """
    deadline, plan = time.time() + seconds, PLANS[budget]
    _check_plan(folder / "plan.json", plan)
    for name in ("records", "parts", "begun", "pages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in (folder / "begun").iterdir():
        if not (folder / "records" / f"{file.name}.json").exists():
            file.unlink()
    prepare_pages(folder, plan, workers)
    if workers == 1:
        threads = torch.get_num_threads()
        with progress(total=len(make_jobs(plan)), description="train readers", unit="jobs") as bar:
            work(folder, plan, deadline, bar.update)
        torch.set_num_threads(threads)
    else:
        _work_together(folder, plan, deadline, workers)
    return read_records(folder)


def _check_plan(path: Path, plan: Plan) -> None:
    known = plain_json(asdict(replace(plan, seeds=0)))  # seeds may be added
    if path.exists() and json.loads(path.read_text()) != known:
        raise InputError(f"{path.parent} holds a reading run of another budget; name another folder with --out.")
    write_json(path, known)


def _work_together(folder: Path, plan: Plan, deadline: float, workers: int) -> None:
    jobs = make_jobs(plan)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(work, folder, plan, deadline) for _ in range(workers)]
        with progress(total=len(jobs), description="train readers", unit="jobs") as bar:
            while not all(process.done() for process in running):
                bar.update(sum((folder / "records" / f"{job.key}.json").exists() for job in jobs) - bar.n)
                time.sleep(WAIT_SECONDS)
        for process in running:
            process.result()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return all records of a folder."""
    return [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]


def check_power(records: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence what the power check found."""

    def values(resolution: int) -> list[float]:
        beginning = f"read {PRIMARY}, {resolution} px, {SMALL_LM}, "
        return [round(record["test"], 4) for record in records if record["key"].startswith(beginning)]

    floor = max((r["blind"] for r in records if "blind" in r), default=float("nan"))
    found = ", ".join(f"{size} px {values(size)}" for size in (MAIN_RESOLUTION, LOW_RESOLUTION))
    return f"power check: {found}, floor {floor:.4f}"
