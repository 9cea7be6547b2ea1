"""CORE and EXTENDED are the authors' to the last bit on their own records; the leaderboard sorts and refuses."""

import json
import sys
from pathlib import Path

import pytest
from dclm import cli
from dclm.leaderboard import leaderboard_rows, render_leaderboard
from dclm.scores import aggregate, read_record
from dclm.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st
from tenfold_shared.commands import InputError

RECORDS = sorted((Path(__file__).parent / "reference" / "evals").glob("eval_*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_averages_are_the_authors(path, version):
    record = read_record(path)
    found = aggregate(record["eval_metrics"]["icl"], version)
    assert found["core"] == record[f"Core_{version}"]
    assert found["extended"] == record[f"Extended_{version}"]
    assert found["missing"] == found["missing_core"] == []
    if version == record["eval_version"]:
        assert found["categories"] == pytest.approx(record["aggregated_task_categories_centered"], rel=1e-12)


def test_the_table_has_the_papers_numbers_of_tasks():
    assert len(RECORDS) == 12
    assert (len(TASKS), sum(task.core for task in TASKS)) == (53, 22)
    assert len({task.name for task in TASKS}) == 53


def test_shots_items_and_chance_are_in_the_authors_tables():
    theirs = json.loads((Path(__file__).parent / "reference" / "tasks.json").read_text())
    ours = {
        task.name: [task.num_shots, task.num_items, 100 * task.chance("v2"), 100 * task.chance("v1")] for task in TASKS
    }
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        assert row == pytest.approx(theirs[name], rel=1e-12), name


@given(st.sampled_from(TASKS), st.sampled_from(["v1", "v2"]))
def test_chance_is_zero_and_all_right_is_one(task, version):
    assert task.center(task.chance(version), version) == pytest.approx(0, abs=1e-12)
    assert task.center(1.0, version) == pytest.approx(1)
    assert task.center(0.0, version) <= 0


@pytest.mark.parametrize("name", ["arc_easy", "math_qa"])
def test_a_missing_task_leaves_no_average_but_its_name(name):
    accuracies = {task.name: 0.7 for task in TASKS if task.name != name}
    found = aggregate(accuracies)
    assert found["extended"] is None and found["missing"] == [name]
    assert (found["core"] is None) == (name == "arc_easy")
    assert found["missing_core"] == (["arc_easy"] if name == "arc_easy" else [])


def test_an_unknown_version_is_named():
    with pytest.raises(ValueError, match="unknown version 'v3'"):
        aggregate({}, "v3")


def test_the_leaderboard_sorts_by_core_and_knows_scales():
    rows = leaderboard_rows(RECORDS, "v1")
    assert [row["core"] for row in rows] == sorted((row["core"] for row in rows), reverse=True)
    best = rows[0]
    assert (best["scale"], round(100 * best["core"], 1)) == ("7b-2x", 48.9)
    assert {row["scale"] for row in rows} == {"7b-2x", "7b-1x", "7b", "1b-1x", "1b-5x", "1b", "400m-1x", ""}


def test_the_page_is_one_file_and_escapes_names():
    rows = leaderboard_rows(RECORDS)
    page = render_leaderboard([{**rows[0], "model": "<b>bold</b>"}, {**rows[1], "core": None}])
    assert "src=" not in page and "href=" not in page and "<b>" not in page and "&lt;b&gt;" in page
    assert page.count("<tr>") == 3 and ">–<" in page


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dclm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def test_aggregate_prints_one_row_per_file(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "aggregate", *RECORDS[:2], "--version", "v1", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["file"] for row in rows] == [str(path) for path in RECORDS[:2]]
    assert rows[1]["core"] == read_record(RECORDS[1])["Core_v1"]


def test_the_leaderboard_is_written_whole(monkeypatch, capsys, tmp_path):
    status, out, _ = run(monkeypatch, capsys, "leaderboard", *RECORDS, "--out", tmp_path / "page.html", "--json")
    assert status == 0 and len(json.loads(out)) == 12
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


GOOD = {"uuid": "1", "eval_metrics": {"icl": {"piqa": 0.5}}}
# What is in the file, the command, the sentence.
REFUSED = {
    "not json": ("{", "aggregate", "x.json is not JSON"),
    "no record": (json.dumps({"icl": {}}), "aggregate", "x.json is no evaluation record"),
    "a text for a number": (json.dumps({"eval_metrics": {"icl": {"piqa": "0.5"}}}), "aggregate", "piqa is '0.5'"),
    "nan": ('{"eval_metrics": {"icl": {"piqa": NaN}}}', "aggregate", "piqa is nan"),
    "without uuid": (json.dumps({**GOOD, "uuid": ""}), "leaderboard", "x.json has no `uuid`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_records_get_one_sentence(monkeypatch, capsys, tmp_path, case):
    content, verb, sentence = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text(content)
    status, out, err = run(monkeypatch, capsys, verb, "x.json")
    assert (status, out) == (2, "") and sentence in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_two_records_of_one_uuid_are_refused(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match=r"b\.json and .*a\.json have the same uuid 1"):
        leaderboard_rows([tmp_path / "a.json", tmp_path / "b.json"])
