"""The experiment's results as claims: what is compared with what, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

from ticclip.robustness import fit_groups, points_of_run

PAPER = "ticclip"
SAVING = PaperValue(2.5, "reduces compute by 2.5x", "abstract", "A")
ACCOUNTING = "At step t both have spent t C; what is saved is the oracle's other trainings (28 C to 7 C)."
ROBUSTNESS = PaperValue(8.0, "about 8 % lower on 2021-2022 data", "abstract", "A")
Runs = Mapping[str, Sequence[dict[str, Any]]]
COMPUTES = (0.5, 1.0, 1.5, 2.0, 3.0)

# Claim, ours, control, score, minimum effect. Scores are recall@1 over pools of one size, 0 to 1.
PAIRS: tuple[tuple[str, str, str, str, float], ...] = (
    ("The task tells methods apart: the strongest beats restarting", "cumulative-all", "restart", "final", 0.02),
    (
        "At C for each step, warm starts with replay end no worse than retraining",
        "cumulative-all",
        "oracle",
        "final",
        0.0,
    ),
    ("Replaying everything forgets less than not replaying", "cumulative-all", "sequential", "backward", 0.02),
    ("Replay of halving shares forgets less than none", "cumulative-exp", "sequential", "backward", 0.02),
    ("Replay of equal shares forgets less than none", "cumulative-equal", "sequential", "backward", 0.02),
    (
        "Balanced batches do not lose against the plain union",
        "cumulative-balanced",
        "cumulative-equal",
        "averaged",
        0.0,
    ),
    ("Patching forgets less than plain fine-tuning", "patching", "sequential", "backward", 0.01),
    ("Distillation forgets less than plain fine-tuning", "lwf", "sequential", "backward", 0.01),
    ("Compute that grows late helps beyond C", "cumulative-all*", "cumulative-all", "final", 0.01),
    ("Re-warming does not lose against no warm-up", "cumulative-all", "no-warmup", "averaged", 0.0),
    ("One maximum does not lose against a decaying one", "cumulative-all", "decay-max", "averaged", 0.0),
    ("Cosine does not lose against constant and cooldown", "cumulative-all", "constant-cooldown", "averaged", 0.0),
    ("Second stream: replay forgets less than none", "openmoji all", "openmoji sequential", "backward", 0.02),
)
FORGETTING = ("family sequential", "family all")


def scores(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a run's scores: `final` is the last model's mean over all steps, `averaged` that of every model over the
    steps it has seen, and the three transfer scores.

    Args:
        result: What `run_stream` returned.
    """
    matrix = np.array(result["retrieval"], dtype=float)
    seen = [matrix[step, : step + 1].mean() for step in range(len(matrix))]
    return {"final": float(matrix[-1].mean()), "averaged": float(np.mean(seen)), **result["transfer"]}


def compute_to_equal(curve: Sequence[tuple[float, float]], target: float) -> float:
    """Return the compute at which a score over compute reaches a target, linear between measured points.

    The first point where it is reached there; infinite if it never is.

    Args:
        curve: (compute in C per step, score), compute rising.
        target: The oracle's score.
    """
    before: tuple[float, float] | None = None
    for compute, score in curve:
        if score >= target:
            if before is None or score == before[1]:
                return compute
            share = (target - before[1]) / (score - before[1])
            return before[0] + share * (compute - before[0])
        before = (compute, score)
    return float("inf")


def saving(results: Runs, name: str) -> list[float]:
    """Return for each seed the oracle's compute over cumulative-all's at equal score; 0 where it is not reached.

    For the final score that is the oracle's last training alone, for the averaged one all its trainings.

    Args:
        results: Runs of each arm, in the order of seeds.
        name: `final` or `averaged`.
    """
    found = []
    for seed, oracle in enumerate(results["oracle"]):
        curve = [(c, scores(results[curve_arm(c)][seed])[name]) for c in COMPUTES if curve_arm(c) in results]
        needed = compute_to_equal(curve, scores(oracle)[name])
        base = results["cumulative-all"][seed]["total_macs"]
        spent = oracle["ledger"][-1]["macs"] if name == "final" else oracle["total_macs"]
        found.append(spent / (base * needed))
    return found


def curve_arm(compute: float) -> str:
    """Return the name of the arm of cumulative-all at a compute."""
    return "cumulative-all" if compute == 1 else f"cumulative-all {compute:g}C"


