"""Dense transfer: heads, layer decay, drop path, frozen and fine-tuned, detectors, loaders of the official layouts."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from qualityclip import as_backbone, transfer
from qualityclip.backbone import DropPath, parameter_groups, set_drop_path
from qualityclip.config import DenseConfig, VisionConfig
from qualityclip.dense import ArrayData, DenseModel, evaluate_dense, fit, silog_loss
from qualityclip.dense_data import open_dense, scene_data
from qualityclip.dense_runs import default_taps, load_dense, open_backbone, save_dense
from qualityclip.detection import PyramidBackbone
from qualityclip.heads import HEADS
from qualityclip.model import CLIP, VisionTransformer
from qualityclip.scenes import compose
from tenfold_shared.commands import InputError
from torch import nn

VISION = VisionConfig(32, 8, 32, 4, 2)
SMALL = (("layers", (1, 1, 1, 1)), ("embed_dims", (8, 16, 16, 32)))


def vit(taps=()):
    torch.manual_seed(0)
    return as_backbone(VisionTransformer(VISION, 8, nn.GELU), taps=taps)


def mci():
    torch.manual_seed(0)
    return as_backbone(timm.create_model("fastvit_mci0", num_classes=8, **dict(SMALL)))


def quadrants(count=8, side=32):
    """Pictures of four coloured quarters; the label of a pixel is its colour."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (count, 2, 2)).repeat(side // 2, 1).repeat(side // 2, 2)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    images = colours[torch.from_numpy(labels)].permute(0, 3, 1, 2) - 0.5
    return images.contiguous(), torch.from_numpy(labels)


