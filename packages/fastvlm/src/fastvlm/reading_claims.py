"""What the reading experiment shows: its rows, its curves, and the time to the first token of every setting."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mobileclip.timing import torch_threads
from tenfold_shared.benchmarks import interleave
from tenfold_shared.claims import ClaimResult
from tenfold_shared.environment import environment_report
from tenfold_shared.files import write_json
from torch import Tensor

from fastvlm import plots
from fastvlm.pareto import pareto_front
from fastvlm.readers import ARMS, LANGUAGE_MODELS, WHOLE, Arm, Reader, SmallLM, build_encoder
from fastvlm.reading import check_power, run_jobs
from fastvlm.reading_jobs import (
    LOW_RESOLUTION,
    MAIN_RESOLUTION,
    MIDDLE_RESOLUTION,
    PLANS,
    PRIMARY,
    SMALL_LM,
    TILES,
    Budget,
    count_operations,
    is_read,
    prepare_encoder,
)

MINIMUM_EFFECT = 0.03
METRIC = "exact match on held-out pages: which word follows X"
UNTRAINED = "no readers of both sides were trained in the time of this run."
TIMED_ROUNDS: dict[Budget, int] = {"smoke": 1, "laptop": 3, "full": 15}
SECONDS: dict[Budget, float] = {"smoke": 60.0, "laptop": 60.0, "full": 36_000.0}
WORKERS: dict[Budget, int] = {"smoke": 1, "laptop": 1, "full": 2}
Key = tuple[str, int, str]  # arm, resolution, language model
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Contrast:
    """One row: which setting reads better than which, and by how much it should.

    Args:
        claim: In words.
        ours: The setting claimed to read better.
        controls: Settings of which the best on validation pages is the control.
        minimum_effect: Difference of exact match that counts.
    """

    claim: str
    ours: Key
    controls: tuple[Key, ...]
    minimum_effect: float = MINIMUM_EFFECT


MAIN: Key = (PRIMARY, MAIN_RESOLUTION, SMALL_LM)
EQUAL_TOKENS: tuple[Key, ...] = tuple(
    (arm.name, MIDDLE_RESOLUTION, SMALL_LM)
    for arm in ARMS.values()
    if arm.encoder == "vit" and arm.num_tokens(MIDDLE_RESOLUTION) == ARMS[PRIMARY].num_tokens(MAIN_RESOLUTION)
)
CONTRASTS = (
    Contrast(
        "At 36 image tokens, FastViTHD at 384 px reads better than a ViT at 192 px, pruned or pooled (equal images)",
        MAIN,
        EQUAL_TOKENS,
    ),
    Contrast(
        "FastViTHD on a whole page of 384 px reads better than on 2 x 2 tiles of it",
        MAIN,
        ((TILES, MAIN_RESOLUTION, SMALL_LM),),
    ),
    Contrast("FastViTHD reads better at 384 px than at 128 px", MAIN, ((PRIMARY, LOW_RESOLUTION, SMALL_LM),)),
    Contrast(
        "FastViTHD at 384 px reads better than a ViT with all 64 tokens of 128 px, whose first token comes no later",
        MAIN,
        ((WHOLE, LOW_RESOLUTION, SMALL_LM),),
    ),
    Contrast(
        "At 36 image tokens, FastViTHD at 384 px reads better than a pruned ViT of equal operations in pre-training",
        MAIN,
        (("ViT of equal operations, pruned to a quarter", MIDDLE_RESOLUTION, SMALL_LM),),
    ),
)


def measure(out: Path, *, budget: Budget) -> list[ClaimResult]:
    """Train what the budget asks for and is not there yet, time every setting, and judge.

    Args:
        out: Existing folder; gets `reading/` and `reading.svg`.
        budget: "smoke", "laptop" or "full"; full takes over an hour of two cores and goes on from what `reading/`
            holds.

    Returns:
        One row per contrast, not attempted where a side has no records. Below the full budget nobody learns to read in
        the time there is, and nothing is judged.
    """
    folder = out / "reading"
    records = run_jobs(folder, budget, seconds=SECONDS[budget], workers=WORKERS[budget])
    seconds = time_first_token(budget)
    rows = tabulate(records, seconds)
    curves = {"rows": rows, "floors": floors(records), "records": records, "environment": environment_report()}
    write_json(folder / "curves.json", curves)
    draw(out / "reading.svg", curves if budget == "full" else recorded_curves())
    spent = sum(record.get("cpu_seconds", 0.0) for record in records)  # of all jobs, whenever they were done
    facts = partial(_judge, records, rows=rows, budget=budget, seconds=spent)
    return [facts(contrast) or not_trained(contrast, UNTRAINED) for contrast in CONTRASTS]


def not_trained(contrast: Contrast, reason: str) -> ClaimResult:
    """Return the row of a contrast of which one side has not been trained."""
    return ClaimResult.not_attempted(
        paper="fastvlm", claim=contrast.claim, primary_metric=METRIC, paper_value=None, reason=reason
    )


def draw(path: Path, curves: Mapping[str, Any]) -> None:
    """Draw exact match over time to first token."""
    machine = curves["environment"]
    source = f"Full run: {machine['cpu']}, {machine['cores']} cores, commit {machine['commit'][:12]}."
    plots.draw_reading(path, curves["rows"], curves["floors"], source)


def recorded_curves() -> dict[str, Any]:
    """Return `curves.json` of the recorded full run."""
    return json.loads(resources.files("fastvlm").joinpath("results", "reading.json").read_text("utf-8"))


def tabulate(records: Records, seconds: Mapping[Key, float]) -> list[dict[str, Any]]:
    """Return one row per setting: exact match (mean over seeds), tokens, time to the first token, frontier.

    Args:
        records: Of `fastvlm.reading`.
        seconds: To the first token, by setting.
    """
    found: dict[Key, list[float]] = {}
    for record in _readings(records):
        found.setdefault(_key(record), []).append(record["test"])
    rows = [
        {
            "arm": arm,
            "resolution": resolution,
            "llm": language,
            "image_tokens": ARMS[arm].num_tokens(resolution),
            "accuracy": float(np.mean(values)),
            "seeds": len(values),
            "ttft_ms": 1e3 * seconds[arm, resolution, language],
            "training_gflops_per_page": count_operations(arm, resolution, language) / 1e9,
        }
        for (arm, resolution, language), values in sorted(found.items())
        if (arm, resolution, language) in seconds
    ]
    for language in LANGUAGE_MODELS:
        chosen = [row for row in rows if row["llm"] == language]
        front = set(pareto_front(chosen, minimize=["ttft_ms"], maximize=["accuracy"])) if chosen else set()
        for index, row in enumerate(chosen):
            row["pareto"] = index in front
    return rows


def _readings(records: Records) -> list[Mapping[str, Any]]:
    return [record for record in records if record["key"].startswith("read ")]


def _key(record: Mapping[str, Any]) -> Key:
    return record["arm"], record["resolution"], record["language_model"]


def floors(records: Records) -> dict[str, float]:
    """Return what reading is measured against: guessing from words alone, and blank pages."""
    blind = [record["blind"] for record in records if "blind" in record]
    blank = [record["blank"] for record in records if "blank" in record]
    found = {"words alone": blind, "blank pages": blank}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def time_first_token(budget: Budget) -> dict[Key, float]:
    """Return median seconds from a page to the first logits, one page at a time, one thread, encoders as for inference.

    Args:
        budget: How many rounds, and which settings.
    """
    plan = PLANS[budget]
    settings = [
        (arm.name, size, language)
        for language in LANGUAGE_MODELS
        for arm in ARMS.values()
        for size in plan.resolutions
        if is_read(arm, size)
    ]
    calls = {_name(key): _first_token(*key) for key in settings}
    with torch_threads(1), torch.inference_mode():
        seconds = interleave(calls, TIMED_ROUNDS[budget], clock=time.perf_counter)
    return {key: float(np.median(seconds[_name(key)])) for key in settings}


def _name(key: Key) -> str:
    return json.dumps(key)


def _first_token(arm: str, resolution: int, language: str) -> Any:
    reader = _ready(ARMS[arm], language)
    page, question = torch.rand(1, 1, resolution, resolution), torch.zeros(1, 1, dtype=torch.long)

    def call() -> Tensor:
        return reader(page, question)

    return call


def _ready(arm: Arm, language: str) -> Reader:
    encoder = prepare_encoder(arm.encoder, build_encoder(arm.encoder).eval())
    return Reader(arm, encoder, SmallLM(LANGUAGE_MODELS[language])).eval()


def choose_control(contrast: Contrast, records: Records) -> Key | None:
    """Return the control that reads best on validation pages, or None where no control was trained."""
    chosen = _readings(records)
    means = {}
    for key in contrast.controls:
        values = [record["validation"] for record in chosen if _key(record) == key]
        if values:
            means[key] = float(np.mean(values))
    return max(means, key=lambda key: means[key]) if means else None


def pair(contrast: Contrast, control: Key, records: Records) -> tuple[list[float], list[float]]:
    """Return exact match of ours and of the control for the seeds that both have."""
    ours, theirs = (
        {record["seed"]: record["test"] for record in _readings(records) if _key(record) == key}
        for key in (contrast.ours, control)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def _judge(
    records: Records, contrast: Contrast, *, rows: Sequence[Mapping[str, Any]], budget: Budget, seconds: float
) -> ClaimResult | None:
    control = choose_control(contrast, records)
    ours, theirs = pair(contrast, control, records) if control else ([], [])
    if not ours or control is None:
        return None
    plan, marks = PLANS[budget], floors(records)
    arm, resolution, _ = control
    return ClaimResult.compare(
        paper="fastvlm",
        claim=contrast.claim,
        primary_metric=METRIC,
        paper_value=None,
        ours=ours,
        control=theirs,
        control_name=f"{arm}, {resolution} px, {ARMS[arm].num_tokens(resolution)} tokens",
        minimum_effect=contrast.minimum_effect,
        budget="full" if budget == "full" else "smoke",
        evidence="synthetic",
        data=f"synthetic pages of real sentences (Wikipedia): {plan.pages[0]:,} to train, {plan.pages[2]:,} to test; "
        f"{plan.num_words} words; language model of {SMALL_LM}",
        seconds=seconds,
        figures=("reading.svg",),
        note=f"{', '.join(f'{name} {value:.3f}' for name, value in marks.items())}. {check_power(records)}. "
        f"{_describe_best(rows)}",
    )


def _describe_best(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which resolution of FastViTHD reads best, and what lies on the frontier, per language model."""
    parts = []
    for language in dict.fromkeys(row["llm"] for row in rows):
        chosen = [row for row in rows if row["llm"] == language]
        ours = [row for row in chosen if row["arm"] == PRIMARY]
        front = ", ".join(f"{row['arm']} {row['resolution']} px" for row in chosen if row["pareto"])
        best = max(ours, key=lambda row: row["accuracy"])["resolution"] if ours else None
        parts.append(f"With {language}: FastViTHD reads best at {best} px; frontier of exact match over time: {front}.")
    return " ".join(parts)
