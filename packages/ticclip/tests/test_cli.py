"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ticclip import PRESETS, cli
from ticclip.uids import UID, to_uid


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["ticclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_presets_in_a_process_of_its_own():
    command = [sys.executable, "-m", "ticclip", "presets", "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == set(PRESETS)
    assert result.stderr == ""


def test_from_pictures_to_a_comparison(monkeypatch, capsys, here, folder):
    def answer(*arguments):
        status, out, err = run(monkeypatch, capsys, *arguments, "--json", "--quiet")
        assert status == 0, err
        return json.loads(out)

    built = answer("build", folder, "--out", "index", "--held-out", "0.2", "--validation", "0.2")
    assert [row["step"] for row in built["steps"]] == ["2019", "2020", "2021"]
    assert answer("stats", "index") == built
    options = ("--batch-size", "16", "--samples-per-step", "32", "--model", "tiny", "--learning-rate", "1e-3")
    plan = answer("plan", "index", *options, "--method", "cumulative-exp")
    assert [row["samples"] for row in plan] == [32, 32, 32]
    assert answer("split", "index", "--out", "published")["steps"] == 3
    stopped = answer("run", "index", "--out", "a", *options, "--mesh", "data=1", "--max-updates", "3")
    assert "update 3" in stopped["stopped"]
    result = answer("run", "index", "--out", "a", *options, "--mesh", "data=1")
    assert len(result["ledger"]) == 3
    assert answer("run", "index", "--out", "a", *options, "--mesh", "data=1") == result
    shutil.copytree("a", "b")
    rows = answer("compare", "a", "b", "--out", "comparison")
    assert [row["run"] for row in rows] == ["a", "b"] and rows[0]["macs"] == result["total_macs"]
    assert {path.name for path in (here / "comparison").iterdir()} == {
        "a.svg",
        "b.svg",
        "compute.svg",
        "comparison.json",
    }
    fit = answer("robustness", "a", "b", "--old", "1", "--new", "3", "--out", "fit.svg")
    assert set(fit["groups"]) == {"seen", "unseen"} and (here / "fit.svg").exists()
    found = answer("evaluate", "a/steps/03", "--data", "index", "--out", "eval_results.jsonl")
    assert [row["metrics"]["retrieval"] for row in found] == pytest.approx(result["retrieval"][-1], abs=1e-6)
    assert len((here / "eval_results.jsonl").read_text().splitlines()) == 3


def test_a_dry_run_trains_nothing(monkeypatch, capsys, here, index):
    arguments = (
        "run",
        index.folder,
        "--dry-run",
        "--mesh",
        "data=2,fsdp=2",
        "--batch-size",
        "8",
        "--model",
        "tiny",
        "--json",
    )
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    found = json.loads(out)
    assert found["devices"] == 4 and found["temporary_bytes"] > 0
    assert found["config"]["method"] == "cumulative-all"
    assert not list(here.iterdir())


def write_csv(folder, picture, rows):
    """A CSV of (name, caption, date) with pictures, a name seeds its picture."""
    lines = ["path,caption,date,uid"]
    for name, caption, date, uid in rows:
        (folder / f"{name}.png").write_bytes(picture(name))
        lines.append(f"{name}.png,{caption},{date},{uid}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")


def years(first, number, year=2019):
    return [(first + n, f"number {n}", year, f"u{first + n}") for n in range(number)]


def no_timestamps(folder, picture):
    write_csv(folder, picture, [(1, "a", "", "x"), (2, "b", "someday", "y")])


def empty_step(folder, picture):
    """The only item of 2020 looks like a held-out one of 2019, whatever is drawn."""
    rows = [*years(0, 30), (5, "again", 2020, "other")]
    write_csv(folder, picture, rows)
    (folder / "eval.pkl").write_bytes(pickle.dumps({"2019": ["u5"]}))
    lists(folder, {"2019": [f"u{n}" for n in range(30) if n != 5], "2020": ["other"]})


def lists(folder, steps):
    (folder / "lists").mkdir()
    for step, names in steps.items():
        pairs = [tuple(np.frombuffer(to_uid(name), ">u8").astype("u8").tolist()) for name in names]
        np.save(folder / "lists" / f"{step}.npy", np.sort(np.array(pairs, UID)))


def empty_dates(folder, picture):
    write_csv(folder, picture, [*years(0, 9, 2016), *years(20, 9, 2018)])


def same_uid(folder, picture):
    write_csv(folder, picture, [*years(0, 3), (9, "again", 2020, "u1")])


def same_uid_lists(folder, picture):
    write_csv(folder, picture, years(0, 3))
    lists(folder, {"2019": ["u0", "u1"], "2020": ["u1"]})


def leaking_lists(folder, picture):
    write_csv(folder, picture, years(0, 3))
    lists(folder, {"2019": ["u0", "u1"]})
    (folder / "eval.pkl").write_bytes(pickle.dumps({"2019": {"cat": ["u1"]}}))


def all_corrupt(folder, picture):
    write_csv(folder, lambda name: picture(name)[:70], years(0, 3))


def small_budget(folder, picture):
    from ticclip.builder import BuildConfig, build_index

    write_csv(folder, picture, years(0, 30))
    build_index([folder], folder / "index", BuildConfig(held_out=0.3, validation=0.2))


def other_plan(folder, picture):
    from ticclip.config import StreamConfig, TrainConfig
    from ticclip.index import TimeIndex
    from ticclip.plan import plan_stream
    from ticclip.stream import Checkpoints, fingerprint

    small_budget(folder, picture)
    index = TimeIndex(folder / "index")
    config = StreamConfig(PRESETS["icons"], TrainConfig(batch_size=8), samples_per_step=64)
    mark = fingerprint(index, config, plan_stream(config, index.sizes()))
    keeper = Checkpoints(folder / "run/checkpoints", mark)
    keeper.save(1, {"params": np.zeros(2)}, {"next_index": 1}, {"step": 1, "update": 1, "number": 1})
    keeper.close()


class Malice:
    def __reduce__(self):
        return (print, ("this must not run",))


def malicious(folder, picture):
    write_csv(folder, picture, years(0, 3))
    lists(folder, {"2019": ["u0"]})
    (folder / "eval.pkl").write_bytes(pickle.dumps({"2019": Malice()}))


def pickled_list(folder, picture):
    write_csv(folder, picture, years(0, 3))
    (folder / "lists").mkdir()
    np.save(folder / "lists/2019.npy", np.array([Malice()], dtype=object), allow_pickle=True)


def nothing(folder, picture):
    pass


BUILD = ["build", "data.csv", "--out", "made"]
LISTS = [*BUILD, "--uids", "lists"]
# One row per item of the list, in its order: the files, the arguments, the sentence.
REFUSED = {
    "timestamps missing or unparsable": (no_timestamps, BUILD, "no usable item in data.csv (left out: {'no timestamp'"),
    "a step without data": (
        empty_step,
        [*LISTS, "--evaluation", "eval.pkl", "--validation", "0"],
        "step 2020 has no training data; merge it with another",
    ),
    "dates without data between them": (
        empty_dates,
        [*BUILD, "--by", "2017-01-01,2018-01-01"],
        "step 1 (from 2017-01-01) has no training data",
    ),
    "the same uid in two steps": (same_uid, BUILD, "uid u1 is in steps 2019 and 2020; an item belongs to one step"),
    "the same uid in two lists": (same_uid_lists, LISTS, "is in the lists of 2019 and 2020; one step may hold it"),
    "evaluation items in training": (
        leaking_lists,
        [*LISTS, "--evaluation", "eval.pkl"],
        "1 evaluation items of eval.pkl are in the training list of 2019",
    ),
    "corrupt pictures only": (all_corrupt, BUILD, "left out: {'corrupt picture': 3}"),
    "a budget under one batch": (
        small_budget,
        ["run", "index", "--out", "made", "--samples-per-step", "100", "--mesh", "data=1"],
        "the budget of step 2019 (100 samples) is under one batch of 128",
    ),
    "a checkpoint of another plan": (
        other_plan,
        ["run", "index", "--out", "run", "--batch-size", "8", "--samples-per-step", "80", "--mesh", "data=1"],
        "is a checkpoint of another plan",
    ),
    "a malicious pickle": (
        malicious,
        [*LISTS, "--evaluation", "eval.pkl"],
        "eval.pkl: refused: it asks for builtins.print; only plain containers are read, nothing was run",
    ),
    "a pickled list": (pickled_list, LISTS, "lists/2019.npy: no list of uids"),
    "no sources": (nothing, ["build", "--out", "made"], "give sources or --demo, one of the two"),
    "missing source": (nothing, ["build", "none.tar", "--out", "made"], "no data at none.tar; check the path"),
    "missing index": (nothing, ["stats", "none"], "no index at none; make one with: ticclip build"),
    "unknown steps": (small_budget, [*BUILD, "--by", "decade"], "`by` (='decade') must be year, month, day"),
    "unknown model": (
        nothing,
        ["plan", "--sizes", "9", "--model", "vit_b_17"],
        "unknown model 'vit_b_17'; did you mean",
    ),
    "bad mesh": (small_budget, ["run", "index", "--mesh", "data=x"], "`mesh` (='data=x') must be like data=8,fsdp=4"),
    "unfinished run": (nothing, ["compare", "none"], "no finished run in none"),
    "missing weights": (small_budget, ["evaluate", "none.pt", "--data", "index"], "no weights at none.pt"),
}


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, here, picture, case):
    make, arguments, sentence = REFUSED[case]
    make(here, picture)
    before = snapshot(here)
    status, out, err = run(monkeypatch, capsys, *arguments)
    lines = err.splitlines()
    assert (status, out, len(lines)) == (2, "", 1), err
    assert sentence in lines[0] and lines[0].startswith("ticclip: error: ")
    assert snapshot(here) == before


@pytest.mark.parametrize("arguments", [["biuld"], ["plan", "--method", "cumulative"], ["run", "x", "--mehs", "data=1"]])
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2
