"""The experiment's runs as claims: what is compared with what, paired by label draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, Evidence, PaperValue

PAPER = "vfm_transfer"
Budget = Literal["smoke", "laptop", "full"]
Runs = Sequence[Mapping[str, Any]]
EFFECT = 1.0  # points of accuracy or mIoU
AGNOSTIC = ("cosine", "mse", "contrastive")
CONTROLS = (*AGNOSTIC, "logits", "self", "scratch")
OVER_AGNOSTIC = PaperValue(10.5, "1 to 10.5 points over task-agnostic", "abstract of the first version", "A")
COMPUTE = PaperValue(9.0, "up to 9 times less pretraining compute, and better", "abstract", "A")
WORDS = {
    "cosine": "task-agnostic cosine",
    "mse": "task-agnostic MSE",
    "contrastive": "task-agnostic contrastive",
    "patch": "task-agnostic patch features",
    "logits": "the teacher's ImageNet logits over the generic images",
    "self": "self-training without a teacher",
    "scratch": "scratch",
    "teacher": "the teacher itself",
}


@dataclass(frozen=True)
class Select:
    """Which runs: an arm in a place.

    Attributes:
        arm: See `experiment.Run`.
        kind: Transfer set; "" is any, as for arms that have none.
        budget: Labels of a class.
        world: Data set.
        steps: Of the middle step.
        teacher: Which one; "" is any.
    """

    arm: str
    kind: str = ""
    budget: int = 10
    world: str = "cifar"
    steps: float = 1.0
    teacher: str = "lite0"

    def of(self, runs: Runs, part: str = "test") -> dict[int, float]:
        """Return the score of every draw, in points."""
        kinds = (self.kind,) if self.kind else ("in-domain", *(["generic"] * (self.arm == "logits")))
        wanted = (self.arm, self.budget, self.world, self.steps, self.teacher)
        return {
            run["draw"]: 100 * run[part]
            for run in runs
            if (run["arm"], run["budget"], run["world"], run["steps"], run["teacher"]) == wanted
            and run["kind"] in kinds
        }


def strongest(runs: Runs, arms: Iterable[str], **place: Any) -> str:
    """Return the arm with the highest mean validation accuracy; "" where none was run."""
    means = {}
    for arm in arms:
        if values := Select(arm, **place).of(runs, "val"):
            means[arm] = float(np.mean(list(values.values())))
    return max(means, key=lambda arm: means[arm]) if means else ""


@dataclass(frozen=True)
class Pair:
    """One comparison.

    Attributes:
        claim: In words.
        ours: What is held to be better.
        control: What it is compared with.
        paper: What the paper says.
        metric: What is measured.
        evidence: Kind of the images.
        note: What else is to be known.
    """

    claim: str
    ours: Select
    control: Select
    paper: PaperValue | None = None
    metric: str = "test accuracy, points"
    evidence: Evidence = "real"
    note: str = ""


def pairs_of(runs: Runs) -> list[Pair]:
    """Return the comparisons; the strongest controls are looked up in the runs."""
    found = []
    if best := strongest(runs, CONTROLS):
        text = "Oriented beats the strongest control, 10 labels a class (primary)"
        note = f"strongest by validation accuracy: {WORDS[best]}"
        found.append(Pair(text, Select("oriented"), Select(best), note=note))
    if best := strongest(runs, AGNOSTIC):
        text, note = (
            "Oriented beats task-agnostic transfer, 10 labels a class",
            f"the best of three losses: {WORDS[best]}",
        )
        found.append(Pair(text, Select("oriented"), Select(best), OVER_AGNOSTIC, note=note))
    for arm in ("logits", "self", "scratch"):
        found.append(Pair(f"Oriented beats {WORDS[arm]}, 10 labels a class", Select("oriented"), Select(arm)))
    for budget in (5, 25):
        for arm in ("mse", "self", "scratch"):
            text = f"Oriented beats {WORDS[arm]}, {budget} labels a class"
            found.append(Pair(text, Select("oriented", budget=budget), Select(arm, budget=budget)))
    found += _transfer_sets()
    found.append(
        Pair("Oriented with a fifth of the steps beats task-agnostic MSE with three times the steps",
             Select("oriented", steps=0.2), Select("mse", steps=3.0), COMPUTE,
             note="a fifteenth of the student's operations in the middle step")
    )  # fmt: skip
    scenes: dict[str, Any] = {"kind": "scenes", "world": "fashion"}
    for arm in ("patch", "self", "scratch"):
        found.append(
            Pair(f"Segmentation: oriented beats {WORDS[arm]}", Select("oriented", **scenes), Select(arm, **scenes),
                 metric="mIoU, points", evidence="composed")
        )  # fmt: skip
    nsfw = {"teacher": "opennsfw"}
    text = "With open_nsfw's frozen ResNet as teacher, oriented beats task-agnostic MSE"
    found.append(Pair(text, Select("oriented", **nsfw), Select("mse", **nsfw)))
    return found + _fashion(runs)


def _transfer_sets() -> list[Pair]:
    order = (
        ("query-balanced", "random"), ("query-balanced", "global"), ("query-balanced", "generic"),
        ("in-domain", "query-balanced"), ("in-domain", "out-of-domain"),
    )  # fmt: skip
    return [
        Pair(f"Transfer set of one size: {better} beats {worse}", Select("oriented", better), Select("oriented", worse))
        for better, worse in order
    ]


def _fashion(runs: Runs) -> list[Pair]:
    """What every laptop can measure again."""
    ours = Select("oriented", world="fashion")
    return [
        Pair(f"Fashion-MNIST: oriented beats {WORDS[arm]}, 10 labels a class", ours, Select(arm, world="fashion"))
        for arm in ("mse", "self", "scratch")
    ]


def judge(runs: Runs, *, budget: Budget, seconds: float, data: str, figures: Sequence[str] = ()) -> list[ClaimResult]:
    """Turn runs into claims; a comparison without a common draw is left out.

    Args:
        runs: Results of `experiment.make_run`.
        budget: Tier.
        seconds: What it took.
        data: Said of every claim.
        figures: Files.
    """
    rest: dict[str, Any] = {"budget": budget, "seconds": seconds, "data": data, "figures": tuple(figures)}
    claims = [] if (power := _power(runs, rest)) is None else [power]
    for pair in pairs_of(runs):
        ours, control = pair.ours.of(runs), pair.control.of(runs)
        if draws := sorted(ours.keys() & control.keys()):
            claims.append(_claim(pair, [ours[d] for d in draws], [control[d] for d in draws], rest))
    return claims


def _claim(pair: Pair, ours: list[float], control: list[float], rest: Mapping[str, Any]) -> ClaimResult:
    return ClaimResult.compare(
        paper=PAPER,
        claim=pair.claim,
        primary_metric=pair.metric,
        paper_value=pair.paper,
        ours=ours,
        control=control,
        control_name=_name(pair),
        minimum_effect=EFFECT,
        evidence=pair.evidence,
        note=pair.note,
        **rest,
    )


def _name(pair: Pair) -> str:
    if pair.ours.arm == pair.control.arm:
        return pair.control.kind
    return WORDS[pair.control.arm]


def _power(runs: Runs, rest: Mapping[str, Any]) -> ClaimResult | None:
    """The teacher knows more than the labels say: otherwise there is nothing to transfer."""
    teacher, scratch = Select("teacher").of(runs), Select("scratch").of(runs)
    draws = sorted(teacher.keys() & scratch.keys())
    if not draws:
        return None
    spread = 2 * float(np.std(list(scratch.values()), ddof=1)) if len(scratch) > 1 else 0.0
    return ClaimResult.compare(
        paper=PAPER,
        claim="Power check: the taught teacher is ahead of scratch by more than twice the spread over draws",
        primary_metric="test accuracy, points",
        paper_value=None,
        ours=[teacher[d] for d in draws],
        control=[scratch[d] + spread for d in draws],
        control_name="scratch plus twice its spread",
        minimum_effect=0.0,
        evidence="real",
        **rest,
    )


def not_attempted(claims: Sequence[ClaimResult], reason: str) -> list[ClaimResult]:
    """Rows for what cannot be tried here, and for the comparisons that a run lacks.

    Args:
        claims: Those that were judged.
        reason: Why a run lacks some.
    """
    known = {claim.claim for claim in claims}
    metric = "test accuracy, points"
    rows = [(pair.claim, pair.paper, reason) for pair in pairs_of([]) if pair.claim not in known and reason]
    rows += [
        (
            "Oriented beats CLIP pretraining of the student",
            PaperValue(22.0, "2 to 22 points", "abstract of the first version", "A"),
            "needs a student pretrained on image-text pairs; no such weights install from a package.",
        ),
        (
            "Oriented beats supervised ImageNet pretraining of the student",
            PaperValue(14.0, "2 to 14 points", "abstract of the first version", "A"),
            "needs the student pretrained on ImageNet; the row on the teacher's ImageNet logits is a different thing.",
        ),
        (
            "Oriented beats self-supervised DINO pretraining of the student",
            PaperValue(29.8, "up to 29.8 points", "abstract", "A"),
            "needs a student pretrained with DINO; no such weights install from a package.",
        ),
        (
            "DINOv2 and CLIP teachers on EuroSAT, HAM10K, Places365, ADE20K and ImageNet",
            PaperValue(11.6, "up to 11.6 points over task-agnostic", "abstract", "A"),
            "neither weights nor data install from packages; `vfm-transfer run` takes both from folders.",
        ),
    ]
    return [
        ClaimResult.not_attempted(paper=PAPER, claim=claim, primary_metric=metric, paper_value=value, reason=why)
        for claim, value, why in rows
    ]