CONFIG = DenseConfig(num_classes=4, image_size=32, batch_size=8, num_steps=40, learning_rate=2e-2, width=16)


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("backbone", [vit, lambda: vit((1, 2, 3, 4)), mci], ids=["vit", "vit4", "mci"])
def test_every_head_on_every_backbone(head, backbone):
    body = backbone()
    maps = body(torch.rand(2, 3, 32, 64))
    assert [each.shape[1] for each in maps] == list(body.channels)
    assert [(32 // s, 64 // s) for s in body.strides] == [tuple(each.shape[-2:]) for each in maps]
    found = HEADS[head](body, 5, 16)(maps)
    assert found.shape[:2] == (2, 5) and found.shape[-1] == 2 * found.shape[-2]


def test_a_frozen_linear_head_learns_and_leaves_the_backbone_alone():
    images, labels = quadrants()
    body = vit()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    data = ArrayData(images, labels)
    assert transfer(body, data, data, CONFIG)["mean_iou"] > 0.95
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())


@pytest.mark.parametrize("head", ["fpn", "upernet"])
def test_fine_tuning_changes_the_backbone(head):
    images, labels = quadrants()
    data = ArrayData(images, labels)
    config = dataclasses.replace(
        CONFIG, head=head, frozen=False, learning_rate=3e-3, layer_decay=0.8, drop_path=0.1, num_steps=30
    )
    body = vit()
    before = body.tower.conv1.weight.clone()
    assert transfer(body, data, data, config)["mean_iou"] > 0.9
    assert not torch.equal(before, body.tower.conv1.weight)


@pytest.mark.parametrize(("head", "rate", "close"), [("linear", 5e-2, 0.7), ("dpt", 3e-3, 0.9)])
def test_depth_is_learned(head, rate, close):
    """A linear head's map is coarse: between quarters of different depth it can only interpolate."""
    images, labels = quadrants()
    depth = torch.tensor([0.5, 1.0, 2.0, 4.0])[labels]
    depth[:, :2] = 0
    config = dataclasses.replace(CONFIG, task="depth", head=head, max_depth=5.0, frozen=head == "linear", num_steps=120)
    data = ArrayData(images, depth)
    found = transfer(vit(), data, data, dataclasses.replace(config, learning_rate=rate))
    assert found["delta1"] > close and found["rmse"] < 0.5 and set(found) == {"rmse", "abs_rel", "delta1"}


def test_the_depth_loss_by_hand():
    found, truth = torch.tensor([2.0, 4.0, 9.0, 9.0]), torch.tensor([1.0, 4.0, 0.0, 99.0])
    d = np.log(2)
    assert silog_loss(found, truth, 10).item() == pytest.approx(np.sqrt(d**2 / 2 - 0.5 * (d / 2) ** 2), rel=1e-5)


def scenes(task, count=4):
    return scene_data(compose(("tiger", "banjo"), count, size=48, seed=0, objects=(1, 2)), task, VISION)


@pytest.mark.parametrize("head", ["fcos", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_detectors_are_trained_and_judged(head):
    data = scenes("detection", 2)
    config = DenseConfig("detection", head, 2, 48, False, 2, 2, 1e-3, width=32)
    body = vit()
    before = body.tower.conv1.weight.clone()
    model = fit(body, data, config)
    assert not torch.equal(before, body.tower.conv1.weight), "the gradient reaches the backbone"
    assert hasattr(model.detector, "roi_heads") == (head == "mask_rcnn")
    assert set(evaluate_dense(model, data)) == {"ap", "ap50", "ap75", "ar100"}


@pytest.mark.slow
def test_a_detector_learns_its_pictures():
    """Well above chance, which is near 0: the head, its targets and the boxes fit each other."""
    data = scenes("detection", 2)
    config = DenseConfig("detection", "fcos", 2, 48, False, 2, 60, 3e-3, width=32)
    assert transfer(vit(), data, data, config)["ap50"] > 0.15


def test_fcos_needs_whole_groups():
    with pytest.raises(InputError, match="divisible by 32"):
        DenseModel(vit(), DenseConfig("detection", "fcos", 2, 48, width=16))


def test_layer_decay_by_hand():
    body, head = vit(), nn.Linear(2, 2)
    groups = list(parameter_groups(body, head, frozen=False, decay=0.5))
    scale = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    tower = body.tower
    assert scale[id(tower.conv1.weight)] == scale[id(tower.positional_embedding)] == 0.5**5
    assert [scale[id(block.mlp.c_fc.weight)] for block in tower.transformer.resblocks] == [0.5**k for k in (4, 3, 2, 1)]
    assert scale[id(tower.ln_post.weight)] == scale[id(head.weight)] == 1
    decays = {id(parameter): group["decays"] for group in groups for parameter in group["params"]}
    assert decays[id(head.weight)] and not decays[id(head.bias)]
    assert len(scale) == len(list(body.parameters())) + 2
    assert sum(len(g["params"]) for g in parameter_groups(body, head, frozen=True, decay=0.5)) == 2


def test_layers_of_a_mobile_tower_are_in_order():
    body = mci()
    assert body.num_layers == 4 and body.strides == (4, 8, 16, 32)
    layers = [body.layer_of(name) for name, _ in body.named_parameters()]
    assert layers == sorted(layers) and set(layers) == set(range(6))


def test_layers_of_timms_vit_are_its_blocks():
    body = as_backbone(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=3))
    layers = [body.layer_of(f"trunk.blocks.{place}.attn.qkv.weight") for place in range(3)]
    assert layers == [1, 2, 3] and body.layer_of("trunk.norm.weight") == 4 and body.layer_of("trunk.pos_embed") == 0


@pytest.mark.parametrize("backbone", [vit, mci])
def test_a_detectors_strides_are_those_of_its_maps(backbone):
    body = PyramidBackbone(backbone(), 32)
    sides = [level.shape[-1] for level in body(torch.rand(1, 3, 64, 64)).values()]
    assert [side * stride for side, stride in zip(sides, body.strides(), strict=True)] == [64] * len(sides)


@pytest.mark.parametrize("backbone", [vit, mci])
def test_drop_path_grows_and_keeps_the_mean(backbone):
    body = backbone()
    set_drop_path(body, 0.3)
    rates = [module.rate for module in body.modules() if isinstance(module, DropPath)]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3) and rates == sorted(rates)
    torch.manual_seed(0)
    drop = DropPath(0.3)
    found = drop(torch.ones(4000, 2))
    assert found.mean().item() == pytest.approx(1, abs=0.03)
    assert sorted(set(found[:, 0].tolist())) == pytest.approx([0, 1 / 0.7])
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(drop.eval()(torch.ones(3)), torch.ones(3))


def test_a_backbone_without_maps_is_refused():
    for model in (nn.Linear(2, 2), timm.create_model("mixer_s32_224", num_classes=0, img_size=64)):
        if hasattr(model, "forward_intermediates"):
            continue
        with pytest.raises(InputError, match=f"{type(model).__name__} gives no feature maps"):
            as_backbone(model)


def test_a_loss_that_is_not_finite_stops():
    images, labels = quadrants()
    with pytest.raises(InputError, match="not finite at step 0"):
        fit(vit(), ArrayData(images * torch.nan, labels), CONFIG)


def test_a_dense_run_is_read_again(tmp_path, tiny):
    from qualityclip import save_pretrained

    torch.manual_seed(0)
    clip = CLIP(tiny)
    save_pretrained(clip, tmp_path / "clip")
    config = dataclasses.replace(CONFIG, head="fpn", frozen=False, num_steps=2)
    body, description = open_backbone(str(tmp_path / "clip"), config)
    images, labels = quadrants()
    data = ArrayData(images[..., :16, :16], labels[..., :16, :16])
    model = fit(body, data, config)
    save_dense(model, description, tmp_path / "dense")
    again, its = load_dense(tmp_path / "dense")
    assert its.vision == tiny.vision and evaluate_dense(again, data) == evaluate_dense(model, data)
    assert default_taps("upernet", 12) == (3, 6, 9, 12) and default_taps("linear", 12) == ()


def test_ade20ks_layout(tmp_path):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(tmp_path / "images" / split / "ADE_1.jpg")
        mask = np.zeros((20, 30), np.uint8)
        mask[:10], mask[10:, 15:] = 150, 1
        Image.fromarray(mask).save(tmp_path / "annotations" / split / "ADE_1.png")
    config = dataclasses.replace(CONFIG, num_classes=150)
    image, labels = open_dense(tmp_path, config, VISION, "train")[0]
    assert image.shape == (3, 32, 32) and labels.shape == (32, 32)
    assert set(labels[:16].flatten().tolist()) == {149} and set(labels[17:, :15].flatten().tolist()) == {255}
    assert set(labels[17:, 17:].flatten().tolist()) == {0}


def test_nyuv2s_layout(tmp_path):
    room = tmp_path / "test" / "kitchen"
    room.mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(room / f"rgb_{number}.jpg")
    depth = np.full((20, 30), 2500, np.uint16)
    depth[:10] = 0
    Image.fromarray(depth).save(room / "sync_depth_1.png")
    np.save(room / "sync_depth_2.npy", depth / 1000)
    config = dataclasses.replace(CONFIG, task="depth")
    data = open_dense(tmp_path, config, VISION, "test")
    for place in (0, 1):
        assert data[place][1][:15].max() == 0 and data[place][1][17:].unique().tolist() == [2.5]


def test_cocos_layout(tmp_path):
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "train2017" / "1.jpg")
    square = [8, 4, 40, 4, 40, 20, 8, 20]
    row = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [8, 4, 32, 16], "segmentation": [square], "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}], "annotations": [row]}
    content["categories"] = [{"id": 18}, {"id": 3}]
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    config = DenseConfig("detection", "mask_rcnn", 2, 40)
    data = open_dense(tmp_path, config, VISION, "train")
    assert len(data) == 1, "pictures without objects are left out of training"
    _, target = data[0]
    assert target["boxes"].tolist() == [[4, 4, 20, 20]] and target["labels"].tolist() == [2]
    assert target["masks"].shape == (1, 40, 40) and 230 < int(target["masks"].sum()) < 290


def test_model_of_a_task_is_frozen_or_not():
    assert not any(p.requires_grad for p in DenseModel(vit(), CONFIG).backbone.parameters())
    assert all(
        p.requires_grad for p in DenseModel(vit(), dataclasses.replace(CONFIG, frozen=False)).backbone.parameters()
    )
