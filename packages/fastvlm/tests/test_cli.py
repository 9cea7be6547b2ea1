"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastvlm import PRESETS, cli
from PIL import Image


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fastvlm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


@pytest.fixture
def cat(tmp_path):
    Image.linear_gradient("L").resize((60, 40)).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def ask(model, *more):
    return ("predict", "--model", model, "--prompt", "what is in the picture?", "--max-new-tokens", "12", *more)


def test_predict_streams_in_a_process_of_its_own(cat, llava_folder):
    """A folder in the official layout, written from the key list and by transformers."""
    command = [sys.executable, "-m", "fastvlm", *map(str, ask(llava_folder, "--image", cat, "--stream", "--json"))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) > 2, "several pieces"
    assert "".join(line["piece"] for line in lines[:-1]).strip() == lines[-1]["answer"]
    assert 0 < lines[-1]["seconds_to_first_token"] < lines[-1]["seconds"]
    (licence,) = result.stderr.splitlines()
    assert "licence for research models applies" in licence


def test_all_ways_of_printing_give_one_answer(monkeypatch, capsys, cat, llava_folder):
    status, text, err = run(monkeypatch, capsys, *ask(llava_folder, "--image", cat))
    assert status == 0, err
    _, streamed, _ = run(monkeypatch, capsys, *ask(llava_folder, "--image", cat, "--stream"))
    _, record, _ = run(monkeypatch, capsys, *ask(llava_folder, "--image", cat, "--json"))
    assert text.strip() == streamed.strip() == json.loads(record)["answer"] != ""
    assert json.loads(record)["images"] == [str(cat)]


def test_both_layouts_give_one_answer(monkeypatch, capsys, cat, llava_folder, tmp_path):
    status, out, err = run(monkeypatch, capsys, "convert", "--model", llava_folder, "--out", tmp_path / "hf", "--json")
    assert status == 0, err
    assert json.loads(out)["layout"] == "fast_vlm"
    answers = [run(monkeypatch, capsys, *ask(f, "--image", cat))[1] for f in (llava_folder, tmp_path / "hf")]
    assert answers[0] == answers[1] != "\n"


def test_the_picture_matters(monkeypatch, capsys, cat, llava_folder, tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    drawn = ("--temperature", "3", "--seed", "1")
    pictures = (cat, tmp_path / "red.png")
    answers = [run(monkeypatch, capsys, *ask(llava_folder, "--image", file, *drawn))[1] for file in pictures]
    assert answers[0] != answers[1]


def test_several_pictures_and_another_resolution(monkeypatch, capsys, cat, llava_folder):
    more = ("--image", cat, cat, "--image-size", "64", "--temperature", "1", "--seed", "3")
    first = run(monkeypatch, capsys, *ask(llava_folder, *more))
    assert first[0] == 0, first[2]
    assert first[1] == run(monkeypatch, capsys, *ask(llava_folder, *more))[1] != "\n"


def test_chat_remembers_what_was_said(monkeypatch, capsys, cat, llava_folder):
    def talk(*lines):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        options = ("--model", llava_folder, "--image", cat, "--max-new-tokens", "6", "--json")
        status, out, err = run(monkeypatch, capsys, "chat", *options)
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()]

    two = talk("the cat", "on the mat")
    assert [row["question"] for row in two] == ["the cat", "on the mat"]
    assert two[0] == talk("the cat")[0]
    assert two[1]["answer"] != talk("on the mat")[0]["answer"]


def test_presets_lists_all_models(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "presets", "--json")
    assert status == 0
    assert json.loads(out) == {name: json.loads(json.dumps(config.to_dict())) for name, config in PRESETS.items()}
    assert "fastvlm_7b" in run(monkeypatch, capsys, "presets")[1]


def copy(source: Path, folder: Path):
    shutil.copytree(source, folder / "model")
    Image.new("RGB", (8, 8)).save(folder / "x.png")


