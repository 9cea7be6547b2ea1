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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.files import atomic_write, write_json
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, NAMES, PageOptions, Pages, Split, load_pages
from fastvlm.readers import ARMS, LANGUAGE_MODELS, Reader, SmallLM, answer_logits, build_encoder
from fastvlm.reading_stages import (
    CROP,
    Device,
    PageTensors,
    Size,
    Words,
    page_accuracy,
    pretrain_encoder,
    pretrain_language_model,
    stack_resolutions,
    text_accuracy,
    train_blind,
    train_reader,
    word_accuracy,
)

logger = logging.getLogger(__name__)
Budget = Literal["smoke", "laptop", "full"]
SMALL_LM, LARGE_LM = LANGUAGE_MODELS
PRIMARY, CONTROLS, TILES = "FastViTHD", ("ViT + pruning", "ViT + pooling"), "FastViTHD, 2 x 2 tiles"
MAIN_RESOLUTION, LOW_RESOLUTION = 256, 128
WAIT_SECONDS = 0.2
GRACE_SECONDS = 8.0  # for what is running when the time is up
MAX_FAILURES = 8
TUNING_SHARE = 4  # of the steps, one over this


@dataclass(frozen=True)
class Plan:
    """How much a budget trains.

    Args:
        seeds: Of the comparisons that are judged.
        grid_seeds: Of all other settings.
        num_words: Size of the vocabulary.
        pages: Training, validation and test pages.
        contrast_pages: Training pages from which encoders' crops are cut.
        resolutions: In pixels.
        pretrain: Of image encoders; the rate is tuned.
        language: Of language models.
        read: Of readers; the rate is tuned.
        pretrain_rates: Learning rates that are tried for encoders.
        read_rates: Learning rates that are tried for readers.
        language_models: Keys of `LANGUAGE_MODELS`.
        font_sizes: Of the pages.
        main_only: Whether the power check and the primary comparison are all there is.
    """

    seeds: int
    grid_seeds: int
    num_words: int
    pages: tuple[int, int, int]
    contrast_pages: int
    resolutions: tuple[int, ...]
    pretrain: Size
    language: Size
    read: Size
    pretrain_rates: tuple[float, ...]
    read_rates: tuple[float, ...]
    language_models: tuple[str, ...] = (SMALL_LM, LARGE_LM)
    font_sizes: tuple[int, int] = (18, 44)
    main_only: bool = False


