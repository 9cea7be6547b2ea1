"""The three stages on a folder of real images: killed and resumed, replaced, compared, billed."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from vfm_transfer import PRESETS, from_pretrained, run
from vfm_transfer.config import Schedule
from vfm_transfer.images import FileImages, list_images, open_labelled, open_segmentation
from vfm_transfer.pipeline import Draws, Replaced, RunData, compare

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def data(folder):
    labelled = open_labelled(folder / "few", 28)
    pile = FileImages(list_images(folder / "pile"), 28)
    return RunData(labelled, pile, open_labelled(folder / "test", 28, classes=labelled.classes))


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(TINY, data, out)


def digests(out):
    paths = sorted(out.glob("*/model.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# One process that imports everything once (counting operations and an optimiser bring in seconds of modules); every
# attempt is a fork of it that kills itself after so many writes and steps.
ATTEMPTS = """
import json, os, random, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vfm_transfer import PRESETS, build_network, run
from vfm_transfer.config import NetworkConfig
from vfm_transfer.images import FileImages, list_images, open_labelled
from vfm_transfer.ledger import count_flops
from vfm_transfer.pipeline import RunData

warm = build_network(NetworkConfig("convnet", 3))
count_flops(warm), torch.optim.AdamW(warm.parameters())
root, out = Path(sys.argv[1]), Path(sys.argv[2])
draw, kills, finished = random.Random(0), [], False
while not finished:
    limit = draw.randint(4, 14)
    child = os.fork()
    if child == 0:
        left = [limit]
        def watched(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return call
        os.replace = watched(os.replace)
        torch.optim.AdamW.step = watched(torch.optim.AdamW.step)
        labelled = open_labelled(root / "few", 28)
        test = open_labelled(root / "test", 28, classes=labelled.classes)
        run(PRESETS["tiny"], RunData(labelled, FileImages(list_images(root / "pile"), 28), test), out)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    finished = status == 0
    if not finished:
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        kills.append(sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.suffix != ".tmp"))
    assert len(kills) < 80
print(json.dumps(kills))
"""


@pytest.mark.slow
def test_killed_at_many_points_it_ends_with_the_same_weights(folder, done, tmp_path):
    result = subprocess.run([sys.executable, "-c", ATTEMPTS, folder, tmp_path / "out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    kills = json.loads(result.stdout)
    assert len(kills) >= 10
    for stage in ("1-teacher", "2-pretrained", "3-student"):  # it was killed inside each
        inside = [files for files in kills if f"{stage}/work/state.pt" in files and f"{stage}/stage.json" not in files]
        assert inside, stage
    assert any("2-pretrained/work/targets/view-0.npy" in files for files in kills)
    assert digests(tmp_path / "out") == digests(done[0])
    ours, whole = (json.loads((out / "result.json").read_text()) for out in (tmp_path / "out", done[0]))
    assert {**ours, "student": ""} == {**whole, "student": ""}
    assert not list((tmp_path / "out").rglob("work"))


def test_a_finished_run_is_not_made_again(data, done, monkeypatch):
    out, found = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")}
    assert run(TINY, data, out) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")} == before


def test_a_stage_that_depends_on_something_else_is_refused(data, done):
    with pytest.raises(ValueError, match=r"1-teacher: made with another schedule"):
        run(replace(TINY, teach=replace(TINY.teach, lr=1e-4)), data, done[0])
    with pytest.raises(ValueError, match=r"3-student: made with another mode"):
        run(replace(TINY, finetune_mode="linear"), data, done[0])


def test_images_that_changed_are_noticed_and_a_moved_folder_is_not(folder, tmp_path):
    short = Schedule(steps=2, batch_size=8, views=0)
    config = replace(TINY, teach=short, transfer=replace(TINY.transfer, schedule=replace(short, views=1)))
    config = replace(config, finetune=short)

    def again(root):
        pile = FileImages(list_images(root / "pile"), 28)
        return run(config, RunData(open_labelled(root / "few", 28), pile), tmp_path / "out")

    shutil.copytree(folder, tmp_path / "here")
    first = again(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert again(tmp_path / "there") == first
    for part, stage, what in (("pile", "2-pretrained", "images"), ("few", "1-teacher", "labels")):
        victim = sorted((tmp_path / "there" / part).rglob("*.png"))[5]
        Image.new("RGB", (28, 28), (9, 9, 9)).save(victim)  # under the same name
        with pytest.raises(ValueError, match=f"{stage}: made with another {what}"):
            again(tmp_path / "there")


def test_stages_can_be_replaced(data, done, tmp_path):
    out, found = done
    second = run(TINY, data, tmp_path / "a", replaced=Replaced(teacher=out / "1-teacher"))
    assert not (tmp_path / "a" / "1-teacher").exists()
    assert (second["score"], second["total_flops"]) == (found["score"], found["total_flops"])
    third = run(TINY, data, tmp_path / "b", replaced=Replaced(pretrained=out / "2-pretrained"))
    assert third["score"] == found["score"] and digests(tmp_path / "b") == {"3-student": digests(out)["3-student"]}
    fourth = run(replace(TINY, arm="checkpoint"), data, tmp_path / "c", replaced=Replaced(pretrained=out / "1-teacher"))
    assert "teacher_forward" in fourth["flops"]  # the bill of what is taken over comes with it


@pytest.mark.parametrize("arm", ["cosine", "mse", "contrastive", "patch", "self", "scratch"])
def test_every_arm_runs_and_is_billed(data, tmp_path, arm):
    short = Schedule(steps=2, batch_size=8, views=0)
    transfer = replace(TINY.transfer, schedule=replace(short, views=1))
    config = replace(TINY, arm=arm, teach=short, transfer=transfer, finetune=short)
    found = run(config, data, tmp_path)
    stages = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert stages == {
        "self": {"1-teacher", "2-pretrained", "3-student"},
        "scratch": {"3-student"},
    }.get(arm, {"2-pretrained", "3-student"})
    seen = {"self": 4 + 2 + 2, "scratch": 4}.get(arm, 4) * 8
    one = found["flops"]["student_forward"] / seen
    assert found["flops"]["student_backward"] == pytest.approx(2 * one * seen)
    assert ("teacher_forward" in found["flops"]) == (arm != "scratch")
    assert from_pretrained(tmp_path / "3-student").config.num_classes == 3


def test_self_training_needs_no_pretrained_network(data, tmp_path):
    """The teacher's name may be one that cannot be had."""
    short = Schedule(steps=1, batch_size=8, views=0)
    transfer = replace(TINY.transfer, schedule=replace(short, views=1))
    config = replace(TINY, arm="self", teacher="timm:no_such_model", teach=short, transfer=transfer, finetune=short)
    assert run(config, data, tmp_path)["arm"] == "self"


