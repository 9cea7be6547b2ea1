"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import subprocess
import sys

import pytest
from muscle import PRESETS, cli
from muscle.config import CompatibilityConfig, LoraSettings, TrainConfig


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["muscle", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


ROWS = [{"id": i, "prediction": "ab"[i % 2], "gold": "ab"[i % 2]} for i in range(4)]
WORSE = [{**row, "prediction": "a"} for row in ROWS]


@pytest.fixture
def answers(write, tmp_path, monkeypatch):
    write("old.jsonl", ROWS)
    write("new.jsonl", WORSE)
    monkeypatch.chdir(tmp_path)


def test_compare_in_a_process_of_its_own(answers, tmp_path):
    command = [sys.executable, "-m", "muscle", "compare", "old.jsonl", "new.jsonl", "--budget", "nfr=2%", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["result"]["nfr"] == 0.5 and [row["id"] for row in found["negative_flips"]] == [1, 3]
    assert found["gate"] == [{"kept": False, "budget": "nfr is 0.5, over the budget of 0.02."}]


@pytest.mark.parametrize(
    ("budgets", "status"),
    [((), 0), (("nfr=50%",), 0), (("nfr=49%",), 1), (("nfr=50%", "churn=1%"), 1), (("nfr=49%", "churn=90%"), 1)],
)
def test_the_gate_sets_the_exit_status(answers, monkeypatch, capsys, budgets, status):
    flags = [part for budget in budgets for part in ("--budget", budget)]
    assert run(monkeypatch, capsys, "compare", "old.jsonl", "new.jsonl", *flags)[0] == status


def test_real_samples_end_as_table_page_markdown_and_json(monkeypatch, capsys, reference, tmp_path):
    files = [next((reference / name).glob("samples_kind_choice*")) for name in ("old", "new")]
    outputs = {name: tmp_path / f"report.{name}" for name in ("html", "md", "json")}
    flags = ["--page", outputs["html"], "--markdown", outputs["md"], "--out", outputs["json"]]
    status, out, err = run(monkeypatch, capsys, "compare", *files, "--slices", "words", "--budget", "nfr=2%", *flags)
    assert (status, err) == (1, "") and "Negative flips (NFR)" in out and "by words" in out
    assert "<details>" in outputs["html"].read_text() and "| --- |" in outputs["md"].read_text()
    found = json.loads(outputs["json"].read_text())
    assert found["result"]["num"] == 60 and found["gate"][0]["kept"] is False


def test_the_step_summary(answers, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    run(monkeypatch, capsys, "compare", "old.jsonl", "new.jsonl")
    assert "Negative flips (NFR) | 50.00 %" in (tmp_path / "summary.md").read_text()


def test_the_whole_method_on_tiny_bases(monkeypatch, capsys, bases, rows, write, tmp_path):
    write("train.jsonl", rows)
    write("test.jsonl", [{**row, "choices": [" red", " green", " blue", " black"]} for row in rows[:8]])
    monkeypatch.chdir(tmp_path)
    common = ["--data", "train.jsonl", "--preset", "tiny", "--device", "cpu", "--json", "--quiet"]

    def answer(*arguments):
        status, out, err = run(monkeypatch, capsys, *arguments)
        assert status == 0, err
        return json.loads(out)

    for name in ("old", "new"):
        assert answer("adapt", bases / name, "--out", name, *common)["steps"] == 2
    two = ["--old", bases / "old", "--new", bases / "new"]
    found = answer("train", *two, "--old-adapter", "old", "--new-adapter", "new", "--cache-top", "32", *common)
    assert found["cache_bytes_per_token"] == 2 * (4 * 32 + 4)
    for name, base in (("old", "old"), ("adapter-compatible", "new")):
        options = ["--adapter", name, "--tests", "test.jsonl", "--out", f"{name}.jsonl", "--device", "cpu"]
        assert answer("evaluate", bases / base, *options, "--json", "--quiet")["num"] == 8
    assert answer("compare", "old.jsonl", "adapter-compatible.jsonl", "--json")["result"]["num"] == 8
    table = answer("run", *two, "--tests", "test.jsonl", *common)
    assert [row["model"] for row in table] == ["v2", "v2, continued with cross-entropy", "v2, compatible"]
    assert json.loads((tmp_path / "muscle-run/table.json").read_text()) == table
    control = answer("adapt", bases / "new", "--start", "new", "--out", "control", *common)
    assert control["steps"] == 2
    assert answer("train", *two, "--mask", "all_old", "--dry-run", *common)["compatibility"]["mask"] == "all_old"
    status, _, err = run(monkeypatch, capsys, "adapt", bases / "new", "--out", "new", "--no-resume", *common)
    assert status == 2 and "holds a run already" in err


def test_presets(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "presets", "--json")
    assert status == 0
    assert json.loads(out) == {name: json.loads(json.dumps(config.to_dict())) for name, config in PRESETS.items()}
    assert "paper" in run(monkeypatch, capsys, "presets")[1]


def test_the_papers_settings():
    """Table 8."""
    paper = PRESETS["paper"]
    assert (paper.lora.rank, paper.lora.alpha, paper.lora.dropout, paper.lora.targets) == (128, 256, 0, "all-linear")
    assert (paper.epochs, paper.lr, paper.accumulation, paper.warmup_steps) == (10, 1e-4, 8, 500)
    assert paper.validation == 0.2 and CompatibilityConfig().temperature == 2 and CompatibilityConfig().weight == 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TrainConfig(epochs=0), "`epochs` (=0) must be at least 1"),
        (lambda: TrainConfig(validation=1.0), "`validation` (=1.0)"),
        (lambda: TrainConfig(lr=0.0), "`lr` (=0.0)"),
        (lambda: LoraSettings(rank=0), "`rank` (=0)"),
        (lambda: LoraSettings(dropout=1.0), "`dropout` (=1.0)"),
        (lambda: CompatibilityConfig(temperature=0.0), "`temperature` (=0.0)"),
        (lambda: CompatibilityConfig(weight=2.0), "`weight` (=2.0)"),
        (lambda: CompatibilityConfig(cache_top=-1), "`cache_top` (=-1)"),
    ],
)
def test_settings_that_are_none(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert sentence in str(error.value)


def lines(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def files(old, new):
    def make(folder, _):
        lines(folder, "old.jsonl", old)
        lines(folder, "new.jsonl", new)

    return make


def other_vocabulary(folder, bases):
    import shutil

    from muscle.models import load_tokenizer

    shutil.copytree(bases / "old", folder / "old")
    shutil.copytree(bases / "new", folder / "new")
    tokenizer = load_tokenizer(folder / "new")
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder / "new")
    lines(folder, "train.jsonl", [{"prompt": "a", "answer": "b"}] * 4)


def foreign_adapter(folder, bases):
    from muscle.models import add_adapter, load_model, save_adapter

    model = add_adapter(load_model(bases / "old"), PRESETS["tiny"].lora, 0)
    save_adapter(model, folder / "adapter")
    (folder / "old").symlink_to(bases / "old")
    (folder / "new").symlink_to(bases / "new")
    lines(folder, "train.jsonl", [{"prompt": f"a{i}", "answer": "b"} for i in range(8)])
    lines(folder, "test.jsonl", [{"prompt": "a", "answer": "b"}])


def stale_cache(folder, bases):
    from muscle.models import add_adapter, load_adapter, load_model, load_tokenizer, save_adapter
    from muscle.teachers import build_cache, describe
    from muscle.train import encode_examples

    foreign_adapter(folder, bases)
    for name in ("old", "new"):
        save_adapter(add_adapter(load_model(bases / name), PRESETS["tiny"].lora, 0), folder / f"adapter-{name}")
    models = [load_adapter(load_model(bases / name), folder / f"adapter-{name}") for name in ("old", "new")]
    rows = [{"prompt": "other", "answer": "data"}] * 8
    ids = [example["input_ids"] for example in encode_examples(load_tokenizer(bases / "new"), rows, 64)]
    build_cache(folder / "out" / "teachers", ids, *models, describe(ids, models, 2.0, 0))


TRAIN = ["train", "--old", "old", "--new", "new", "--preset", "tiny", "--device", "cpu", "--quiet", "--out", "out"]

# One row per item of the list, in its order: the files, the arguments, the sentence.
REFUSED = {
    "ids that do not match": (
        files(ROWS, [*ROWS[:2], {**ROWS[2], "id": 9}, ROWS[3], ROWS[3]]),
        ["compare", "old.jsonl", "new.jsonl"],
        "ids do not match: 1 twice in new.jsonl (3); 1 missing from new.jsonl (2); 1 missing from old.jsonl (9).",
    ),
    "labels of another type": (
        files(ROWS, [{**row, "prediction": 1} for row in ROWS]),
        ["compare", "old.jsonl", "new.jsonl"],
        "labels of different types never agree (old answers strings, new answers numbers, gold strings)",
    ),
    "empty file": (files(ROWS, []), ["compare", "old.jsonl", "new.jsonl"], "new.jsonl is empty"),
    "one class": (
        files(*[[{**row, "gold": "a"} for row in ROWS]] * 2),
        ["compare", "old.jsonl", "new.jsonl"],
        "one class: every gold answer is 'a'",
    ),
    "NaN scores": (
        files([{"id": i, "score": 0.5} for i in range(3)], [{"id": i, "score": float("nan")} for i in range(3)]),
        ["compare", "old.jsonl", "new.jsonl"],
        "new.jsonl: 'score' is nan in example 1",
    ),
    "different vocabularies": (
        other_vocabulary,
        [*TRAIN, "--old-adapter", "x", "--new-adapter", "x"],
        "different vocabularies: 4096 tokens in the old model, 4097 in the new",
    ),
    "an adapter for another base": (
        foreign_adapter,
        ["evaluate", "new", "--adapter", "adapter", "--device", "cpu", "--quiet"],
        "the adapter at adapter was trained on another base",
    ),
    "a cache of other data": (
        stale_cache,
        [*TRAIN, "--old-adapter", "adapter-old", "--new-adapter", "adapter-new"],
        "the teacher cache at out/teachers is of other data, models or settings (fingerprint",
    ),
    "missing file": (lambda f, b: None, ["compare", "old.jsonl", "new.jsonl"], "no answers at old.jsonl"),
    "missing column": (
        files([{"id": 1, "label": 2}], ROWS),
        ["compare", "old.jsonl", "new.jsonl"],
        "old.jsonl: no column 'prediction' or",
    ),
    "not JSON": (
        lambda f, b: (f / "old.jsonl").write_text('{"id": 1}\n{"id": \n'),
        ["compare", "old.jsonl", "old.jsonl"],
        "old.jsonl, line 2: not JSON",
    ),
    "not a parquet file": (
        lambda f, b: (f / "old.parquet").write_text("x" * 99),
        ["compare", "old.parquet", "old.parquet"],
        "old.parquet: not a parquet file",
    ),
    "ragged CSV": (
        lambda f, b: (f / "old.csv").write_text("id,prediction,gold\n1,a\n"),
        ["compare", "old.csv", "old.csv"],
        "old.csv, line 2: 2 fields, the first line has 3",
    ),
    "missing answer": (
        files([{**ROWS[0], "prediction": None}, *ROWS[1:]], ROWS),
        ["compare", "old.jsonl", "new.jsonl"],
        "old.jsonl: example 0 has no answer",
    ),
    "other gold": (
        files(ROWS, [{**ROWS[0], "gold": "b"}, *ROWS[1:]]),
        ["compare", "old.jsonl", "new.jsonl"],
        "example 0 has the gold answer 'a' in old.jsonl and 'b' in new.jsonl",
    ),
    "unknown budget": (files(ROWS, ROWS), ["compare", "old.jsonl", "new.jsonl", "--budget", "nf=1%"], "mean 'nfr'"),
    "unknown slice": (
        files(ROWS, ROWS),
        ["compare", "old.jsonl", "new.jsonl", "--slices", "topic"],
        "no column 'topic' to slice by",
    ),
    "no training data": (lambda f, b: None, ["adapt", "base", "--data", "x.jsonl"], "no training examples at x.jsonl"),
    "no base": (
        lambda f, b: lines(f, "train.jsonl", [{"prompt": "a", "answer": "b"}] * 3),
        ["adapt", "nowhere/base", "--device", "cpu", "--quiet"],
        "no causal language model at nowhere/base",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, bases, case):
    make, arguments, sentence = REFUSED[case]
    make(tmp_path, bases)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments)
    found = err.splitlines()
    assert (status, out, len(found)) == (2, "", 1), err
    assert sentence in found[0] and found[0].startswith("muscle: error: ")
    assert snapshot(tmp_path) == before


def snapshot(folder):
    """Files and contents; a run's settings are written before anything else."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.json"]
    return {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize("arguments", [["compere"], ["train", "--preset", "huge"], ["compare", "--buget", "x"]])
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2
