"""The experiment's runs as figures and claims: what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.claims import ClaimResult, Evidence, PaperValue
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json

from nots import real_verdicts
from nots.differentiation import PERIODS, collision_floor
from nots.experiment import CLASSICAL
from nots.figures import draw_all
from nots.scores import BASELINES, OURS, Arms, Measure, Run, arrange, gains, r2, strongest, sups, table

PAPER = "nots"
Budget = Literal["smoke", "laptop", "full"]
R2_EFFECT, GAIN_EFFECT = 0.01, 13.0
SPECIFICATION = (
    "specification ours where the paper is silent; T = 256, K = 4 and 86 k parameters, where it has T = 1,024 and 243 k"
)
DATA = "synthetic: 1,000 test series of 256 samples a seed; targets standardised, series without their amplitude"
FBM, SINUSOIDS = ("H", "SSC", "WAMP"), ("SSC", "WAMP", "band power")
CONTRAST = ("mae", "next", "random_sequence", "random")
NAMES = {
    "mae": "masked autoencoding",
    "next": "next period",
    "famae": "frequency-aware masked autoencoding",
    "vqvae": "VQ-VAE",
    "random_sequence": "random weights, sequence readout",
    "random": "random weights, raw readout",
    "mae_steps": "masked autoencoding, equal steps and batch",
    "next_steps": "next period, equal steps and batch",
    "no_consistency": "without the raw signal's term",
    "no_ar_mask": "without the mask between elements",
    "augment": "elements as mere augmentation",
    "noise_degradation": "noise as degradation",
    "nots": "NoTS",
}
ABLATIONS = ("no_consistency", "no_ar_mask", "augment", "noise_degradation")
PRINTED = {"no_consistency": 1.75, "no_ar_mask": 1.48, "augment": 1.82, "noise_degradation": 1.69}
GAIN = PaperValue(26.0, "26 %", "abstract; mean of 37.80, 8.41 and 31.44 % (Table 1)", "A")
DIFFERENTIATION = PaperValue(PERIODS, "sup error at least T", "Theorem 1", "V")


@dataclass(frozen=True)
class Pair:
    """One claim: an arm against a control on one measure."""

    claim: str
    ours: str
    control: str
    metric: str
    measure: Measure
    paper: PaperValue | None = None


def judge(runs: Sequence[Run], out: Path, *, budget: Budget, seconds: float) -> list[ClaimResult]:
    """Return all claims that these runs can be asked for, with figures and the tables in `out`.

    Args:
        runs: Results of the experiment.
        out: Folder for the figures and `tables.json`.
        budget: Of the run.
        seconds: That it took.
    """
    arms = arrange(runs)
    if not arms:
        raise InputError("no runs to judge.")
    figures = draw_all(out, runs, budget)
    write_json(out / "tables.json", {mode: table(arms, mode) for mode in ("frozen", "full", "frozen, raw", CLASSICAL)})
    return claims_of(runs, {"budget": budget, "seconds": seconds, "figures": tuple(figures)})


def claims_of(runs: Sequence[Run], rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return the claims of runs; `rest` has budget, seconds and figures."""
    arms = arrange(runs)
    claims = [*gain_claims(arms, rest), *(claim for pair in pairs(arms) for claim in compare(pair, arms, rest))]
    return [*claims, *derivative_claims(runs, rest), *real_verdicts.judge(runs, rest), *not_attempted()]


def pairs(arms: Arms) -> list[Pair]:
    """Return the comparisons of arms; the strongest control is the one with the highest mean."""
    found = []
    there = next(iter(arms[OURS].values()))["scores"]["frozen"] if OURS in arms else {}
    for world in there:
        targets = {"fbm": "H, SSC and WAMP of fBm", "sinusoids": "SSC, WAMP and band power of sinusoids"}[world]
        for mode in ("frozen", "full"):
            measure, metric = r2(mode, world), f"mean R2 of {targets}, {mode}"
            control = strongest(arms, CONTRAST, measure)
            found.append(
                Pair(
                    f"NoTS beats the strongest control at equal operations, {world}, {mode}",
                    OURS,
                    control,
                    metric,
                    measure,
                )
            )
    measure, metric = r2("frozen", "fbm"), "mean R2 of H, SSC and WAMP of fBm, frozen"
    found.append(Pair("Power check: NoTS beats random weights", OURS, "random", metric, measure))
    found.append(Pair("Reading the sequence helps random weights", "random_sequence", "random", metric, measure))
    for control in (*BASELINES, "mae_steps", "next_steps"):
        found.append(Pair(f"NoTS beats {NAMES[control]}", OURS, control, metric, measure))
    for control in ABLATIONS:
        text = f"{PRINTED[control]} against 1.27"
        paper = PaperValue(PRINTED[control], text, "ablation table: error x100 of H, scale not said", "V")
        found.append(Pair(f"NoTS beats NoTS {NAMES[control]}", OURS, control, metric, measure, paper))
    return found