def test_segmentation_takes_all_three_steps(scenes, tmp_path):
    few, test = (
        open_segmentation(scenes / "images" / part, scenes / "annotations" / part, 28, 2, first=1)
        for part in ("training", "validation")
    )
    long = Schedule(steps=60, batch_size=8, lr=5e-3, views=0)
    transfer = replace(TINY.transfer, schedule=replace(long, steps=40, views=2))
    config = replace(TINY, task="segment", teach=long, transfer=transfer, finetune=replace(long, steps=20))
    found = run(config, RunData(few, few.images, test), tmp_path)
    assert found["metric"] == "mIoU" and found["score"] > 0.6
    assert set(found["per_class"]) == {"0", "1"}
    names = PRESETS["tiny"].arm, "patch"
    assert run(replace(config, arm="patch"), RunData(few, few.images, test), tmp_path / "p")["arm"] == names[1]


def test_a_comparison_is_paired_by_draw(data, tmp_path):
    short = Schedule(steps=3, batch_size=8, lr=3e-3, views=0)
    config = replace(
        TINY, teach=short, transfer=replace(TINY.transfer, schedule=replace(short, views=1)), finetune=short
    )
    found = compare(config, data, tmp_path, arms=("oriented", "scratch"), draws=Draws((0, 1, 2), 2))
    first, second = found["rows"]
    assert (first["ahead"], first["low"], first["high"]) == (0, 0, 0)
    gaps = np.array(first["per_seed"]) - np.array(second["per_seed"])
    half = 4.302652730 * gaps.std(ddof=1) / 3**0.5
    assert (second["ahead"], second["low"]) == pytest.approx((gaps.mean(), gaps.mean() - half))
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.json",
        *(f"{arm}-s{seed}" for arm in ("oriented", "scratch") for seed in range(3)),
    }
    requests = [
        json.loads((tmp_path / f"{a}-s0/3-student/stage.json").read_text())["request"] for a in ("oriented", "scratch")
    ]
    assert requests[0]["labels"] == requests[1]["labels"]  # the same draw
    assert torch.is_tensor(from_pretrained(tmp_path / "scratch-s2/3-student").head.weight)
