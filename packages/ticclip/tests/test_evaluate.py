"""Retrieval in pools of one size against all pools, zero-shot classes, sets in clip_benchmark's layout."""

import itertools

import numpy as np
import pytest
from ticclip.builder import BuildConfig, build_index
from ticclip.data import Examples
from ticclip.evaluate import Encoder, Suite, class_hits, means, retrieval_hits
from ticclip.layout import write_split
from ticclip.suite import classify, evaluate_sets, retrieve


def draw(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(2, n, 4))
    vectors[1] += vectors[0]
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("pool_size", [2, 3, 5, 7])
def test_recall_over_every_pool(pool_size):
    """The formula against all C(7, p) pools, each scored by itself."""
    image, text = draw(7)
    found = np.zeros(7)
    counts = np.zeros(7)
    for pool in itertools.combinations(range(7), pool_size):
        similarity = image[list(pool)] @ text[list(pool)].T
        for place, item in enumerate(pool):
            found[item] += (similarity[place].argmax() == place) / 2 + (similarity[:, place].argmax() == place) / 2
            counts[item] += 1
    assert retrieval_hits(image, text, pool_size) == pytest.approx(found / counts)


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    same = np.ones((10, 3)) / np.sqrt(3)
    assert retrieval_hits(same, same, 5).sum() == 0
    with pytest.raises(ValueError, match="`pool_size` "):
        retrieval_hits(same, same, 11)


def test_chance_is_one_over_the_pool():
    image, _ = draw(600, 1)
    text, _ = draw(600, 2)
    assert retrieval_hits(image, text, 20).mean() == pytest.approx(0.05, abs=0.015)


def test_classes():
    prompts = np.eye(3)
    assert class_hits(np.eye(3)[[0, 1, 1]], prompts, np.array([0, 1, 2])).tolist() == [1, 1, 0]
    found = classify(np.eye(3)[[0, 1, 1, 1]], prompts, np.array([0, 1, 1, 2]))
    assert found == {"acc1": 0.75, "acc5": 1.0, "mean_per_class_recall": pytest.approx(2 / 3)}


def test_static_retrieval_by_hand():
    image, text = np.eye(4), np.eye(4)[[0, 1, 3, 2]]
    found = retrieve(image, text, np.arange(4))
    assert found["mean_recall@1"] == found["text_retrieval_recall@1"] == 0.5
    assert found["image_retrieval_recall@5"] == 1.0


def test_any_of_a_pictures_captions_is_a_hit():
    # The first picture has two captions: one is its own vector, the other is nearer to the second picture.
    image, text = np.eye(2), np.array([[1.0, 0.0], [0.0, 0.9], [0.0, 1.0]])
    found = retrieve(image, text, np.array([0, 0, 1]))
    assert found["text_retrieval_recall@1"] == 1.0
    assert found["image_retrieval_recall@1"] == pytest.approx(2 / 3)


class Told:
    """An encoder that reads the number of a picture off its caption or pixels: it is always right."""

    def __init__(self, index, examples):
        rows = np.arange(len(index))
        batch = examples(rows)
        self.pictures = {picture.tobytes(): row for row, picture in enumerate(batch["image"])}
        self.texts = {text.tobytes(): row for row, text in enumerate(batch["text"])}
        self.vectors = np.random.default_rng(0).normal(size=(len(index) + 1, 32))
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)

    def encoder(self):
        return Encoder(
            lambda x: self.vectors[[self.pictures.get(p.tobytes(), -1) for p in x]],
            lambda x: self.vectors[[self.texts.get(p.tobytes(), -1) for p in x]],
            batch_size=7,
        )


@pytest.fixture(scope="module")
def told(index, tiny):
    import dataclasses

    config = dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, context_length=12, vocab_size=49408))
    examples = Examples(index, config)
    return Told(index, examples).encoder(), examples, config


def test_a_model_that_knows_is_right_everywhere(told):
    encoder, examples, _ = told
    suite = Suite(examples)
    assert means(suite.retrieval(encoder)) == [1.0, 1.0, 1.0]
    assert suite.classification(encoder) is None, "no labels here"
    assert suite.pool_size == min(examples.index.sizes("test"))
    assert len(suite.retrieval(encoder, [2])) == 1


def test_written_sets_are_read_again(told, index, tmp_path):
    encoder, _, config = told
    counts = write_split(index, tmp_path, shards=True)
    assert counts["steps"] == 3 and counts["test"] == sum(index.sizes("test"))
    rows = {row["key"]: row["metrics"] for row in evaluate_sets(encoder, config, tmp_path / "eval")}
    assert list(rows) == ["retrieval/2019", "retrieval/2020", "retrieval/2021"]
    assert {metrics["mean_recall@1"] for metrics in rows.values()} == {1.0}
    assert (tmp_path / "eval/retrieval/2019/dataset_type.txt").read_text() == "retrieval\n"


def test_published_files_and_back(index, folder, tmp_path, write_tar):
    """Lists, pickle and shards that `split` writes make the same stream again."""
    write_split(index, tmp_path / "split", shards=True)
    lists = tmp_path / "split/lists"
    config = BuildConfig(validation=0, uids=lists, evaluation=lists / "retrieval.pkl")
    sources = [tmp_path / "split/train", *sorted((tmp_path / "split/eval/retrieval").glob("*/test/0.tar"))]
    again = build_index(sources, tmp_path / "again", config)
    assert again.steps == index.steps and again.sizes() == index.sizes() and again.sizes("test") == index.sizes("test")
    for step in range(3):
        assert sorted(again.uids[again.rows(step)].tolist()) == sorted(index.uids[index.rows(step)].tolist())


def test_labels_make_classes(tmp_path, picture, tiny):
    import csv

    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "date", "label"])
        for n in range(60):
            (tmp_path / f"{n}.png").write_bytes(picture(n))
            writer.writerow([f"{n}.png", f"number {n}", 2019 + n % 2, ("cat", "dog", "")[n % 3]])
    index = build_index([tmp_path], tmp_path / "index", BuildConfig(held_out=0.3, validation=0))
    counts = write_split(index, tmp_path / "split")
    assert (tmp_path / "split/eval/classification/2019/classnames.txt").read_text() == "cat\ndog\n"
    assert counts["steps"] == 2
    flat = Encoder(lambda x: np.tile([1.0, 0.0], (len(x), 1)), lambda x: np.eye(2)[np.arange(len(x)) % 2], 8)
    hits = Suite(Examples(index, tiny)).classification(flat)
    labels = [index.texts(index.rows(step, "test"), "label") for step in range(2)]
    for values, names in zip(hits, labels, strict=True):
        assert values.sum() == names.count("cat") and len(values) == len(names) - names.count("")
