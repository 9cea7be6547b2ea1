"""Task-oriented transfer at small scale: EfficientNet-Lite0 and open_nsfw teach a 28-pixel convolutional network.

    vfm-transfer reproduce --budget full        (half an hour of one core; needs CIFAR-10's test set, see `material`)

Fixed before the run. Data: CIFAR-10's test pictures (32 px, 800 of each class: 100 to draw labels from, 250 pool, 200
gallery, 50 validation, 200 test, no picture in two parts) and, for what anybody can run, the 8,000 Fashion-MNIST
pictures that the package ships, in the same parts. Label draws of 10 (all arms), 5 and 25 a class; a draw also seeds
weights and order, and arms are paired by it. Ten draws of the arms beside the teacher, five of what hangs on the
transfer set, of scenes and of Fashion-MNIST, three of the curve, two of open_nsfw.
Teacher: EfficientNet-Lite0 (ImageNet, from a package) at 64 px, all of it fine-tuned for 40 steps of 32; open_nsfw's
ResNet frozen, its head alone. Student: `convnet` at 28 px, 154,000 parameters, from random weights. Middle step: 250
steps of 64 over 1,500 images with two views, teacher outputs kept; then 100 steps of 64 on the labels. Scratch has 350
steps on the labels. Self-training: the scratch student of the draw teaches a new one. Task-agnostic: cosine, MSE,
contrastive on the pretrained teacher's pooled features; "logits" is the same student distilled on the teacher's
ImageNet logits over the generic images. Every arm with a middle step has six trials of rates (two of the middle step,
three of fine-tuning), scratch six, the teacher three, on validation images of a draw of its own at 10 a class of
CIFAR-10; those rates are used everywhere.
Transfer sets, all of 1,500 images: in-domain (pool), generic (crops of scikit-image's photographs), out-of-domain
(scikit-learn's digits), and out of a gallery of 2,000 pictures of the task among 4,000 crops and 1,797 digits: random,
global top, query-balanced by the pretrained teacher's features. Scenes: clothes composed on photographs, 100 labelled
with masks, 1,500 unlabelled, 500 for testing; patch features are the task-agnostic arm.
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
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from tenfold_shared.claims import ClaimResult
from tenfold_shared.files import write_json

from vfm_transfer.config import Schedule
from vfm_transfer.experiment import Run, Scale, Setting, end_draw, make_run, tune

Budget = Literal["smoke", "laptop", "full"]
LOG = logging.getLogger(__name__)
CONTROLS = ("cosine", "mse", "contrastive", "logits", "self", "scratch")
TUNED = ("oriented", "cosine", "mse", "contrastive", "patch", "logits", "scratch", "self")
SETS = ("generic", "out-of-domain", "random", "global", "query-balanced")
FEW = ("teacher", "oriented", "mse", "self", "scratch")
STEPS = (0.2, 3.0)


def plan() -> Iterable[list[Run]]:
    """Yield the runs of the full budget, one draw of one phase at a time."""
    for draw in range(5):
        yield _all_arms(draw) + [Run("oriented", draw, kind=kind) for kind in SETS]
    for draw in range(5):
        yield [Run(arm, draw, world="fashion") for arm in FEW]
    for draw in range(5):
        yield from ([Run(arm, draw, budget) for arm in FEW] for budget in (5, 25))
    for draw in range(5, 10):
        yield _all_arms(draw)
    for draw in range(5):
        yield [Run(arm, draw, kind="scenes", world="fashion") for arm in ("teacher", "oriented", "patch", "scratch")]
    for draw in range(3):
        yield [Run(arm, draw, steps=steps) for arm in ("oriented", "mse") for steps in STEPS]
    for draw in range(2):
        yield [Run(arm, draw, teacher="opennsfw") for arm in ("teacher", "oriented", "mse")]
    for draw in range(5, 10):
        yield from ([Run(arm, draw, budget) for arm in FEW] for budget in (5, 25))


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
    for runs in plan():
        for run in runs:
            if time.time() > deadline:
                return
            make_run(setting, run)
        end_draw(setting)
