"""The experiment: every arm runs, claims follow from the runs, and the recorded claims follow from the kept ones."""

import json
import random
from dataclasses import replace

import pytest
from physiomae import figures, reproduce, verdicts
from physiomae.config import OBJECTIVES, PRESETS
from physiomae.experiment import ARMS, MAIN_CELL, WATCH, Job, num_steps, run, window_macs
from tenfold_shared.claims import read_recorded


def test_the_plan_has_what_was_fixed():
    plan = reproduce.plan_of("full")
    rates = {kind: dict.fromkeys(ARMS, 1e-3) for kind in (WATCH, "simulator")}
    jobs = reproduce.jobs_of(plan, rates, 0)
    assert len(jobs) == len(set(jobs)) == 10 * 9 + 5 * 7 + 8 * 3 * 3
    assert {job.seed for job in jobs if job.cell == WATCH and job.arm == "mae"} == set(range(10))
    order = [(job.cell, job.seed, job.arm) for job in jobs]
    for cell, seed, arm in order:
        if arm == "mae":
            ours = order.index((cell, seed, "mae_drop"))
            assert ours < order.index((cell, seed, arm)), "its loss is what mae is looked at"


def test_no_arm_has_more_encoder_work_than_masked_autoencoding():
    for preset, steps in (("watch", 400), ("simulator", 300)):
        config = PRESETS[preset]
        budget = steps * window_macs(config, OBJECTIVES["mae"])
        for name, arm in ARMS.items():
            if arm.objective is not None and not arm.equal_steps:
                work = num_steps(config, arm, steps) * window_macs(config, arm.objective)
                assert work <= budget * 1.005, name
        loo = ARMS["contrastive_loo"]
        assert num_steps(config, loo, steps) * window_macs(config, loo.objective) > 0.99 * budget
        assert num_steps(config, ARMS["contrastive_steps"], steps) == steps


def made(gap=0.0, seeds=10):
    """Runs of the watch in which our arm is better by `gap`."""
    runs = []
    for arm in reproduce.WATCH_ARMS:
        for seed in range(seeds):
            value = (
                0.5 + 0.01 * ((seed * 7) % 5) + (gap if arm == "mae_drop" else 0.0) + 0.001 * ((seed + len(arm)) % 3)
            )
            scores = {
                s: dict.fromkeys(("activity", "cadence", "gyro RMS"), value) for s in ("accel", "gyro", "accel+gyro")
            }
            look = {
                "validation_loss": 1.0,
                "mass": [[0.5, 0.5], [0.5, 0.5]],
                "hidden_r2": {"accel": value, "gyro": value},
            }
            look |= dict.fromkeys(("cross", "aligned", "distributedness"), value)
            more = {"matched": dict(look)} if arm == "mae" else {}
            runs.append({"cell": WATCH, "arm": arm, "seed": seed, "scores": scores, "seconds": 1.0, **look, **more})
    return runs


def test_verdicts_follow_from_the_runs(tmp_path):
    shown = {claim.claim: claim for claim in verdicts.judge(made(0.1), tmp_path, budget="full", seconds=1.0)}
    assert shown["watch: Modality dropout helps across tasks"].verdict == "shown"
    assert shown["watch: Contrastive late fusion is worse across tasks"].verdict == "shown"
    assert shown["watch: Placebo control: a modality of noise helps (it should not)"].verdict == "contradicted"
    none = {claim.claim: claim for claim in verdicts.judge(made(0.0), tmp_path, budget="full", seconds=1.0)}
    assert none["watch: Modality dropout helps across tasks"].verdict != "shown"
    few = {claim.claim: claim for claim in verdicts.judge(made(0.1, 3), tmp_path, budget="full", seconds=1.0)}
    assert few["watch: Modality dropout helps across tasks"].verdict == "direction only"
    assert all("specification ours" in claim.specification for claim in shown.values())
    for figure in shown["watch: Modality dropout helps across tasks"].figures:
        assert "<svg" in (tmp_path / figure).read_text()


def test_shuffled_arms_show_nothing(tmp_path):
    """Each seed's arms in an order of its own: nothing is left but chance."""
    turned = []
    for one in made(0.1):
        arms = list(reproduce.WATCH_ARMS)
        order = random.Random(one["seed"]).sample(arms, len(arms))
        turned.append({**one, "arm": order[arms.index(one["arm"])]})
    found = {claim.claim: claim for claim in verdicts.judge(turned, tmp_path, budget="full", seconds=1.0)}
    for claim in ("Modality dropout helps across tasks", "Contrastive late fusion is worse across tasks"):
        assert found[f"watch: {claim}"].verdict == "not shown"


def test_a_run_is_made_once_and_is_the_same_again(tmp_path):
    sizes = reproduce.plan_of("smoke").sizes
    job = Job(MAIN_CELL, "mae_drop", 0, 3e-3)
    first = run(tmp_path / "a", job, sizes)
    again = run(tmp_path / "b", job, sizes)
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    path = tmp_path / "a" / job.file
    path.write_text(json.dumps({**first, "seed": 99}))
    assert run(tmp_path / "a", job, sizes)["seed"] == 99, "a finished run is read, not made"
    other = run(tmp_path / "a", replace(job, seed=1), sizes)
    assert other["scores"] != first["scores"]


def test_the_recorded_claims_are_those_of_the_kept_runs(tmp_path):
    recorded = read_recorded("physiomae")
    assert recorded is not None
    again = verdicts.judge(figures.recorded_runs(), tmp_path, budget="full", seconds=0.0)
    assert [claim.claim for claim in again] == [row["claim"] for row in recorded["claims"]]
    for claim, row in zip(again, recorded["claims"], strict=True):
        assert claim.verdict == row["verdict"], claim.claim
        if claim.ours is not None:
            assert claim.ours.to_dict() == row["ours"]
            assert claim.control.to_dict() == row["control"]


def test_a_stopped_run_says_what_it_has(command, tmp_path):
    status, _, error = command("reproduce", "--finished", "--out", tmp_path / "none", "--quiet")
    assert status == 2
    assert "no finished runs" in error
    folder = tmp_path / "out" / "full" / "runs"
    folder.mkdir(parents=True)
    for one in made(0.1, 6):
        (folder / f"{one['arm']}-{one['seed']}.json").write_text(json.dumps(one))
    found = json.loads(command("reproduce", "--finished", "--out", tmp_path / "out", "--json", "--quiet")[1])
    assert {row["claim"]: row["verdict"] for row in found}["watch: Modality dropout helps across tasks"] == "shown"
    assert len(json.loads((tmp_path / "out" / "full" / "runs.json").read_text())) == 54


@pytest.mark.slow
def test_smoke_runs_every_arm_and_judges_nothing(tmp_path):
    claims = reproduce.reproduce(tmp_path, budget="smoke", seed=0)
    assert {claim.verdict for claim in claims} == {"not judged", "not attempted"}
    assert {"watch-scores.svg", "recorded-watch-scores.svg", "recorded-map.svg"} <= set(claims[0].figures)
    assert len(list((tmp_path / "smoke" / "runs").glob("*.json"))) == 9 + 7
