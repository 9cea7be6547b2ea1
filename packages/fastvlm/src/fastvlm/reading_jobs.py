"""The trainings of the reading experiment as jobs: what each needs, what it trains, what it records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.files import atomic_write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, NAMES, Pages, Split
from fastvlm.readers import ARMS, LANGUAGE_MODELS, Reader, SmallLM, answer_logits, build_encoder
from fastvlm.reading_data import CROP, Device, PageTensors, Words, stack_resolutions
from fastvlm.reading_stages import (
    Size,
    page_accuracy,
    pretrain_encoder,
    pretrain_language_model,
    text_accuracy,
    train_blind,
    train_reader,
    word_accuracy,
)

Budget = Literal["smoke", "laptop", "full"]
SMALL_LM, LARGE_LM = LANGUAGE_MODELS
PRIMARY, CONTROLS, TILES = "FastViTHD", ("ViT + pruning", "ViT + pooling"), "FastViTHD, 2 x 2 tiles"
MAIN_RESOLUTION, LOW_RESOLUTION = 256, 128
TUNING_SHARE = 4  # of the steps, one over this
MAX_RETRIES = 2


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


# Nobody learns to read in a minute of a laptop: below the full budget it is shown that all of it runs.
_SMALL = Plan(
    1, 0, 32, (48, 16, 16), 32, (128, 256), Size(2, 8, 1e-3), Size(4, 8, 2e-3), Size(2, 4, 1e-3), (1e-3,), (1e-3,),
    main_only=True,
)  # fmt: skip
PLANS: dict[Budget, Plan] = {
    "smoke": _SMALL,
    "laptop": _SMALL,
    "full": Plan(
        5, 2, 128, (12_000, 500, 2000), 4000, (128, 192, 256, 384), Size(1200, 128, 0.0), Size(600, 64, 1e-3),
        Size(1000, 64, 0.0), (7e-4, 2e-3), (5e-4, 1.5e-3),
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
        size = replace(plan.read, rate=lab.best_rate(trials), seed=seed)
        if equal:
            ours, theirs = (count_operations(name, resolution, language) for name in (PRIMARY, arm))
            size = replace(size, steps=max(1, round(size.steps * ours / theirs)))
        return _read(lab, arm, resolution, language, size)

    return Job(_key((arm, resolution, language, seed, equal)), needs, run)


def _preparation(plan: Plan, key: str) -> Job:
    """Return the job of a key that is not a reader's."""
    kind, _, rest = key.partition(" ")
    name, _, last = rest.rpartition(", ")
    if kind == "language":
        return Job(key, (), lambda lab: _language(lab, key, name, _seed(last)))
    trials = {rate: f"pretrain {name}, {rate:g}" for rate in plan.pretrain_rates}
    if kind == "encoder":
        return Job(key, tuple(trials.values()), lambda lab: _encoder(lab, key, name, trials, _seed(last)))
    if kind == "pretrain":
        return Job(key, (), lambda lab: _pretrain(lab, name, _shorten(plan.pretrain, float(last)))[1])
    language = plan.language_models[0]
    needs = (f"encoder {ARMS[name].encoder}, seed 0", f"language {language}, seed 0")
    short = _shorten(plan.read, float(last))
    return Job(key, needs, lambda lab: _read(lab, name, MAIN_RESOLUTION, language, short, split="validation"))


def _seed(text: str) -> int:
    return int(text.removeprefix("seed "))


def _shorten(size: Size, rate: float) -> Size:
    return replace(size, steps=max(1, size.steps // TUNING_SHARE), rate=rate)


def _pretrain(lab: Laboratory, name: str, size: Size) -> tuple[nn.Module, dict[str, Any]]:
    pages = lab.all_resolutions("train")
    model, loss = pretrain_encoder(name, pages, lab.words, size, lab.device)
    for _ in range(MAX_RETRIES):
        if math.isfinite(loss):
            break
        size = replace(size, rate=size.rate / 2)  # it diverged; the record says at which rate it did not
        model, loss = pretrain_encoder(name, pages, lab.words, size, lab.device)
    accuracy = word_accuracy(model, lab.all_resolutions("validation"), lab.words, lab.device)
    return model.encoder, {"validation": accuracy, "loss": loss, **vars(size)}


def _encoder(lab: Laboratory, key: str, name: str, trials: Mapping[float, str], seed: int) -> dict[str, Any]:
    encoder, found = _pretrain(lab, name, replace(lab.plan.pretrain, rate=lab.best_rate(trials), seed=seed))
    lab.save(key, encoder)
    return found


def _language(lab: Laboratory, key: str, name: str, seed: int) -> dict[str, Any]:
    size = replace(lab.plan.language, seed=seed)
    model = pretrain_language_model(name, lab.words, size, lab.device)
    lab.save(key, model)
    pages = lab.pages("test", LOW_RESOLUTION)
    blind = train_blind(model, lab.pages("train", LOW_RESOLUTION), lab.words, size, lab.device)
    return {
        "ceiling": text_accuracy(model, pages, lab.words, lab.device),
        "blind": text_accuracy(blind, pages, lab.words, lab.device, blind=True),
    }


def _read(
    lab: Laboratory, arm: str, resolution: int, language: str, size: Size, *, split: Split = "test"
) -> dict[str, Any]:
    parts = (build_encoder(ARMS[arm].encoder), lab.words.language_model(language))
    lab.load(f"encoder {ARMS[arm].encoder}, seed {size.seed}", parts[0])
    lab.load(f"language {language}, seed {size.seed}", parts[1])
    reader, loss = train_reader(ARMS[arm], parts, lab.pages("train", resolution), lab.words, size, lab.device)
    found = {"arm": arm, "resolution": resolution, "language_model": language, "loss": loss, **vars(size)}
    for name in ("validation", split):
        hits = page_accuracy(reader, lab.pages(name, resolution), lab.words, lab.device)
        found[name] = float(hits.mean())
    blank = page_accuracy(reader, lab.pages(split, resolution), lab.words, lab.device, blank=True)
    images = size.steps * size.batch
    operations = count_operations(arm, resolution, language) * images
    return {**found, "blank": float(blank.mean()), "images": images, "operations": operations}


@cache
def count_operations(arm: str, resolution: int, language: str) -> float:
    """Return floating-point operations of training on one page: three forward passes' worth."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        reader = Reader(ARMS[arm], build_encoder(ARMS[arm].encoder), SmallLM(LANGUAGE_MODELS[language])).eval()
        image = reader.image_tokens(torch.empty(1, 1, resolution, resolution))
        for length in (3 * MAX_QUESTIONS, MAX_WORDS):  # questions, and the page read aloud
            answer_logits(reader.language_model, image, torch.zeros(1, length, dtype=torch.long))
    return 3.0 * counter.get_total_flops()
