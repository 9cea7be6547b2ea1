"""Metrics against torchmetrics, pycocotools, naive loops and numbers by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from qualityclip import mean_iou
from qualityclip.metrics import average_precision, depth_errors
from tenfold_shared.metrics import mean_iou as count_labels
from torchmetrics.functional import jaccard_index
from torchmetrics.functional.segmentation import mean_iou as per_image_iou

labels = st.integers(0, 6)


def naive(pred, target, num_classes):
    values = []
    for label in range(num_classes):
        found, truth = {i for i, p in enumerate(pred) if p == label}, {i for i, t in enumerate(target) if t == label}
        if found | truth:
            values.append(len(found & truth) / len(found | truth))
    return sum(values) / len(values)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_naive_loop_and_torchmetrics_agree(pairs):
    pred, target = map(list, zip(*pairs, strict=True))
    ours = mean_iou(pred, target, 7)
    assert ours == pytest.approx(naive(pred, target, 7), abs=1e-12)
    theirs = jaccard_index(torch.tensor(pred), torch.tensor(target), task="multiclass", num_classes=7)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
    assert mean_iou(target, pred, 7) == pytest.approx(ours)


@pytest.mark.parametrize("num_classes", [2, 13, 150])
def test_maps_of_several_pictures_equal_torchmetrics(num_classes):
    generator = np.random.default_rng(num_classes)
    target = generator.integers(0, num_classes, (3, 40, 50))
    pred = np.where(generator.random(target.shape) < 0.6, target, generator.integers(0, num_classes, target.shape))
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    whole = jaccard_index(*tensors, task="multiclass", num_classes=num_classes).item()
    assert mean_iou(*tensors, num_classes) == pytest.approx(whole, abs=1e-6)
    each = per_image_iou(*tensors, num_classes=num_classes, input_format="index").mean().item()
    assert mean_iou(pred, target, num_classes, per_image=True) == pytest.approx(each, abs=1e-6)
    target[:, :5] = 255
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    ignored = jaccard_index(*tensors, task="multiclass", num_classes=num_classes, ignore_index=255).item()
    assert mean_iou(pred, target, num_classes, ignore_index=255) == pytest.approx(ignored, abs=1e-6)


def test_counts_add_up_and_small_types_do_not_overflow():
    generator = np.random.default_rng(0)
    pred, target = generator.integers(0, 200, (2, 4, 100), dtype=np.uint8)
    parts = count_labels(pred[:2], target[:2], 200) + count_labels(pred[2:], target[2:], 200)
    assert parts.compute() == pytest.approx(mean_iou(pred.astype(int), target.astype(int), 200))
    assert np.isnan(count_labels(np.array([], int), np.array([], int), 3).compute())


@pytest.mark.parametrize(
    ("pred", "target", "words"),
    [
        ([0, 3], [0, 1], "`predictions` 0..3 must be from 0 to 2"),
        ([0, 1], [0, 5], "`targets` 0..5"),
        ([0, -1], [0, 1], "`predictions` -1..0"),
        ([0.0, 1.0], [0, 1], "integer labels"),
        ([0], [0, 1], "must be the same"),
    ],
)
def test_labels_that_do_not_fit_are_named(pred, target, words):
    with pytest.raises(ValueError, match=words):
        mean_iou(pred, target, 3)


def test_pictures_must_be_as_many():
    with pytest.raises(ValueError, match="`pred` holds 1 images, `target` 2"):
        mean_iou([[0]], [[0], [1]], 3, per_image=True)


def test_depth_by_hand():
    truth, found = np.array([[1.0, 2.0], [0.0, 20.0]]), np.array([[1.1, 4.0], [9.0, 9.0]])
    errors = depth_errors(found, truth, max_depth=10).compute()
    assert errors["rmse"] == pytest.approx(np.sqrt((0.1**2 + 2**2) / 2))
    assert errors["abs_rel"] == pytest.approx((0.1 + 1) / 2)
    assert errors["delta1"] == 0.5
    assert depth_errors([[0.5]], [[0.9]], max_depth=10).compute()["delta1"] == 0, "too near is as wrong as too far"
    whole = depth_errors(found[:1], truth[:1], max_depth=10) + depth_errors(found[1:], truth[1:], max_depth=10)
    assert whole.compute() == errors
    with pytest.raises(ValueError, match="write 0"):
        depth_errors(found, np.full_like(truth, np.nan), max_depth=10)


def pictures(seed, masks):
    generator = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(12):
        count = int(generator.integers(1, 5))
        boxes = generator.uniform(0, 40, (count, 4))
        boxes[:, 2:] = boxes[:, :2] + generator.uniform(5, 40, (count, 2))
        row = {"boxes": boxes.round(2), "labels": generator.integers(1, 4, count)}
        moved = {"boxes": (boxes + generator.normal(0, 3, boxes.shape)).clip(0), "labels": row["labels"].copy()}
        moved["boxes"][:, 2:] = np.maximum(moved["boxes"][:, 2:], moved["boxes"][:, :2] + 1)
        moved["labels"][generator.random(count) < 0.2] = 1
        moved["scores"] = generator.random(count).round(4)
        if masks:
            for each in (row, moved):
                each["masks"] = np.zeros((count, 90, 90), bool)
                for mask, (left, top, right, bottom) in zip(each["masks"], each["boxes"].astype(int), strict=True):
                    mask[top:bottom, left:right] = True
        truth.append(row)
        found.append(moved)
    return truth, found


@pytest.mark.parametrize("masks", [False, True])
def test_average_precision_is_that_of_pycocotools_on_files(tmp_path, masks):
    from pycocotools import mask as codes

    truth, found = pictures(1, masks)
    annotations, answers = [], []
    for number, (row, answer) in enumerate(zip(truth, found, strict=True), start=10):
        for source, rows in ((row, annotations), (answer, answers)):
            for place, (left, top, right, bottom) in enumerate(source["boxes"].tolist()):
                width, height = right - left, bottom - top
                one = {
                    "image_id": number,
                    "category_id": int(source["labels"][place]),
                    "bbox": [left, top, width, height],
                }
                one |= {"area": width * height, "iscrowd": 0, "id": len(rows) + 1}
                if masks:
                    code = codes.encode(np.asfortranarray(source["masks"][place].astype(np.uint8)))
                    one |= {
                        "segmentation": {**code, "counts": code["counts"].decode()},
                        "area": float(codes.area(code)),
                    }
                if "scores" in source:
                    one["score"] = float(source["scores"][place])
                rows.append(one)
    images = [{"id": number, "height": 90, "width": 90} for number in range(10, 10 + len(truth))]
    content = {"images": images, "annotations": annotations, "categories": [{"id": k} for k in (1, 2, 3)]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(answers))
    coco = COCO(str(tmp_path / "truth.json"))
    run = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "segm" if masks else "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    ours = average_precision(truth, found, 3)
    assert ours == pytest.approx(
        {"ap": run.stats[0], "ap50": run.stats[1], "ap75": run.stats[2], "ar100": run.stats[8]}
    )
    assert 0.05 < ours["ap"] < 0.95


def test_no_detection_is_no_precision():
    truth, _ = pictures(2, False)
    none = {"boxes": np.zeros((0, 4)), "labels": [], "scores": []}
    assert average_precision(truth, [none] * len(truth), 3) == dict.fromkeys(("ap", "ap50", "ap75", "ar100"), 0.0)
