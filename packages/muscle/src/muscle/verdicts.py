"""The experiment's answers as figures and claims: what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tenfold_shared.claims import ClaimResult, PaperValue

from muscle.flips import Flips, SmoothFlips, smooth_flips

PAPER = "muscle"
Budget = Literal["smoke", "laptop", "full"]
PLAIN, OTHER_SEED, CONTINUED = "plain v2", "another seed of v2", "CE continued"
FEWER = PaperValue(40.6, "up to 40 % fewer negative flips", "abstract; HellaSwag, Llama 1 -> 2", "V")
MASK = PaperValue(34.25, "34.25 % fewer, KL to old 25.80 % fewer", "PIQA, Llama 1 -> 2", "V")
CORRECT = PaperValue(34.25, "34.25 % fewer, old-correct mask 19.76 % fewer", "PIQA, Llama 1 -> 2", "V")
WITH_CE = PaperValue(26.75, "26.75 % fewer with cross-entropy", "PIQA, Llama 1 -> 2", "V")
SMALL_GAIN = PaperValue(5.26, "5.26 % fewer", "HellaSwag, Phi 1 -> 1.5", "V")
GAIN = PaperValue(4.51, "4.51 points more", "PIQA, Llama 1 -> 2", "V")
EFFECT, LEVEL_EFFECT, ERROR_EFFECT = 10.0, 1.0, 1.0  # per cent of plain v2's flips; points; points
POWER_GAIN, POWER_FACTOR = 0.10, 2.0


@dataclass(frozen=True)
class Arm:
    """One arm on one task: for every epoch and seed its level and flips against v1, and the epoch that was selected.

    Attributes:
        level: Accuracy or mean ROUGE-1 [epochs, seeds].
        nfr: Negative flip rate against v1 [epochs, seeds].
        rates: Other rates by name, alike.
        best: Selected epoch [seeds].
    """

    level: np.ndarray
    nfr: np.ndarray
    rates: dict[str, np.ndarray]
    best: np.ndarray

    def at_best(self, name: str = "nfr") -> np.ndarray:
        """Return a rate at each seed's selected epoch [seeds]."""
        values = {"level": self.level, "nfr": self.nfr, **self.rates}[name]
        return values[self.best, np.arange(values.shape[1])]


Arms = dict[str, Arm]
Found = dict[tuple[str, str], Arms]  # by regime and task


def measure(old: np.ndarray, new: np.ndarray, right: tuple[np.ndarray, np.ndarray]) -> Flips | SmoothFlips:
    """Compare encoded answers of one run with v1's; `right` are their scores."""
    if set(np.unique(np.concatenate(right)).tolist()) <= {0.0, 1.0}:
        return Flips.of(right[0] == 1, right[1] == 1, old != new)
    return smooth_flips(*right)


def summarise(old: tuple[np.ndarray, np.ndarray], answers: np.ndarray, scores: np.ndarray, best: Sequence[int]) -> Arm:
    """Return an arm's figures.

    Args:
        old: v1's selected answers and scores [seeds, tests].
        answers: The arm's [epochs, seeds, tests].
        scores: Alike.
        best: Selected epoch of each seed.
    """
    found = [
        [measure(old[0][s], answers[e, s], (old[1][s], scores[e, s])).to_dict() for s in range(answers.shape[1])]
        for e in range(answers.shape[0])
    ]
    names = [name for name in ("pfr", "nfr_inconsistent", "churn", "nfi", "mean_gain", "mean_regression")]
    rates = {name: np.array([[cell[name] for cell in row] for row in found]) for name in names if name in found[0][0]}
    nfr = np.array([[cell["nfr"] for cell in row] for row in found])
    return Arm(scores.mean(-1), nfr, rates, np.asarray(best))


def matched(arms: Arms, arm: str) -> np.ndarray:
    """Return the NFR that plain cross-entropy has where its level is the arm's [seeds].

    The curve of each seed goes through plain v2 and every epoch of cross-entropy continued, in the order of their
    levels; beyond its ends it is flat.
    """
    plain, curve, level = arms[PLAIN], arms[CONTINUED], arms[arm].at_best("level")
    found = []
    for seed, value in enumerate(level):
        x = np.append(plain.at_best("level")[seed], curve.level[:, seed])
        y = np.append(plain.at_best()[seed], curve.nfr[:, seed])
        levels, inverse = np.unique(x, return_inverse=True)
        means = np.bincount(inverse, y) / np.bincount(inverse)
        found.append(float(np.interp(value, levels, means)))
    return np.array(found)


def fewer(arms: Arms, nfr: np.ndarray) -> np.ndarray:
    """Return by how many percent an NFR is below plain v2's, paired by seed; 0 where plain v2 has no flips."""
    plain = arms[PLAIN].at_best()[: len(nfr)]
    return 100 * np.where(plain > 0, 1 - nfr / np.where(plain > 0, plain, 1), 0.0)