PLANS: dict[Budget, Plan] = {
    "smoke": Plan(
        1, 0, 32, (48, 16, 16), 32, (128, 256), Size(2, 8, 1e-3), Size(4, 8, 2e-3), Size(2, 4, 1e-3), (1e-3,), (1e-3,),
        main_only=True,
    ),
    "laptop": Plan(
        1, 0, 32, (400, 60, 200), 200, (128, 256), Size(24, 24, 3e-3), Size(30, 32, 2e-3), Size(12, 6, 1e-3),
        (3e-3,), (1e-3,), main_only=True,
    ),
    "full": Plan(
        5, 2, 128, (12_000, 500, 2000), 4000, (128, 192, 256, 384), Size(1200, 128, 0.0), Size(600, 64, 1e-3),
        Size(1000, 64, 0.0), (1e-3, 3e-3), (5e-4, 1.5e-3),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training and what has to be there before it.

    Args:
        key: Its name and that of its record.
        needs: Keys of other jobs.
        run: Trains in a laboratory and returns the record.
    """

    key: str
    needs: tuple[str, ...]
    run: Callable[[Laboratory], dict[str, Any]]


class Laboratory:
    """A folder of pages, trained parts and records, a plan, and a device.

    Args:
        folder: Of the experiment.
        plan: What is trained.
        device: Where.
    """

    def __init__(self, folder: Path, plan: Plan, device: Device) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        self.words = Words(plan.num_words)
        self._kept: dict[tuple[Split, int], PageTensors] = {}

    def pages(self, split: Split, resolution: int, count: int | None = None) -> PageTensors:
        """Return a split's pages at a resolution of the plan; one set of training pages is kept on the device."""
        if count is None and (split, resolution) in self._kept:
            return self._kept[split, resolution]
        folder = self.folder / "pages"
        pixels = {resolution: np.load(folder / f"{split}.{resolution}.npy", mmap_mode="r")[:count]}
        rest = [np.load(folder / f"{split}.{name}.npy", mmap_mode="r")[:count] for name in NAMES]
        if count is None:
            self._kept = {key: kept for key, kept in self._kept.items() if not key[0] == split == "train"}
        found = PageTensors.of(Pages(pixels, *rest), resolution, self.device.name)
        return found if count is not None else self._kept.setdefault((split, resolution), found)

    def all_resolutions(self, split: Split) -> list[PageTensors]:
        """Return some pages at all resolutions of the plan."""
        count = self.plan.contrast_pages
        return stack_resolutions([self.pages(split, size, count) for size in self.plan.resolutions])

    def record(self, key: str) -> dict[str, Any] | None:
        """Return a job's record, or None."""
        path = self.folder / "records" / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, key: str, module: nn.Module) -> None:
        """Keep a trained part for other jobs."""
        with atomic_write(self.folder / "parts" / f"{key}.pt") as file:
            torch.save(module.state_dict(), file)

    def load(self, key: str, module: nn.Module) -> None:
        """Fill a part with what was kept."""
        state = torch.load(self.folder / "parts" / f"{key}.pt", map_location=self.device.name, weights_only=True)
        module.to(self.device.name).load_state_dict(state)

    def best_rate(self, keys: Mapping[float, str]) -> float:
        """Return the learning rate whose tuning run was best on validation pages."""
        found = {rate: (self.record(key) or {"validation": 0.0})["validation"] for rate, key in keys.items()}
        return max(found, key=lambda rate: found[rate])


def make_jobs(plan: Plan) -> list[Job]:
    """Return all trainings, the most important first: power check, primary, equal operations, the grid."""
    read = [_reading_job(plan, *setting) for setting in _settings(plan)]
    jobs = {job.key: job for job in read}
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        for need in job.needs:
            add(jobs.get(need) or _preparation(plan, need))
        ordered.setdefault(job.key, job)

    for job in read:
        add(job)
    return list(ordered.values())


Setting = tuple[str, int, str, int, bool]  # arm, resolution, language model, seed, equal operations


def _settings(plan: Plan) -> list[Setting]:
    middle, low, small = MAIN_RESOLUTION, LOW_RESOLUTION, plan.language_models[0]
    seeds, few = range(plan.seeds), range(plan.grid_seeds)
    settings: list[Setting] = [(PRIMARY, size, small, seed, False) for seed in seeds[:2] for size in (middle, low)]
    settings += [(arm, middle, small, seed, False) for seed in seeds for arm in (PRIMARY, *CONTROLS)]
    if plan.main_only:
        return settings
    grid = [(arm, size, lm) for lm in plan.language_models for arm in ARMS for size in plan.resolutions]
    grid = [(arm, size, lm) for arm, size, lm in grid if arm != TILES or size >= 2 * CROP]
    first = [cell for cell in grid if cell[0] == PRIMARY]
    settings += [(*cell, seed, False) for seed in few[:1] for cell in first]
    settings += [(TILES, middle, small, seed, False) for seed in seeds]
    settings += [(arm, middle, small, seed, True) for seed in seeds for arm in CONTROLS]
    settings += [(*cell, seed, False) for seed in few for cell in grid]
    settings += [(PRIMARY, size, lm, seed, False) for seed in seeds for _, size, lm in first if plan.grid_seeds]
    return settings


def _key(setting: Setting) -> str:
    arm, resolution, language, seed, equal = setting
    return f"read {arm}, {resolution} px, {language}, seed {seed}" + (", equal operations" if equal else "")


def _reading_job(plan: Plan, *setting: Any) -> Job:
    arm, resolution, language, seed, equal = setting
    trials = {rate: f"tune {arm}, {rate:g}" for rate in plan.read_rates}
    needs = (f"encoder {ARMS[arm].encoder}, seed {seed}", f"language {language}, seed {seed}", *trials.values())

    def run(lab: Laboratory) -> dict[str, Any]:
        rate = lab.best_rate(trials)
        steps = plan.read.steps
        if equal:
            steps = round(
                steps * count_operations(PRIMARY, resolution, language) / count_operations(arm, resolution, language)
            )
        size = Size(max(1, steps), plan.read.batch, rate)
        return _read(lab, arm, resolution, language, seed, size)

    return Job(_key((arm, resolution, language, seed, equal)), needs, run)


def _preparation(plan: Plan, key: str) -> Job:
    """Return the job of a key that is not a reader's."""
    kind, _, rest = key.partition(" ")
    name, _, last = rest.rpartition(", ")
    if kind == "language":
        return Job(key, (), lambda lab: _language(lab, key, name, int(last.removeprefix("seed "))))
    trials = {rate: f"pretrain {name}, {rate:g}" for rate in plan.pretrain_rates}
    if kind == "encoder":
        seed = int(last.removeprefix("seed "))
        return Job(key, tuple(trials.values()), lambda lab: _encoder(lab, key, name, seed, trials))
    short = _shorten(plan.read if kind == "tune" else plan.pretrain, float(last))
    if kind == "pretrain":
        return Job(key, (), lambda lab: _pretrain(lab, name, 0, short)[1])
    needs = (f"encoder {ARMS[name].encoder}, seed 0", f"language {plan.language_models[0]}, seed 0")
    language = plan.language_models[0]
    return Job(key, needs, lambda lab: _read(lab, name, MAIN_RESOLUTION, language, 0, short, split="validation"))


def _shorten(size: Size, rate: float) -> Size:
    return Size(max(1, size.steps // TUNING_SHARE), size.batch, rate)


def _pretrain(lab: Laboratory, name: str, seed: int, size: Size) -> tuple[nn.Module, dict[str, Any]]:
    model, loss = pretrain_encoder(name, lab.all_resolutions("train"), lab.words, size, seed, lab.device)
    accuracy = word_accuracy(model, lab.all_resolutions("validation"), lab.words, lab.device)
    found = {"validation": accuracy, "loss": loss, **vars(size)}
    return model.encoder, found


def _encoder(lab: Laboratory, key: str, name: str, seed: int, trials: Mapping[float, str]) -> dict[str, Any]:
    plan = lab.plan.pretrain
    encoder, found = _pretrain(lab, name, seed, Size(plan.steps, plan.batch, lab.best_rate(trials)))
    lab.save(key, encoder)
    return found


def _language(lab: Laboratory, key: str, name: str, seed: int) -> dict[str, Any]:
    model = pretrain_language_model(name, lab.words, lab.plan.language, seed, lab.device)
    lab.save(key, model)
    pages = lab.pages("test", LOW_RESOLUTION)
    blind = train_blind(model, lab.pages("train", LOW_RESOLUTION), lab.words, lab.plan.language, seed, lab.device)
    return {
        "ceiling": text_accuracy(model, pages, lab.words, lab.device),
        "blind": text_accuracy(blind, pages, lab.words, lab.device, blind=True),
    }


def _read(
    lab: Laboratory, arm: str, resolution: int, language: str, seed: int, size: Size, *, split: Split = "test"
) -> dict[str, Any]:
    parts = (build_encoder(ARMS[arm].encoder), lab.words.language_model(language))
    lab.load(f"encoder {ARMS[arm].encoder}, seed {seed}", parts[0])
    lab.load(f"language {language}, seed {seed}", parts[1])
    pages = lab.pages("train", resolution)
    reader, loss = train_reader(ARMS[arm], parts, pages, lab.words, size, seed, lab.device)
    found = {"arm": arm, "resolution": resolution, "language_model": language, "seed": seed, "loss": loss}
    for name in ("validation", split):
        hits = page_accuracy(reader, lab.pages(name, resolution), lab.words, lab.device)
        found[name] = float(hits.mean())
    blank = page_accuracy(reader, lab.pages(split, resolution), lab.words, lab.device, blank=True)
    operations = count_operations(arm, resolution, language) * size.steps * size.batch
    found |= {"blank": float(blank.mean()), "images": size.steps * size.batch, "operations": operations}
    return {**found, **vars(size)}


@cache
def count_operations(arm: str, resolution: int, language: str) -> float:
    """Return floating-point operations of training on one page: three forward passes' worth."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        reader = Reader(ARMS[arm], build_encoder(ARMS[arm].encoder), SmallLM(LANGUAGE_MODELS[language])).eval()
        image = reader.image_tokens(torch.empty(1, 1, resolution, resolution))
        for length in (3 * MAX_QUESTIONS, MAX_WORDS):  # questions, and the page read aloud
            answer_logits(reader.language_model, image, torch.zeros(1, length, dtype=torch.long))
    return 3.0 * counter.get_total_flops()


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
        write_json(folder / "records" / f"{ready[0].key}.json", {"key": ready[0].key, **found, **spent})
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
    return f"power check: 256 px {values(256)}, 128 px {values(128)}, floor {floor:.4f}, ceiling {ceiling:.4f}"


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
