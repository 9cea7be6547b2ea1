"""The paper's comparison at small scale: caption quality, MAE, data efficiency, on composed scenes with exact masks.

    qualityclip reproduce --budget full --out X           (one core, an hour or two; laptop: under a minute)
    qualityclip reproduce --grid --device cuda --out X    (a GPU: the same plan with larger numbers)

Fixed before the run. Data: OpenMoji pictures composed into scenes of 48 px, two to four objects on textured
backgrounds; class, depth and boxes exact. 8,000 pretraining scenes of 72 named concepts (six of each of twelve
families) with one caption each. Segmentation classes are 12 concepts, one a family, that no caption names and no
pretraining scene shows (only their siblings); 400 labelled scenes, 300 for validation, 2,000 test scenes. The easy
split has 12 named concepts.
Caption tiers (`scene_captions`): generic; noisy (nouns dropped with chance 1/2, wrong with 0.3); matched (noisy with a
filler for each dropped noun: as long as complete ones); nouns (complete); attributes; relations; shuffled.
Towers: a small MCi of timm (dims 16 to 64) for captions and data efficiency, a ViT (patch 8, width 64, 2 layers)
where MAE is compared. CLIP's loss, batches of 64, AdamW, cosine; steps as in `Scale`. MAE, supervision (exact labels of
named concepts) and CLIP with a ViT have equal FLOPs (`equal_steps`); a further MAE has four times the steps. Rates:
three trials (`Scale.rates`, `Scale.mci_rates`) of half the steps for each of nouns, matched and the ViTs on nouns,
matched, MAE, supervised, by validation mIoU with a seed of its own; other arms take that of the arm named in `ARMS`.
Primary: mIoU of a frozen linear head, nouns against matched (noisy at equal length), MCi; minimum effect 0.01.
Against MAE relative differences in %, minimum half of the abstract's (6.05 mIoU, 5.75 RMSE). Data efficiency:
`iso_performance_ratio` of nouns on 0.1, 0.3 and 1 of the pairs (equal steps) against matched on all, and of both on 40,
120 and 400 labelled scenes; control 1, minimum effect half of the paper's gain (4.5). The same head, rates and steps
for every arm. Further rows: ViT, untrained weights, fine-tuning with layer decay and drop path, depth, detection,
retrieval, tiers.
Five paired seeds (weights, order, caption noise) for `PRIMARY`, three for the others, whose rows can show a direction
at most; tasks called extras have two. The order is that of `plan_runs`, what exists is judged: first the power check
(`verdicts.power_check`: two seeds of nouns against shuffled), then the headline.
Laptop trains CLIP and MAE with the ViT and one seed at the recorded rates, and is held against the recorded seeds;
smoke shows that it runs and judges nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.claims import ClaimResult
from tenfold_shared.files import write_json
from tenfold_shared.progress import progress

from qualityclip import verdicts
from qualityclip.experiment import ARMS, TUNING_SEED, Scale, run_arm, tune_rate
from qualityclip.plots import draw_bars, draw_curve
from qualityclip.world import World, WorldSize

Budget = Literal["smoke", "laptop", "full"]
DEFAULT_RATE = 3e-3
HEADLINE = ("nouns", "matched")
AGAINST_MAE = ("vit nouns", "vit mae")
PRIMARY = (*HEADLINE, "untrained", *AGAINST_MAE)
OTHERS = tuple(arm for arm in ARMS if arm not in PRIMARY)
POWER_CHECK = ("nouns", "shuffled")
FULL = Scale(PRIMARY, OTHERS, tune=True)
SCALES: dict[str, Scale] = {
    "smoke": Scale(
        ("nouns", "matched", "vit nouns", "vit mae"), (), 1,
        world=WorldSize(per_family=2, num_pairs=128, num_labelled=40, num_validation=20, num_test=40, num_retrieval=30),
        batch_size=32, steps=2, mci_steps=2, dense_steps=3, tuned_steps=2, box_steps=2,
    ),
    "laptop": replace(FULL, arms=AGAINST_MAE, other_arms=(), num_seeds=1, tune=False, extra_seeds=0),
    "full": FULL,
    "grid": replace(
        FULL, arms=tuple(ARMS), other_arms=(), batch_size=512, steps=12_000, mci_steps=12_000, dense_steps=4_000,
        tuned_steps=2_000, box_steps=4_000, extra_seeds=5, rates=(5e-4, 1e-3, 2e-3),
        mci_rates=(5e-4, 1e-3, 2e-3),
        world=WorldSize(128, 8, 100_000, 2_000, 500, 2_000, 1_000),
    ),
}  # fmt: skip


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms on composed scenes and judge the paper's claims.

    Finished runs in `out/BUDGET/runs` are not trained again.

    Args:
        out: Existing folder; gets the runs and the figures.
        budget: "smoke" (few steps of four arms), "laptop" (CLIP and MAE with the ViT, one seed) or "full" (all).
        seed: The first of the seeds.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    return run_scale(out, budget, seed)


def run_scale(
    out: Path, name: str, seed: int, *, device: str = "cpu", quiet: bool = False, judge_only: bool = False
) -> list[ClaimResult]:
    """Do what `reproduce` does at one of `SCALES`; "grid" is the full plan for a GPU.

    Args:
        out: Existing folder.
        name: Of the scale.
        seed: The first of the seeds.
        device: Where it runs.
        quiet: No progress.
        judge_only: Train nothing; judge the finished runs.
    """
    start, scale, work = time.perf_counter(), replace(SCALES[name], device=device), out / name
    (work / "runs").mkdir(parents=True, exist_ok=True)
    world = World(scale.world)
    jobs = [] if judge_only else plan_runs(scale, seed)
    rates = find_rates(work, scale, world, quiet=quiet) if jobs else {}
    for arm, its_seed in progress(jobs, description="runs", unit="runs", quiet=quiet):
        run_arm(work / "runs", arm, scale, world, (its_seed, rates.get(ARMS[arm].rate_of or arm, DEFAULT_RATE)))
    results = read_runs(work / "runs")
    write_json(work / "runs.json", results)
    budget: Budget = "smoke" if name == "smoke" else "laptop" if name == "laptop" else "full"
    claims = judge(out, results, scale, budget=budget, seconds=time.perf_counter() - start)
    return claims + (verdicts.not_attempted(claims) if budget == "full" else [])


def plan_runs(scale: Scale, seed: int) -> list[tuple[str, int]]:
    """Return (arm, seed) in order, so that a run that is cut short has what matters most.

    Two seeds of the power check, all seeds of the headline, those of the other main arms, the rest seed by seed.
    """
    counts = dict.fromkeys(scale.arms, scale.num_seeds) | dict.fromkeys(scale.other_arms, scale.other_seeds)
    order = [(arm, number) for number in range(2) for arm in POWER_CHECK]
    for arms in (HEADLINE, scale.arms, scale.other_arms):
        order += [(arm, number) for number in range(scale.num_seeds) for arm in arms]
    order = [(arm, seed + number) for arm, number in order if number < counts.get(arm, 0)]
    return list(dict.fromkeys(order))


def judge_recorded(out: Path) -> list[ClaimResult]:
    """Return the claims of the runs that come with the package."""
    runs = recorded("runs.json") or {}
    seconds = sum(run["pretrain_seconds"] + run["judge_seconds"] for each in runs.values() for run in each)
    return judge(out, runs, FULL, budget="full", seconds=seconds)


def judge(out: Path, results: verdicts.Runs, scale: Scale, *, budget: Budget, seconds: float) -> list[ClaimResult]:
    """Return the claims of the runs that exist, and draw their figures."""
    size = scale.world
    return verdicts.judge(
        results,
        budget=budget,
        data=f"OpenMoji pictures composed into {size.num_pairs} scenes of {size.image_size} px; batches of "
        f"{scale.batch_size}: {scale.steps} with a ViT (rates tried {_join(scale.rates)}), {scale.mci_steps} with MCi "
        f"({_join(scale.mci_rates)})",
        seconds=seconds,
        figures=draw(out, results, size.num_pairs),
        num_pairs=size.num_pairs,
    )


def _join(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def read_runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the finished runs of each arm, in the order of arms and seeds."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text("utf-8"))
        found[run["arm"]].append(run)
    return {arm: sorted(runs, key=lambda run: run["seed"]) for arm, runs in found.items() if runs}


def find_rates(work: Path, scale: Scale, world: World, *, quiet: bool) -> dict[str, float]:
    """Return each arm's learning rate: tuned now, or the recorded ones."""
    if not scale.tune:
        return recorded("rates.json") or {}
    (work / "tuning").mkdir(exist_ok=True)
    own = [arm for arm in (*scale.arms, *scale.other_arms) if not ARMS[arm].rate_of]
    rates = {
        arm: tune_rate(work / "tuning", arm, scale, world, TUNING_SEED)
        for arm in progress(own, description="rates", unit="arms", quiet=quiet)
    }
    write_json(work / "rates.json", rates)
    return rates


