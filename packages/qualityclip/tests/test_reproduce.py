"""The judgement of the experiment on results made up for the purpose; the experiment itself runs in the check."""

import dataclasses
import json

import numpy as np
import pytest
from qualityclip import experiment, verdicts
from qualityclip import reproduce as module
from qualityclip.experiment import ARMS, equal_steps, run_arm
from qualityclip.world import World, WorldSize
from tenfold_shared.claims import read_recorded

HEADLINE = verdicts.PAIRS[0].claim
SMOKE = module.SCALES["smoke"]


def runs(seeds=5, **scores):
    """Runs of every arm with a little noise; `scores` are mIoU by arm."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (len(ARMS), seeds))
    found = {}
    for place, arm in enumerate(ARMS):
        base = scores.get(arm.replace(" ", "_").replace(".", ""), 0.2)
        found[arm] = [
            {
                "arm": arm,
                "seed": seed,
                "mean_iou": base + shift,
                "depth_rmse": 0.5 - base + shift,
                "tuned": base + shift,
                "labels": {"40": base / 2 + shift, "120": base / 1.5 + shift, "400": base + shift},
                "text_to_image": base,
            }
            for seed, shift in enumerate(noise[place])
        ]
    return found


def judge(results, budget="full"):
    claims = verdicts.judge(results, budget=budget, data="made up", seconds=1.0, figures=(), num_pairs=8000)
    return {claim.claim: claim for claim in claims}


def test_a_clear_difference_is_shown_and_its_opposite_contradicted():
    assert judge(runs(nouns=0.3))[HEADLINE].verdict == "shown"
    assert judge(runs(matched=0.3))[HEADLINE].verdict == "contradicted"
    assert judge(runs(nouns=0.3, seeds=3))[HEADLINE].verdict == "direction only"
    assert judge(runs(nouns=0.204))[HEADLINE].verdict in ("direction only", "not shown")


def test_shuffled_arms_show_nothing():
    results, generator = runs(), np.random.default_rng(1)
    pool = generator.normal(0.25, 0.05, 10)
    for arm, values in (("nouns", pool[:5]), ("matched", pool[5:])):
        for run, value in zip(results[arm], values, strict=True):
            run["mean_iou"] = float(value)
    assert judge(results)[HEADLINE].verdict == "not shown"


def test_relative_differences_by_hand():
    claims = judge(runs(vit_nouns=0.22, vit_mae=0.2))
    segmentation, depth = (
        claims[f"CLIP on complete nouns beats MAE of equal FLOPs, {t}"] for t in ("segmentation", "depth")
    )
    assert segmentation.ours.mean == pytest.approx(10, abs=1) and segmentation.paper_value.value == 12.1
    assert depth.ours.mean == pytest.approx(100 * (1 - 0.28 / 0.3), abs=1) and depth.paper_value.value == 11.5


def test_both_curves_have_a_row():
    results = runs(nouns=0.3, nouns_01=0.2, nouns_03=0.25, matched=0.25)
    claims = judge(results)
    pairs, labels = (
        next(claim for name, claim in claims.items() if name.startswith(f"10x data efficiency along {axis}"))
        for axis in ("pretraining pairs", "labels")
    )
    assert 1 < pairs.ours.mean < 10 and 1 < labels.ours.mean < 10
    assert "bootstrap" in pairs.note and pairs.paper_value.value == 10
    worse = judge(runs(matched=0.3))
    assert next(c for n, c in worse.items() if "pretraining pairs" in n).ours.mean == 0


def test_a_smoke_run_is_not_judged_and_missing_arms_have_no_row():
    assert {claim.verdict for claim in judge(runs(seeds=1), "smoke").values()} == {"not judged"}
    results = runs()
    del results["shuffled"]
    assert not [name for name in judge(results) if "must belong" in name]
    everything = list(judge(runs()).values())
    assert [claim.verdict for claim in verdicts.not_attempted(everything)] == ["not attempted"] * 2
    without = [claim for claim in everything if "pretraining pairs" not in claim.claim]
    assert [claim.paper_value.value for claim in verdicts.not_attempted(without)[:1]] == [10]


def test_every_pair_names_arms_that_are_run():
    assert {arm for pair in verdicts.PAIRS for arm in (pair.ours, pair.control)} <= set(ARMS)
    assert set(module.PRIMARY) | set(module.OTHERS) == set(ARMS)
    assert all(not arm.rate_of or not ARMS[arm.rate_of].rate_of for arm in ARMS.values())
    assert {pair.score for pair in verdicts.PAIRS} <= set(verdicts.METRICS)


def test_equal_compute():
    world, scale = World(WorldSize(num_pairs=1)), module.FULL
    from qualityclip.baselines import clip_macs, mae_macs
    from qualityclip.experiment import TEXT_TOKENS, model_config

    config = model_config("vit", world)
    clip = scale.steps * clip_macs(config, TEXT_TOKENS)
    mae = equal_steps(ARMS["vit mae"], scale, world)
    assert mae * mae_macs(config.vision) == pytest.approx(clip, rel=0.01)
    assert equal_steps(ARMS["vit mae 4x"], scale, world) == pytest.approx(4 * mae, rel=0.01)
    assert equal_steps(ARMS["vit scratch"], scale, world) == 0


def test_what_matters_most_is_run_first():
    plan = module.plan_runs(module.FULL, 3)
    assert len(plan) == len(set(plan)) == 5 * len(module.PRIMARY) + 3 * len(module.OTHERS)
    assert plan[:4] == [("nouns", 3), ("shuffled", 3), ("nouns", 4), ("shuffled", 4)], "the power check"
    assert [seed for arm, seed in plan if arm == "matched"] == [3, 4, 5, 6, 7]
    assert {arm for arm, _ in plan[:12]} == {"nouns", "shuffled", "matched"}, "then the headline"
    assert plan[12:15] == [("untrained", 3), ("vit nouns", 3), ("vit mae", 3)]
    assert module.plan_runs(module.SCALES["laptop"], 0) == [("vit nouns", 0), ("vit mae", 0)]


def test_the_power_check_asks_for_a_gap_over_the_spread():
    assert verdicts.power_check(runs(seeds=1)) is None
    assert not verdicts.power_check(runs())["passed"], "no gap"
    found = verdicts.power_check(runs(nouns=0.3))
    assert found["passed"] and found["gap"] == pytest.approx(0.1, abs=0.01)
    assert not verdicts.power_check(runs(nouns=0.3, untrained=0.4))["passed"], "below the floor"
    assert not verdicts.power_check(runs(nouns=0.95))["passed"], "above the ceiling"
    wide = runs(nouns=0.3)
    wide["shuffled"][0]["mean_iou"] -= 0.1
    assert not verdicts.power_check(wide)["passed"], "gap under twice the spread"
    assert "Power check on two seeds passed" in judge(runs(nouns=0.3))[verdicts.FURTHER[0].claim].note


def test_a_finished_run_is_read_and_a_new_one_is_whole(tmp_path):
    world = World(SMOKE.world)
    found = run_arm(tmp_path, "vit mae", SMOKE, world, (0, 1e-3))
    assert 0 <= found["mean_iou"] <= 1 and found["depth_rmse"] > 0 and "tuned" in found
    [file] = tmp_path.iterdir()
    file.write_text(json.dumps({**found, "mean_iou": 0.5}))
    assert run_arm(tmp_path, "vit mae", SMOKE, world, (0, 1e-3))["mean_iou"] == 0.5
    assert module.read_runs(tmp_path)["vit mae"][0]["seed"] == 0
    rate = experiment.tune_rate(
        tmp_path / "tuning", "vit supervised", dataclasses.replace(SMOKE, rates=(1e-3, 2e-3), mci_rates=()), world, 9
    )
    assert rate in (1e-3, 2e-3) and len(list((tmp_path / "tuning").iterdir())) == 2


def test_recorded_claims_follow_from_the_runs_that_are_kept(tmp_path):
    record = read_recorded("qualityclip")
    claims = {claim["claim"]: claim for claim in (record or {"claims": []})["claims"]}
    again = module.judge_recorded(tmp_path)
    assert {claim.claim for claim in again} == {name for name in claims if claims[name]["verdict"] != "not attempted"}
    for claim in again:
        kept = claims[claim.claim]
        assert kept["ours"]["per_seed"] == pytest.approx(claim.ours.per_seed), claim.claim
        assert (kept["verdict"], kept["data"]) == (claim.verdict, claim.data), claim.claim
