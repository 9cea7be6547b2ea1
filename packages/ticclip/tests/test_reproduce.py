"""The judgement of the experiment on results made up for the purpose; the experiment itself runs in the check."""

import json

import numpy as np
import pytest
from tenfold_shared.claims import read_recorded
from ticclip import TimeIndex, transfer_scores, verdicts
from ticclip import reproduce as experiment
from ticclip.icons import build_family_stream, build_stream
from ticclip.probe import ridge_probe, shift_strength

SAVES = "Warm starts with replay reach retraining's score with less compute, averaged over the models of all steps"
FORGETS = "Replaying everything forgets less than not replaying"


def run(seen, unseen, macs=7.0, noise=0.0):
    """A matrix with one score on steps seen and one on steps to come."""
    matrix = np.where(np.tri(7, dtype=bool), seen, unseen) + noise
    ledger = [{"macs": macs / 7}] * 7
    result = {"retrieval": matrix.tolist(), "transfer": transfer_scores(matrix), "total_macs": macs}
    return {**result, "ledger": ledger, "steps": list("1234567")}


def judge(budget="full", seeds=5, **scores):
    noise = np.random.default_rng(0).normal(0, 0.001, seeds)
    results = {}
    for arm, what in experiment.ARMS.items():
        seen = scores.get(arm, 0.4)
        macs = 28.0 if arm == "oracle" else 7.0 * what.compute
        results[arm] = [run(seen, 0.2, macs, shift) for shift in noise]
    probes = [{"found": [0.3] * 7, "shuffled": [0.14 + shift] * 7} for shift in noise]
    claims = verdicts.judge(results, probes, budget=budget, data="made up", seconds=1.0, figures=())
    return {claim.claim: claim for claim in claims}


def curve(*values):
    return dict(zip(map(verdicts.curve_arm, verdicts.COMPUTES), values, strict=True))


def test_the_saving_by_hand():
    found = judge(oracle=0.45, **curve(0.2, 0.4, 0.5, 0.6, 0.7))[SAVES]
    # 0.45 lies half way from 1 C to 1.5 C: 28 / (7 * 1.25).
    assert found.ours.mean == pytest.approx(3.2) and found.verdict == "shown"
    never = judge(oracle=0.8, **curve(0.2, 0.4, 0.5, 0.6, 0.7))[SAVES]
    assert never.ours.mean == 0 and never.verdict == "contradicted"


def test_the_last_step_is_paid_for_once():
    claim = judge(oracle=0.45, **curve(0.2, 0.4, 0.5, 0.6, 0.7))[SAVES.split(",")[0] + ", at the final step"]
    assert claim.ours.mean == pytest.approx(4 / 7 / 1.25)


def test_equal_arms_show_nothing():
    assert {claim.verdict for name, claim in judge().items() if "forgets" in name} <= {"not shown"}
    assert judge(**{"cumulative-all": 0.5})[FORGETS].verdict == "shown"
    assert judge(sequential=0.5)[FORGETS].verdict == "contradicted"


def test_shuffled_arms_show_nothing():
    generator = np.random.default_rng(1)
    values = generator.normal(0.4, 0.05, 10)
    results = {
        "cumulative-all": [run(value, 0.2) for value in values[:5]],
        "sequential": [run(value, 0.2) for value in values[5:]],
    }
    probes = [{"found": [0.1], "shuffled": [0.1]}] * 5
    claims = verdicts.judge(results, probes, budget="full", data="made up", seconds=1.0, figures=())
    assert {claim.verdict for claim in claims if claim.claim == FORGETS} == {"not shown"}


def test_a_smoke_run_is_not_judged():
    assert {claim.verdict for claim in judge("smoke", seeds=1).values()} == {"not judged"}
    assert all(claim.verdict == "not attempted" and claim.note for claim in verdicts.not_attempted())


def test_every_pair_names_arms_that_are_run():
    assert {arm for _, ours, control, _, _ in verdicts.PAIRS for arm in (ours, control)} <= set(experiment.ARMS)
    assert set(verdicts.FORGETTING) <= set(experiment.ARMS)


def test_the_probe_finds_classes_that_are_there():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    inputs = generator.normal(size=(300, 5)) + 3 * np.eye(3, 5)[labels]
    assert (ridge_probe(inputs[:200], labels[:200], inputs[200:], 3) == labels[200:]).mean() > 0.8


def test_the_order_by_family_shifts_more(tmp_path):
    families = TimeIndex(build_family_stream(tmp_path / "family"))
    releases = TimeIndex(build_stream("material", tmp_path / "material"))
    assert len(families) == len(releases)
    by_family, by_release = (np.mean(shift_strength(index)["found"]) for index in (families, releases))
    assert by_family > by_release > 1 / 7


def test_an_arm_with_fewer_seeds_is_paired_with_the_first_ones():
    results = {
        "cumulative-all": [run(value, 0.2) for value in (0.3, 0.4, 0.5)],
        "sequential": [run(value, 0.2) for value in (0.1, 0.2)],
    }
    probes = [{"found": [0.1], "shuffled": [0.1]}] * 3
    claims = verdicts.judge(results, probes, budget="full", data="made up", seconds=1.0, figures=())
    [claim] = [claim for claim in claims if claim.claim == FORGETS]
    assert claim.difference.per_seed == pytest.approx([0.2, 0.2]) and claim.verdict == "direction only"


def test_the_laptop_takes_the_recorded_rates_and_a_folder_keeps_its_own(tmp_path):
    laptop = experiment.SCALES["laptop"]
    assert set(experiment.ARMS) == set(json.loads(experiment.recorded_rates().read_text()))
    assert experiment._rates(tmp_path, laptop, {})["oracle"] == 2e-3
    (tmp_path / "rates.json").write_text(json.dumps(dict.fromkeys(laptop.arms, 5e-4)))
    assert experiment._rates(tmp_path, laptop, {}) == {"cumulative-all": 5e-4, "oracle": 5e-4}


def test_the_recorded_runs_give_the_recorded_claims():
    """Everything judged follows from what is kept: matrices and compute of every run."""
    kept = experiment.recorded_runs()
    assert set(kept) == set(experiment.ARMS) and len(kept["oracle"]) == 5
    recorded = {row["claim"]: row for row in read_recorded("ticclip")["claims"]}
    claim = next(name for name in recorded if "at the final step" in name)
    final = {arm: [verdicts.scores(run)["final"] for run in runs] for arm, runs in kept.items()}
    for seed, saved in enumerate(recorded[claim]["ours"]["per_seed"]):
        curve = [(compute, final[verdicts.curve_arm(compute)][seed]) for compute in verdicts.COMPUTES]
        # The oracle's last training takes 7 C, as much as the whole stream at C for each of seven steps.
        assert 1 / verdicts.compute_to_equal(curve, final["oracle"][seed]) == pytest.approx(saved, abs=2e-3)


def test_a_run_is_drawn_beside_the_recorded_one(tmp_path):
    results = {"cumulative-all": [run(0.4, 0.2)], "oracle": [{**run(0.4, 0.2), "ledger": [{"macs": 7.0}]}]}
    files = experiment._figures(tmp_path, results, "laptop")
    assert "matrices.svg" in files and "recorded-matrices.svg" in files
    assert "patching" in (tmp_path / "recorded-matrices.svg").read_text()
    assert "oracle" not in (tmp_path / "matrices.svg").read_text(), "of it the last model alone is trained"
