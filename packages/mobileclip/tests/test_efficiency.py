"""The learning-efficiency experiment: splits, captions, and judgement on curves made up for the purpose."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from mobileclip import efficiency as experiment
from mobileclip import kernel, learning_curve
from mobileclip.efficiency import ARMS, CONTROLS, MAIN, PLAIN, PLANS, REINFORCED
from mobileclip.efficiency_world import (
    NUM_VOCABULARY,
    STUDENT,
    CompactTokenizer,
    World,
    keep_channels_last,
    plain_config,
)
from mobileclip.icon_data import noisy_captions, read_icons, split_icons
from mobileclip.learning_curve import Curve
from mobileclip.model import MobileCLIP
from mobileclip.train import learning_rate
from tenfold_shared.claims import ClaimResult, read_recorded


@pytest.fixture(scope="module")
def splits():
    return split_icons(read_icons())


def test_no_concept_is_in_two_splits(splits):
    concepts = [
        {icon.concept for icon in part} for part in (splits.quarter, splits.rest, splits.validation, splits.test)
    ]
    assert sum(map(len, concepts)) == len(set().union(*concepts))
    assert splits.pool == splits.quarter + splits.rest
    assert len(concepts[3]) == len(splits.test) == 1200
    assert 0.24 < len(splits.quarter) / len(splits.pool) < 0.27


@pytest.mark.parametrize(("words", "least"), [("flag", 250), ("clock face", 20)])
def test_families_of_variants_stay_together(splits, words, least):
    assert Counter(icon.concept for icon in splits.pool)[words] >= least


def test_a_share_keeps_the_splits_apart(splits):
    few = splits.take(0.05)
    assert few.pool == few.quarter + few.rest and set(few.test) < set(splits.test)
    assert len(few.test) == 60 and len(few.quarter) < len(splits.quarter) / 10


def test_gender_variants_are_one_concept():
    concepts = {icon.annotation: icon.concept for icon in read_icons()}
    assert concepts["man shrugging"] == concepts["woman shrugging"] == concepts["person shrugging"]


def test_a_fifth_of_the_captions_is_swapped(splits):
    captions = noisy_captions(splits.pool)
    wrong = [text not in (icon.tags or (icon.annotation,)) for icon, text in zip(splits.pool, captions, strict=True)]
    assert 0.15 < np.mean(wrong) <= 0.2
    assert captions == noisy_captions(splits.pool) != noisy_captions(splits.pool, page=1)


def test_the_student_has_about_half_a_million_parameters():
    with torch.device("meta"):
        assert 500_000 < sum(p.numel() for p in MobileCLIP(STUDENT).parameters()) < 1_000_000


def test_compact_tokens_keep_the_end_largest():
    tokenize = CompactTokenizer(["a red dog", "a blue dog"])
    ids = tokenize(["a red dog", "a zebra"])
    assert ids.max(dim=1).values.tolist() == [NUM_VOCABULARY - 1] * 2
    assert ids[0, :5].argmax() == 4 and 1 not in ids[0] and 1 in ids[1]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_configuration(arm):
    config = plain_config(STUDENT, 100, seed=0, **ARMS[arm].changes)
    assert (config.distill_weight > 0) == (arm not in (*CONTROLS, "lambda 0", "metadata captions (oracle)"))


def test_the_full_plan_has_all_arms_and_five_seeds():
    assert set(PLANS["full"].arms) == set(ARMS) and PLANS["full"].seeds >= 5 and PLANS["full"].tune
    assert set(MAIN) == {*CONTROLS, REINFORCED}


SAMPLES = np.array([100, 1_000, 10_000])
FACTS = experiment._Facts("full", 1.0, "note.")


def test_a_laptop_run_is_the_beginning_of_a_full_one():
    short, long = (plain_config(STUDENT, PLANS[budget].num_steps, seed=0) for budget in ("laptop", "full"))
    assert [learning_rate(step, short) for step in range(150)] == [learning_rate(step, long) for step in range(150)]
    assert experiment.evaluation_steps(150) == experiment.evaluation_steps(1500)[:3] == [38, 75, 150]
    assert experiment.evaluation_steps(3) == [3]


def test_the_early_row_takes_the_same_samples_of_both_budgets():
    samples = 64 * np.array([38, 75, 150, 300, 600])
    whole = [Curve(samples, np.arange(5)[:, None] * np.ones((5, 7)) + seed, 1e-3) for seed in range(5)]
    begun = [Curve(samples[:3], run.ranks[:3], 1e-3) for run in whole]
    rows = [experiment._judge_early(PLAIN, {PLAIN: runs, REINFORCED: runs}, FACTS) for runs in (whole, begun)]
    assert rows[0].ours == rows[1].ours == rows[0].control and rows[0].ours.per_seed == (2, 3, 4, 5, 6)
    assert rows[0].verdict == "not shown"


def test_samples_are_interpolated_on_a_log_scale():
    found = learning_curve.samples_to_reach(0.2, SAMPLES, np.array([0.1, 0.3, 0.4]))
    assert found == (pytest.approx(10**2.5), True)
    assert learning_curve.samples_to_reach(0.5, SAMPLES, np.array([0.1, 0.3, 0.4])) == (10_000, False)
    assert learning_curve.samples_to_reach(0.05, SAMPLES, np.array([0.1, 0.3, 0.4])) == (100, True)


def curve(seed, gain=1.0, items=50):
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, (3, items))
    return Curve(SAMPLES, gain * np.array([0.01, 0.03, 0.1])[:, None] * noise, 1e-3)


@pytest.mark.parametrize(("gain", "verdict"), [(5.0, "shown"), (0.5, "not shown")])
def test_the_verdict_follows_from_the_curves(gain, verdict):
    """A student below the plain one everywhere needs at least as many samples: a bound, never a gain."""
    curves = {PLAIN: [curve(i) for i in range(5)], REINFORCED: [curve(i + 10, gain) for i in range(5)]}
    claim = experiment._judge(PLAIN, curves, 0.0, FACTS)
    assert claim.verdict == verdict
    assert ("Not reached in 5 of 5 runs" in claim.note) == (gain < 1)


def test_equal_arms_show_nothing():
    shown = 0
    for trial in range(20):
        curves = {
            name: [curve(100 * trial + 10 * k + i) for i in range(5)] for k, name in enumerate((PLAIN, REINFORCED))
        }
        shown += experiment._judge(PLAIN, curves, 0.0, FACTS).verdict == "shown"
    assert shown == 0


def test_counting_the_teachers_compute_costs():
    pair = curve(0), curve(1, 5.0)
    free, _ = learning_curve.log_ratio(*pair)
    assert learning_curve.with_compute(*pair, 0.0) == pytest.approx(free)
    assert learning_curve.with_compute(*pair, 100.0) < free - 1


def test_the_bootstrap_covers_the_difference():
    curves = [curve(i) for i in range(5)], [curve(i + 10, 5.0) for i in range(5)]
    low, high = learning_curve.bootstrap(*curves, draws=100)
    assert low <= learning_curve.log_ratio(curves[0][0], curves[1][0])[0] + 0.1 and low < high and low > 0


def test_curves_are_kept(tmp_path):
    first = curve(0)
    first.save(tmp_path / "a.npz")
    again = Curve.load(tmp_path / "a.npz")
    assert np.array_equal(again.ranks, first.ranks) and again.seconds_per_sample == first.seconds_per_sample


def test_curves_of_a_comparison_are_kept(tmp_path):
    curves = {PLAIN: [curve(i) for i in range(3)], REINFORCED: [curve(9)]}
    learning_curve.write_curves(tmp_path / "all.json", curves, rates={PLAIN: 0.1})
    again = learning_curve.read_curves(tmp_path / "all.json")
    assert list(again) == [PLAIN, REINFORCED] and len(again[PLAIN]) == 3
    for first, second in zip(curves[PLAIN], again[PLAIN], strict=True):
        assert np.allclose(first.mrr, second.mrr, rtol=1e-15) and np.array_equal(first.samples, second.samples)
        assert first.seconds_per_sample == second.seconds_per_sample


def test_the_recorded_claims_follow_from_the_recorded_curves():
    facts, curves = json.loads(experiment.RECORDED.read_text()), learning_curve.read_curves(experiment.RECORDED)
    assert set(curves) == set(ARMS) == set(facts["rates"]) and facts["strongest"] in CONTROLS
    assert all(len(curves[arm]) == PLANS["full"].seeds for arm in MAIN)
    recorded = {row["claim"]: ClaimResult.from_dict(row) for row in read_recorded("mobileclip")["claims"]}
    for control in (PLAIN, facts["strongest"]):
        for seconds in (0.0, facts["teacher_seconds"]):
            again = experiment._judge(control, curves, seconds, FACTS)
            kept = recorded[again.claim]
            assert kept.ours.per_seed == pytest.approx(again.ours.per_seed) and kept.verdict == again.verdict
    again = experiment._judge_early(facts["strongest"], curves, FACTS)
    assert recorded[again.claim].ours.per_seed == pytest.approx(again.ours.per_seed)


def test_ranks_count_ties_against_the_student():
    assert learning_curve.reciprocal_rank(torch.ones(20, 20)).tolist() == pytest.approx([1 / 20] * 20)
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert learning_curve.reciprocal_rank(scores).tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_guessing_gives_chance():
    scores = torch.rand(600, 600, generator=torch.Generator().manual_seed(0))
    assert learning_curve.reciprocal_rank(scores).mean() == pytest.approx(learning_curve.chance(600), abs=0.006)
    assert learning_curve.chance(600) == pytest.approx(0.01163, abs=1e-5)


def test_the_students_layout_changes_no_number():
    pixels, plain = torch.rand(4, 3, 64, 64), MobileCLIP(STUDENT).eval()
    expected = plain.encode_image(pixels)
    keep_channels_last(plain)
    torch.testing.assert_close(plain.encode_image(pixels), expected)


COLOURS = ["red", "green", "blue", "yellow"]


@pytest.fixture(scope="module")
def squares():
    from PIL import Image

    return [Image.new("RGB", (64, 64), name) for name in COLOURS * 8], [f"{name} square" for name in COLOURS * 8]


def test_a_teacher_finds_what_it_has_learnt(squares, tmp_path):
    kernel.fit(*squares, tmp_path, features=("colours",), width=4)
    model = kernel.teacher(str(tmp_path))
    image, text = model.embed_images(squares[0][:4]), model.embed_texts(COLOURS)
    assert torch.allclose(image.norm(dim=1), torch.ones(4)) and torch.allclose(text.norm(dim=1), torch.ones(4))
    assert (text @ image.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_a_teacher_learns_from_further_views(squares, tmp_path):
    """Pictures may be several times the captions: each time all of them, in the same order."""
    kernel.fit(*squares, tmp_path / "once", features=("colours",), width=4)
    kernel.fit(squares[0] * 2, squares[1], tmp_path / "twice", features=("colours",), width=4)
    once, twice = (kernel.teacher(str(tmp_path / name)) for name in ("once", "twice"))
    assert once.words == twice.words
    assert np.abs(once.scores(squares[0][:4]) - twice.scores(squares[0][:4])).max() < 0.1


def test_the_captioner_says_what_it_sees(squares, tmp_path):
    kernel.fit(*squares, tmp_path, features=("shapes", "colours"), width=None)
    said = kernel.caption(str(tmp_path), squares[0][:4], 30, 0)
    assert said == kernel.caption(str(tmp_path), squares[0][:4], 30, 0)
    likeliest = np.argmax(kernel.teacher(str(tmp_path)).scores(squares[0][:4]), axis=1)
    assert [kernel.teacher(str(tmp_path)).words[k] for k in likeliest] == COLOURS
    assert all(len(text.split()) == 3 for texts in said for text in texts)


@pytest.mark.slow
def test_teachers_pass_the_power_check(splits, tmp_path):
    """On concepts that no teacher has seen each is far above chance, and one that knows the quarter alone is worse."""
    world, guess = World(tmp_path, num_augmentations=1), learning_curve.chance(len(splits.test))
    known = [
        experiment.teacher_mrr(world.teacher("colours", limited=limited), splits.test) for limited in (False, True)
    ]
    assert known[0] > 8 * guess and known[0] > known[1] > 2 * guess
