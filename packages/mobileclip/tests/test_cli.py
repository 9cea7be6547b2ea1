"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mobileclip import PRESETS, MobileCLIP, cli
from PIL import Image


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["mobileclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


@pytest.fixture
def red(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_classify_in_a_process_of_its_own(red, tiny_folder):
    command = [sys.executable, "-m", "mobileclip", "classify", red, "--labels", "cat, dog", "--json"]
    command += ["--pretrained", tiny_folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["label"] for row in rows} == {"cat", "dog"}
    assert {row["image"] for row in rows} == {str(red)}
    assert sum(row["probability"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert result.stderr == ""


def test_classify_prints_a_table_of_the_top(monkeypatch, capsys, red, tiny_folder):
    arguments = ("classify", red, red, "--labels", "a,b,c,d", "--top", "2", "--pretrained", tiny_folder)
    status, out, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0
    assert len(out.splitlines()) == 1 + 2 * 2


def test_random_weights_are_announced(monkeypatch, capsys, red):
    status, _, err = run(monkeypatch, capsys, "classify", red, "--labels", "a", "--model", "mobileclip_s0")
    assert status == 0
    assert "random weights" in err


def test_embed_writes_unit_vectors(monkeypatch, capsys, red, tiny_folder, tmp_path):
    for arguments, name in (((red,), str(red)), (("--text", "a red square"), "a red square")):
        out = tmp_path / "out.npz"
        status, printed, err = run(
            monkeypatch, capsys, "embed", *arguments, "--out", out, "--pretrained", tiny_folder, "--json"
        )
        assert status == 0, err
        assert json.loads(printed) == {"out": str(out), "rows": 1, "width": 16}
        with np.load(out) as arrays:
            assert arrays["names"].tolist() == [name]
            assert np.linalg.norm(arrays["embeddings"], axis=1) == pytest.approx([1])


def test_presets_lists_all_models(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "presets", "--json")
    assert status == 0
    assert json.loads(out) == {name: json.loads(json.dumps(config.to_dict())) for name, config in PRESETS.items()}
    assert "mobileclip_blt" in run(monkeypatch, capsys, "presets")[1]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def truncated(folder: Path):
    Image.effect_noise((64, 64), 50).save(folder / "x.jpg")
    content = (folder / "x.jpg").read_bytes()
    (folder / "x.jpg").write_bytes(content[: len(content) // 2])


def another_variant(folder: Path):
    with torch.device("meta"):
        shapes = MobileCLIP(PRESETS["mobileclip_b"]).state_dict()
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}, folder / "b.pt")
    Image.new("RGB", (8, 8)).save(folder / "x.jpg")


def hostile(folder: Path):
    torch.save({"x": Hostile()}, folder / "evil.pt")
    Image.new("RGB", (8, 8)).save(folder / "x.jpg")


def picture(mode, size, **options):
    return lambda folder: Image.new(mode, size).save(folder / "x.tiff", **options)


# One row per kind of bad input: the files, the arguments, the sentence.
REFUSED = {
    "truncated image": (truncated, ["x.jpg"], "x.jpg is damaged"),
    "non-image bytes": (lambda f: (f / "x.jpg").write_bytes(b"hello"), ["x.jpg"], "x.jpg is not a picture"),
    "zero-size image": (lambda f: (f / "x.ppm").write_bytes(b"P6 0 0 255\n"), ["x.ppm"], "x.ppm is"),
    "20,000-pixel-wide strip": (picture("RGB", (20_000, 20)), ["x.tiff"], "strip of 20000 x 20 pixels"),
    "empty label list": (picture("RGB", (8, 8)), ["x.tiff", "--labels", ""], "`labels` is empty"),
    "checkpoint of another variant": (
        another_variant,
        ["x.jpg", "--model", "mobileclip_s0", "--pretrained", "b.pt"],
        "b.pt does not fit this model",
    ),
    "pickle with code": (hostile, ["x.jpg", "--pretrained", "evil.pt"], "would run code from it"),
    "missing image": (lambda f: None, ["x.jpg"], "no picture at x.jpg"),
    "no image": (lambda f: None, [], "no pictures given"),
    "missing weights": (picture("RGB", (8, 8)), ["x.tiff", "--pretrained", "no.pt"], "no weights at no.pt"),
    "onnx without a folder": (picture("RGB", (8, 8)), ["x.tiff", "--backend", "onnx"], "needs --pretrained FOLDER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, tiny_folder, case):
    make, arguments, sentence = REFUSED[case]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = arguments if "--labels" in arguments else [*arguments, "--labels", "a,b"]
    arguments = (
        arguments if {"--pretrained", "--backend"} & set(arguments) else [*arguments, "--pretrained", tiny_folder]
    )
    status, out, err = run(monkeypatch, capsys, "classify", *arguments)
    lines = [line for line in err.splitlines() if "licence" not in line]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert sentence in lines[0] and lines[0].startswith("mobileclip: error: ")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


HANDLED = {
    "1-pixel image": picture("RGB", (1, 1)),
    "20,000-pixel-wide image": picture("RGB", (20_000, 100)),
    "CMYK": picture("CMYK", (9, 9)),
    "16-bit": picture("I;16", (9, 9)),
    "alpha": picture("RGBA", (9, 9)),
}


@pytest.mark.parametrize("case", HANDLED)
def test_odd_pictures_are_handled(monkeypatch, capsys, tmp_path, tiny_folder, case):
    HANDLED[case](tmp_path)
    arguments = ("classify", tmp_path / "x.tiff", "--labels", "a,b", "--pretrained", tiny_folder, "--json")
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert all(np.isfinite(row["probability"]) for row in json.loads(out))


@pytest.mark.parametrize(
    "arguments", [["classify"], ["clasify", "x"], ["classify", "x", "--labels", "a", "--modle", "b"]]
)
def test_usage_errors_exit_with_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2
