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

from fastvlm.cells import Layout
from fastvlm.encoder import prune_tokens
from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, NAMES, Pages, Split
from fastvlm.readers import ARMS, LANGUAGE_MODELS, SHORT_VIT, WHOLE, Arm, Encoder, Reader, SmallLM, build_encoder, look
from fastvlm.reading_data import CROP, PageTensors, Words, stack_resolutions, to_pixels
from fastvlm.reading_stages import (
    Size,
    align_projector,
    blind_accuracy,
    cell_accuracy,
    page_accuracy,
    pretrain_encoder,
    pretrain_language_model,
    train_blind,
    train_reader,
    word_accuracy,
)

Part = TypeVar("Part", bound=nn.Module)
Budget = Literal["smoke", "laptop", "full"]
SMALL_LM, LARGE_LM = LANGUAGE_MODELS
PRIMARY, TILES = "FastViTHD", "FastViTHD, 2 x 2 tiles"
MAIN_RESOLUTION, MIDDLE_RESOLUTION, LOW_RESOLUTION = 384, 192, 128
FEWEST_TOKENS, MOST_TOKENS = 16, 64  # of a ViT's arms; one that leaves tokens out or averages them has fewer than 64
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
        pretrain: Of image encoders.
        language: Of language models.
        align: Of projectors, on the first training pages.
        read: Of readers; the rate is tuned.
        read_rates: Learning rates that are tried for readers.
    """

    seeds: int
    num_words: int
    pages: tuple[int, int, int]
    contrast_pages: int
    resolutions: tuple[int, ...]
    pretrain: Size
    language: Size
    align: Size
    read: Size
    read_rates: tuple[float, ...]


# Nobody learns to read in a minute of a laptop: below the full budget it is shown that all of it runs.
_SMALL = Plan(
    1, 32, (48, 16, 16), 32, (128, 192, 384), Size(3, 8, 3e-3), Size(11, 8, 3e-3), Size(4, 8, 3e-3), Size(3, 8, 0.0),
    (1e-3,),
)  # fmt: skip
PLANS: dict[Budget, Plan] = {
    "smoke": _SMALL,
    "laptop": _SMALL,
    "full": Plan(
        3, 32, (12_000, 500, 2000), 5000, (128, 192, 256, 384), Size(1000, 64, 3e-3), Size(1650, 64, 3e-3),
        Size(1000, 16, 3e-3), Size(400, 64, 0.0), (1e-3, 3e-3),
    ),
}  # fmt: skip
ALIGNED_PAGES = 1500


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
        self, encoder: nn.Module, split: Split, resolution: int, arms: Sequence[Arm], count: int | None = None
    ) -> tuple[PageTensors, dict[str, Tensor]]:
        """Return (some of) a split's pages, without pixels, and their image tokens by arm, in half precision."""
        facts, tokens = [], []
        for pages in self.chunks(split, [resolution], count):
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
    """Return all trainings, the most important first: the primary and its power check, other rows, other settings."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        for need in job.needs:
            add(ordered.get(need) or _make_job(plan, need))
        ordered.setdefault(job.key, job)

    for cell in _cells(plan):
        add(_reading_job(plan, cell))
    return list(ordered.values())


def _cells(plan: Plan) -> list[Cell]:
    sides, high, middle, low = plan.resolutions, MAIN_RESOLUTION, MIDDLE_RESOLUTION, LOW_RESOLUTION
    judged = [("fastvithd", 1, high), ("vit", 1, middle), ("vit", 1, low), ("fastvithd", 1, low)]
    cells: list[Cell] = [(*rest, seed) for seed in range(plan.seeds) for rest in judged]
    cells += [("fastvithd", 2, high, 0), *(("fastvithd", 1, size, 0) for size in sides)]
    cells += [(*rest, seed) for seed in range(plan.seeds) for rest in (("fastvithd", 2, high), (SHORT_VIT, 1, middle))]
    cells += [("vit", 1, size, 0) for size in sides]
    cells += [("fastvithd", 2, size, 0) for size in sides if size >= 2 * low]
    return [cell for cell in dict.fromkeys(cells) if cell[2] in sides]


def _languages(cell: Cell) -> list[str]:
    """Return the language models that read what an encoder sees: both with the first seed, then the smaller one."""
    return [SMALL_LM, LARGE_LM] if cell[3] == 0 else [SMALL_LM]


def _name(cell: Cell) -> str:
    encoder, tiles, resolution, seed = cell
    return f"readers {encoder}, {tiles} tiles, {resolution} px, seed {seed}"


def is_read(arm: Arm, resolution: int) -> bool:
    """Return whether an arm is tried at a resolution.

    A ViT where it keeps all of at most 64 tokens, or 16 or more, and fewer than 64, after pruning or pooling: from 192
    px on to a quarter, from 256 px on to FastViTHD's number; tiles have 128 px at least.
    """
    if arm.reduce is None:
        return resolution >= arm.tiles * LOW_RESOLUTION and arm.num_tokens(resolution) <= MOST_TOKENS
    return resolution > LOW_RESOLUTION and FEWEST_TOKENS <= arm.num_tokens(resolution) < MOST_TOKENS


def list_layouts(plan: Plan) -> list[Layout]:
    """Return how the tokens of all arms lie at all resolutions."""
    found = [arm.layout(size) for arm in ARMS.values() for size in plan.resolutions if is_read(arm, size)]
    return list(dict.fromkeys(found))


def arms_of(encoder: str, tiles: int, resolution: int) -> list[Arm]:
    """Return the arms that see what an encoder sees."""
    arms = [arm for arm in ARMS.values() if (arm.encoder, arm.tiles) == (encoder, tiles)]
    return [arm for arm in arms if is_read(arm, resolution)]


def _tuning_cell(plan: Plan, arm: Arm) -> Cell:
    """Return where an arm's rate is tuned: where it is judged, its largest resolution."""
    return arm.encoder, arm.tiles, max(size for size in plan.resolutions if is_read(arm, size)), 0


