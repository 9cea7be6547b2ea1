"""The trainings of the reading experiment as jobs: what each needs, what it trains, what it records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from mobileclip.model import optimize_for_inference
from tenfold_shared.files import atomic_write, plain_json, write_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastvlm.config import STRIDE
from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, NAMES, Pages, Split
from fastvlm.readers import ARMS, LANGUAGE_MODELS, Arm, Encoder, Reader, SmallLM, answer_logits, build_encoder, look
from fastvlm.reading_data import PageTensors, Words, stack_resolutions, to_pixels
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

Part = TypeVar("Part", bound=nn.Module)
Budget = Literal["smoke", "laptop", "full"]
SMALL_LM, LARGE_LM = LANGUAGE_MODELS
PRIMARY, TILES = "FastViTHD", "FastViTHD, 2 x 2 tiles"
MAIN_RESOLUTION, LOW_RESOLUTION, LARGE_RESOLUTION = 256, 128, 384
TUNING_SHARE = 3  # of the steps of an encoder, one over this
MOST_TOKENS = 64  # of an arm; one that leaves tokens out has fewer
LOOK_BATCH = 50


@dataclass(frozen=True)
class Plan:
    """How much a budget trains.

    Args:
        seeds: Of the comparisons that are judged.
        num_words: Size of the vocabulary.
        pages: Training, validation and test pages.
        contrast_pages: Training pages from which encoders' crops are cut.
        resolutions: In pixels.
        pretrain: Of image encoders; the rate is tuned.
        language: Of language models.
        read: Of readers; the rate is tuned.
        pretrain_rates: Learning rates that are tried for encoders.
        read_rates: Learning rates that are tried for readers.
    """

    seeds: int
    num_words: int
    pages: tuple[int, int, int]
    contrast_pages: int
    resolutions: tuple[int, ...]
    pretrain: Size
    language: Size
    read: Size
    pretrain_rates: tuple[float, ...]
    read_rates: tuple[float, ...]


# Nobody learns to read in a minute of a laptop: below the full budget it is shown that all of it runs.
_SMALL = Plan(1, 32, (48, 16, 16), 32, (128, 256), Size(3, 8, 0.0), Size(4, 8, 2e-3), Size(3, 8, 0.0), (1e-3,), (1e-3,))
PLANS: dict[Budget, Plan] = {
    "smoke": _SMALL,
    "laptop": _SMALL,
    "full": Plan(
        5, 32, (16_000, 500, 2000), 6000, (128, 192, 256, 384), Size(1200, 64, 0.0), Size(400, 64, 2e-3),
        Size(1000, 64, 0.0), (1e-3, 3e-3), (1e-3, 3e-3),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Trainings that belong together, and what has to be there before.

    Args:
        key: Its name and that of its record.
        needs: Keys of other jobs.
        run: Trains in a laboratory and returns the record.
    """

    key: str
    needs: tuple[str, ...]
    run: Callable[[Laboratory], dict[str, Any]]