def recorded(name: str) -> dict[str, Any] | None:
    """Return a file of the recorded run that comes with the package, or None."""
    file = resources.files("qualityclip").joinpath("results", name)
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def draw(out: Path, results: verdicts.Runs, num_pairs: int) -> list[str]:
    """Draw both curves and all arms, of this run and, where it lacks them, of the recorded one; return the files."""
    files = draw_runs(out, results, num_pairs, "", "")
    if not set(results) >= {"nouns", "nouns 0.1"}:
        files += draw_runs(out, recorded("runs.json") or {}, FULL.world.num_pairs, "recorded-", "recorded")
    return files


def draw_runs(out: Path, runs: verdicts.Runs, num_pairs: int, prefix: str, title: str) -> list[str]:
    """Draw what some runs have, into files that begin with a prefix; return their names."""
    files = []
    if curves := verdicts.label_curves(runs):
        sizes, ours, control = curves
        files.append(f"{prefix}labels.svg")
        arms = {"complete nouns": ours, "noisy, matched": control}
        draw_curve(out / files[-1], sizes, arms, ("labelled scenes", "mIoU"), title)
    if curves := verdicts.pair_curves(runs):
        sizes, ours, control = curves
        files.append(f"{prefix}pairs.svg")
        arms = {"complete nouns": ours, "noisy, matched, all pairs": control}
        draw_curve(out / files[-1], [s * num_pairs for s in sizes], arms, ("pretraining pairs", "mIoU"), title)
    if runs:
        files.append(f"{prefix}arms.svg")
        scores = {arm: [run["mean_iou"] for run in each] for arm, each in runs.items()}
        draw_bars(out / files[-1], scores, "mIoU, frozen linear head", title)
    return files