def compare(pair: Pair, arms: Arms, rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return the claim of a pair over the seeds that both arms have; nothing where an arm has none."""
    seeds = sorted(arms.get(pair.ours, {}).keys() & arms.get(pair.control, {}).keys())
    if not seeds:
        return []
    return [
        row(
            pair.claim,
            pair.metric,
            [pair.measure(arms[pair.ours][seed]) for seed in seeds],
            ([pair.measure(arms[pair.control][seed]) for seed in seeds], NAMES[pair.control], R2_EFFECT),
            rest,
            paper_value=pair.paper,
        )
    ]


def row(
    claim: str,
    metric: str,
    ours: Sequence[float],
    control: tuple[Sequence[float], str, float],
    rest: Mapping[str, Any],
    **more: Any,
) -> ClaimResult:
    """Return a claim; `control` holds its values, its name and the minimum effect."""
    values, name, effect = control
    facts: dict[str, Any] = {"paper_value": None, "evidence": "synthetic", "data": DATA}
    facts |= {"specification": SPECIFICATION, **more, **rest}
    return ClaimResult.compare(
        paper=PAPER,
        claim=claim,
        primary_metric=metric,
        ours=ours,
        control=values,
        control_name=name,
        minimum_effect=effect,
        **facts,
    )


def gain_claims(arms: Arms, rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return the paper's 26 % with both denominators, in both modes, and the classical estimators beside H."""
    claims = []
    for mode in ("frozen", "full"):
        for name, words in (("ours", "over NoTS's error, as printed"), ("baseline", "over the baseline's error")):
            found = gains(arms, mode, "fbm", FBM)[name]
            if found:
                zeros = ([0.0] * len(found), "best baseline of each target", GAIN_EFFECT)
                claim = f"Squared error saved on three fBm features, {words}, {mode}"
                note = f"best of {', '.join(name for name in BASELINES if name in arms)}"
                facts: dict[str, Any] = {"paper_value": GAIN, "note": note}
                claims.append(row(claim, "per cent, mean of three", list(found.values()), zeros, rest, **facts))
    return claims + classical_claims(arms, rest)


def classical_claims(arms: Arms, rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return NoTS's H beside the classical estimators', which need no training."""
    runs, claims = arms.get(CLASSICAL, {}), []
    seeds = sorted(runs.keys() & arms.get(OURS, {}).keys())
    for name in next(iter(runs.values()))["scores"][CLASSICAL]["fbm"] if seeds else ():
        theirs = [runs[seed]["scores"][CLASSICAL]["fbm"][name]["r2"] for seed in seeds]
        ours = [r2("full", "fbm", "H")(arms[OURS][seed]) for seed in seeds]
        claim = f"NoTS tells H better than a classical estimator: {name}"
        claims.append(row(claim, "R2 of H, full", ours, (theirs, name, R2_EFFECT), rest))
    return claims


def derivative_claims(runs: Sequence[Run], rest: Mapping[str, Any]) -> list[ClaimResult]:
    """Return what the differentiation claim says: two bounds on trained models, and the floor that is arithmetic."""
    found = sups(runs)
    if not {"period", "function"} <= found.keys():
        return []
    data = f"sin(M t) / M at steps of pi / M, T = {PERIODS}; M of the test are not among the training's"
    capacities = sorted(found["period"])
    seeds = sorted(set.intersection(*(set(found[form][c]) for form in found for c in capacities)))
    lowest = [min(found["period"][c][seed] for c in capacities) for seed in seeds]
    highest = [-max(found["function"][c][seed] for c in capacities) for seed in seeds]
    many = f"over capacities {', '.join(str(c) for c in capacities)}"
    half, tenth, exact = [PERIODS / 2] * len(seeds), [-0.1 * PERIODS] * len(seeds), ([PERIODS / 2], "T / 2", 0.0)
    facts: dict[str, Any] = {"data": data, "paper_value": DIFFERENTIATION}
    arithmetic: Evidence = "arithmetic"
    return [
        row("Any model of period tokens: sup error at least T", "half the distance of one input's two targets, squared",
            [collision_floor()], exact, rest, **facts, evidence=arithmetic),
        row("Period tokens: sup error does not fall under T / 2", f"smallest sup error {many}", lowest,
            (half, "T / 2", 0.0), rest, **facts),
        row("Function tokens: sup error under 0.1 T", f"minus the largest sup error {many}", highest,
            (tenth, "minus 0.1 T", 0.0), rest, **facts),
    ]  # fmt: skip


def not_attempted() -> list[ClaimResult]:
    """Return what cannot be had here."""
    reason = "The paper's 22 real sets and a GPU are not to be had here; `nots evaluate` reads them in their layouts."
    return [
        ClaimResult.not_attempted(
            paper=PAPER,
            claim="Up to 6 % over other pretraining on 22 real sets",
            primary_metric="mean error over ten columns (Table 2), points",
            paper_value=PaperValue(
                5.9, "5.9 against next period, 0.9 against the best baseline", "Table 2, frozen", "V"
            ),
            reason=reason,
        ),
        ClaimResult.not_attempted(
            paper=PAPER,
            claim="82 % of full performance with under 1 % of the parameters",
            primary_metric="100 minus the mean error over ten columns",
            paper_value=PaperValue(82.0, "82 %", "abstract", "A"),
            reason=reason,
        ),
    ]
