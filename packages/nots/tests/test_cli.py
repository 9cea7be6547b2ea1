"""The commands, and bad input in the order of the issue's list: one sentence, status 2, nothing written."""

import json

import numpy as np
import pytest

TS = "@classLabel true a b\n@data\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and labelled series of two channels."""
    import torch
    from nots.checkpoint import save_pretrained
    from nots.config import PRESETS
    from nots.model import NoTS

    folder = tmp_path_factory.mktemp("use")
    torch.manual_seed(0)
    save_pretrained(NoTS(PRESETS["tiny"]), folder / "model")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        series = rng.normal(size=(13, 2, 50))
        series[::2] = series[::2].cumsum(-1)
        np.savez(folder / f"{part}.npz", series=series, labels=np.arange(13) % 2)
        np.savez(folder / f"{part}-regress.npz", series=series, labels=np.arange(13) / 7)
    return folder


def test_from_pretraining_to_a_figure(command, tmp_path):
    line = ("pretrain", "synthetic", "--preset", "tiny", "--num-series", "20", "--steps", "3", "--out", tmp_path / "m")
    dry = json.loads(command(*line, "--dry-run", "--quiet")[1])
    assert dry["num_parameters"] == 2880
    assert dry["step_flops"] > 0
    assert not (tmp_path / "m").exists()
    assert json.loads(command(*line, "--json", "--quiet")[1])["steps"] == 3
    assert command(*line, "--quiet")[0] == 0, "nothing left to do"
    assert "holds a run already" in command(*line, "--no-resume", "--quiet")[2]
    for data in ("synthetic", tmp_path / "x.npy"):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 40)))
        assert command("plot", data, "--model", tmp_path / "m", "--out", tmp_path / "n.svg", "--quiet")[0] == 0
        assert "<svg" in (tmp_path / "n.svg").read_text()


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_adapt_evaluate_and_embed(folder, command, tmp_path, task):
    base = ("--model", folder / "model", "--json", "--quiet")
    end = "-regress.npz" if task == "regress" else ".npz"
    line = ("adapt", folder / f"train{end}", *base, "--task", task, "--steps", "3", "--out", tmp_path / "a")
    status, out, error = command(*line)
    assert status == 0, error
    assert json.loads(out)["trunk"] == 2880
    line = ("evaluate", folder / f"test{end}", "--model", tmp_path / "a", "--task", task, "--json", "--quiet")
    found = json.loads(command(*line)[1])
    assert found["series"] == 13, "the last batch too"
    assert 0 <= found.get("accuracy", 0) <= 1
    out = tmp_path / "e.npz"
    assert json.loads(command("embed", folder / "test.npz", *base, "--out", out)[1])["width"] == 32
    with np.load(out) as file:
        assert file["embeddings"].shape == (13, 32)


def test_compare_at_equal_operations(folder, command):
    line = ("compare", folder / "train.npz", folder / "test.npz", "--preset", "tiny", "--steps", "2")
    rows = json.loads(command(*line, "--adapt-steps", "2", "--objectives", "nots", "mae", "--json", "--quiet")[1])
    assert [(row["objective"], row["mode"]) for row in rows[:3]] == [
        ("random", "frozen"), ("random", "full"), ("nots", "frozen"),
    ]  # fmt: skip
    assert rows[-1]["batch_size"] > rows[3]["batch_size"]


def test_benchmark_sets(folder, command, tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        np.save(tmp_path / f"SMD_{part}.npy", rng.normal(size=(150, 38)))
    np.save(tmp_path / "SMD_test_label.npy", np.arange(150) > 140)
    base = ("--model", folder / "model", "--json", "--quiet", "--steps", "2")
    line = ("evaluate", tmp_path, *base, "--task", "detect", "--dataset", "SMD", "--point-adjustment")
    assert {"f1", "average_precision", "f1_adjusted"} <= set(json.loads(command(*line)[1]))
    table = rng.normal(size=(14_400, 2)).cumsum(0)
    rows = "\n".join(f"2016,{a},{b}" for a, b in table)
    (tmp_path / "ETTh1.csv").write_text(f"date,HUFL,OT\n{rows}")
    found = json.loads(command("evaluate", tmp_path, *base, "--task", "impute", "--dataset", "ETTh1")[1])
    assert found["linear_mse"] > 0
    status, _, error = command("evaluate", tmp_path, *base, "--task", "detect", "--dataset", "SMDD")
    assert status == 2
    assert "did you mean 'SMD'" in error


def npz(path, series, labels=(0, 1, 0)):
    np.savez(path / "in.npz", series=np.asarray(series, float), labels=np.array(labels))
    return path / "in.npz"


def text(path, name, content):
    (path / name).write_text(content)
    return path / name


RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(3, 1, 40))
CONSTANT = np.where(np.arange(3)[:, None, None] == 1, 7.0, GOOD)
PRETRAIN = ("pretrain", "--preset", "tiny", "--steps", "1")
CASES = {
    "NaN": (lambda p: npz(p, np.where(GOOD > 2, np.nan, GOOD)), PRETRAIN, "holds nan or infinite values"),
    "inf": (lambda p: npz(p, np.where(GOOD > 2, np.inf, GOOD)), PRETRAIN, "holds nan or infinite values"),
    "constant series": (lambda p: npz(p, CONSTANT), PRETRAIN, "series 1 is constant in channel 0"),
    "length 1": (lambda p: npz(p, GOOD[..., :1]), PRETRAIN, "series 0 has length 1"),
    "unequal lengths": (lambda p: text(p, "in.csv", "a,b\n1,2\n3\n"), PRETRAIN, "line 3: 1 values"),
    "unequal channels": (lambda p: text(p, "in.ts", TS + "1,2:3,4:a\n1,2:b\n"), PRETRAIN, "line 4: 1 channels"),
    "another number of channels at transfer": (
        lambda p: npz(p, RNG.normal(size=(3, 3, 40))), ("adapt", "--mode", "none"), "3 channels for a model of 1",
    ),
    "one class": (lambda p: npz(p, GOOD, (1, 1, 1)), ("adapt",), "holds one class (1)"),
    "no labels": (lambda p: npz(p, GOOD, ()), ("adapt",), "has no labels"),
    "non-numeric columns": (lambda p: text(p, "in.csv", "a,b\n1,x\n"), PRETRAIN, "column 'b' holds 'x'"),
    "a damaged .ts file": (lambda p: text(p, "in.ts", TS + "1,2:a\n1,2,y:b\n"), PRETRAIN, "in.ts line 4: channel 0"),
    "no file": (lambda p: p / "no.ts", PRETRAIN, "no file"),
    "no model": (lambda p: npz(p, GOOD), ("embed", "--model", "nowhere"), "no config.json in nowhere"),
    "a rate that is none": (lambda p: npz(p, GOOD), (*PRETRAIN, "--lr", "-1"), "`learning_rate` (=-1.0)"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, folder, command, tmp_path):
    make, (verb, *options), sentence = CASES[case]
    path = make(tmp_path)
    before = sorted(file.name for file in tmp_path.iterdir())
    if verb in ("adapt", "embed") and "--model" not in options:
        options = [*options, "--model", folder / "model"]
    out = tmp_path / "out" if verb != "embed" else tmp_path / "out.npz"
    status, shown, error = command(verb, path, *options, "--out", out, "--quiet")
    assert status == 2
    assert shown == ""
    assert error.count("\n") == 1, error
    assert error.startswith("nots: error: ")
    assert sentence in error
    assert sorted(file.name for file in tmp_path.iterdir()) == before, "nothing written"