def power(found: Found, bases: Mapping[str, float], regime: str = "alike") -> list[dict[str, Any]]:
    """Return for every task whether the adapter beats its base by ten points and NFR is twice the noise floor."""
    rows = []
    for (which, task), arms in found.items():
        if which != regime:
            continue
        level, floor = float(arms[PLAIN].at_best("level").mean()), float(arms["noise floor"].at_best().mean())
        nfr = float(arms[PLAIN].at_best().mean())
        gain = level - bases[task]
        passed = gain >= POWER_GAIN and nfr >= POWER_FACTOR * floor
        row = {"task": task, "base": bases[task], "level": level, "nfr": nfr, "noise floor": floor}
        rows.append(row | {"passed": passed})
    return rows


ALONE = ("Cross-entropy continued has fewer negative flips than plain v2", CONTINUED, PLAIN, "alike", None)
# Claim, arm, control, regime, paper. "matched" is the CE curve at the arm's level; "" is plain v2 itself.
PAIRS: tuple[tuple[str, str, str, str, PaperValue | None], ...] = (
    ("MUSCLE has fewer negative flips than plain v2", "MUSCLE", PLAIN, "alike", FEWER),
    (
        "MUSCLE has fewer negative flips than cross-entropy continued, at equal level",
        "MUSCLE",
        "matched",
        "alike",
        None,
    ),
    ("MUSCLE has fewer negative flips than cross-entropy continued for as long", "MUSCLE", CONTINUED, "alike", None),
    ("MUSCLE + CE has fewer negative flips than plain v2", "MUSCLE + CE", PLAIN, "alike", WITH_CE),
    (
        "MUSCLE + CE has fewer negative flips than cross-entropy continued, at equal level",
        "MUSCLE + CE",
        "matched",
        "alike",
        None,
    ),
    (
        "It matters that the teacher is v1: MUSCLE against a second v2 in v1's place",
        "MUSCLE",
        "wrong teacher",
        "alike",
        None,
    ),
    (
        "It matters that the teacher is v1: MUSCLE + CE against a second v2 in v1's place",
        "MUSCLE + CE",
        "wrong teacher + CE",
        "alike",
        None,
    ),
    ("The mask matters: MUSCLE against KL to old everywhere", "MUSCLE", "KL to old", "alike", MASK),
    ("The mask matters: MUSCLE against following v1 where it is right", "MUSCLE", "old correct", "alike", CORRECT),
    ("MUSCLE + CE against the likelihood mask of tokens", "MUSCLE + CE", "LL token + CE", "alike", None),
    ("MUSCLE + CE against the likelihood mask of sequences", "MUSCLE + CE", "LL sequence + CE", "alike", None),
    ("Where v2 is far better, MUSCLE has fewer negative flips than plain v2", "MUSCLE", PLAIN, "better", SMALL_GAIN),
    (
        "Where v2 is far better, MUSCLE + CE has fewer than cross-entropy continued, at equal level",
        "MUSCLE + CE",
        "matched",
        "better",
        None,
    ),
)
TASK_PAIRS = (*PAIRS[:2], *PAIRS[3:5], ALONE)  # for each task alone


def judge(found: Found, bases: Mapping[str, float], *, budget: Budget, seconds: float, data: str) -> list[ClaimResult]:
    """Turn the arms into claims; one whose arms were not run is left out.

    Args:
        found: Arms by regime and task.
        bases: Level of v2's base without any adapter, by task; without any there is no power check.
        budget: Tier of the run.
        seconds: What it took.
        data: Said of every claim.
    """
    rest: dict[str, Any] = {"paper": PAPER, "budget": budget, "evidence": "real", "seconds": seconds, "data": data}
    rest["figures"] = ("curves.svg", "flips.svg")
    claims = []
    for pair in PAIRS:
        tasks = [arms for (regime, _), arms in found.items() if regime == pair[3] and _has(arms, pair)]
        if len(tasks) == 3:
            claims.append(_claim(pair, tasks, "mean over three tasks", rest))
    for pair in TASK_PAIRS:
        for (regime, task), arms in found.items():
            if regime == pair[3] and _has(arms, pair):
                named = (f"{pair[0]} ({task})", *pair[1:4], None)
                claims.append(_claim(named, [arms], task, rest))
    return [*_powers(found, bases, rest), *claims, *_levels(found, rest)]


def _has(arms: Arms, pair: tuple[Any, ...]) -> bool:
    needed = {pair[1], PLAIN} | ({CONTINUED} if pair[2] == "matched" else {pair[2]})
    return needed <= set(arms)


def _claim(pair: tuple[Any, ...], tasks: Sequence[Arms], where: str, rest: Mapping[str, Any]) -> ClaimResult:
    text, arm, control, _, paper = pair
    pairs = [
        (arms[arm].at_best(), matched(arms, arm) if control == "matched" else arms[control].at_best()) for arms in tasks
    ]
    seeds = min(len(nfr) for both in pairs for nfr in both)  # an arm with fewer seeds has the first ones
    ours, theirs = (
        np.mean([fewer(arms, both[side][:seeds]) for arms, both in zip(tasks, pairs, strict=True)], axis=0)
        for side in (0, 1)
    )
    name = "cross-entropy continued, at equal level" if control == "matched" else control
    return ClaimResult.compare(
        claim=text,
        primary_metric=f"negative flips fewer than plain v2 has, %, {where}",
        paper_value=paper,
        ours=ours.tolist(),
        control=theirs.tolist(),
        control_name=name,
        minimum_effect=EFFECT,
        **rest,
    )