def judge(
    results: Runs,
    probes: Sequence[Mapping[str, Sequence[float]]],
    *,
    budget: Literal["smoke", "laptop", "full"],
    data: str,
    seconds: float,
    figures: Sequence[str],
) -> list[ClaimResult]:
    """Turn the arms' results into claims; a claim whose arms were not run is left out.

    Args:
        results: Runs of each arm, in the order of seeds.
        probes: What `shift_strength` found, for each seed.
        budget: Tier of the run.
        data: One line on data and model.
        seconds: What the run took.
        figures: Files drawn.
    """
    rest: dict[str, Any] = {"paper": PAPER, "budget": budget, "evidence": "real", "data": data}
    rest |= {"seconds": seconds, "figures": tuple(figures)}
    claims = _savings(results, rest)
    for claim, ours, control, name, minimum in PAIRS:
        if {ours, control} <= set(results):
            pairs = list(zip(results[ours], results[control], strict=False))  # the seeds that both have
            claims.append(
                ClaimResult.compare(
                    claim=claim,
                    primary_metric=f"{name}: recall@1 in pools of one size",
                    paper_value=None,
                    ours=[scores(run)[name] for run, _ in pairs],
                    control=[scores(run)[name] for _, run in pairs],
                    control_name=control,
                    minimum_effect=minimum,
                    **rest,
                )
            )
    claims += _forgetting(results, rest)
    claims.append(_probe(probes, rest))
    return claims + _robust(results, rest)


def _savings(results: Runs, rest: dict[str, Any]) -> list[ClaimResult]:
    """The headline; a saving of 1 is none, and half of the paper's gain is the least that counts."""
    if not {"oracle", *map(curve_arm, COMPUTES)} <= set(results):
        return []
    where = {"averaged": "averaged over the models of all steps", "final": "at the final step"}
    return [
        ClaimResult.compare(
            claim=f"Warm starts with replay reach retraining's score with less compute, {words}",
            primary_metric="compute of the oracle over that of cumulative-all at equal score (0: not reached)",
            paper_value=SAVING,
            ours=saving(results, name),
            control=[1.0] * len(results["oracle"]),
            control_name="oracle: trained from scratch at every step",
            minimum_effect=(SAVING.value - 1) / 2,
            note=ACCOUNTING if name == "averaged" else "",
            **rest,
        )
        for name, words in where.items()
    ]


def _forgetting(results: Runs, rest: dict[str, Any]) -> list[ClaimResult]:
    """The positive control: where steps differ in kind, plain fine-tuning must forget."""
    if not set(FORGETTING) <= set(results):
        return []
    lost = {
        arm: [run["transfer"]["in_domain"] - run["transfer"]["backward"] for run in results[arm]] for arm in FORGETTING
    }
    return [
        ClaimResult.compare(
            claim="Positive control: ordered by family, plain fine-tuning forgets",
            primary_metric="in-domain minus backward recall@1",
            paper_value=None,
            ours=lost[FORGETTING[0]],
            control=lost[FORGETTING[1]],
            control_name="cumulative-all on the same order",
            minimum_effect=0.02,
            **{**rest, "evidence": "composed"},
        )
    ]


def _probe(probes: Sequence[Mapping[str, Sequence[float]]], rest: dict[str, Any]) -> ClaimResult:
    by_step = " ".join(f"{value:.2f}" for value in np.mean([probe["found"] for probe in probes], axis=0))
    return ClaimResult.compare(
        claim="The stream shifts: a linear probe tells an icon's step",
        primary_metric="mean over steps of the share of held-out items whose step is found",
        paper_value=None,
        ours=[float(np.mean(probe["found"])) for probe in probes],
        control=[float(np.mean(probe["shuffled"])) for probe in probes],
        control_name="the probe on shuffled steps",
        minimum_effect=0.02,
        note=f"By step: {by_step}.",
        **rest,
    )


def _robust(results: Runs, rest: dict[str, Any]) -> list[ClaimResult]:
    """New-period recall given old-period recall: models that saw the last step against those that did not."""
    arms = [arm for arm in ("sequential", "cumulative-exp", "cumulative-equal", "cumulative-all") if arm in results]
    if not arms or min(len(results[arms[0]][0]["steps"]), len(arms)) < 2:
        return []
    gaps = []
    for seed in range(min(len(results[arm]) for arm in arms)):
        points = [
            point
            for arm in arms
            for point in points_of_run(results[arm][seed], arm, 0, len(results[arm][seed]["steps"]) - 1)
        ]
        gaps.append(100 * fit_groups(points, draws=10)["gap_one_slope"])
    return [
        ClaimResult.compare(
            claim="Models that saw the newest data do better on it than their old-data recall foretells",
            primary_metric="points of recall@1 on the last step at equal recall on the first",
            paper_value=ROBUSTNESS,
            ours=gaps,
            control=[0.0] * len(gaps),
            control_name="models that ended before it",
            minimum_effect=1.0,
            **rest,
        )
    ]


def not_attempted() -> list[ClaimResult]:
    """Return the paper's claims that need its data."""
    reason = "needs TiC-DataComp (12.7 B pairs) and hundreds of GPU days; the loaders and commands for it are here"
    claims = {
        "Cumulative-All equals the oracle on ImageNet and its shifts": "accuracy on ImageNet and shifts, %",
        "OpenAI's models lose on 2021-2022 retrieval beside OpenCLIP's": "recall@1 on TiC-DataComp retrieval, %",
    }
    return [
        ClaimResult.not_attempted(paper=PAPER, claim=claim, primary_metric=metric, paper_value=value, reason=reason)
        for (claim, metric), value in zip(claims.items(), (None, ROBUSTNESS), strict=True)
    ]
