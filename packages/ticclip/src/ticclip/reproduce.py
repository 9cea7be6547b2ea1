"""TiC-CLIP's comparison at laptop scale: a real stream of icons in seven releases, every method, the compute of each.

    ticclip reproduce --budget laptop        (two cores, two and a half minutes; full: two to three hours)

Fixed before the run. Data: Material Design icons with the words of their names, 32 px, seven steps (major releases 1
to 7; 342 to 1,256 training icons each); a fifth held out for testing, a tenth for validation, variants of one base
name and equal pictures on one side across all steps. Second stream: OpenMoji by day, six steps. Positive control for
forgetting: the same icons ordered by family. Shift: a linear probe that predicts the step, against shuffled steps.
Model: ViT of 32 px, patch 8, width 96, 4 layers, and 2 text layers. C = 48 updates of 128 pairs for each step; AdamW,
cosine, pictures moved by up to 2 px. Rates are tuned for each arm alike, by one trial each of (1e-3, 2e-3, 4e-3), on
validation items after the first two steps, with a seed of their own (full; else the recorded ones).
Score: recall@1, mean of both directions, in pools of one size for every step (that of the smallest step), chance of a
hit computed over all such pools. `final`: the last model's mean over all steps; `averaged`: every model's over the
steps it has seen; in-domain, backward, forward as in the paper.
Primary: cumulative-all at 0.5, 1, 1.5, 2, 3 C per step against the oracle (from scratch on all data so far, tC at
step t, 28 C in all): compute of the oracle over that of cumulative-all where its score equals the oracle's of the
same seed; averaged (all of the oracle's trainings count) and at the final step (its last one alone, 7 C). The bare
ratio of 28 C to 7 C says nothing, and a score that is not reached by 3 C counts as 0. Control: no saving (1); minimum
effect: half of the paper's gain (0.75). Other rows compare two arms at equal compute with the minimum effects in
`verdicts.PAIRS`. Robustness: recall on the last step given recall on the first, models that saw the last step against
those that ended before it. Five seeds (weights and order) for the arms of the primary metric, one for the others, whose
rows can show a direction at most; intervals are paired by seed.
Laptop trains cumulative-all and the oracle's last model with one seed in the same setting, at the recorded rates, and
is held against the recorded seeds; smoke runs several arms for a few updates of a smaller model on three steps, which
shows that it runs and judges nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.claims import ClaimResult
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import write_json
from tenfold_shared.progress import progress

from ticclip import verdicts
from ticclip.comparison import Arm, draw_runs, keep_runs, recorded_runs
from ticclip.config import PRESETS, CLIPConfig, StreamConfig, TrainConfig
from ticclip.icons import build_family_stream, build_stream
from ticclip.index import TimeIndex
from ticclip.probe import shift_strength
from ticclip.stream import RunOptions, run_stream, tune_rate

Budget = Literal["smoke", "laptop", "full"]
RATES = (1e-3, 2e-3, 4e-3)
DEFAULT_RATE = 2e-3
TUNING_SEED = 10_000


ARMS: dict[str, Arm] = {
    **{verdicts.curve_arm(compute): Arm("cumulative-all", compute) for compute in verdicts.COMPUTES},
    "oracle": Arm("oracle"),
    "sequential": Arm("sequential"),
    "restart": Arm("restart"),
    "patching": Arm("patching"),
    "cumulative-exp": Arm("cumulative-exp"),
    "cumulative-equal": Arm("cumulative-equal"),
    "cumulative-balanced": Arm("cumulative-balanced"),
    "cumulative-all*": Arm("cumulative-all*"),
    "lwf": Arm("lwf"),
    "no-warmup": Arm("cumulative-all", boundary="no-warmup"),
    "decay-max": Arm("cumulative-all", boundary="decay-max"),
    "constant-cooldown": Arm("cumulative-all", boundary="constant-cooldown"),
    "family sequential": Arm("sequential", stream="family"),
    "family all": Arm("cumulative-all", stream="family"),
    "openmoji sequential": Arm("sequential", stream="openmoji"),
    "openmoji all": Arm("cumulative-all", stream="openmoji"),
}
PRIMARY = (*map(verdicts.curve_arm, verdicts.COMPUTES), "oracle")


@dataclass(frozen=True)
class Scale:
    """Sizes of one budget; arms beside the primary metric's have `other_seeds`."""

    arms: tuple[str, ...]
    num_seeds: int
    other_seeds: int
    model: CLIPConfig
    batch_size: int
    updates: int
    num_steps: int
    tune: bool
    last_oracle: bool = False


