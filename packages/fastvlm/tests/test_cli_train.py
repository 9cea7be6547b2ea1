"""Commands that train and measure, as their users meet them: results, and one sentence with status 2 for bad input."""

import json
import sys

import pytest
from fastvlm import cli
from PIL import Image


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fastvlm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def talk(question, answer="the cat", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "r", "conversations": turns, **more}


GOOD = [talk("the mat?"), talk("<image>\nwhat is in the picture?", image="wide.png")]


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (64, 20), "red").save(tmp_path / "wide.png")
    Image.new("L", (10, 50), 90).save(tmp_path / "tall.png")
    (tmp_path / "talk.json").write_text(json.dumps(GOOD))
    return tmp_path


def line(model, data, *more):
    common = ("--preset", "tiny", "--model", model, "--data", data / "talk.json", "--out", data / "run", "--quiet")
    return ("train", *common, "--num-steps", "2", "--device", "cpu", *more)


def test_train_writes_a_model_that_answers(monkeypatch, capsys, tiny_folder, data):
    status, out, err = run(monkeypatch, capsys, *line(tiny_folder, data, "--json"))
    assert status == 0, err
    result = json.loads(out)
    assert result["model"] == str(data / "run/model") and result["train/loss"] > 0
    assert sorted(path.name for path in (data / "run").iterdir()) == [
        "checkpoint.pt", "config.json", "metrics.jsonl", "model",
    ]  # fmt: skip
    ask = ("predict", "--model", data / "run/model", "--image", data / "tall.png", "--prompt", "cat?")
    status, _, err = run(monkeypatch, capsys, *ask, "--max-new-tokens", "3")
    assert status == 0, err


def test_pictures_of_mixed_sizes_are_padded_and_trained_on(monkeypatch, capsys, tiny_folder, data):
    rows = [*GOOD, talk("<image><image> which?", image=["tall.png", "wide.png"])]
    (data / "talk.json").write_text(json.dumps(rows))
    status, _, err = run(monkeypatch, capsys, *line(tiny_folder, data, "--max-bad-share", "0", "--json"))
    assert status == 0, err
    assert not (data / "run/skipped.jsonl").exists()


def test_dry_run_prints_the_configuration(monkeypatch, capsys, data):
    status, out, _ = run(monkeypatch, capsys, *line("nowhere", data, "--dry-run", "--json"))
    assert status == 0 and not (data / "run").exists()
    assert json.loads(out)["num_steps"] == 2 and json.loads(out)["learning_rate"] == 1e-3


# One row per kind of bad record, in the order of the specification: the record, the sentence.
RECORDS = {
    "no conversations": ({"id": "bad"}, "the record has no conversations"),
    "unknown role": ({"id": "bad", "conversations": [{"from": "robot", "value": "x"}]}, "unknown role 'robot'"),
    "missing image": (talk("<image>\nwhat?", id="bad", image="no.png"), "no.png is missing"),
    "another number of <image>": (talk("<image><image>", id="bad", image="wide.png"), "has 2 `<image>` but 1 images"),
    "longer than the context": (talk("cat " * 300, id="bad"), "longer than the context of 200"),
}


@pytest.mark.parametrize("case", list(RECORDS))
def test_bad_records_stop_a_run_that_allows_none(monkeypatch, capsys, tiny_folder, data, case):
    row, sentence = RECORDS[case]
    (data / "talk.json").write_text(json.dumps([*GOOD, row]))
    more = ("--max-bad-share", "0", "--max-length", "200")
    status, out, err = run(monkeypatch, capsys, *line(tiny_folder, data, *more))
    assert status == 2 and out == ""
    assert "1 of 3 records are bad" in err and sentence in err and err.count("\n") <= 2
    assert not (data / "run/model").exists() and not (data / "run/checkpoint.pt").exists()
    (named,) = (json.loads(text) for text in (data / "run/skipped.jsonl").read_text().splitlines())
    assert named["record"] == "talk.json:bad" and sentence in named["reason"]


