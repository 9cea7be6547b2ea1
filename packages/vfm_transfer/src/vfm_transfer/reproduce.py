"""Task-oriented transfer at small scale: EfficientNet-Lite0 and open_nsfw teach a 28-pixel convolutional network.

    vfm-transfer reproduce --budget full        (half an hour of one core; needs CIFAR-10's test set, see `material`)

Fixed before the run. Data: CIFAR-10's test pictures (32 px, 800 of each class: 100 to draw labels from, 250 pool, 200
gallery, 50 validation, 200 test, no picture in two parts) and, for what anybody can run, the 8,000 Fashion-MNIST
pictures that the package ships, in the same parts. Label draws of 10 (all arms), 5 and 25 a class; a draw also seeds
weights and order, and arms are paired by it. Ten draws of the arms and of the transfer sets, five of the curve, of
scenes, of Fashion-MNIST and of open_nsfw.
Teacher: EfficientNet-Lite0 (ImageNet, from a package) at 64 px, all of it fine-tuned for 40 steps of 32; open_nsfw's
ResNet frozen, its head alone. Student: `convnet` at 28 px, 154,000 parameters, from random weights. Middle step: 250
steps of 64 over 1,500 images with two views, teacher outputs kept; then 100 steps of 64 on the labels. Scratch has 350
steps on the labels. Self-training: the scratch student of the draw teaches a new one. Task-agnostic: cosine, MSE,
contrastive on the pretrained teacher's pooled features; "logits" is the same student distilled on the teacher's
ImageNet logits over the generic images. Every arm with a middle step has six trials of rates (two of the middle step,
three of fine-tuning), scratch six, the teacher three, on validation images of a draw of its own at 10 a class of
CIFAR-10; those rates are used everywhere but for scenes. The curve has 0.2, 0.5, 1 and 3 times the middle step.
Transfer sets, all of 1,500 images: in-domain (pool), generic (crops of scikit-image's photographs), out-of-domain
(scikit-learn's digits), and out of a gallery of 2,000 pictures of the task among 4,000 crops and 1,797 digits: random,
global top, query-balanced by the pretrained teacher's features. Scenes: clothes composed on photographs, 100 labelled
with masks, 1,500 unlabelled, 500 for testing; patch features are the task-agnostic arm. Their teacher sees 96 px with a
map of 6 x 6 cells and has 100 steps; every arm has as many trials of rates there as for classification, on validation
scenes.
Primary metric: test accuracy at 10 a class, oriented minus the strongest control, which is the one of cosine, MSE,
contrastive, logits, self-training and scratch with the highest mean validation accuracy over the draws. Minimum effect:
one point, the lower end of the paper's range. Cost is counted in operations (`ledger`). Runs are made phase by phase,
draws one after the other, and a claims step judges those that exist.
Laptop makes draw 0 of four arms on Fashion-MNIST at the recorded rates, and the recorded figures again from the kept
runs (`results/runs.json`); smoke makes two arms of two steps.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from tenfold_shared.claims import ClaimResult, read_recorded, write_claims
from tenfold_shared.files import write_json

from vfm_transfer.config import Schedule
from vfm_transfer.experiment import TUNING_DRAW, Run, Scale, Setting, end_draw, make_run, tune
from vfm_transfer.verdicts import judge, not_attempted

Budget = Literal["smoke", "laptop", "full"]
LOG = logging.getLogger(__name__)
TUNED = ("oriented", "cosine", "mse", "contrastive", "patch", "logits", "scratch", "self")
SCENES_TUNED = ("scratch", "oriented", "patch", "self")
SETS = ("generic", "out-of-domain", "random", "global", "query-balanced")
FEW = ("teacher", "oriented", "mse", "self", "scratch")
SCENES = Run("teacher", TUNING_DRAW, kind="scenes", world="fashion")
STEPS = (0.2, 0.5, 3.0)
DATA = "CIFAR-10's test pictures and Fashion-MNIST, 1,500 unlabelled and 50 to 250 labelled images; scenes composed"
LAPTOP_DATA = "Fashion-MNIST (shipped), 1,500 unlabelled and 100 labelled images"
LACKING = "the run ended before it had both arms; see the CHANGELOG."
SMOKE = Scale((0,), (10,), 64, 32, Schedule(2, 8, 3e-4, views=0), Schedule(2, 8, views=1), Schedule(2, 8, views=0), 50)


def plan() -> Iterable[list[Run]]:
    """Yield the runs of the full budget, one draw of one phase at a time."""
    for draw in range(10):
        curve = [Run(arm, draw, steps=steps) for arm in ("oriented", "mse") for steps in STEPS]
        yield _all_arms(draw) + (curve if draw < 5 else [])
    for draw in range(10):
        yield from ([Run(arm, draw, budget) for arm in FEW] for budget in (5, 25))
    for draw in range(5):
        yield [Run(arm, draw, world="fashion") for arm in FEW]
    for draw in range(10):
        yield [Run("oriented", draw, kind=kind) for kind in SETS]
    for draw in range(5):
        yield [Run(arm, draw, kind="scenes", world="fashion") for arm in ("teacher", *SCENES_TUNED)]
    for draw in range(5):
        yield [Run(arm, draw, teacher="opennsfw") for arm in ("teacher", "oriented", "mse")]


def _all_arms(draw: int) -> list[Run]:
    agnostic = [Run(arm, draw) for arm in ("cosine", "mse", "contrastive")]
    return [Run("teacher", draw), Run("oriented", draw), *agnostic, Run("logits", draw, kind="generic"),
            Run("scratch", draw), Run("self", draw)]  # fmt: skip


def train_all(out: Path) -> None:
    """Make the runs of the full budget that are missing, and no claims; `VFM_TRANSFER_SECONDS` ends it by the clock."""
    torch.set_num_threads(1)
    deadline = time.time() + float(os.environ.get("VFM_TRANSFER_SECONDS", "inf"))
    setting = Setting(out, Scale())
    tune(setting, TUNED)
    tune(setting, SCENES_TUNED, SCENES)
    for runs in plan():
        for run in runs:
            if time.time() > deadline:
                return
            make_run(setting, run)
        end_draw(setting)


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Make the runs and judge the paper's claims.

    Finished runs in `out` are kept and not made again.

    Args:
        out: Existing folder; gets the runs and the figures.
        budget: "smoke" (two arms of two steps), "laptop" (four arms of a draw on Fashion-MNIST) or "full".
        seed: Label draw of smoke and laptop; full has its own ten.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    if budget == "full":
        train_all(out)
        runs = read_runs(out)
        write_json(out / "runs.json", keep_runs(runs))
        figures, data = _draw(out, runs), DATA
    else:
        runs, data = _small(out, budget, seed), LAPTOP_DATA
        figures = sorted(path.name for path in out.glob("recorded-*.svg"))
    seconds = time.perf_counter() - start
    claims = judge(runs, budget=budget, seconds=seconds, data=data, figures=figures)
    return [*claims, *not_attempted(claims, LACKING if budget == "full" else "")]


def _small(out: Path, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Make the runs that need nothing but the package; at laptop size also hold the kept runs against the record."""
    setting = Setting(out, SMOKE if budget == "smoke" else Scale(), recorded_rates())
    arms = ("oriented", "scratch") if budget == "smoke" else ("teacher", "oriented", "self", "scratch")
    if budget == "laptop" and (kept := recorded_runs()):
        check_recorded(kept)
        _draw(out, kept, "recorded-")
    return [make_run(setting, Run(arm, seed, world="fashion")) for arm in arms]