def _powers(found: Found, bases: Mapping[str, float], rest: Mapping[str, Any]) -> list[ClaimResult]:
    """The power check of each task as claims, where all tasks have their noise floor."""
    tasks = {task: arms for (regime, task), arms in found.items() if regime == "alike" and "noise floor" in arms}
    if len(tasks) != 3 or set(tasks) != set(bases):
        return []
    gain, twice = (
        "Power check: the adapters answer ten points better than their base",
        "Power check: an update breaks twice as much as another seed of the same base",
    )
    rows = []
    for task, arms in tasks.items():
        level, nfr, floor = arms[PLAIN].at_best("level"), arms[PLAIN].at_best(), arms["noise floor"].at_best()
        rows.append((gain, f"level, %, {task}", level, np.full(len(level), bases[task]), "base", 10.0))
        rows.append((twice, f"NFR, %, {task}", nfr, POWER_FACTOR * floor, "twice the noise floor", 0.0))
    return [
        ClaimResult.compare(
            claim=f"{text} ({metric.rsplit(', ', 1)[1]})",
            primary_metric=metric,
            paper_value=None,
            ours=(100 * ours).tolist(),
            control=(100 * control).tolist(),
            control_name=name,
            minimum_effect=effect,
            **rest,
        )
        for text, metric, ours, control, name, effect in sorted(rows, key=lambda row: row[0] == twice)
    ]


def _levels(found: Found, rest: Mapping[str, Any]) -> list[ClaimResult]:
    tasks = [arms for (regime, _), arms in found.items() if regime == "alike" and {"MUSCLE", CONTINUED} <= set(arms)]
    if len(tasks) != 3:
        return []
    level = {
        arm: np.mean([100 * arms[arm].at_best("level") for arms in tasks], axis=0)
        for arm in ("MUSCLE", PLAIN, CONTINUED)
    }
    errors = {arm: np.mean([_nfr_over_errors(arms[arm]) for arms in tasks], axis=0) for arm in ("MUSCLE", CONTINUED)}
    rows = (
        ("MUSCLE answers better than plain v2", level["MUSCLE"], level[PLAIN], PLAIN, GAIN),
        ("MUSCLE answers better than cross-entropy continued", level["MUSCLE"], level[CONTINUED], CONTINUED, None),
    )
    claims = [
        ClaimResult.compare(
            claim=text,
            primary_metric="accuracy, exact match and ROUGE-1, %, mean over three tasks",
            paper_value=paper,
            ours=ours.tolist(),
            control=control.tolist(),
            control_name=name,
            minimum_effect=LEVEL_EFFECT,
            **rest,
        )
        for text, ours, control, name, paper in rows
    ]
    return [
        *claims,
        ClaimResult.compare(
            claim="Of MUSCLE's errors fewer are negative flips than of cross-entropy continued",
            primary_metric="minus NFR over the share of errors (1 - level), %, mean over three tasks",
            paper_value=None,
            ours=(-errors["MUSCLE"]).tolist(),
            control=(-errors[CONTINUED]).tolist(),
            control_name=CONTINUED,
            minimum_effect=ERROR_EFFECT,
            **rest,
        ),
    ]


def _nfr_over_errors(arm: Arm) -> np.ndarray:
    return 100 * arm.at_best() / np.maximum(1 - arm.at_best("level"), 1e-9)


def not_attempted(found: Found | None = None, reason: str = "") -> list[ClaimResult]:
    """Rows for what cannot be tried here, and for the arms that a run does not have.

    Args:
        found: Arms of a run; every pair that it lacks gets a row.
        reason: Why it lacks them.
    """
    metric = "negative flips fewer than plain v2 has, %, mean over three tasks"
    missing = [
        ClaimResult.not_attempted(paper=PAPER, claim=pair[0], primary_metric=metric, paper_value=pair[4], reason=reason)
        for pair in (PAIRS if found is not None else ())
        if sum(regime == pair[3] and _has(arms, pair) for (regime, _), arms in (found or {}).items()) != 3
    ]
    rows = (
        (
            "7B models: fewer negative flips on HellaSwag, PIQA, GSM8K and SAMSum",
            "negative flips fewer than plain v2 has, %",
            FEWER,
            "needs Llama, Vicuna and Phi weights and 5,760 GPU hours.",
        ),
        (
            "SmolLM2-135M as v1 and v2",
            "negative flips fewer than plain v2 has, %",
            None,
            "two released versions with one vocabulary were not at hand; `muscle run` takes any two folders.",
        ),
    )
    return missing + [
        ClaimResult.not_attempted(paper=PAPER, claim=claim, primary_metric=metric, paper_value=value, reason=why)
        for claim, metric, value, why in rows
    ]
