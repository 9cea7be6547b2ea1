"""The command as its users meet it: results on stdout, one sentence and status 2 for bad input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from vfm_transfer import PRESETS, cli
from vfm_transfer.embeddings import save_embeddings


def call(monkeypatch, capsys, *arguments):
    """Run the command in this process and return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["vfm-transfer", *map(str, arguments)])
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
    def run(*arguments):
        status, out, err = call(monkeypatch, capsys, *arguments, "--json", "--quiet")
        assert status == 0, err
        return json.loads(out)

    return run


TINY = ("--preset", "tiny", "--device", "cpu")


def test_presets_in_a_process_of_its_own():
    result = subprocess.run([sys.executable, "-m", "vfm_transfer", "presets", "--json"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert set(json.loads(result.stdout)) == set(PRESETS)


def test_from_a_pile_to_a_student(answer, here, folder):
    few, pile, test = (folder / name for name in ("few", "pile", "test"))
    teach = answer("teach", "--labels", few, "--out", "a", *TINY)
    assert teach["teacher"] == "a/1-teacher"
    queries = answer("embed", few, "--network", "a/1-teacher", "--out", "q.npy", "--device", "cpu")
    gallery = answer("embed", pile, "--network", "a/1-teacher", "--out", "g.npy", "--device", "cpu")
    assert (queries["images"], gallery["images"]) == (12, 60) and queries["fingerprint"] == gallery["fingerprint"]
    found = answer("curate", "--queries", "q.npy", "--gallery", "g.npy", "--total", "36", "--out", "t.txt")
    assert (found["per_query_min"], found["per_query_max"], found["recall"]) == (3, 3, 1.0)
    names = (here / "t.txt").read_text().splitlines()
    assert len(set(names)) == 36 and all(name.startswith(str(pile)) for name in names)
    data = ("--labels", few, "--transfer", "t.txt")
    distilled = answer("distill", *data, "--use-teacher", "a/1-teacher", "--out", "a", *TINY)
    tuned = answer("finetune", *data, "--use-pretrained", distilled["student"], "--test", test, "--out", "a", *TINY)
    whole = answer("run", *data, "--test", test, "--out", "b", *TINY)
    assert tuned["score"] == whole["score"]  # the stages alone make what `run` makes
    again = answer("evaluate", "b/3-student", "--labels", test, "--device", "cpu")
    assert again["score"] == whole["score"] and again["num_images"] == 18


def test_lists_of_files_are_read_as_folders_are(answer, here, folder):
    lines = {
        part: [
            f"{path.relative_to(folder / part)},{path.parent.name}" for path in sorted((folder / part).rglob("*.png"))
        ]
        for part in ("few", "test")
    }
    for part, rows in lines.items():
        (here / f"{part}.txt").write_text("\n".join(rows) + "\n")
    from_folder = answer("run", "--labels", folder / "few", "--arm", "scratch", "--out", "a", *TINY)
    from_list = answer(
        "run", "--labels", "few.txt", "--images", folder / "few", "--arm", "scratch", "--out", "b", *TINY
    )
    assert from_folder["flops"] == from_list["flops"]
    digest = [(here / name / "3-student/model.safetensors").read_bytes() for name in "ab"]
    assert digest[0] == digest[1]


def test_settings_of_the_command(answer, folder):
    options = (
        "--steps",
        "1",
        "2",
        "3",
        "--lr",
        "0.1",
        "0.2",
        "0.3",
        "--batch-size",
        "4",
        "--seed",
        "7",
        "--arm",
        "mse",
    )
    found = answer("run", "--labels", folder / "few", "--transfer", folder / "pile", "--dry-run", *options, *TINY)
    config = found["config"]
    stages = [config["teach"], config["transfer"]["schedule"], config["finetune"]]
    assert [(s["steps"], s["lr"], s["batch_size"], s["seed"]) for s in stages] == [
        (1, 0.1, 4, 7),
        (2, 0.2, 4, 7),
        (3, 0.3, 4, 7),
    ]
    assert (config["arm"], found["classes"], found["labelled"], found["transfer"]) == ("mse", 3, 12, 60)
    assert found["student"]["parameters"] == found["teacher"]["parameters"] > 150_000


def test_a_comparison_has_a_page_and_a_table(monkeypatch, capsys, here, folder):
    data = ("--labels", folder / "test", "--transfer", folder / "pile", "--test", folder / "test", "--per-class", "2")
    arguments = (*data, "--seeds", "2", "--arms", "oriented", "scratch", "--steps", "2", "2", "2", "--out", "c")
    status, out, err = call(monkeypatch, capsys, "compare", *arguments, *TINY, "--quiet")
    assert status == 0, err
    assert "oriented ahead by" in out and "[" in out
    page = (here / "c/report.html").read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "paired by draw (seeds 0, 1)" in page
    assert "| scratch |" in (here / "c/report.md").read_text()


def test_splits_in_the_published_form(answer, here, folder):
    rows = answer("splits", "eurosat", "--source", folder / "test", "--per-class", "1", "--out", "s")
    assert {row["split"]: row["images"] for row in rows} == {
        "test": 12,
        "train_full": 3,
        "val": 3,
        "train_1img_per_class": 3,
    }
    line = (here / "s/train_1img_per_class.txt").read_text().splitlines()[0]
    assert line.endswith(",bag") and line.startswith("bag-")


def test_segmentation(answer, scenes):
    data = ("--labels", scenes / "images/training", "--masks", scenes / "annotations/training", "--num-classes", "2",
            "--first-class", "1", "--transfer", scenes / "images/training", "--test", scenes / "images/validation",
            "--test-masks", scenes / "annotations/validation")  # fmt: skip
    found = answer("run", "--task", "segment", *data, *TINY)
    assert found["metric"] == "mIoU" and 0 <= found["score"] <= 1


def one_class(here, folder):
    shutil.copytree(folder / "few/bag", here / "few/bag")


def empty_class(here, folder):
    shutil.copytree(folder / "few", here / "few")
    (here / "few/hat").mkdir()


def corrupt(here, folder):
    shutil.copytree(folder / "few", here / "few")
    victim = sorted((here / "few/bag").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:60])


def corrupt_pile(here, folder):
    shutil.copytree(folder / "few", here / "few")
    shutil.copytree(folder / "pile", here / "pile")
    (here / "pile/broken.jpg").write_bytes(b"no image")


def other_classes(here, folder):
    from vfm_transfer import build_network
    from vfm_transfer.checkpoint import save_pretrained
    from vfm_transfer.config import NetworkConfig

    shutil.copytree(folder / "few", here / "few")
    save_pretrained(build_network(NetworkConfig("convnet", 5)), here / "teacher")


def small_pile(here, folder):
    shutil.copytree(folder / "few", here / "few")
    (here / "pile").mkdir()
    for path in sorted((folder / "pile").iterdir())[:7]:
        shutil.copy(path, here / "pile")


def vectors(here, queries=None, gallery=None, marks=("m", "m")):
    generator = np.random.default_rng(0)
    for name, found, count, mark in (("q", queries, 4, marks[0]), ("g", gallery, 20, marks[1])):
        found = generator.normal(size=(count, 6)).astype(np.float32) if found is None else found
        save_embeddings(here / f"{name}.npy", found, fingerprint=mark, names=list(map(str, range(len(found)))))


def enough(here, folder):
    vectors(here)


def with_nan(here, folder):
    gallery = np.ones((20, 6), np.float32)
    gallery[13, 2] = np.nan
    vectors(here, gallery=gallery)


def two_models(here, folder):
    vectors(here, marks=("a1", "b2"))


RUN = ("run", "--labels", "few", "--transfer", "pile", "--out", "out", *TINY)
HERE_PILE = ("run", "--labels", "few", "--transfer", "PILE", "--out", "out", *TINY)
REAL = ("run", "--labels", "FEW", "--transfer", "PILE", "--out", "out", *TINY)
CURATE = ("curate", "--queries", "q.npy", "--gallery", "g.npy", "--out", "out/transfer.txt")


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (one_class, HERE_PILE, "few: one class (bag); a task needs at least two."),
        (empty_class, HERE_PILE, "few/hat: a class without images; add some or remove the folder."),
        (corrupt, HERE_PILE, "not a whole image (1 of 12)"),
        (other_classes, (*HERE_PILE, "--use-teacher", "teacher"), "teacher has 5 classes and the labels 3"),
        (small_pile, RUN, "the transfer set has 7 images, under one batch of 8"),
        (enough, (*CURATE, "--total", "21"), "`total` (=21) must be from 1 to the gallery's 20 images."),
        (with_nan, (*CURATE, "--total", "8"), "row 13 of the embeddings is not finite"),
        (two_models, (*CURATE, "--total", "8"), "queries and gallery come from different models (a1 and b2)"),
        # Beyond the list.
        (corrupt_pile, RUN, "pile/broken.jpg: not a whole image (1 of 61)"),
        (small_pile, (*RUN, "--use-teacher", "nowhere"), "nowhere: no network here"),
        (small_pile, (*RUN, "--preset", "tinny"), "unknown preset 'tinny'; did you mean 'tiny'?"),
        (small_pile, (*RUN, "--temperature", "0"), "`temperature` (=0.0) must be above 0."),
        (enough, (*REAL, "--student-stride", "16"), "'convnet' cannot have it"),
        (enough, (*REAL, "--teacher", "resnet5"), "unknown backbone 'resnet5'"),
        (small_pile, ("evaluate", "few"), "few: no network here"),
        (enough, (*CURATE, "--total", "8", "--balance", "cover", "--dedup-threshold", "0.9"), "has no effect"),
        (enough, (*CURATE, "--total", "8", "--balance", "class"), "needs the classes of the queries"),
        (enough, ("curate", "--queries", "x.npy", "--gallery", "g.npy"), "x.npy: no embeddings"),
        (enough, ("splits", "eurosatt"), "unknown plan of splits 'eurosatt'; did you mean 'eurosat'?"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_trace(monkeypatch, capsys, here, folder, make, arguments, sentence):
    make(here, folder)
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    places = {"PILE": folder / "pile", "FEW": folder / "few"}
    arguments = [places.get(argument, argument) for argument in arguments]
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith(("vfm-transfer: error: ", "python: error: ")) and sentence in last, err
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_a_damaged_network_is_named(monkeypatch, capsys, here, folder, answer):
    answer("run", "--labels", folder / "few", "--arm", "scratch", "--out", "a", *TINY)
    weights = here / "a/3-student/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    status, _, err = call(monkeypatch, capsys, "evaluate", "a/3-student", "--labels", folder / "test")
    assert status == 2 and "not a whole file of weights" in err
    (here / "a/3-student/network.json").write_text('{"name": "convnet"}')
    assert "not a description of a network" in call(monkeypatch, capsys, "evaluate", "a/3-student")[2]


def test_images_of_other_modes_and_shapes_are_read(here):
    from vfm_transfer.images import read_square

    Image.new("RGBA", (40, 20), (255, 0, 0, 128)).save("a.png")
    Image.new("L", (10, 30), 77).save("b.png")
    assert read_square(here / "a.png", 16).shape == read_square(here / "b.png", 16).shape == (16, 16, 3)
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save("c.png")
    assert (read_square(here / "c.png", 8) == 200).all(), "the middle"
