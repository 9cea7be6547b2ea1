"""The experiment's runs as figures and claims: what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, Evidence, PaperValue
from tenfold_shared.commands import InputError

from physiomae.experiment import CELLS, MAIN_CELL, WATCH
from physiomae.figures import draw_all, recorded_runs
from physiomae.scores import OURS, Measure, Run, look, score_all, score_missing, score_task, whole

PAPER = "physiomae"
SPECIFICATION = "specification ours: of the paper only the abstract is certain; it prints no number for this claim."
Budget = Literal["smoke", "laptop", "full"]
Runs = dict[str, dict[str, dict[int, Run]]]  # cell -> arm -> seed -> run
CONTRASTIVE = ("contrastive_pairwise", "contrastive_loo")
ALL_EFFECT, MISSING_EFFECT, R2_EFFECT, ATTENTION_EFFECT, UNIT_EFFECT = 0.01, 0.02, 0.05, 0.05, 0.02
DATA = {
    WATCH: "seglearn's watch recordings, ten subjects, each left out in turn",
    MAIN_CELL: "simulator (synthetic only), coupling 0.45, graded; 24 training and 12 test subjects a seed",
}
NAMES = {
    "mae": "masked autoencoding without dropout",
    "random": "random weights",
    "unimodal": "each modality alone, late fusion",
    "cross_only": "cross-modal reconstruction alone",
    "contrastive_loo": "contrastive late fusion, equal work",
    "contrastive_steps": "contrastive late fusion, equal steps",
    "contrastive_pairwise": "contrastive late fusion, pairwise, equal work",
    "mae_drop_contrastive": "dropout and contrast together",
    "placebo": "dropout with a third modality of noise",
    "mae_drop": "masked autoencoding with dropout",
}


@dataclass(frozen=True)
class Pair:
    """One claim: an arm against a control on one measure."""

    claim: str
    ours: str
    control: str
    metric: str
    measure: Measure
    effect: float
    against: Measure | None = None  # of the control, where it is looked at elsewhere


def arrange(runs: Sequence[Run]) -> Runs:
    """Return runs by cell, arm and seed."""
    found: Runs = {}
    for run in runs:
        found.setdefault(run["cell"], {}).setdefault(run["arm"], {})[run["seed"]] = run
    return found


def pairs(tasks: Sequence[str], strongest: str) -> list[Pair]:
    """Return the claims of one world; `strongest` is its strongest contrastive arm at equal work."""
    r2 = "R² of the log spectrum of a modality that is hidden whole, mean over modalities"
    cross, near = "attention to other modalities over chance", "attention to the same second of others over chance"
    unit = "normalised entropy of units' modalities, mean over units"
    every, less = "mean score of three probes, all modalities", "mean score of three probes, some modalities missing"
    found = [
        Pair("Power check: a trained encoder beats random weights", OURS, "random", every, score_all, ALL_EFFECT),
        Pair("Modality dropout helps across tasks", OURS, "mae", every, score_all, ALL_EFFECT),
        Pair("Modality dropout helps when sensors are missing", OURS, "mae", less, score_missing, MISSING_EFFECT),
    ]
    for task in tasks:
        found.append(
            Pair(
                f"Modality dropout helps, {task}", OURS, "mae", f"{task}, all modalities", score_task(task), ALL_EFFECT
            )
        )
    found += [
        Pair("Contrastive late fusion is worse across tasks", OURS, strongest, every, score_all, ALL_EFFECT),
        Pair("Contrastive late fusion is worse, sensors missing", OURS, strongest, less, score_missing, MISSING_EFFECT),
        Pair(
            "Contrastive late fusion is worse at equal steps", OURS, "contrastive_steps", every, score_all, ALL_EFFECT
        ),
        Pair("Joint encoding beats each modality alone", OURS, "unimodal", every, score_all, ALL_EFFECT),
        Pair("Cross-modal reconstruction matters: it alone", "cross_only", "unimodal", every, score_all, ALL_EFFECT),
        Pair("Cross-modal reconstruction needs dropout", OURS, "mae", r2, look("hidden_r2"), R2_EFFECT),
        Pair("Contrast beside dropout helps", "mae_drop_contrastive", OURS, every, score_all, ALL_EFFECT),
        Pair(
            "Placebo control: a modality of noise helps (it should not)", "placebo", OURS, every, score_all, ALL_EFFECT
        ),
    ]
    for claim, metric, name, effect in (
        ("Attention becomes more cross-modal", cross, "cross", ATTENTION_EFFECT),
        ("Attention becomes more aligned in time", near, "aligned", ATTENTION_EFFECT),
        ("Units become more distributed", unit, "distributedness", UNIT_EFFECT),
    ):
        at_loss = look(name, matched=True)
        found.append(Pair(f"{claim}, at equal validation loss", OURS, "mae", metric, look(name), effect, at_loss))
        found.append(Pair(f"{claim} than in random weights", OURS, "random", metric, look(name), effect))
    return found


def judge(runs: Sequence[Run], out: Path, *, budget: Budget, seconds: float) -> list[ClaimResult]:
    """Return all claims that these runs can be asked for, with figures in `out`.

    Args:
        runs: Results of `experiment.run`.
        out: Folder for the figures.
        budget: Of the run.
        seconds: That it took.
    """
    found = arrange(runs)
    if not found:
        raise InputError("no runs to judge.")
    figures = draw_all(out, found)
    if budget != "full":
        figures += draw_all(out, arrange(recorded_runs()), "recorded-")
    rest: dict[str, Any] = {"budget": budget, "seconds": seconds, "figures": tuple(figures)}
    claims = []
    for cell, world, evidence in ((WATCH, "watch", "real"), (MAIN_CELL, "simulator", "synthetic")):
        if arms := found.get(cell):
            tasks = list(whole(next(iter(next(iter(arms.values())).values()))))
            for pair in pairs(tasks, strongest_contrastive(arms)):
                claims += compare(pair, arms, f"{world}: ", DATA[cell], evidence, rest)
    for cell in CELLS:
        if cell in found and len(found) > 2:
            claims += map_claims(cell, found[cell], rest)
    return [*claims, *not_attempted()]


def strongest_contrastive(arms: Mapping[str, Mapping[int, Run]]) -> str:
    """Return the contrastive arm, at equal work, with the highest mean score."""
    there = [arm for arm in CONTRASTIVE if arm in arms]
    return max(there, key=lambda arm: np.mean([score_all(run) for run in arms[arm].values()])) if there else ""


def compare(
    pair: Pair, arms: Mapping[str, Mapping[int, Run]], prefix: str, data: str, evidence: Evidence, rest: dict[str, Any]
) -> list[ClaimResult]:
    """Return the claim of a pair over the seeds that both arms have; nothing where an arm has none."""
    seeds = sorted(arms.get(pair.ours, {}).keys() & arms.get(pair.control, {}).keys())
    if not seeds:
        return []
    against = pair.against or pair.measure
    return [
        ClaimResult.compare(
            paper=PAPER,
            claim=f"{prefix}{pair.claim}",
            primary_metric=pair.metric,
            paper_value=None,
            ours=[pair.measure(arms[pair.ours][seed]) for seed in seeds],
            control=[against(arms[pair.control][seed]) for seed in seeds],
            control_name=NAMES[pair.control],
            minimum_effect=pair.effect,
            evidence=evidence,
            data=data,
            specification=SPECIFICATION,
            note="" if pair.ours == OURS else f"ours: {NAMES[pair.ours]}",
            **rest,
        )
    ]


def map_claims(cell: str, arms: Mapping[str, Mapping[int, Run]], rest: dict[str, Any]) -> list[ClaimResult]:
    """Return the two claims of one cell of the map."""
    coupling, spread = cell.split("-")
    where = f"map, coupling {coupling}, {spread}: "
    every = "mean score of three probes, all modalities"
    data = "simulator (synthetic only); one seed says at most a direction"
    rows = (
        Pair("dropout helps", OURS, "mae", every, score_all, ALL_EFFECT),
        Pair("contrastive late fusion is worse", OURS, "contrastive_loo", every, score_all, ALL_EFFECT),
    )
    return [claim for pair in rows for claim in compare(pair, arms, where, data, "synthetic", rest)]


def not_attempted() -> list[ClaimResult]:
    """Return what cannot be tried here."""
    patients = PaperValue(1985, "1,985 patients of PhysioNet 2018", "abstract", "A")
    reason = (
        "The recordings (135 GB) and a GPU for days are not to be had here. `physiomae prepare cinc2018` makes windows "
        "of them; tests hold it against records in the exact format."
    )
    claims = ("Dropout helps all tasks on PhysioNet 2018", "Contrastive late fusion is worse on PhysioNet 2018")
    return [
        ClaimResult.not_attempted(
            paper=PAPER,
            claim=claim,
            primary_metric="linear probes of stage, arousal and age",
            paper_value=patients,
            reason=reason,
            specification=SPECIFICATION,
        )
        for claim in claims
    ]