def _draw(out: Path, runs: Any, prefix: str = "") -> list[str]:
    from vfm_transfer.plots import draw_all

    return draw_all(out, runs, prefix)


def read_runs(out: Path) -> list[dict[str, Any]]:
    """Return what the finished runs of a folder found."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "runs").glob("*.json"))]


def keep_runs(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return runs as the package keeps them: operations to four digits."""
    return [{**run, "flops": {kind: float(f"{value:.4g}") for kind, value in run["flops"].items()}} for run in runs]


def _results(name: str) -> Any:
    file = resources.files("vfm_transfer").joinpath("results", name)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def recorded_runs() -> list[dict[str, Any]]:
    """Return the runs of the recorded experiment."""
    return _results("runs.json") or []


def recorded_rates() -> dict[str, list[float]]:
    """Return the rates that the recorded run was tuned to."""
    trials = _results("rates.json")
    return {arm: max(found, key=lambda trial: trial["val"])["rates"] for arm, found in trials.items()}


def check_recorded(runs: list[dict[str, Any]]) -> None:
    """Hold the figures of the kept runs against the recorded claims.

    Raises:
        RuntimeError: They differ.
    """
    recorded = read_recorded("vfm_transfer")
    again = {claim.claim: claim for claim in judge(runs, budget="full", seconds=0.0, data="")}
    for row in recorded["claims"] if recorded else []:
        if row["ours"] is None:
            continue
        for name in ("ours", "control"):
            estimate = getattr(again[row["claim"]], name)
            if [round(v, 6) for v in estimate.per_seed] != [round(v, 6) for v in row[name]["per_seed"]]:
                raise RuntimeError(f"the kept runs do not give {name} of {row['claim']!r}.")


def judge_finished(out: Path, kept: Path) -> list[ClaimResult]:
    """Judge the runs that exist, without making any; keep runs, rates and figures as the package has them.

    Args:
        out: Folder of a full run, whole or not; gets `claims.json` and the figures.
        kept: Folder for `runs.json` and `rates.json`.
    """
    runs = read_runs(out)
    write_json(kept / "runs.json", keep_runs(runs))
    write_json(kept / "rates.json", json.loads((out / "rates.json").read_text(encoding="utf-8")))
    seconds = sum(run["cpu_seconds"] for run in runs)
    claims = judge(keep_runs(runs), budget="full", seconds=seconds, data=DATA, figures=_draw(out, runs))
    claims = [*claims, *not_attempted(claims, LACKING)]
    write_claims(out / "claims.json", claims)
    return claims


if __name__ == "__main__":
    judge_finished(Path(sys.argv[1]), Path(sys.argv[2]))