def truncated(source: Path, folder: Path):
    copy(source, folder)
    Image.effect_noise((64, 64), 50).save(folder / "x.jpg")
    content = (folder / "x.jpg").read_bytes()
    (folder / "x.jpg").write_bytes(content[: len(content) // 2])


def configure(**fields):
    def make(source: Path, folder: Path):
        copy(source, folder)
        config = json.loads((folder / "model/config.json").read_text())
        (folder / "model/config.json").write_text(json.dumps({**config, **fields}))

    return make


def without_a_shard(source: Path, folder: Path):
    from fastvlm import FastVLM, checkpoint

    shutil.copytree(source, folder / "model", ignore=shutil.ignore_patterns("model.safetensors"))
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "MAX_SHARD_BYTES", 1_000_000)
        FastVLM.from_pretrained(source).save_pretrained(folder / "model")
    next((folder / "model").glob("model-00002-*")).unlink()


def wrong_projector(source: Path, folder: Path):
    import torch
    from safetensors.torch import load_file, save_file

    copy(source, folder)
    state = load_file(folder / "model/model.safetensors")
    state["model.mm_projector.0.weight"] = torch.zeros(32, 77)
    save_file(state, folder / "model/model.safetensors")


# One row per kind of bad input, in the order of the specification: the files, the arguments, the sentence.
REFUSED = {
    "missing image": (copy, ["--image", "no.png"], "no picture at no.png"),
    "corrupt image": (truncated, ["--image", "x.jpg"], "x.jpg is damaged"),
    "more <image> than images": (
        copy,
        ["--image", "x.png", "--prompt", "<image> <image>"],
        "the prompt has 2 `<image>` but 1 images were given",
    ),
    "<image> without images": (copy, ["--prompt", "<image>?"], "the prompt has 1 `<image>` but 0 images were given"),
    "resolution not divisible by 64": (
        copy,
        ["--image", "x.png", "--image-size", "1000"],
        "(=1000) must be divisible by 64",
    ),
    "folder of such a resolution": (
        configure(mm_vision_tower="mobileclip_l_1000"),
        ["--image", "x.png"],
        "(=1000) must be divisible by 64; use 1024",
    ),
    "missing shards": (without_a_shard, ["--image", "x.png"], "missing shards in model: [model-00002-of"),
    "wrong projector width": (
        wrong_projector,
        ["--image", "x.png"],
        "wrong projector width in model: it leads from 77",
    ),
    "unknown layout": (configure(model_type="llava"), ["--image", "x.png"], "unknown layout: `model_type` is 'llava'"),
    "image longer than the context": (
        configure(max_position_embeddings=20),
        ["--image", "x.png"],
        "longer than the language model's context of 20",
    ),
    "missing model": (lambda source, folder: None, ["--model", "nowhere"], "no model at nowhere"),
    "no tokenizer": (
        lambda source, folder: (copy(source, folder), [f.unlink() for f in (folder / "model").glob("*.txt")]),
        ["--image", "x.png"],
        "the tokenizer's files in model are missing",
    ),
    "half a tokenizer": (
        lambda source, folder: (copy(source, folder), (folder / "model/vocab.json").unlink()),
        ["--image", "x.png"],
        "the tokenizer's files in model are missing",
    ),
    "no tokens wanted": (copy, ["--max-new-tokens", "0"], "`max_new_tokens` (=0) must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, llava_folder, case):
    make, arguments, sentence = REFUSED[case]
    make(llava_folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for option, default in (("--model", "model"), ("--prompt", "what is it?")):
        arguments = arguments if option in arguments else [*arguments, option, default]
    status, out, err = run(monkeypatch, capsys, "predict", *arguments)
    lines = [line for line in err.splitlines() if "licence" not in line]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert sentence in lines[0] and lines[0].startswith("fastvlm: error: ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["predct", "x"],
        ["predict", "--model", "x", "--prompt", "a", "--imgae", "b"],
        ["convert", "--model", "x"],
    ],
)
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--encoders", "vit_b"], "unknown encoder 'vit_b'"),
        (["--language-models", "qwen"], "unknown language model 'qwen'"),
        (["--resolutions", "100"], "`resolutions` (=100) must be divisible by 64"),
        (["--rounds", "0"], "must be at least 1"),
        (["--accuracy", "no.csv"], "no accuracies at no.csv"),
    ],
)
def test_bad_grids_are_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path, arguments, sentence):
    status, out, err = run(monkeypatch, capsys, "profile", "--out", tmp_path / "out", *arguments)
    assert (status, out) == (2, ""), err
    assert sentence in err
    assert not (tmp_path / "out").exists()
