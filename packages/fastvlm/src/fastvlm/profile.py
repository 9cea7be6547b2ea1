"""The paper's latency analysis (Sec. 3.2 and 4) as a table: time to first token = image encoder + prefill.

    fastvlm profile --out profile            (two cores: about twenty minutes; goes on after a kill with --resume)

Both terms are measured apart, warm, batch 1, float32: the encoder once per encoder and resolution, the prefill once per
language model and number of tokens; an image in tiles costs its views one after the other. Measurements are rows of
`measurements.jsonl`; table, frontier and figures are made from them.
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError, unknown_name
from tenfold_shared.environment import environment_report, seed_everything
from tenfold_shared.files import append_jsonl, atomic_write, read_jsonl, write_json
from tenfold_shared.progress import progress

from fastvlm import plots
from fastvlm.config import LANGUAGE_MODELS, QWEN2_HALF_B, STRIDE, TEXT_TOKENS, LanguageConfig
from fastvlm.pareto import pareto_front
from fastvlm.peers import EncoderSpec, count_views, find_encoder
from fastvlm.prefill import Prefill, count_flops

logger = logging.getLogger(__name__)

MEASUREMENTS = "measurements.jsonl"
ANY_RESOLUTION = ("fastvithd", "convnext_l")
MAX_CONVNEXT = 1024  # ConvNeXt-L takes as long at 1,024 px as all the others together


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Args:
        encoders: Names in `fastvlm.peers.ENCODERS`.
        resolutions: Pixels, for the encoders that take any resolution; ViTs keep the one they were made for.
        tiles: Numbers of tiles of the encoder's own resolution (1: none; several come with an overview).
        language_models: Names in `fastvlm.config.LANGUAGE_MODELS`.
        text_tokens: Tokens beside those of the image.
        rounds: Timed passes, after one that is not counted.
        layers: Decoder layers that run; the others' time is extrapolated (0: all run).
    """

    encoders: tuple[str, ...] = ("fastvithd", "vit_l_14", "convnext_l", "siglip_so400m")
    resolutions: tuple[int, ...] = (256, 512, 768, 1024, 1536)
    tiles: tuple[int, ...] = (1, 4, 9)
    language_models: tuple[str, ...] = ("qwen2-0.5b", "qwen2-1.5b", "qwen2-7b")
    text_tokens: int = TEXT_TOKENS
    rounds: int = 3
    layers: int = 2

    def __post_init__(self) -> None:
        for name in self.encoders:
            find_encoder(name)
        for name in self.language_models:
            if name not in LANGUAGE_MODELS:
                raise unknown_name("language model", name, list(LANGUAGE_MODELS))
        if bad := [size for size in self.resolutions if size % STRIDE or size <= 0]:
            raise ValueError(
                f"`resolutions` (={bad[0]}) must be divisible by {STRIDE}; use {max(1, bad[0] // 64) * 64}."
            )
        if min(self.rounds, *self.tiles) < 1 or self.layers < 0 or self.text_tokens < 1:
            raise ValueError("`rounds`, `tiles` and `text_tokens` must be at least 1, and `layers` at least 0.")

    def settings(self) -> Iterator[tuple[EncoderSpec, int, int]]:
        """Yield (encoder, pixels per view, tiles)."""
        for name in self.encoders:
            spec = find_encoder(name)
            sizes = self.resolutions if name in ANY_RESOLUTION else (spec.view_size,)
            for size in sizes:
                if name == "convnext_l" and size > MAX_CONVNEXT:
                    continue
                # Tiling a view of more than 768 px makes pictures that no one has measured.
                yield from ((spec, size, tiles) for tiles in self.tiles if tiles == 1 or size <= 768)


