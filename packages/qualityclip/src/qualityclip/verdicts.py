"""The experiment's results as claims: what is compared with what, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

from qualityclip.curve import iso_performance_ratio

PAPER = "qualityclip"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
MIOU = PaperValue(12.1, "+12.1% mIoU over MAE, relative", "abstract", "A")
RMSE = PaperValue(11.5, "-11.5% RMSE against MAE, relative", "abstract", "A")
DATA = PaperValue(10.0, "10x data efficiency", "abstract", "A")
PARAMETERS = PaperValue(6.1, "6.1x fewer parameters than Swin-L", "abstract", "A")
CEILING = 0.9
NOISY = "noisy nouns at matched length"
WEAK = {"untrained": "untrained weights", "generic": "generic captions", "shuffled": "shuffled ones"}
WEAK_CONTROL = "The control is no better here than {}, so reaching it says less than the ratio seems to."
RATIO = (
    "size the control has over size ours needs for the control's mIoU; 0 where the control's score is never reached; "
    "the smallest size measured bounds it from below"
)
AXES = ("pretraining pairs", "labels of the dense task")
CURVE = "complete nouns against noisy ones"


@dataclass(frozen=True)
class Pair:
    """Two arms, what of them is compared, and the least difference that counts."""

    claim: str
    ours: str
    control: str
    control_name: str
    score: str
    minimum: float
    paper: PaperValue | None = None
    relative: bool = False
    smaller: bool = False


MAIN: tuple[Pair, ...] = (
    Pair(
        "Complete nouns give better dense features than noisy ones (mobile backbone, MCi)",
        "nouns", "matched", NOISY, "mean_iou", 0.01,
    ),
    Pair("The same with a ViT", "vit nouns", "vit matched", NOISY, "mean_iou", 0.01),
    Pair(
        "CLIP on complete nouns beats MAE of equal FLOPs, segmentation",
        "vit nouns", "vit mae", "MAE, equal FLOPs", "mean_iou", 6.05, MIOU, relative=True,
    ),
    Pair(
        "CLIP on complete nouns beats MAE of equal FLOPs, depth",
        "vit nouns", "vit mae", "MAE, equal FLOPs", "depth_rmse", 5.75, RMSE, relative=True, smaller=True,
    ),
    Pair(
        "It beats MAE of four times the steps, segmentation",
        "vit nouns", "vit mae 4x", "MAE, four times the FLOPs", "mean_iou", 6.05, MIOU, relative=True,
    ),
    Pair(
        "It beats MAE of four times the steps, depth",
        "vit nouns", "vit mae 4x", "MAE, four times the FLOPs", "depth_rmse", 5.75, RMSE, relative=True, smaller=True,
    ),
)  # fmt: skip
FURTHER: tuple[Pair, ...] = (
    Pair(
        "Positive control: captions must belong to their pictures",
        "nouns", "shuffled", "the same captions, shuffled", "mean_iou", 0.01,
    ),
    Pair("Complete nouns against no pretraining", "nouns", "untrained", "untrained weights", "mean_iou", 0.01),
    Pair("Noisy nouns against no pretraining", "matched", "untrained", "untrained weights", "mean_iou", 0.01),
    Pair("Fine-tuned instead of frozen: complete nouns against noisy ones", "nouns", "matched", NOISY, "tuned", 0.01),
    Pair("Fine-tuned: pretraining on captions beats none", "vit nouns", "vit scratch", "from scratch", "tuned", 0.01),
    Pair(
        "Fine-tuned: CLIP on complete nouns beats MAE of equal FLOPs",
        "vit nouns", "vit mae", "MAE, equal FLOPs", "tuned", 6.05, MIOU, relative=True,
    ),
    Pair("Classes that captions do name (easy split)", "nouns", "matched", NOISY, "easy", 0.01),
    Pair("Depth: complete nouns against noisy ones", "nouns", "matched", NOISY, "depth_rmse", 1.0, None, True, True),
    Pair("Detection: complete nouns against noisy ones (AP)", "nouns", "matched", NOISY, "ap", 0.01),
    Pair(
        "Detection: complete nouns against no pretraining (AP)",
        "nouns", "untrained", "untrained weights", "ap", 0.01,
    ),
    Pair("Retrieval: complete nouns against noisy ones", "nouns", "matched", NOISY, "text_to_image", 0.01),
    Pair(
        "CLIP on complete nouns beats supervision of equal FLOPs by exact labels",
        "vit nouns", "vit supervised", "labels of all named concepts", "mean_iou", 0.01,
    ),
    Pair("Noisy nouns of matched length against shorter ones", "matched", "noisy", "noisy nouns", "mean_iou", 0.01),
    Pair("Noisy nouns beat generic captions", "noisy", "generic", "generic captions", "mean_iou", 0.01),
    Pair("Attributes add to nouns", "attributes", "nouns", "complete nouns", "mean_iou", 0.01),
    Pair("Relations add to attributes", "relations", "attributes", "nouns with attributes", "mean_iou", 0.01),
)  # fmt: skip
PAIRS = MAIN + FURTHER
METRICS = {
    "mean_iou": "mIoU of a frozen linear head on held-out concepts",
    "depth_rmse": "RMSE of depth of a frozen linear head",
    "tuned": "mIoU, fine-tuned with a linear head",
    "easy": "mIoU of a frozen linear head on named concepts",
    "ap": "AP of FCOS on the frozen backbone",
    "text_to_image": "recall@1, text to picture, 200 scenes",
}


def judge(
    results: Runs,
    *,
    budget: Literal["smoke", "laptop", "full"],
    data: str,
    seconds: float,
    figures: Sequence[str],
    num_pairs: int,
) -> list[ClaimResult]:
    """Turn runs into claims; a claim whose arms or scores were not run is left out.

    Args:
        results: Runs of each arm, whatever seeds they have.
        budget: Tier of the run.
        data: One line on data and models.
        seconds: What the run took.
        figures: Files drawn.
        num_pairs: All pretraining pairs.
    """
    rest: dict[str, Any] = {"paper": PAPER, "budget": budget, "evidence": "composed", "data": data}
    rest |= {"seconds": seconds, "figures": tuple(figures)}
    main, further = ([claim for pair in pairs if (claim := _compare(pair, results, rest))] for pairs in (MAIN, FURTHER))
    return main + _ratios(results, rest, num_pairs) + further


def power_check(results: Runs) -> dict[str, Any] | None:
    """Return what must hold before the rest is worth running, of the first two seeds; None without them.

    Complete nouns must beat shuffled captions by more than twice the larger spread over seeds, lie above untrained
    weights (the floor) and below a mIoU of 0.9 (the ceiling).
    """
    runs = paired(results, "nouns", "shuffled")[:2]
    if len(runs) < 2:
        return None
    ours, control = np.array([[run["mean_iou"] for run in seed] for seed in runs]).T
    gap, spread = float((ours - control).mean()), float(max(np.ptp(ours), np.ptp(control)))
    floor = _mean(results["untrained"]) if "untrained" in results else 0.0
    passed = gap > 2 * spread and floor < ours.mean() < CEILING
    return {"gap": gap, "spread": spread, "floor": floor, "score": float(ours.mean()), "passed": bool(passed)}


def _mean(runs: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([run["mean_iou"] for run in runs]))


def paired(results: Runs, *arms: str, score: str = "mean_iou") -> list[tuple[Mapping[str, Any], ...]]:
    """Return the runs of arms for each seed that all of them have, with a score."""
    by_seed = [{run["seed"]: run for run in results.get(arm, ()) if score in run} for arm in arms]
    seeds = sorted(set.intersection(*(set(runs) for runs in by_seed)))
    return [tuple(runs[seed] for runs in by_seed) for seed in seeds]


def _compare(pair: Pair, results: Runs, rest: Mapping[str, Any]) -> ClaimResult | None:
    runs = paired(results, pair.ours, pair.control, score=pair.score)
    if not runs:
        return None
    sign = -1.0 if pair.smaller else 1.0
    ours, control = ([run[place][pair.score] for run in runs] for place in (0, 1))
    metric, note = METRICS[pair.score], _power_note(results) if pair.control == "shuffled" else ""
    if pair.relative:
        note = f"{np.mean(ours):.4g} against {np.mean(control):.4g}."
        ours = [100 * sign * (a / b - 1) for a, b in zip(ours, control, strict=True)]
        control = [0.0] * len(ours)
        metric = f"{'lower' if pair.smaller else 'higher'} than the control by, %: {metric}"
    return ClaimResult.compare(
        claim=pair.claim,
        primary_metric=metric,
        paper_value=pair.paper,
        ours=ours,
        control=control,
        control_name=pair.control_name,
        minimum_effect=pair.minimum,
        note=note,
        **rest,
    )


def _power_note(results: Runs) -> str:
    if (found := power_check(results)) is None:
        return ""
    told = "passed" if found["passed"] else "not passed"
    return f"Power check on two seeds {told}: gap {found['gap']:.3g}, spread {found['spread']:.3g}."


def pair_curves(results: Runs) -> tuple[list[float], np.ndarray, np.ndarray] | None:
    """Return shares of the pairs, mIoU of nouns [seeds, shares], and of matched, all its pairs alone."""
    runs = paired(results, "nouns 0.1", "nouns 0.3", "nouns", "matched")
    if not runs:
        return None
    scores = np.array([[run["mean_iou"] for run in seed] for seed in runs])
    # Of the control only the score with all pairs matters to the ratio.
    return [0.1, 0.3, 1.0], scores[:, :3], np.repeat(scores[:, 3:], 3, axis=1)


def label_curves(results: Runs) -> tuple[list[float], np.ndarray, np.ndarray] | None:
    """Return numbers of labelled scenes and mIoU of nouns and of the noisy arm [seeds, sizes]."""
    runs = paired(results, "nouns", "matched", score="labels")
    if not runs:
        return None
    sizes = sorted(int(size) for size in runs[0][0]["labels"])
    ours, control = (
        np.array([[run[place]["labels"][str(size)] for size in sizes] for run in runs]) for place in (0, 1)
    )
    return [float(size) for size in sizes], ours, control


def _ratios(results: Runs, rest: Mapping[str, Any], num_pairs: int) -> list[ClaimResult]:
    """The two curves: the paper's 10x along pretraining pairs and along labels; 1 is no gain, half of it must show."""
    found_curves = ((pair_curves(results), num_pairs), (label_curves(results), 1))
    claims = []
    for axis, (curves, unit) in zip(AXES, found_curves, strict=True):
        if curves is None:
            continue
        sizes, ours, control = curves
        found = iso_performance_ratio(sizes, ours, control)
        bound = ", a lower bound" if found.at_least else ""
        weak = [arm for arm in WEAK if arm in results and _mean(results[arm]) >= control[:, -1].mean()]
        caveat = f" {WEAK_CONTROL.format(' or '.join(WEAK[arm] for arm in weak))}" if weak else ""
        claims.append(
            ClaimResult.compare(
                claim=f"10x data efficiency along {axis}: {CURVE}",
                primary_metric=RATIO,
                paper_value=DATA,
                ours=list(found.per_seed),
                control=[1.0] * len(found.per_seed),
                control_name=f"{NOISY}, all {sizes[-1] * unit:g}",
                minimum_effect=(DATA.value - 1) / 2,
                note=f"Of the mean curves {found.ratio:.3g}, bootstrap [{found.low:.3g}, {found.high:.3g}]{bound}."
                + caveat,
                **rest,
            )
        )
    return claims


