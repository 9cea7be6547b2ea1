"""The experiment: parts that do not meet, verdicts from runs, what is kept gives what is recorded."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from vfm_transfer import material, reproduce, verdicts
from vfm_transfer.experiment import Run, Scale, Setting, make_run, transfer_set
from vfm_transfer.reproduce import plan, recorded_rates, recorded_runs


def made(gain, seed=0, draws=10):
    """Runs of all arms in which oriented is ahead by so many points."""
    draw_score = random.Random(seed).gauss
    rows = []
    for number in range(draws):
        level = draw_score(0.3, 0.02)
        for arm in ("teacher", "oriented", *verdicts.CONTROLS):
            run = Run(arm, number, kind="generic" if arm == "logits" else "in-domain")
            above = {"oriented": gain, "teacher": 0.3}.get(arm, 0.0)
            score = level + above / (1 if arm == "teacher" else 100) + draw_score(0, 0.001)
            rows.append({**vars(run), "val": score, "test": score, "flops": {"student_forward": 1.0}})
    return rows


def verdict_of(rows, start="Oriented beats the strongest control"):
    claims = verdicts.judge(rows, budget="full", seconds=1.0, data="made up")
    return next(claim for claim in claims if claim.claim.startswith(start)).verdict


def test_verdicts_follow_from_the_runs():
    assert verdict_of(made(5.0)) == "shown"
    assert verdict_of(made(0.6)) == "direction only"
    assert verdict_of(made(5.0, draws=4)) == "direction only"
    assert verdict_of(made(-3.0)) == "contradicted"
    assert verdict_of(made(5.0), "Power check") == "shown"


def test_shuffled_arms_show_nothing():
    rows = made(5.0)
    arms = [row["arm"] for row in rows]
    for number in range(10):
        mine = [row for row in rows if row["draw"] == number and row["arm"] != "teacher"]
        scores = [row["test"] for row in mine]
        random.Random(number).shuffle(scores)
        for row, score in zip(mine, scores, strict=True):
            row["test"] = score
    assert [row["arm"] for row in rows] == arms
    assert verdict_of(rows) == "not shown"


def test_the_strongest_control_is_chosen_on_validation_images():
    rows = made(5.0)
    for row in rows:
        if row["arm"] == "self":
            row["val"], row["test"] = row["val"] + 0.5, row["test"] - 0.1
    claims = {claim.claim: claim for claim in verdicts.judge(rows, budget="full", seconds=1.0, data="")}
    primary = claims["Oriented beats the strongest control, 10 labels a class (primary)"]
    assert primary.control_name == verdicts.WORDS["self"]
    assert primary.difference.mean == pytest.approx(15, abs=0.5)


def test_every_comparison_has_runs_in_the_plan():
    planned = {run.name for runs in plan() for run in runs}
    assert len(planned) == sum(len(runs) for runs in plan()), "no run twice"
    rows = [{**vars(run), "val": 0.5, "test": 0.5, "flops": {}} for runs in plan() for run in runs]
    judged = {claim.claim for claim in verdicts.judge(rows, budget="full", seconds=0.0, data="")}
    assert {pair.claim for pair in verdicts.pairs_of(rows)} <= judged
    assert len({run.draw for runs in plan() for run in runs if (run.arm, run.budget) == ("oriented", 5)}) == 10


def test_parts_of_the_shipped_pictures_do_not_meet():
    parts = material.load_world("fashion")
    assert {name: len(part) for name, part in parts.items()} == {
        "labelled": 1000, "pool": 2500, "gallery": 2000, "val": 500, "test": 2000,
    }  # fmt: skip
    flat = np.concatenate([material.pixels_of(part)[..., 0].reshape(len(part), -1) for part in parts.values()])
    assert len(np.unique(flat, axis=0)) == 8000
    centred = flat - flat.mean(1, keepdims=True, dtype=np.float32)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    test = centred[-2000:]
    assert max(float((block @ test.T).max()) for block in np.array_split(centred[:-2000], 12)) <= 0.9901
    for part in parts.values():
        assert np.bincount(part.target(np.arange(len(part))).numpy()).tolist() == [len(part) // 10] * 10


def test_label_draws_are_nested_and_paired():
    small, large = material.draw_labels("fashion", 5, 3), material.draw_labels("fashion", 10, 3)
    assert set(small.images.names()) < set(large.images.names())
    assert set(small.images.names()) != set(material.draw_labels("fashion", 5, 4).images.names())


@pytest.mark.slow
def test_transfer_sets_are_of_one_size_and_the_balanced_one_is_retrieved(tmp_path):
    setting = Setting(tmp_path, Scale(size=60, teacher_size=32))
    gallery = material.load_gallery("fashion")
    assert len(gallery.images) == 2000 + 4000 + 1797 and gallery.relevant.sum() == 2000
    for kind in ("in-domain", "generic", "out-of-domain", "random"):
        assert len(transfer_set(setting, Run("oriented", 0, world="fashion", kind=kind))) == 60


@pytest.mark.slow
def test_scenes_have_their_clothes_in_the_mask():
    scenes = material.compose_scenes("val", 6, 0)
    assert len(scenes.classes) == 11
    masks = scenes.target(np.arange(6)).numpy()
    for mask in masks:
        kinds = set(np.unique(mask).tolist())
        assert len(kinds) == 2 and 0 in kinds


def test_a_finished_run_is_read_and_not_made_again(tmp_path):
    setting = Setting(tmp_path, reproduce.SMOKE, recorded_rates())
    run = Run("scratch", 0, world="fashion")
    found = make_run(setting, run)
    path = tmp_path / "runs" / f"{run.name}.json"
    path.write_text(json.dumps(found | {"test": 0.123}))
    assert make_run(setting, run)["test"] == 0.123
    assert found["flops"]["student_forward"] > 0


def test_smoke_judges_nothing(tmp_path):
    claims = reproduce.reproduce(tmp_path, budget="smoke", seed=0)
    assert {claim.verdict for claim in claims} == {"not judged", "not attempted"}
    assert {claim.budget for claim in claims if claim.ours} == {"smoke"}


def test_the_kept_runs_give_the_recorded_figures():
    runs = recorded_runs()
    assert len(runs) >= 30
    reproduce.check_recorded(runs)
    broken = [run | {"test": run["test"] + 0.01 * (run["arm"] == "oriented")} for run in runs]
    with pytest.raises(RuntimeError, match="the kept runs do not give ours"):
        reproduce.check_recorded(broken)
    rates = recorded_rates()
    scenes = {f"scenes-{arm}" for arm in ("teacher", *reproduce.SCENES_TUNED)}
    assert set(rates) == {"teacher", *reproduce.TUNED} | scenes
    trials = reproduce._results("rates.json").items()
    assert {len(found) for arm, found in trials if "teacher" not in arm} == {6}


def test_rates_of_the_readme_are_those_of_the_kept_runs():
    def rate(arm, parts):
        kept = [r for r in recorded_runs() if (r["arm"], r["world"], r["teacher"]) == (arm, "cifar", "lite0")]
        runs = [r for r in kept if r["cpu_seconds"] > 1]
        return np.median([sum(r["flops"][part] for part in parts) / r["cpu_seconds"] for r in runs]) / 1e9

    found = (
        rate("teacher", ("teacher_forward", "teacher_backward")),
        rate("scratch", ("student_forward", "student_backward")),
    )
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    numbers = re.findall(r"(\d+) x 10\^9", text.split("<!-- rates -->")[1].split("<!-- /rates -->")[0])
    assert [int(number) for number in numbers] == [round(value) for value in found]


def test_figures_of_the_kept_runs(tmp_path):
    from vfm_transfer.plots import draw_all

    files = draw_all(tmp_path, recorded_runs(), "recorded-")
    assert "recorded-arms.svg" in files
    assert all((tmp_path / name).read_text().count("<text") > 3 for name in files)
