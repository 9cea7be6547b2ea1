"""Resolution scaling alone gives the best trade-off (Sec. 3.2), tried on synthetic pages of real sentences.

Fixed before the run. Data: `fastvlm.pages`: 24 to 40 words of a Wikipedia article on a page of 512 px, downsampled to
128, 192, 256 or 384 px, so that resolution is information. Question: which word follows X; exact match on 2,000 pages
of articles and of word pairs that training never asks. Arms: FastViTHD's shape (one token per 64 x 64 px), a ViT (16 x
16), the ViT with its tokens pruned or pooled to FastViTHD's number, FastViTHD on 2 x 2 tiles and an overview; two
language models. Every encoder has the same word-contrastive pre-training, every language model has learned to find the
word after X in text, every reader then trains all its parts, with equal images; where it says so, with equal training
operations instead. Each arm's learning rate is the better of two on validation pages (one seed, a quarter of the
steps), as is each encoder's. Floors: blank pages, and a language model that has trained on the questions alone;
ceiling: the words given as text. Power check, run first: FastViTHD at 256 px against itself at 128 px, two seeds.

Primary: exact match of FastViTHD at 256 px (16 tokens) with the smaller language model; control: the better of pruning
and pooling at 256 px (16 tokens), chosen on validation pages; seeds pair; minimum effect 0.03. Training seeds that
the time did not suffice for are left out, for both sides.

    python -m fastvlm.reading --out reading --budget full --seconds 280 --workers 4       (one GPU)
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.files import atomic_write, plain_json, write_json

from fastvlm.pages import NAMES, PageOptions, load_pages
from fastvlm.reading_data import Device
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

logger = logging.getLogger(__name__)
WAIT_SECONDS = 0.2
GRACE_SECONDS = 8.0  # for what is running when the time is up
MAX_FAILURES = 8


def prepare_pages(folder: Path, plan: Plan, workers: int, fonts: Path | None = None) -> None:
    """Draw all pages into the folder, once."""
    options = PageOptions(plan.num_words, plan.font_sizes, font_folder=fonts, resolutions=plan.resolutions)
    for split, count in zip(("train", "validation", "test"), plan.pages, strict=True):
        if (folder / "pages" / f"{split}.spoken.npy").exists():
            continue
        pages = load_pages(split, count, options=options, workers=workers)  # type: ignore[arg-type]
        arrays = {str(size): pixels for size, pixels in pages.pixels.items()}
        for name, array in {**arrays, **{name: getattr(pages, name) for name in NAMES}}.items():
            with atomic_write(folder / "pages" / f"{split}.{name}.npy") as file:
                np.save(file, array)


def work(folder: Path, plan: Plan, device: Device, deadline: float) -> None:
    """Do jobs, the first that nobody has begun and whose needs are there, until none is left or time is up."""
    torch.set_num_threads(1)
    lab, jobs = Laboratory(folder, plan, device), make_jobs(plan)
    while time.time() < deadline:
        open_jobs = [job for job in jobs if not (folder / "begun" / job.key).exists()]
        ready = [job for job in open_jobs if all(lab.record(need) for need in job.needs)]
        if not open_jobs:
            return
        if not ready or not _begin(folder, ready[0].key):
            time.sleep(0 if ready else WAIT_SECONDS)
            continue
        started = time.process_time(), time.perf_counter()
        found = ready[0].run(lab)
        spent = {"cpu_seconds": time.process_time() - started[0], "seconds": time.perf_counter() - started[1]}
        _free(device.name)
        row = plain_json({"key": ready[0].key, **found, **spent})
        write_json(folder / "records" / f"{ready[0].key}.json", row)
        logger.info("%s: %s", ready[0].key, {k: round(v, 4) for k, v in found.items() if isinstance(v, float)})


def _free(device: str) -> None:
    """Give back what a training held on the device: recorded steps live in cycles."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _begin(folder: Path, key: str) -> bool:
    """Claim a job; of several processes one succeeds."""
    try:
        with open(folder / "begun" / key, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def run_jobs(
    folder: Path, budget: Budget, *, device: str, seconds: float, workers: int = 1, fonts: Path | None = None
) -> list[dict[str, Any]]:
    """Draw pages, train what the plan asks for, and return the records.

    What was begun and not finished by an earlier call is done again.

    Args:
        folder: Of pages, parts and records; made if missing.
        budget: Which plan.
        device: "cpu" or "cuda".
        seconds: After which no training is begun.
        workers: Processes; 1 works here.
        fonts: Folder of DejaVu, by default matplotlib's.
    """
    deadline, plan = time.time() + seconds, PLANS[budget]
    for name in ("records", "parts", "begun", "pages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in (folder / "begun").iterdir():
        if not (folder / "records" / f"{file.name}.json").exists():
            file.unlink()
    prepare_pages(folder, plan, 0 if workers == 1 else workers, fonts)
    if workers == 1:
        threads = torch.get_num_threads()
        work(folder, plan, Device(device), deadline)
        torch.set_num_threads(threads)
    else:
        _work_together(folder, plan, device, deadline, workers)
    return read_records(folder)


def _work_together(folder: Path, plan: Plan, device: str, deadline: float, workers: int) -> None:
    """Let processes work until the time is up; one that dies is replaced once its job was not at fault twice."""
    context, failed = get_context("spawn"), set()

    def start(graphs: bool) -> Any:
        process = context.Process(target=_log_and_work, args=(folder, plan, Device(device, graphs), deadline))
        process.start()
        return process

    processes = [start(True) for _ in range(workers)]
    while any(process.is_alive() for process in processes) and time.time() < deadline + GRACE_SECONDS:
        time.sleep(WAIT_SECONDS)
        for index, process in enumerate(processes):
            if process.exitcode and time.time() < deadline and len(failed) < MAX_FAILURES:
                _release(folder, process.pid, failed)
                processes[index] = start(False)
    for process in processes:
        process.kill()


def _release(folder: Path, pid: int | None, failed: set[str]) -> None:
    """Let another process try what a dead one had begun; what has failed before stays as it is."""
    for claim in (folder / "begun").iterdir():
        if claim.read_text() == str(pid) and not (folder / "records" / f"{claim.name}.json").exists():
            if claim.name not in failed:
                claim.unlink()
            failed.add(claim.name)


def _log_and_work(*arguments: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work(*arguments)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return all records of a folder."""
    return [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]


def check_power(records: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence what the power check found."""

    def values(resolution: int) -> list[float]:
        found = [r for r in records if r.get("arm") == PRIMARY and r["resolution"] == resolution and r["seed"] < 2]
        found = [r for r in found if r["language_model"] == SMALL_LM and "test" in r]
        return [round(r["test"], 4) for r in found]

    floor = max((r["blind"] for r in records if "blind" in r), default=float("nan"))
    ceiling = max((r["ceiling"] for r in records if "ceiling" in r), default=float("nan"))
    found = ", ".join(f"{size} px {values(size)}" for size in (MAIN_RESOLUTION, LOW_RESOLUTION))
    return f"power check: {found}, floor {floor:.4f}, ceiling {ceiling:.4f}"


def main() -> None:
    """Train the plan of a budget and write all records into one file."""
    parser = argparse.ArgumentParser(description="Train the readers of the reading experiment.")
    parser.add_argument("--work", type=Path, required=True, help="folder of pages, parts and records")
    parser.add_argument("--out", type=Path, required=True, help="file for all records")
    parser.add_argument("--budget", choices=list(PLANS), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--fonts", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    records = run_jobs(
        options.work, options.budget, device=options.device, seconds=options.seconds, workers=options.workers,
        fonts=options.fonts,
    )  # fmt: skip
    write_json(options.out, records)
    print(check_power(records))


if __name__ == "__main__":
    main()