class Laboratory:
    """A folder of pages, trained parts and records, and a plan.

    Args:
        folder: Of the experiment.
        plan: What is trained.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan, self.words = folder, plan, Words(plan.num_words)

    def chunks(self, split: Split, resolutions: Sequence[int], count: int | None = None) -> Iterator[Pages]:
        """Read a split's pages, file by file, until `count` are there."""
        for path in sorted((self.folder / "pages").glob(f"{split}.*.npz")):
            with np.load(path) as found:
                rest = [found[name][:count] for name in NAMES]
                yield Pages({size: found[str(size)][:count] for size in resolutions}, *rest)
            count = None if count is None else max(0, count - len(rest[0]))
            if count == 0:
                return

    def all_resolutions(self, split: Split) -> list[PageTensors]:
        """Return some pages at all resolutions of the plan."""
        sizes = self.plan.resolutions
        pages = _join(list(self.chunks(split, sizes, self.plan.contrast_pages)))
        return stack_resolutions([PageTensors.of(pages, size) for size in sizes])

    def look(
        self, encoder: nn.Module, split: Split, resolution: int, arms: Sequence[Arm]
    ) -> tuple[PageTensors, dict[str, Tensor]]:
        """Return a split's pages (without pixels) and their image tokens by arm, in half precision."""
        facts, tokens = [], []
        for pages in self.chunks(split, [resolution]):
            pixels = torch.from_numpy(pages.pixels[resolution])[:, None]
            with torch.inference_mode():
                for part in pixels.split(LOOK_BATCH):
                    tokens.append({arm: seen.half() for arm, seen in look(encoder, to_pixels(part), arms).items()})
            facts.append(replace(pages, pixels={resolution: pages.pixels[resolution][:, :0]}))
        found = {arm.name: torch.cat([part[arm.name] for part in tokens]) for arm in arms}
        return PageTensors.of(_join(facts), resolution), found

    def record(self, key: str) -> dict[str, Any] | None:
        """Return a job's or a training's record, or None."""
        path = self.folder / "records" / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def keep(self, key: str, found: Mapping[str, Any]) -> None:
        """Write a record."""
        write_json(self.folder / "records" / f"{key}.json", plain_json({**found, "key": key}))

    def save(self, key: str, module: nn.Module) -> None:
        """Keep a trained part for other jobs."""
        with atomic_write(self.folder / "parts" / f"{key}.pt") as file:
            torch.save(module.state_dict(), file)

    def load(self, key: str, module: Part) -> Part:
        """Fill a part with what was kept."""
        module.load_state_dict(torch.load(self.folder / "parts" / f"{key}.pt", weights_only=True))
        return module.eval()

    def best_rate(self, keys: Mapping[float, str]) -> float:
        """Return the learning rate whose tuning run was best on validation pages."""
        found = {rate: (self.record(key) or {"validation": 0.0})["validation"] for rate, key in keys.items()}
        return max(found, key=lambda rate: found[rate])


def _join(parts: Sequence[Pages]) -> Pages:
    pixels = {size: np.concatenate([part.pixels[size] for part in parts]) for size in parts[0].pixels}
    return Pages(pixels, *(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))


Cell = tuple[str, int, int, int]  # encoder, tiles, resolution, seed


def make_jobs(plan: Plan) -> list[Job]:
    """Return all trainings, the most important first: power check, the judged ones, the other settings."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        for need in job.needs:
            add(ordered.get(need) or _make_job(plan, need))
        ordered.setdefault(job.key, job)

    for cell in _cells(plan):
        add(_reading_job(plan, cell))
    return list(ordered.values())


def _cells(plan: Plan) -> list[Cell]:
    sides, middle, low = plan.resolutions, MAIN_RESOLUTION, LOW_RESOLUTION
    judged = [("fastvithd", 1, middle), ("fastvithd", 1, low), ("vit", 1, low), ("vit", 1, middle)]
    cells: list[Cell] = [(*rest, seed) for seed in range(plan.seeds) for rest in judged]
    cells += [("fastvithd", 2, middle, seed) for seed in range(plan.seeds)]
    cells += [("fastvithd", 1, size, 0) for size in sides] + [("vit", 1, size, 0) for size in sides if size <= middle]
    if LARGE_RESOLUTION in sides:
        cells.append(("fastvithd", 2, LARGE_RESOLUTION, 0))
    return list(dict.fromkeys(cells))


def _languages(cell: Cell) -> list[str]:
    """Return the language models that read what an encoder sees: the larger one FastViTHD's whole pages alone."""
    return [SMALL_LM, LARGE_LM] if cell[:2] == ("fastvithd", 1) and cell[3] == 0 else [SMALL_LM]


def _name(cell: Cell) -> str:
    encoder, tiles, resolution, seed = cell
    return f"readers {encoder}, {tiles} tiles, {resolution} px, seed {seed}"


def is_read(arm: Arm, resolution: int) -> bool:
    """Return whether an arm has few enough tokens at a resolution, and tiles of 128 px at least."""
    few = arm.num_tokens(resolution) < MOST_TOKENS + (arm.reduce is None)
    return few and resolution >= arm.tiles * LOW_RESOLUTION


