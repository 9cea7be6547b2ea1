"""The real runs as claims: mean accuracy of four sets, and what imputation, detection and forecasting say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

Run = dict[str, Any]
Scores = dict[tuple[str, str, str], dict[int, Run]]
POINT, UNTRAINED = 1.0, ("random_sequence", "random")
FEW = ("mae", "next", *UNTRAINED)
SETS = 4
DATA = "GunPoint, ItalyPowerDemand, ArrowHead, BasicMotions of aeon, official splits"
UP_TO = PaperValue(5.9, "5.9 points", "Table 2, frozen: 24.39 - 18.51, ten columns", "V")
BEST = PaperValue(0.9, "0.9 points", "Table 2, frozen: 19.43 - 18.51, ten columns", "V")


def arrange(runs: Sequence[Run]) -> Scores:
    """Return the real runs by task, arm and mode; of classification the mean over sets where all are there."""
    lists: dict[tuple[str, str, str], dict[int, list[Run]]] = {}
    for run in runs:
        if run.get("part") == "real":
            key = (run["task"], run["arm"], run["mode"])
            lists.setdefault(key, {}).setdefault(run["seed"], []).append(run)
    found: Scores = {}
    for key, seeds in lists.items():
        whole = {seed: rows for seed, rows in seeds.items() if key[0] != "classify" or len(rows) == SETS}
        merged = {seed: _merge(rows) for seed, rows in whole.items()}
        if merged:
            found[key] = merged
    return found


def _merge(rows: list[Run]) -> Run:
    return rows[0] if len(rows) == 1 else {"score": float(np.mean([row["score"] for row in rows]))}


def judge(runs: Sequence[Run], rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return the claims that the real runs can be asked for; none where there are none."""
    found = arrange(runs)
    return [*classification(found, rest), *others(found, rest)]


def classification(found: Scores, rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return the claims on mean accuracy."""

    def best(mode: str, arms: Sequence[str] = FEW) -> str:
        there = [arm for arm in arms if ("classify", arm, mode) in found]
        return max(there, key=lambda arm: _mean(found["classify", arm, mode]), default="")

    peers = [arm for arm in ("MiniRocket", "Hydra") if ("classify", arm, "peer") in found]
    peer = max(peers, key=lambda arm: _mean(found["classify", arm, "peer"]), default="")
    rows = [
        ("real: NoTS beats next period, frozen (up to 6 %)", ("nots", "frozen"), ("next", "frozen"), UP_TO),
        ("real: NoTS beats the strongest control, frozen", ("nots", "frozen"), (best("frozen"), "frozen"), BEST),
        ("real: NoTS beats the strongest control, full", ("nots", "full"), (best("full"), "full"), None),
        ("real: NoTS beats the supervised trunk", ("nots", "full"), (best("full", UNTRAINED), "full"), None),
        ("real: NoTS beats the better peer of aeon", ("nots", "full"), (peer, "peer"), None),
        ("real: NoTS boosts PatchTST's trunk", ("patchtst", "boosted"), ("patchtst", "supervised"), None),
        ("real: NoTS boosts iTransformer's trunk", ("itransformer", "boosted"), ("itransformer", "supervised"), None),
    ]
    return [
        claim for text, ours, control, paper in rows for claim in compare(text, found, (ours, control), rest, paper)
    ]


def compare(
    text: str,
    found: Scores,
    pair: tuple[tuple[str, str], tuple[str, str]],
    rest: Mapping[str, Any],
    paper: PaperValue | None,
) -> list[ClaimResult]:
    """Return a claim on mean accuracy over the seeds that both have."""
    ours, control = (found.get(("classify", *one), {}) for one in pair)
    seeds = sorted(ours.keys() & control.keys())
    if not seeds:
        return []
    values = [[one[seed]["score"] for seed in seeds] for one in (ours, control)]
    name = " ".join(pair[1])
    return [_claim(text, "mean accuracy of four sets, per cent", values, (name, POINT), rest, (DATA, paper))]


def others(found: Scores, rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return imputation, detection and forecasting, each against other trunks and a simple method."""
    claims = []
    rows = (
        (
            "impute",
            "full",
            "mse",
            -100.0,
            "linear_mse",
            "linear interpolation",
            "InternalBleeding of KDD-TSAD, a quarter hidden",
        ),
        ("detect", "none", "score", 1.0, "simple", "distance to a running median", "InternalBleeding of KDD-TSAD"),
        ("forecast", "full", "mae", -1.0, "naive_mae", "seasonal naive", "Airline, last 36 months, one step"),
    )
    metrics = {"impute": "minus squared error x100", "detect": "average precision, per cent", "forecast": "minus MAE"}
    for task, mode, key, sign, simple, name, data in rows:
        ours = found.get((task, "nots", mode), {})
        seeds = sorted(ours)
        if not seeds:
            continue
        mine, plain = ([sign * ours[seed][part] for seed in seeds] for part in (key, simple))
        text = f"real: NoTS beats {name} ({task})"
        claims.append(_claim(text, metrics[task], [mine, plain], (name, 0.0), rest, (data, None)))
        for arm in FEW:
            theirs = found.get((task, arm, mode), {})
            both = sorted(ours.keys() & theirs.keys())
            if both:
                values = [[sign * one[seed][key] for seed in both] for one in (ours, theirs)]
                text = f"real: NoTS beats {arm.replace('_', ' ')} ({task})"
                claims.append(_claim(text, metrics[task], values, (arm, 0.0), rest, (data, None)))
    return claims


def _claim(
    text: str,
    metric: str,
    values: Sequence[Sequence[float]],
    control: tuple[str, float],
    rest: Mapping[str, Any],
    origin: tuple[str, PaperValue | None],
) -> ClaimResult:
    """Return one claim; `control` has its name and the minimum effect, `origin` the data and the paper's value."""
    data, paper = origin
    return ClaimResult.compare(
        paper="nots",
        claim=text,
        primary_metric=metric,
        paper_value=paper,
        ours=values[0],
        control=values[1],
        control_name=control[0],
        minimum_effect=control[1],
        evidence="real",
        data=data,
        **rest,
    )


def _mean(runs: Mapping[int, Run]) -> float:
    return float(np.mean([run["score"] for run in runs.values()]))