def _trials(plan: Plan, arm: str) -> dict[float, str]:
    return {rate: f"tune {arm}, {rate:g}" for rate in plan.read_rates}


def _reading_job(plan: Plan, cell: Cell) -> Job:
    encoder, tiles, resolution, seed = cell
    arms = arms_of(encoder, tiles, resolution)
    languages = _languages(cell)
    needs = [f"encoder {encoder}, seed {seed}", *(f"language {name}" for name in languages)]
    needs += dict.fromkeys(_name(_tuning_cell(plan, arm)) for arm in arms if _tuning_cell(plan, arm) != cell)

    def run(lab: Laboratory) -> dict[str, Any]:
        lesson = Lesson(lab, cell, arms)
        for arm in arms:
            if cell == _tuning_cell(plan, arm):
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
        return Job(key, (), lambda lab: _language(lab, key, parts[0]))
    if kind == "readers":
        tiles, resolution = (int(part.split()[0]) for part in parts[1:3])
        return _reading_job(plan, (parts[0], tiles, resolution, int(last)))
    return Job(key, (), lambda lab: _encoder(lab, key, parts[0], int(last)))


def _encoder(lab: Laboratory, key: str, name: str, seed: int) -> dict[str, Any]:
    size = replace(lab.plan.pretrain, seed=seed)
    if name == SHORT_VIT:
        share = pretraining_operations("fastvithd") / pretraining_operations("vit")
        size = replace(size, steps=round(share * size.steps))
    model, loss = pretrain_encoder(name, lab.all_resolutions("train"), lab.words, size)
    accuracies = word_accuracy(model, lab.all_resolutions("validation"), lab.words)
    lab.save(key, model.encoder)
    return {"maps": accuracies, "loss": loss, **vars(size)}


def _language(lab: Laboratory, key: str, name: str) -> dict[str, Any]:
    layouts, size = list_layouts(lab.plan), lab.plan.language
    train, test = (PageTensors.of(_join(list(lab.chunks(split, [LOW_RESOLUTION]))), LOW_RESOLUTION)
                   for split in ("train", "test"))  # fmt: skip
    model = pretrain_language_model(name, train, layouts, lab.words, size)
    lab.save(key, model)
    blind = train_blind(model, train, lab.words, replace(size, steps=lab.plan.read.steps))
    ceilings = [{**vars(layout), "accuracy": cell_accuracy(model, test, lab.words, layout)} for layout in layouts]
    return {"ceilings": ceilings, "blind": blind_accuracy(blind, test, lab.words)}


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
        first, count = self.tokens["train"], min(ALIGNED_PAGES, lab.plan.pages[0])
        self.whole = {arm.name: first[arm.name][:count] for arm in arms if not arm.layout(resolution).keep}
        if name != "fastvithd" and WHOLE not in self.whole:
            self.whole |= lab.look(ready, "train", resolution, [ARMS[WHOLE]], count)[1]
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
        reader, losses = self._train(arm, language, size)
        facts = {"arm": arm.name, "resolution": self.cell[2], "language_model": language, **losses, **vars(size)}
        found = {split: self._accuracy(reader, split) for split in ("validation", "test")}
        blank = page_accuracy(reader, self.blank[arm.name], self.pages["test"], self.lab.words)
        return {**facts, **found, "blank": float(blank.mean()), "images": size.steps * size.batch}

    def _train(self, arm: Arm, language: str, size: Size) -> tuple[Reader, dict[str, float]]:
        torch.manual_seed(size.seed)
        model = self.lab.load(f"language {language}", self.lab.words.language_model(language))
        reader, pages = Reader(arm, self.encoder, model), self.pages["train"]
        layout = replace(arm.layout(self.cell[2]), keep=0)  # before tokens are left out
        whole = self.whole[WHOLE if arm.reduce is prune_tokens else arm.name]
        aligned = align_projector(reader, whole, pages, layout, replace(self.lab.plan.align, seed=size.seed))
        loss = train_reader(reader, self.tokens["train"][arm.name], pages, self.lab.words, size)
        return reader, {"aligned": aligned, "loss": loss}

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
def pretraining_operations(encoder: str) -> float:
    """Return floating-point operations of an encoder over one crop, forward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_encoder(encoder).maps(torch.empty(1, 1, CROP, CROP))
    return float(counter.get_total_flops())


@cache
def count_operations(arm: str, resolution: int, language: str) -> float:
    """Return floating-point operations of reading one page in training: its tokens once, three passes over them."""
    with torch.device("meta"):
        encoder = build_encoder(ARMS[arm].encoder).eval()
        reader = Reader(ARMS[arm], encoder, SmallLM(LANGUAGE_MODELS[language])).eval()
        with FlopCounterMode(display=False) as looking:
            tokens = look(encoder, torch.empty(1, 1, resolution, resolution), [ARMS[arm]])[arm]
        with FlopCounterMode(display=False) as reading:
            row, asked = (torch.zeros(1, length, dtype=torch.long) for length in (MAX_WORDS, MAX_QUESTIONS))
            reader.language_model(reader.projector(tokens), row, asked)
    return float(looking.get_total_flops() + 3 * reading.get_total_flops())
