"""Evaluators against brute force, on the layouts people have; the authors' averages."""

import json
from pathlib import Path

import make_data
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip.evaluate import average_results, evaluate, open_task, retrieval_recalls
from mobileclip.predict import Pipeline
from mobileclip.preprocess import Preprocess
from tenfold_shared.commands import InputError

REFERENCE = json.loads((Path(__file__).parent / "reference/results.json").read_text())
CLASSES = ("red", "green", "blue")


class ByColour:
    """Encoders that embed a picture's mean colour and a caption's colour word: what is right is known."""

    def encode_image(self, image, normalize=False):
        return torch.nn.functional.normalize(image.mean((2, 3)), dim=-1)

    def encode_text(self, text, normalize=False):
        return text.float()

    def scale(self):
        return torch.tensor(100.0)


def tokenize(texts):
    return torch.stack([torch.eye(3)[[name in text for name in CLASSES].index(True)] for text in texts])


PIPELINE = Pipeline(ByColour(), Preprocess(8), tokenize)


def coloured(name):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), {"red": (250, 9, 0), "green": (0, 250, 9), "blue": (9, 0, 250)}[name]).save(buffer, "PNG")
    return buffer.getvalue()


def write_webdataset(folder, rows):
    import webdataset

    (folder / "test").mkdir(parents=True)
    for number in range(2):
        with webdataset.TarWriter(str(folder / f"test/{number}.tar"), encoder=False) as writer:
            for i, row in enumerate(rows[number::2]):
                writer.write({"__key__": f"s{number}{i:04d}", **row})
    (folder / "test/nshards.txt").write_text("2")


def test_classification_in_clip_benchmarks_layout(tmp_path):
    """Four of five right: two wrong labels would be found by hand as well."""
    truth = [("red", 0), ("red", 0), ("green", 1), ("blue", 2), ("blue", 1)]
    write_webdataset(tmp_path, [{"png": coloured(name), "cls": str(label).encode()} for name, label in truth])
    (tmp_path / "classnames.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na bad photo of a {c}.\n")
    task = open_task(tmp_path)
    assert task.templates == ("a photo of a {}.", "a bad photo of a {}.")
    expected = {"acc1": 4 / 5, "acc5": 1.0, "mean_per_class_recall": (1 + 1 / 2 + 1) / 3, "num_images": 5}
    assert evaluate(PIPELINE, task, quiet=True) == pytest.approx(expected)


def test_classification_of_folders(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(coloured(name))
    (tmp_path / "red/y.png").write_bytes(coloured("blue"))
    task = open_task(tmp_path)
    assert task.classes == ("blue", "green", "red")
    assert evaluate(PIPELINE, task, quiet=True)["acc1"] == pytest.approx(3 / 4)


def test_retrieval_with_several_captions(tmp_path):
    captions = {"red": "red one\nred two", "green": "green", "blue": "blue"}
    write_webdataset(tmp_path, [{"png": coloured(name), "txt": text.encode()} for name, text in captions.items()])
    found = evaluate(PIPELINE, open_task(tmp_path), quiet=True)
    assert found["image_retrieval_recall@1"] == found["text_retrieval_recall@1"] == 1
    assert found["num_images"] == 3


def test_retrieval_from_a_table(tmp_path):
    (tmp_path / "data.csv").write_text("path,caption\n" + "".join(f"{n}.png,{n}\n" for n in CLASSES))
    for name in CLASSES:
        (tmp_path / f"{name}.png").write_bytes(coloured(name))
    assert evaluate(PIPELINE, open_task(tmp_path), quiet=True)["text_retrieval_recall@1"] == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 30), st.integers(1, 4))
def test_recalls_equal_a_plain_loop(seed, num_images, per_image):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        torch.randn(num_images, 5, generator=generator),
        torch.randn(num_images * per_image, 5, generator=generator),
    )
    owner = np.repeat(np.arange(num_images), per_image)
    found = dict(retrieval_recalls(image, text, owner))
    for k in (1, 5, 10):
        hits = [owner[i] in (image @ text[i]).argsort(descending=True)[:k].tolist() for i in range(len(text))]
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(hits))
        hits = [i in owner[(text @ image[i]).argsort(descending=True)[:k].numpy()] for i in range(num_images)]
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("name", REFERENCE)
def test_the_authors_results_give_their_readmes_column(tmp_path, name):
    rows = [{"key": key, "metrics": {"main_metric": value}} for key, value in REFERENCE[name]["main_metric"].items()]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = average_results(tmp_path / "results.jsonl")
    assert found["num_datasets"] == 38
    assert round(100 * found["average"], 1) == REFERENCE[name]["readme_average"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda f: (f / "r.jsonl").write_text('{"key": "a"}\n'), "line 1 is not a result"),
        (lambda f: (f / "r.jsonl").write_text(""), "no data set with a main metric"),
    ],
)
def test_other_results_are_refused(tmp_path, make, sentence):
    make(tmp_path)
    with pytest.raises(InputError, match=sentence):
        average_results(tmp_path / "r.jsonl")


def test_missing_shards_are_noticed(tmp_path):
    write_webdataset(tmp_path, [{"png": make_data.picture(i), "txt": b"red"} for i in range(4)])
    (tmp_path / "test/1.tar").unlink()
    with pytest.raises(InputError, match="says 2 shards, there are 1"):
        open_task(tmp_path)


def test_a_class_without_a_name_is_refused(tmp_path):
    write_webdataset(tmp_path, [{"png": coloured("red"), "cls": b"3"}] * 2)
    (tmp_path / "classnames.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(InputError, match="has class 3 of 3"):
        evaluate(PIPELINE, open_task(tmp_path), quiet=True)