@pytest.mark.parametrize("case", list(RECORDS))
def test_bad_records_are_skipped_where_some_are_allowed(monkeypatch, capsys, tiny_folder, data, case):
    (data / "talk.json").write_text(json.dumps([*GOOD, RECORDS[case][0]]))
    more = ("--max-bad-share", "0.4", "--max-length", "200")
    status, _, err = run(monkeypatch, capsys, *line(tiny_folder, data, *more))
    assert status == 0, err
    assert (data / "run/model").exists() and len((data / "run/skipped.jsonl").read_text().splitlines()) == 1


def test_a_wrong_base_for_an_adapter(monkeypatch, capsys, tiny_folder, untied_folder, data):
    lora = ("--lora-rank", "2", "--train-encoder", "False")
    status, _, err = run(monkeypatch, capsys, *line(tiny_folder, data, *lora))
    assert status == 0, err
    merge = ("merge", "--adapter", data / "run/adapter", "--out", data / "merged")
    status, _, err = run(monkeypatch, capsys, *merge, "--model", untied_folder)
    assert status == 2 and "wrong base for the adapter in" in err and not (data / "merged").exists()
    status, _, err = run(monkeypatch, capsys, *merge, "--model", tiny_folder, "--json")
    assert status == 0 and (data / "merged/vocab.json").exists(), err


REFUSED = {
    "no model": (lambda m, d: line("nowhere", d), "no model at nowhere"),
    "no data": (lambda m, d: line(m, d, "--data", d / "no.json"), "no data set at"),
    "data that is no JSON": (lambda m, d: line(m, d, "--data", d / "wide.json"), "neither a JSON list nor JSON lines"),
    "folders that do not pair": (
        lambda m, d: line(m, d, "--data", "a", "b", "c", "--images", "x", "y"),
        "3 data sets and 2 image folders do not pair",
    ),
    "neither model nor parts": (
        lambda m, d: ("train", "--data", d / "talk.json", "--out", d / "run"),
        "give --model, or --language-model and --encoder",
    ),
    "a resolution": (lambda m, d: line(m, d, "--image-size", "100"), "(=100) must be divisible by 64"),
    "a batch": (lambda m, d: line(m, d, "--batch-size", "3"), "must be a multiple of 1 processes times"),
    "adapters without a language model": (
        lambda m, d: line(m, d, "--lora-rank", "2", "--train-language-model", "False"),
        "adapters need `train_language_model`",
    ),
    "no adapter": (
        lambda m, d: ("merge", "--model", m, "--adapter", d, "--out", d / "run"),
        "expected base.json of a run with --lora-rank",
    ),
    "no benchmark files": (
        lambda m, d: ("evaluate", "--benchmark", "docvqa", "--data", d, "--model", m, "--out", d / "run"),
        "no val_v1.0.json in",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tiny_folder, data, case):
    make, sentence = REFUSED[case]
    (data / "wide.json").write_text("{")
    status, out, err = run(monkeypatch, capsys, *make(tiny_folder, data))
    assert status == 2 and out == "" and not (data / "run").exists()
    assert sentence in " ".join(err.split()) and err.count("\n") == 1


def test_evaluate_prints_its_scores(monkeypatch, capsys, tiny_folder, data):
    rows = [{"questionId": 1, "question": "What?", "image": "wide.png", "answers": ["x"]}]
    (data / "val_v1.0.json").write_text(json.dumps({"data": rows}))
    options = ("--data", data, "--model", tiny_folder, "--out", data / "run", "--device", "cpu", "--json", "--quiet")
    status, out, err = run(monkeypatch, capsys, "evaluate", "--benchmark", "docvqa", *options)
    assert status == 0, err
    assert json.loads(out) == {"score": 0.0}
    assert json.loads((data / "run/samples.jsonl").read_text())["references"] == ["x"]