def arms_of(encoder: str, tiles: int, resolution: int) -> list[Arm]:
    """Return the arms that see what an encoder sees."""
    arms = [arm for arm in ARMS.values() if (arm.encoder, arm.tiles) == (encoder, tiles)]
    return [arm for arm in arms if is_read(arm, resolution)]


def _tuning_cell(arm: Arm) -> Cell:
    """Return where an arm's rate is tuned: at 256 px, or at 128 px where that gives 16 tokens or more."""
    return arm.encoder, arm.tiles, MAIN_RESOLUTION if arm.stride == STRIDE else LOW_RESOLUTION, 0


def _trials(plan: Plan, arm: str) -> dict[float, str]:
    return {rate: f"tune {arm}, {rate:g}" for rate in plan.read_rates}


def _reading_job(plan: Plan, cell: Cell) -> Job:
    encoder, tiles, resolution, seed = cell
    arms = arms_of(encoder, tiles, resolution)
    languages = _languages(cell)
    needs = [f"encoder {encoder}, seed {seed}", *(f"language {name}, seed {seed}" for name in languages)]
    needs += dict.fromkeys(_name(_tuning_cell(arm)) for arm in arms if _tuning_cell(arm) != cell)

    def run(lab: Laboratory) -> dict[str, Any]:
        lesson = Lesson(lab, cell, arms)
        for arm in arms:
            if cell == _tuning_cell(arm):
                lesson.tune(arm)
            for language in languages:
                lesson.read(arm, language)
        return {"pages": plan.pages[0]}

    return Job(_name(cell), tuple(needs), run)


