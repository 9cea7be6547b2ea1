"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from qualityclip import PRESETS, cli, save_pretrained
from qualityclip.config import DENSE_PRESETS, TRAIN_PRESETS
from qualityclip.readers import read_captions


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["qualityclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def answer(monkeypatch, capsys, here):
    def call(*arguments):
        status, out, err = run(monkeypatch, capsys, *arguments, "--json", "--quiet")
        assert status == 0, err
        return json.loads(out)

    return call


def test_presets_in_a_process_of_its_own():
    result = subprocess.run([sys.executable, "-m", "qualityclip", "presets", "--json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found["models"]) == set(PRESETS)
    assert set(found["training"]) == set(TRAIN_PRESETS) and set(found["dense"]) == set(DENSE_PRESETS)


def test_from_captions_to_dense_prediction(answer, here):
    summary = answer("score", "scenes:nouns:30", "--out", "scores")
    nouns = {row["kind"]: row["mean"] for row in summary if row["measure"] == "nouns"}
    assert nouns["synthetic"] == 1 and nouns["real"] < 0.6
    assert {path.name for path in (here / "scores").iterdir()} == {"scores.jsonl", "scores.svg", "summary.json"}
    kept = answer("filter", "scenes:noisy:30", "--min-words", "2", "--out", "good.parquet")
    assert kept["kept"] + kept.get("dropped: sample without captions", 0) == 30
    mixed = answer("mix", "scenes:nouns:30", "--mix.policy", "synthetic", "--epochs", "2", "--out", "mixed.tar")
    assert mixed["samples"] == 60 and mixed["synthetic"] > 50, "few complete captions equal the noisy one"
    options = ("--num-steps", "3", "--batch-size", "8", "--device", "cpu")
    trained = answer("train", "mixed.tar", "--out", "run", *options)
    assert trained["steps"] == 3 and np.isfinite(trained["train/loss"])
    recall = answer("evaluate", "run/model", "--data", "scenes:nouns:30", "--device", "cpu")
    assert 0 <= recall["text_to_image@1"] <= recall["text_to_image@10"] <= 1
    dense = answer("dense", "run/model", "--data", "scenes", "--out", "dense", "--num-steps", "3", "--device", "cpu")
    assert answer("evaluate", "dense", "--data", "scenes", "--device", "cpu") == dense
    scored = answer("score", "scenes:nouns:5", "--encoder", "run/model", "--no-plot", "--out", "s2", "--device", "cpu")
    assert any(row["measure"] == "clip_score" for row in scored)


def test_mixing_by_score(answer, here, tiny):
    import torch
    from qualityclip.model import CLIP

    torch.manual_seed(0)
    save_pretrained(CLIP(tiny), "model")
    options = ("--mix.policy", "best", "--encoder", "model", "--device", "cpu")
    found = answer("mix", "scenes:nouns:6", "--out", "best.parquet", *options)
    assert found["samples"] == 6 and all(len(sample.captions) == 1 for sample in read_captions("best.parquet"))


def test_captions_of_a_function_and_after_a_kill(answer, here, picture):
    rows = ["path,caption"]
    for number in range(5):
        (here / f"{number}.png").write_bytes(picture(number))
        rows.append(f"{number}.png,alt {number}")
    (here / "list.csv").write_text("\n".join(rows))
    (here / "mine.py").write_text(
        "def describe(images, number):\n    return [f'{i.width} wide {number}' for i in images]\n"
    )
    options = (
        "--captioner",
        "mine:describe",
        "--num-captions",
        "2",
        "--batch-size",
        "2",
        "--out",
        "out.jsonl",
        "--device",
        "cpu",
    )
    assert answer("caption", "list.csv", *options)["captioned"] == 5
    whole = (here / "out.jsonl").read_bytes()
    assert [sample.synthetic for sample in read_captions("out.jsonl")] == [("20 wide 0", "20 wide 1")] * 5
    (here / "out.jsonl").write_bytes(whole[: len(whole) // 2])
    again = answer("caption", "list.csv", *options, "--resume")
    assert again["captioned"] == 3 and (here / "out.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_captions_of_a_transformers_model(answer, here, picture):
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "[ENC]", "a", "dog", "."]
    (here / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(here / "vocab.txt"))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"bos_token_id": 4, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = {**size, **ids, "vocab_size": 9, "encoder_hidden_size": 16, "max_position_embeddings": 60}
    config = transformers.BlipConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16})
    transformers.BlipForConditionalGeneration(config).save_pretrained("blip")
    side = {"height": 32, "width": 32}
    transformers.BlipProcessor(transformers.BlipImageProcessor(size=side), tokenizer).save_pretrained("blip")
    (here / "0.png").write_bytes(picture(0))
    (here / "list.csv").write_text("path,caption\n0.png,alt\n")
    options = ("--captioner", "blip", "--num-captions", "2", "--out", "out.jsonl", "--device", "cpu")
    assert answer("caption", "list.csv", *options)["captioned"] == 1
    [sample] = read_captions("out.jsonl")
    assert all("." not in text and text for text in sample.synthetic)


def test_the_curve_of_rows_and_of_runs(answer, here):
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "pairs": pairs,
            "labels": 10,
            "mean_iou": (pairs if arm == "ours" else pairs / 10) / 1000,
        }
        for arm in ("ours", "control")
        for seed in (0, 1)
        for pairs in (10, 100, 1000)
    ]
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    [found] = answer("curve", "--rows", "rows.jsonl", "--out", "fit")
    assert found["axis"] == "pairs" and found["ratio"] == pytest.approx(10)
    grid = ("--pairs", "8", "16", "--labels", "8", "16", "--seeds", "0", "--dense-steps", "2")
    options = ("--num-steps", "2", "--batch-size", "8", "--device", "cpu", "--out", "grid")
    command = ("curve", "--ours", "scenes:nouns:16", "--control", "scenes:noisy:16", *grid, *options)
    made = answer(*command)
    assert [row["axis"] for row in made] == ["pairs", "labels"]
    before = (here / "grid" / "rows.jsonl").read_bytes()
    assert len(before.splitlines()) == 8
    assert answer(*command) == made and (here / "grid" / "rows.jsonl").read_bytes() == before


def test_a_dry_run_writes_nothing(answer, here):
    found = answer("train", "nowhere", "--out", "run", "--preset", "1b_mci2", "--dry-run")
    assert found["batch_size"] == 65_536 and found["samples_seen"] == 65_536 * 200_000
    assert (
        answer("dense", "x", "--data", "y", "--out", "z", "--preset", "coco_mask_rcnn", "--dry-run")["layer_decay"]
        == 0.7
    )
    assert list(here.iterdir()) == []


def no_captions(folder):
    (folder / "a.jsonl").write_text('{"uid": "x", "captions": []}\n')
    return "train", "a.jsonl", "--out", "out"


def empty_caption(folder):
    (folder / "a.jsonl").write_text('{"uid": "x", "captions": [" "]}\n')
    return "score", "a.jsonl", "--out", "out"


def long_caption(folder):
    (folder / "a.jsonl").write_text(json.dumps({"uid": "x", "captions": ["x" * 10_000]}))
    return "mix", "a.jsonl", "--out", "out/mixed.jsonl"


def labelled(folder, picture, mask, depth=False):
    for split in ("training", "validation"):
        if depth:
            room = folder / "data" / {"training": "train", "validation": "test"}[split]
            room.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(room / "rgb_1.jpg")
            np.save(room / "sync_depth_1.npy", mask)
            continue
        for kind, content, name in (("images", picture, "1.jpg"), ("annotations", mask, "1.png")):
            (folder / "data" / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / "data" / kind / split / name)
    model = folder / "model"
    task = ("--task", "depth") if depth else ()
    return "dense", model, "--data", "data", "--out", "out", "--num-steps", "1", *task


def picture_of(height, width):
    return np.zeros((height, width, 3), np.uint8)


def other_size(folder):
    return labelled(folder, picture_of(20, 30), np.ones((20, 20), np.uint8))


def label_over_count(folder):
    return labelled(folder, picture_of(20, 20), np.full((20, 20), 77, np.uint8))


def zero_depth(folder):
    return labelled(folder, picture_of(20, 20), np.zeros((20, 20), np.float32), depth=True)


def nan_depth(folder):
    return labelled(folder, picture_of(20, 20), np.full((20, 20), np.nan, np.float32), depth=True)


def inf_depth(folder):
    return labelled(folder, picture_of(20, 20), np.full((20, 20), np.inf, np.float32), depth=True)


def no_maps(folder):
    return "dense", "timm:mixer_s32_224", "--data", "scenes", "--out", "out", "--num-steps", "1"


def unreadable_line(folder):
    (folder / "a.jsonl").write_text('{"uid": "x", "captions": ["a"]}\n{"uid": \n')
    return "filter", "a.jsonl", "--out", "out/good.jsonl"


def unreadable_csv(folder):
    (folder / "a.csv").write_text("path,caption\na.png,x,y,z\n")
    return "score", "a.csv", "--out", "out"


BAD = [
    (no_captions, "a.jsonl: sample 'x' has no captions; `qualityclip filter` leaves such samples out."),
    (empty_caption, "a.jsonl: sample 'x' has an empty caption; `qualityclip filter` drops it."),
    (long_caption, "sample 'x' has a caption of 10000 characters, over 5000;"),
    (other_size, "1.png: the truth has 20 x 20 pixels, its picture 30 x 20; they must be of one size."),
    (label_over_count, "1.png holds the label 77, with 13 classes; give --num-classes 77."),
    (zero_depth, "sync_depth_1.npy holds only zeros, no measured pixel."),
    (nan_depth, "sync_depth_1.npy holds nan or inf; write 0 where a depth was not measured."),
    (inf_depth, "sync_depth_1.npy holds nan or inf"),
    (no_maps, "MlpMixer gives no feature maps"),
    (unreadable_line, "a.jsonl: line 2 cannot be read as JSON"),
    (unreadable_csv, "a.csv: line 2 has another number of fields than the header."),
]


@pytest.mark.parametrize(("make", "sentence"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_bad_input_is_one_sentence(make, sentence, monkeypatch, capsys, here, tiny):
    import torch
    from qualityclip.model import CLIP

    torch.manual_seed(0)
    save_pretrained(CLIP(tiny), "model")
    arguments = make(here)
    before = sorted(here.rglob("*"))
    status, out, err = run(monkeypatch, capsys, *arguments, "--quiet")
    assert status == 2 and out == ""
    assert err.startswith("qualityclip: error: ") or "error: " in err
    assert sentence in err and len(err.strip().splitlines()) == 1
    assert sorted(here.rglob("*")) == before, "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "nowhere", "--out", "out"), "no file or folder at nowhere"),
        (("train", "scenes:nouns:4", "--out", "out", "--model", "vit_b"), "did you mean 'vit_b16'"),
        (("dense", "model", "--data", "nowhere", "--out", "out"), "no folder at nowhere"),
        (("dense", "nothing", "--data", "scenes", "--out", "out"), "no model at nothing"),
        (("dense", "model", "--data", "scenes", "--out", "out", "--head", "dpt"), "is not one for segmentation"),
        (("mix", "scenes:nouns:4", "--out", "out.jsonl", "--mix.policy", "best"), "needs an encoder"),
        (("mix", "scenes:nouns:4", "--out", "out.txt"), "captions are written to"),
        (("caption", "scenes:nouns:4", "--captioner", "m:f", "--out", "out.jsonl"), "files of their own"),
        (("curve", "--out", "out"), "give --rows, or both"),
        (("evaluate", "nothing", "--data", "scenes:nouns:4"), "no model at nothing"),
    ],
)
def test_other_mistakes(arguments, sentence, monkeypatch, capsys, here, tiny):
    from qualityclip.model import CLIP

    save_pretrained(CLIP(tiny), "model")
    status, _, err = run(monkeypatch, capsys, *arguments, "--quiet")
    assert status == 2 and sentence in err and "Traceback" not in err
    assert {path.name for path in here.iterdir()} == {"model"}
