"""The experiment: every arm runs, claims follow from the runs, and the recorded claims follow from the kept ones."""

import json
import random

import pytest
from nots import figures, reproduce, verdicts
from nots.experiment import ARMS, CLASSICAL, Job, Sizes, batch_size, run
from nots.scores import gains, table
from tenfold_shared.claims import read_recorded

TARGETS = {"fbm": ("H", "SSC", "WAMP"), "sinusoids": ("SSC", "WAMP", "band power")}


def test_the_plan_has_what_was_fixed():
    plan = reproduce.plan_of("full")
    assert set(plan.primary) | set(plan.later) == set(ARMS) | {CLASSICAL}
    jobs = reproduce.jobs_of(plan.primary, plan.seeds, 0)
    assert [seed for _, seed in jobs] == sorted(seed for _, seed in jobs), "seed by seed"
    assert (plan.seeds, plan.sizes.num_steps, plan.sizes.model.length) == (5, 1500, 256)
    assert reproduce.PAPER.model.length == 1024


def test_a_step_of_every_arm_has_the_operations_of_ours():
    from nots.config import TrainConfig
    from nots.objectives import step_flops

    sizes = Sizes()
    ours = step_flops(sizes.model, TrainConfig("nots", batch_size=16))
    for name, arm in ARMS.items():
        size = batch_size(arm, sizes)
        if arm.objective and arm.equal_flops:
            assert step_flops(sizes.model, TrainConfig(arm.objective, batch_size=size)) == pytest.approx(ours, rel=0.04)
        else:
            assert size == 16, name


def made(gap=0.0, seeds=5):
    """Runs in which our arm is better by `gap`, and of the differentiation claim."""
    runs = []
    for arm in ARMS:
        for seed in range(seeds):
            r2 = 0.5 + 0.01 * ((seed * 7) % 5) + 0.001 * ((seed + len(arm)) % 3) + (gap if arm == "nots" else 0)
            score = {"mse": 100 * (1 - r2), "mae": 50.0, "r2": r2, "mae_raw": 0.1}
            worlds = {world: dict.fromkeys(names, score) for world, names in TARGETS.items()}
            runs.append({"arm": arm, "seed": seed, "scores": {"frozen": worlds, "full": worlds}, "seconds": 1.0})
    for form, sup in (("period", 8.0), ("function", 0.01)):
        runs += [
            {"form": form, "capacity": c, "seed": s, "sup": sup, "seconds": 1.0} for c in (1, 4) for s in range(seeds)
        ]
    return runs


def judged(runs):
    rest = {"budget": "full", "seconds": 1.0, "figures": ()}
    return {claim.claim: claim for claim in verdicts.claims_of(runs, rest)}


def test_verdicts_follow_from_the_runs():
    first = "NoTS beats the strongest control at equal operations, fbm, frozen"
    shown = judged(made(0.1))
    assert shown[first].verdict == "shown"
    assert shown["Function tokens: sup error under 0.1 T"].verdict == "shown"
    assert shown["Period tokens: sup error does not fall under T / 2"].verdict == "shown"
    assert shown["Any model of period tokens: sup error at least T"].verdict == "shown"
    assert judged(made(-0.1))[first].verdict == "contradicted"
    assert judged(made(0.1, 3))[first].verdict == "direction only"


def test_shuffled_arms_show_nothing():
    turned, names = [], list(ARMS)
    for one in made(0.1):
        if "arm" in one:
            order = random.Random(one["seed"] + 1).sample(names, len(names))
            turned.append({**one, "arm": order[names.index(one["arm"])]})
    found = judged(turned)
    beaten = [claim for claim in found.values() if claim.claim.startswith("NoTS beats") and claim.verdict == "shown"]
    assert beaten == []


def test_both_denominators_of_the_gain():
    from nots.scores import arrange

    found = gains(arrange(made(0.1)), "frozen", "fbm", TARGETS["fbm"])
    assert found["ours"][0] == pytest.approx(100 * found["baseline"][0] / (100 - found["baseline"][0]), rel=0.02)
    assert found["ours"][0] > found["baseline"][0] > 15
    assert table(arrange(made()), "frozen")[0]["fbm H r2"] == pytest.approx(0.52, abs=0.01)


def test_a_run_is_made_once_and_is_the_same_again(tmp_path):
    job = Job("nots", 0, 3e-3)
    first = run(tmp_path / "a", job, reproduce.SMALL)
    again = run(tmp_path / "b", job, reproduce.SMALL)
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    path = tmp_path / "a" / job.file
    path.write_text(json.dumps({**first, "seed": 99}))
    assert run(tmp_path / "a", job, reproduce.SMALL)["seed"] == 99, "a finished run is read, not made"


def test_the_recorded_claims_are_those_of_the_kept_runs(tmp_path):
    recorded = read_recorded("nots")
    assert recorded is not None
    again = verdicts.judge(figures.recorded_runs(), tmp_path, budget="full", seconds=0.0)
    for figure in again[0].figures:
        assert "<svg" in (tmp_path / figure).read_text()
    assert json.loads((tmp_path / "tables.json").read_text())["frozen"][0]["seeds"] >= 5
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
    for place, one in enumerate(made(0.1)):
        (folder / f"{place}.json").write_text(json.dumps(one))
    found = json.loads(command("reproduce", "--finished", "--out", tmp_path / "out", "--json", "--quiet")[1])
    assert {row["claim"]: row["verdict"] for row in found}["Power check: NoTS beats random weights"] == "shown"


@pytest.mark.slow
def test_smoke_runs_every_arm_and_judges_nothing(tmp_path):
    claims = reproduce.reproduce(tmp_path, budget="smoke", seed=0)
    assert {claim.verdict for claim in claims} == {"not judged", "not attempted"}
    assert {"narratives.svg", "scores.svg", "differentiation.svg"} <= set(claims[0].figures)
    assert len(list((tmp_path / "smoke" / "runs").glob("*.json"))) == len(ARMS) + 1