def _make_job(plan: Plan, key: str) -> Job:
    """Return the job of a key that stands among others' needs."""
    kind, _, rest = key.partition(" ")
    parts = rest.split(", ")
    last = parts[-1].removeprefix("seed ")
    if kind == "language":
        return Job(key, (), lambda lab: _language(lab, key, parts[0], int(last)))
    if kind == "readers":
        tiles, resolution = (int(part.split()[0]) for part in parts[1:3])
        return _reading_job(plan, (parts[0], tiles, resolution, int(last)))
    trials = {rate: f"pretrain {parts[0]}, {rate:g}" for rate in plan.pretrain_rates}
    if kind == "encoder":
        return Job(key, tuple(trials.values()), lambda lab: _encoder(lab, key, parts[0], trials, int(last)))
    size = replace(plan.pretrain, steps=max(1, plan.pretrain.steps // TUNING_SHARE), rate=float(last))
    return Job(key, (), lambda lab: _pretrain(lab, parts[0], size)[1])


def _pretrain(lab: Laboratory, name: str, size: Size) -> tuple[nn.Module, dict[str, Any]]:
    model, loss = pretrain_encoder(name, lab.all_resolutions("train"), lab.words, size)
    accuracies = word_accuracy(model, lab.all_resolutions("validation"), lab.words)
    return model.encoder, {"validation": float(np.mean(accuracies)), "maps": accuracies, "loss": loss, **vars(size)}


def _encoder(lab: Laboratory, key: str, name: str, trials: Mapping[float, str], seed: int) -> dict[str, Any]:
    encoder, found = _pretrain(lab, name, replace(lab.plan.pretrain, rate=lab.best_rate(trials), seed=seed))
    lab.save(key, encoder)
    return found


def _language(lab: Laboratory, key: str, name: str, seed: int) -> dict[str, Any]:
    size = replace(lab.plan.language, seed=seed)
    model = pretrain_language_model(name, lab.words, size)
    lab.save(key, model)
    train, test = (PageTensors.of(_join(list(lab.chunks(split, [LOW_RESOLUTION]))), LOW_RESOLUTION)
                   for split in ("train", "test"))  # fmt: skip
    blind = train_blind(model, train, lab.words, size)
    return {
        "ceiling": text_accuracy(model, test, lab.words),
        "blind": text_accuracy(blind, test, lab.words, blind=True),
    }


class Lesson:
    """Tokens of all pages as one encoder sees them, and the readers that learn from them.

    Args:
        lab: Where.
        cell: Which encoder, tiles, resolution and seed.
        arms: That are read.
    """

    def __init__(self, lab: Laboratory, cell: Cell, arms: Sequence[Arm]) -> None:
        self.lab, self.cell = lab, cell
        name, _, resolution, seed = cell
        self.encoder = lab.load(f"encoder {name}, seed {seed}", build_encoder(name))
        ready = prepare_encoder(name, self.encoder)
        self.pages, self.tokens = {}, {}
        for split in ("train", "validation", "test"):
            self.pages[split], self.tokens[split] = lab.look(ready, split, resolution, arms)  # type: ignore[arg-type]
        with torch.inference_mode():
            blank = look(ready, torch.zeros(1, 1, resolution, resolution), arms)
        self.blank = {arm: found.clone() for arm, found in blank.items()}

    def tune(self, arm: Arm) -> None:
        """Try all rates with the small language model; what has a record is left out."""
        for rate, key in _trials(self.lab.plan, arm.name).items():
            if self.lab.record(key) is None:
                self.lab.keep(key, self._measure(arm, SMALL_LM, replace(self.lab.plan.read, rate=rate)))

    def read(self, arm: Arm, language: str) -> None:
        """Train a reader and record how it reads; what has a record is left out, what was a trial is taken over."""
        _, _, resolution, seed = self.cell
        key = f"read {arm.name}, {resolution} px, {language}, seed {seed}"
        if self.lab.record(key) is not None:
            return
        trials = _trials(self.lab.plan, arm.name)
        rate = self.lab.best_rate(trials)
        found = self.lab.record(trials[rate]) or {}
        if [found.get(name) for name in ("resolution", "language_model", "seed")] != [resolution, language, seed]:
            found = self._measure(arm, language, replace(self.lab.plan.read, rate=rate, seed=seed))
        self.lab.keep(key, found)

    def _measure(self, arm: Arm, language: str, size: Size) -> dict[str, Any]:
        reader, loss = self._train(arm, language, size)
        facts = {"arm": arm.name, "resolution": self.cell[2], "language_model": language, "loss": loss, **vars(size)}
        found = {split: self._accuracy(reader, split) for split in ("validation", "test")}
        blank = page_accuracy(reader, self.blank[arm.name], self.pages["test"], self.lab.words)
        return {**facts, **found, "blank": float(blank.mean()), "images": size.steps * size.batch}

    def _train(self, arm: Arm, language: str, size: Size) -> tuple[Reader, float]:
        torch.manual_seed(size.seed)
        model = self.lab.load(f"language {language}, seed {size.seed}", self.lab.words.language_model(language))
        reader = Reader(arm, self.encoder, model)
        loss = train_reader(reader, self.tokens["train"][arm.name], self.pages["train"], self.lab.words, size)
        return reader, loss

    def _accuracy(self, reader: Reader, split: str) -> float:
        tokens = self.tokens[split][reader.arm.name]
        return float(page_accuracy(reader, tokens, self.pages[split], self.lab.words).mean())


def prepare_encoder(name: str, encoder: Encoder) -> Encoder:
    """Return an encoder as for inference: FastViTHD with its branches fused."""
    if name == "fastvithd":
        ready = build_encoder(name).eval()
        ready.load_state_dict(encoder.state_dict())
        ready.body = optimize_for_inference(ready.body)
        return ready
    return encoder


@cache
def count_operations(arm: str, resolution: int, language: str) -> float:
    """Return floating-point operations of reading one page in training: its tokens once, three passes over them."""
    with torch.device("meta"):
        encoder = build_encoder(ARMS[arm].encoder).eval()
        reader = Reader(ARMS[arm], encoder, SmallLM(LANGUAGE_MODELS[language])).eval()
        with FlopCounterMode(display=False) as looking:
            tokens = look(encoder, torch.empty(1, 1, resolution, resolution), [ARMS[arm]])[arm]
        with FlopCounterMode(display=False) as reading:
            image = reader.projector(tokens)
            for length in (3 * MAX_QUESTIONS, MAX_WORDS):  # questions, and the page read aloud
                answer_logits(reader.language_model, image, torch.zeros(1, length, dtype=torch.long))
    return float(looking.get_total_flops() + 3 * reading.get_total_flops())