_FULL = Scale(tuple(ARMS), 5, 1, PRESETS["icons"], 128, 48, 0, True)
SCALES: dict[Budget, Scale] = {
    "smoke": Scale(("cumulative-all", "oracle", "sequential", "restart"), 1, 1, PRESETS["tiny"], 64, 3, 3, False),
    "laptop": replace(_FULL, arms=("cumulative-all", "oracle"), num_seeds=1, tune=False, last_oracle=True),
    "full": _FULL,
}


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms on the icons and judge the paper's claims.

    Finished runs in `out/BUDGET/runs` are not trained again, and one that was stopped goes on.

    Args:
        out: Existing folder; gets the runs, a heat-map for each method, score over compute, the robustness fit, and the
            same figures of the recorded run.
        budget: "smoke" (few updates of four arms), "laptop" (two arms, one seed) or "full" (all, five seeds).
        seed: Of the first of the seeds.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start, scale, work = time.perf_counter(), SCALES[budget], out / budget
    seed_everything(seed)
    streams = _streams(work, scale)
    rates = _rates(work, scale, streams)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in scale.arms}
    jobs = [(arm, seed + i) for i in range(scale.num_seeds) for arm in scale.arms if i < _num_seeds(arm, scale)]
    for arm, run_seed in progress(jobs, description="runs", unit="runs"):
        results[arm].append(run_arm(work, arm, scale, streams, (run_seed, rates[arm])))
    probes = [shift_strength(streams["material"], seed + i) for i in range(scale.num_seeds)]
    claims = verdicts.judge(
        results,
        probes,
        budget=budget,
        data=f"Material Design icons, seven releases, 32 px; C = {scale.updates} updates of {scale.batch_size}",
        seconds=time.perf_counter() - start,
        figures=_figures(out, results, budget),
    )
    if budget == "full":
        keep_runs(work / "runs.json", results)
    return [*claims, *verdicts.not_attempted()]


def _figures(out: Path, results: Mapping[str, Sequence[dict[str, Any]]], budget: Budget) -> list[str]:
    """Draw this run; below the full budget also the recorded one, which has all methods."""
    whole = {arm: runs for arm, runs in results.items() if len(runs[0]["ledger"]) == len(runs[0]["steps"])}
    files = draw_runs(out, {arm: (ARMS[arm], runs) for arm, runs in whole.items()})
    if budget == "full":
        return files
    kept = {arm: (ARMS[arm], runs) for arm, runs in recorded_runs().items()}
    return files + draw_runs(out, kept, "recorded")


def _num_seeds(arm: str, scale: Scale) -> int:
    return scale.num_seeds if arm in PRIMARY else scale.other_seeds


def _streams(out: Path, scale: Scale) -> dict[str, TimeIndex]:
    needed = {ARMS[arm].stream for arm in scale.arms}
    found = {"material": TimeIndex(build_stream("material", out / "streams" / "material"))}
    if "openmoji" in needed:
        found["openmoji"] = TimeIndex(build_stream("openmoji", out / "streams" / "openmoji"))
    if "family" in needed:
        found["family"] = TimeIndex(build_family_stream(out / "streams" / "family"))
    return found


def _config(arm: str, scale: Scale, seed: int, rate: float) -> StreamConfig:
    what = ARMS[arm]
    train = TrainConfig(
        batch_size=scale.batch_size, learning_rate=rate, warmup_steps=8, boundary=what.boundary, max_shift=2
    )
    return StreamConfig(
        scale.model,
        train,
        method=what.method,
        samples_per_step=scale.updates * scale.batch_size,
        compute=what.compute,
        seed=seed,
    )


def run_arm(
    out: Path, arm: str, scale: Scale, streams: Mapping[str, TimeIndex], settings: tuple[int, float]
) -> dict[str, Any]:
    """Train one arm with one seed, or read what a run before this one found; `settings` are seed and rate."""
    seed, rate = settings
    folder = out / "runs" / f"{arm}-{seed}-{rate:g}".replace(" ", "_").replace("*", "+")
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    options = RunOptions(checkpoint_every=10_000, num_steps=scale.num_steps, draws=200, quiet=True)
    options = replace(options, last_only=arm == "oracle" and scale.last_oracle)
    return run_stream(streams[ARMS[arm].stream], _config(arm, scale, seed, rate), folder, options=options)


def recorded_rates() -> Path:
    """Return the file with the rates that the recorded run was tuned to."""
    return Path(str(resources.files("ticclip"))) / "results" / "rates.json"


def _rates(out: Path, scale: Scale, streams: Mapping[str, TimeIndex]) -> dict[str, float]:
    """Return each arm's rate: all arms get the same trials, once for a folder; without trials the recorded ones."""
    kept = out / "rates.json"
    if kept.exists():
        return json.loads(kept.read_text())
    if not scale.tune:
        known = json.loads(recorded_rates().read_text())
        return {arm: known[arm] for arm in scale.arms}
    found = {}
    for arm in progress(scale.arms, description="learning rates", unit="arms"):
        folder = out / "rates" / arm.replace(" ", "_").replace("*", "+")
        config = _config(arm, scale, TUNING_SEED, DEFAULT_RATE)
        options = RunOptions(checkpoint_every=10_000, quiet=True)
        found[arm] = tune_rate(streams[ARMS[arm].stream], config, RATES, folder, options)
    write_json(kept, found)
    return found
