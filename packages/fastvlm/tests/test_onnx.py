"""ONNX halves compute what the model computes, from pixels to the last token, at any length."""

import json

import numpy as np
import pytest
import torch
from fastvlm import FastVLM, cli
from fastvlm.onnx_backend import export_onnx
from mobileclip.onnx_backend import open_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(hf_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    distances = export_onnx(FastVLM.from_pretrained(hf_folder), folder)
    assert max(distances.values()) < 1e-5
    return folder


def test_the_folder_holds_all_that_a_program_needs(folder):
    names = ["config.json", "embeddings.npy", "language.onnx", "vision.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_greedy_tokens_of_the_two_files_are_those_of_the_model(folder, hf_folder):
    """A decoder in numpy: the picture, an empty cache, then one token at a time."""
    config = json.loads((folder / "config.json").read_text())
    vision, language = open_session(folder / "vision.onnx"), open_session(folder / "language.onnx")
    table = np.load(folder / "embeddings.npy")
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    image = vision.run(None, {"input": pixels.numpy()})[0]
    embeds = np.concatenate([table[[5, 6]][None], image, table[[7]][None]], axis=1)
    cache = [np.zeros((1, config["num_kv_heads"], 0, config["head_dim"]), np.float32)] * (2 * config["num_layers"])
    names = [entry.name for entry in language.get_inputs()]
    tokens, length = [], 0
    for _ in range(8):
        positions = np.arange(length, length + embeds.shape[1])[None]
        length += embeds.shape[1]
        inputs = [embeds, np.ones((1, length), np.int64), positions, *cache]
        logits, *cache = language.run(None, dict(zip(names, inputs, strict=True)))
        tokens.append(int(logits[0, -1].argmax()))
        embeds = table[[tokens[-1]]][None]
    model = FastVLM.from_pretrained(hf_folder)
    assert tokens == model.generate(torch.tensor([[5, 6, -200, 7]]), pixels, max_new_tokens=8)[0].tolist()


def test_the_command_prints_the_distances(monkeypatch, capsys, hf_folder, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["fastvlm", "export", "--model", str(hf_folder), "--out", str(tmp_path / "x"), "--json"]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 and all(row["relative_distance"] < 1e-5 for row in rows)