def profile(
    out: Path, grid: Grid, *, seed: int = 0, resume: bool = False, accuracy: Path | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Measure a grid and write `profile.csv`, `profile.json`, `pareto.svg` and `ttft.svg`.

    Args:
        out: Folder, made if missing.
        grid: What is measured.
        seed: Of weights and inputs.
        resume: Whether measurements that are already in the folder are kept.
        accuracy: A CSV file with the columns encoder, resolution, tiles, llm, accuracy; then the frontier is that of
            accuracy against time to first token. Without it: of resolution and size of the language model against it.
        quiet: No progress.

    Returns:
        `rows`, `pareto` (indices of rows), `sharing_check`, `environment`, `grid`.

    Raises:
        InputError: The accuracy file lacks a column or a setting.
    """
    seed_everything(seed)
    out.mkdir(parents=True, exist_ok=True)
    known = _read_measurements(out, resume)
    _measure_all(out, grid, known, quiet)
    rows = [_row(grid, known, *setting, name) for setting in grid.settings() for name in grid.language_models]
    maximize = ["effective_resolution", "llm_params_b"]
    if accuracy is not None:
        rows, maximize = _with_accuracy(rows, accuracy), ["accuracy"]
    front = pareto_front(rows, minimize=["ttft_ms"], maximize=maximize)
    rows = [{**row, "pareto": index in front} for index, row in enumerate(rows)]
    result = {
        "grid": asdict(grid),
        "rows": rows,
        "pareto": front,
        "sharing_check": known["sharing"],
        "environment": environment_report(),
        "note": "Language models share one decoder layer's tensors over all layers: the same arithmetic, less memory.",
    }
    _write(out, result, maximize)
    return result


def _measure_all(out: Path, grid: Grid, known: dict[str, Any], quiet: bool) -> None:
    """Take every measurement that is not known yet; each is on disk before the next one starts."""
    encoders = {_encoder_key(spec, size): (spec, size) for spec, size, _ in grid.settings()}
    tokens = sorted({spec.num_tokens(size, tiles) + grid.text_tokens for spec, size, tiles in grid.settings()})
    tasks: dict[str, Callable[[], Any]] = {"sharing": lambda: check_sharing(grid.rounds)}
    for key, (spec, size) in encoders.items():
        tasks[key] = lambda spec=spec, size=size: _measure_encoder(spec, size, grid.rounds)
    for name in grid.language_models:
        for count in tokens:
            key = f"prefill {name} {count} layers {grid.layers}"
            tasks[key] = lambda name=name, count=count: _measure_prefill(LANGUAGE_MODELS[name], count, grid)
    for key, task in progress(tasks.items(), description="profile", unit="measurements", quiet=quiet):
        if key not in known:
            known[key] = task()
            append_jsonl(out / MEASUREMENTS, {"key": key, "value": known[key]})


def _read_measurements(out: Path, resume: bool) -> dict[str, Any]:
    file = out / MEASUREMENTS
    if not resume:
        file.unlink(missing_ok=True)
    return {row["key"]: row["value"] for row in read_jsonl(file)} if file.exists() else {}


def _encoder_key(spec: EncoderSpec, size: int) -> str:
    return f"encoder {spec.name} {size}"


@torch.inference_mode()
def _measure_encoder(spec: EncoderSpec, size: int, rounds: int) -> dict[str, Any]:
    module, pixels = spec.build(size), torch.rand(1, 3, size, size)
    params, flops = spec.count(size)
    return {"seconds": time_calls(lambda: module(pixels), rounds), "params": params, "flops": flops}


def _measure_prefill(config: LanguageConfig, num_tokens: int, grid: Grid) -> dict[str, Any]:
    """Time one prefill; the model is built anew each time, so that no two are in memory at once."""
    model = Prefill(config, grid.layers or None)
    embeds = torch.randn(1, num_tokens, config.dim)
    whole = time_calls(lambda: model(embeds), grid.rounds)
    last = float(np.median(time_calls(lambda: model.read_out(embeds), grid.rounds)))
    seconds = [model.extrapolate(value, last) for value in whole]
    return {"seconds": seconds, "flops": count_flops(config, num_tokens), "layers": model.num_layers}


def check_sharing(rounds: int = 3, num_tokens: int = 256 + TEXT_TOKENS) -> dict[str, float]:
    """Time the 0.5B model with tensors of its own in every layer (2 GB), with shared ones, and extrapolated from two.

    Returns:
        `full_ms`, `shared_ms`, `extrapolated_ms`: medians. They should agree within the machine's noise.
    """
    embeds = torch.randn(1, num_tokens, QWEN2_HALF_B.dim)
    medians = {}
    for name, shared, layers in (("full_ms", False, None), ("shared_ms", True, None), ("extrapolated_ms", True, 2)):
        model = Prefill(QWEN2_HALF_B, layers, shared=shared)
        whole = float(np.median(time_calls(lambda model=model: model(embeds), rounds)))
        last = float(np.median(time_calls(lambda model=model: model.read_out(embeds), rounds)))
        medians[name] = 1e3 * model.extrapolate(whole, last)
    return medians


def time_calls(call: Callable[[], object], rounds: int) -> list[float]:
    """Return wall seconds of `rounds` calls after one that is not counted."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _row(grid: Grid, known: dict[str, Any], spec: EncoderSpec, size: int, tiles: int, llm: str) -> dict[str, Any]:
    tokens = spec.num_tokens(size, tiles)
    encoder = known[_encoder_key(spec, size)]
    prefill = known[f"prefill {llm} {tokens + grid.text_tokens} layers {grid.layers}"]
    encoder_ms = 1e3 * float(np.median(encoder["seconds"])) * count_views(tiles)
    prefill_ms = 1e3 * float(np.median(prefill["seconds"]))
    return {
        "encoder": spec.name,
        "resolution": size,
        "tiles": tiles,
        "effective_resolution": round(size * tiles**0.5),
        "llm": llm,
        "image_tokens": tokens,
        "text_tokens": grid.text_tokens,
        "encoder_ms": round(encoder_ms, 2),
        "prefill_ms": round(prefill_ms, 2),
        "ttft_ms": round(encoder_ms + prefill_ms, 2),
        "encoder_gflop": round(encoder["flops"] * count_views(tiles) / 1e9, 1),
        "prefill_gflop": round(prefill["flops"] / 1e9, 1),
        "encoder_params_m": round(encoder["params"] / 1e6, 1),
        "llm_params_b": round(LANGUAGE_MODELS[llm].num_params / 1e9, 3),
        "layers_run": prefill["layers"],
    }


def _with_accuracy(rows: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Return the rows whose accuracy a file gives, with it."""
    columns = ("encoder", "resolution", "tiles", "llm")
    with file.open(newline="", encoding="utf-8") as handle:
        records = list(csv.DictReader(handle))
    if not records or not {*columns, "accuracy"} <= records[0].keys():
        raise InputError(f"{file} needs the columns {', '.join(columns)}, accuracy.")
    try:
        known = {tuple(record[name] for name in columns): float(record["accuracy"]) for record in records}
    except ValueError as error:
        raise InputError(f"{file} holds an accuracy that is no number: {error}") from error
    found = [(row, known.get(tuple(str(row[name]) for name in columns))) for row in rows]
    if not any(value is not None for _, value in found):
        raise InputError(f"{file} names none of the measured settings.")
    return [{**row, "accuracy": value} for row, value in found if value is not None]


def _write(out: Path, result: dict[str, Any], maximize: Sequence[str]) -> None:
    rows = result["rows"]
    with atomic_write(out / "profile.csv", "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_json(out / "profile.json", result)
    plots.draw_pareto(out / "pareto.svg", rows, quality=maximize[0])
    plots.draw_ttft(out / "ttft.svg", rows)
