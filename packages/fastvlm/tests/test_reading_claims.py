"""What the reading experiment's rows say, given what was trained."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from fastvlm import reading, reading_claims
from fastvlm.readers import ARMS, LANGUAGE_MODELS
from fastvlm.reading_jobs import is_read
from tenfold_shared.claims import read_recorded


def make_records(seeds=5, gap=0.1):
    draw = np.random.default_rng(0)
    records = [{"key": "language x", "blind": 0.03}]
    read = [(arm.name, size) for arm in ARMS.values() for size in (128, 192, 384) if is_read(arm, size)]
    for seed, (arm, size), lm in itertools.product(range(seeds), read, LANGUAGE_MODELS):
        value = 0.4 + (gap if arm == "FastViTHD" else 0) + 0.1 * (size > 128) + 0.01 * draw.standard_normal()
        facts = {"arm": arm, "resolution": size, "language_model": lm, "seed": seed, "blank": 0.02}
        key = f"read {arm}, {size} px, {lm}, seed {seed}"
        records.append({"key": key, **facts, "validation": value, "test": value})
    return records


def judge(records):
    seconds = {(r["arm"], r["resolution"], r["language_model"]): r["resolution"] / 1e4 for r in records if "arm" in r}
    rows = reading_claims.tabulate(records, seconds)
    return rows, [
        reading_claims._judge(records, contrast, rows=rows, budget="full", seconds=1.0)
        for contrast in reading_claims.CONTRASTS
    ]


def test_rows_follow_from_records():
    rows, claims = judge(make_records())
    assert [claim.verdict for claim in claims] == ["shown"] * 5
    assert claims[0].difference.mean == pytest.approx(0.1, abs=0.02)
    assert claims[0].control_name.endswith("192 px, 36 tokens") and "ViT +" in claims[0].control_name
    assert {row["llm"] for row in rows if row["pareto"]} == set(LANGUAGE_MODELS)
    assert all(row["arm"] == "FastViTHD" for row in rows if row["pareto"])
    assert "FastViTHD reads best at 384 px" in claims[0].note


def test_controls_have_as_many_tokens():
    settings = {(arm, size): ARMS[arm].num_tokens(size) for arm, size, _ in reading_claims.EQUAL_TOKENS}
    assert len(settings) == 2 and set(settings.values()) == {36} and {size for _, size in settings} == {192}


def test_shuffled_records_show_nothing():
    _, claims = judge(make_records(gap=0.0))
    assert claims[0].verdict == "not shown" and claims[1].verdict == "not shown"


def test_seeds_that_one_side_lacks_are_left_out():
    records = make_records()
    pruned, pooled = "ViT + pruning to a quarter", "ViT + pooling of 2 x 2"
    kept = [r for r in records if r.get("arm") != pooled and not (r.get("arm") == pruned and r["seed"] > 2)]
    _, claims = judge(kept)
    assert len(claims[0].ours.per_seed) == 3 and claims[0].verdict == "direction only"
    assert judge([r for r in records if r.get("arm") != "FastViTHD"])[1][0] is None


def test_the_power_check_names_its_numbers():
    sentence = reading.check_power(make_records())
    assert sentence.startswith("power check: 384 px [") and sentence.endswith("floor 0.0300")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_whole_small_run_and_what_it_draws(tmp_path):
    claims = reading_claims.measure(tmp_path, budget="smoke")
    assert len(claims) == len(reading_claims.CONTRASTS)
    assert {claim.verdict for claim in claims} <= {"not judged", "not attempted"}
    records = reading.read_records(tmp_path / "reading")
    assert all(math.isfinite(r["loss"]) for r in records if "loss" in r)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "reading/records").iterdir()}
    reading_claims.measure(tmp_path, budget="smoke")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "reading/records").iterdir()}
    curves = json.loads((tmp_path / "reading/curves.json").read_text())
    assert {row["arm"] for row in curves["rows"]} <= set(ARMS) and (tmp_path / "reading.svg").read_text().count(
        "<svg"
    ) == 1


def test_the_recorded_rows_follow_from_the_recorded_trainings():
    curves = reading_claims.recorded_curves()
    seconds = {(row["arm"], row["resolution"], row["llm"]): row["ttft_ms"] / 1e3 for row in curves["rows"]}
    for again, row in zip(reading_claims.tabulate(curves["records"], seconds), curves["rows"], strict=True):
        assert again | {"ttft_ms": row["ttft_ms"]} == row
    recorded = {claim["claim"]: claim for claim in read_recorded("fastvlm")["claims"]}
    for contrast in reading_claims.CONTRASTS:
        again = reading_claims._judge(curves["records"], contrast, rows=curves["rows"], budget="full", seconds=1.0)
        for name in ("ours", "control", "difference", "verdict", "control_name", "note"):
            assert again.to_dict()[name] == recorded[contrast.claim][name]


def test_the_readme_says_what_was_recorded():
    rows = {(row["arm"], row["resolution"], row["llm"]): row for row in reading_claims.recorded_curves()["rows"]}
    small, large = LANGUAGE_MODELS

    def percent(arm, resolution, llm=small):
        return round(100 * rows[arm, resolution, llm]["accuracy"])

    curves = [[percent("FastViTHD", size, llm) for size in (128, 192, 256, 384)] for llm in (small, large)]
    text = " ".join((Path(__file__).parents[1] / "README.md").read_text("utf-8").split())
    assert "{}, {}, {} and {} % of the questions".format(*curves[0]) in text
    assert "larger language model {}, {}, {} and {} %".format(*curves[1]) in text
    pruned, pooled = (percent(arm, 192) for arm in ("ViT + pruning to a quarter", "ViT + pooling of 2 x 2"))
    assert f"pruned ({pruned} %) or pooled ({pooled} %) from 144 at 192 px" in text
    assert f"its own tiles ({percent('FastViTHD, 2 x 2 tiles', 384)} %, 45 tokens)" in text
    assert f"all 64 tokens of a page of 128 px ({percent('ViT', 128)} %)" in text
    assert (
        f"as many operations in pre-training ({percent('ViT of equal operations, pruned to a quarter', 192)} %)" in text
    )
    marks = reading_claims.recorded_curves()["floors"]
    assert f"from the words alone {round(100 * marks['words alone'])} %" in text
    ceilings = [r["ceilings"] for r in reading_claims.recorded_curves()["records"] if r["key"] == f"language {small}"]
    (ceiling,) = [c["accuracy"] for c in ceilings[0] if (c["side"], c["tiles"], c["keep"]) == (6, 1, 0)]
    assert f"would read {round(100 * ceiling)} %" in text
    assert rows["ViT", 128, small]["ttft_ms"] < 0.5 * rows["FastViTHD", 384, small]["ttft_ms"]
