"""Comparing files: lm-evaluation-harness's own, and tables in every format, aligned by id."""

import csv
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from muscle import compare, read_answers
from muscle.comparison import Options
from muscle.records import Columns


@pytest.fixture(scope="module")
def samples(reference):
    return {name: next((reference / name).glob("samples_kind_choice*.jsonl")) for name in ("old", "new")}


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_real_sample_files_by_a_plain_loop(samples):
    found = compare(samples["old"], samples["new"])
    old, new = (rows_of(samples[name]) for name in ("old", "new"))
    pairs = [(a["acc"], b["acc"]) for a, b in zip(old, new, strict=True)]
    assert found.result.num == len(pairs) == 60
    assert found.result.broken == sum(p == (1.0, 0.0) for p in pairs) > 0
    assert found.result.fixed == sum(p == (0.0, 1.0) for p in pairs) > 0
    best = [[max(range(4), key=lambda i, r=r: float(r["filtered_resps"][i][0])) for r in side] for side in (old, new)]
    assert found.result.churn == np.mean([a != b for a, b in zip(*best, strict=True)])
    assert (found.metric, len(found.listed)) == ("acc", found.result.broken)
    flip = found.listed[0]
    doc = old[flip["id"]]["doc"]
    assert flip["old"] == flip["gold"] == doc["choices"][doc["label"]] != flip["new"]
    assert flip["question"].startswith(doc["question"])


def test_another_metric_and_a_slice(samples):
    found = compare(samples["old"], samples["new"], Options(Columns(slices=("words",)), "acc_norm"))
    assert found.result.accuracy_old == np.mean([row["acc_norm"] for row in rows_of(samples["old"])])
    assert set(found.slices["words"]) == {"long", "short"}
    assert sum(part.broken for part in found.slices["words"].values()) == found.result.broken


def test_generated_answers(reference):
    old, new = (next((reference / name).glob("samples_kind_words*.jsonl")) for name in ("old", "new"))
    found = compare(old, new)
    assert found.metric == "exact_match"
    pairs = [(a["exact_match"], b["exact_match"]) for a, b in zip(rows_of(old), rows_of(new), strict=True)]
    assert found.result.nfr == np.mean([p == (1.0, 0.0) for p in pairs])
    assert compare(old, new, Options(metric="exact_match")).result == found.result, "computed anew, as the harness did"
    smooth = compare(old, new, Options(metric="chrf"))
    assert 0 < smooth.result.nfr < 1 and smooth.listed[0]["old_score"] > smooth.listed[0]["new_score"]


def test_folders_hold_several_tasks_and_the_newest_counts(reference, tmp_path):
    for name in ("old", "new"):
        shutil.copytree(reference / name, tmp_path / name / "model")
    found = compare(tmp_path / "old", tmp_path / "new")
    assert found.result.num == 120 and set(found.slices["task"]) == {"kind_choice", "kind_words"}
    assert found.listed[0]["id"].startswith("kind_choice/")
    source = next((tmp_path / "new/model").glob("samples_kind_choice*"))
    newer = source.with_name("samples_kind_choice_2099-01-01T00-00-00.000000.jsonl")
    shutil.copyfile(next((reference / "old").glob("samples_kind_choice*")), newer)
    assert compare(tmp_path / "old", tmp_path / "new").slices["task"]["kind_choice"].churn == 0


def test_filters_have_to_be_chosen(samples, write):
    rows = rows_of(samples["old"])
    both = [{**row, "filter": name} for row in rows for name in ("strict-match", "flexible-extract")]
    path = write("two.jsonl", both)
    with pytest.raises(
        ValueError, match=r"several filters \(flexible-extract, strict-match\); choose one with --filter"
    ):
        read_answers(path)
    assert read_answers(path, Columns(filter="strict-match")).ids == [row["doc_id"] for row in rows]