def not_attempted(claims: Sequence[ClaimResult]) -> list[ClaimResult]:
    """Return the paper's claims that need its data and models, and those of a curve that the claims lack."""
    reason = "needs DataCompDR-scale pretraining, ADE20K and Swin-L's weights; loaders, heads and presets are here"
    works = "needs the weights and data of those works; supervised and MAE rows at small scale are above"
    rows: list[tuple[str, str, PaperValue | None, str]] = [
        (f"10x data efficiency along {axis}: {CURVE}", RATIO, DATA, "the runs on fewer pairs have not been made yet")
        for axis in AXES
        if not any(claim.claim.startswith(f"10x data efficiency along {axis}") for claim in claims)
    ]
    rows += [
        (
            "MCi2 with CLIP equals Swin-L of ImageNet-22k on segmentation",
            "parameters at equal mIoU on ADE20K", PARAMETERS, reason,
        ),
        (
            "CLIP on well-aligned pairs beats recent (self-, weakly) supervised pretraining",
            "mIoU on ADE20K, RMSE on NYUv2, AP on COCO", None, works,
        ),
    ]  # fmt: skip
    return [
        ClaimResult.not_attempted(paper=PAPER, claim=claim, primary_metric=metric, paper_value=value, reason=why)
        for claim, metric, value, why in rows
    ]