ROWS = [{"id": f"q{i}", "subject": "ab"[i % 2], "prediction": str(i % 3), "gold": str(i % 2)} for i in range(30)]
OTHER = [{**row, "prediction": str((i // 2) % 3)} for i, row in enumerate(ROWS)]


def save(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_example_is_compared(tmp_path):
    old, new = (save(tmp_path / f"{name}.jsonl", rows[:1]) for name, rows in (("old", ROWS), ("new", OTHER)))
    assert compare(old, new).result.num == 1


@pytest.mark.parametrize("old_format", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("new_format", ["jsonl", "csv", "parquet"])
def test_formats_mix_and_order_does_not_matter(tmp_path, old_format, new_format):
    shuffled = random.Random(0).sample(OTHER, len(OTHER))
    old, new = save(tmp_path / f"old.{old_format}", ROWS), save(tmp_path / f"new.{new_format}", shuffled)
    found = compare(old, new, Options(Columns(slices=("subject",))))
    gold = [row["gold"] for row in ROWS]
    pairs = list(zip([r["prediction"] for r in ROWS], [r["prediction"] for r in OTHER], gold, strict=True))
    assert found.result.broken == sum(a == g != b for a, b, g in pairs) > 0
    assert found.result.churn == np.mean([a != b for a, b, _ in pairs])
    assert sum(part.num for part in found.slices["subject"].values()) == 30
    assert all(row["old"] == row["gold"] != row["new"] for row in found.listed)


def test_numbers_compare_as_numbers(tmp_path):
    rows = [{"id": i, "prediction": i % 3, "gold": float(i % 2)} for i in range(10)]
    files = [save(tmp_path / f"{name}.parquet", rows) for name in ("old", "new")]
    assert compare(*files).result.churn == 0


def test_a_column_of_scores_and_several_references(tmp_path):
    rows = [{"id": i, "score": i / 10, "output": "a cat", "references": ["a cat", "the cat"]} for i in range(5)]
    better = [{**row, "score": 0.4, "output": "a dog"} for row in rows]
    old, new = save(tmp_path / "old.jsonl", rows), save(tmp_path / "new.jsonl", better)
    found = compare(old, new)
    assert (found.result.nfr, found.result.pfr, found.metric) == (0.0, 0.8, "score")
    words = compare(old, new, Options(metric="rouge1"))
    assert (words.result.nfr, words.result.mean_regression) == (1.0, 0.5)


def test_the_number_of_listed_flips_is_bounded(tmp_path):
    rows = [{"id": i, "prediction": i % 2, "gold": i % 2} for i in range(50)]
    wrong = [{**row, "prediction": 2} for row in rows]
    found = compare(save(tmp_path / "a.jsonl", rows), save(tmp_path / "b.jsonl", wrong), Options(examples=7))
    assert (found.result.broken, len(found.listed)) == (50, 7)


def test_every_mismatch_of_ids_is_listed(tmp_path):
    old = save(tmp_path / "old.jsonl", [*ROWS[:6], ROWS[0]])
    new = save(tmp_path / "new.jsonl", [*ROWS[2:8], ROWS[3], ROWS[3]])
    with pytest.raises(ValueError) as error:
        compare(old, new)
    text = str(error.value)
    assert "1 twice in" in text and "('q0')" in text and "('q3')" in text
    assert f"2 missing from {new} ('q0', 'q1')" in text and f"2 missing from {old} ('q6', 'q7')" in text


def test_ids_of_other_types_and_other_content(tmp_path, samples, write):
    numbers = [{**row, "id": i} for i, row in enumerate(ROWS)]
    strings = [{**row, "id": str(i)} for i, row in enumerate(ROWS)]
    with pytest.raises(ValueError, match="ids are int in the old file, str in the new"):
        compare(save(tmp_path / "a.jsonl", numbers), save(tmp_path / "b.jsonl", strings))
    changed = [{**row, "doc_hash": "0"} if i == 3 else row for i, row in enumerate(rows_of(samples["new"]))]
    with pytest.raises(ValueError, match="1 name other examples in the two files \\(3\\)"):
        compare(samples["old"], write("changed.jsonl", changed))
