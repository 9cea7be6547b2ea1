"""Numbers of the abstract and of the data family's recipe that need no training."""

import pytest
import torch
from qualityclip import PRESETS, verdicts
from qualityclip.config import DENSE_PRESETS, TRAIN_PRESETS
from qualityclip.model import CLIP


def test_the_abstracts_figures():
    assert (verdicts.MIOU.value, verdicts.RMSE.value, verdicts.DATA.value, verdicts.PARAMETERS.value) == (
        12.1, 11.5, 10.0, 6.1,
    )  # fmt: skip
    assert all(value.mark == "A" for value in (verdicts.MIOU, verdicts.RMSE, verdicts.DATA, verdicts.PARAMETERS))


def test_the_recipe_of_the_data_family():
    """DataCompDR's training scripts: 12M runs see 245.8 M samples, 1B runs 13.1 B."""
    for name, batch, steps, seen in (("12m_b16", 8192, 30_000, 245.8e6), ("1b_b16", 65_536, 200_000, 13.1e9)):
        config = TRAIN_PRESETS[name]
        assert (config.batch_size, config.num_steps) == (batch, steps)
        assert config.batch_size * config.num_steps == pytest.approx(seen, rel=1e-3)
        assert (config.learning_rate, config.beta2, config.weight_decay) == (1e-3, 0.95, 0.2)
        assert (config.warmup_steps, config.grad_clip) == (1000, 1.0)
    assert TRAIN_PRESETS["12m_alt_text"].mix.policy == "real"


def test_sizes_of_the_towers():
    """ViT-B/16 of CLIP: 149.6 M parameters, 63.4 M of them for text; MCi2's image tower 35.8 M with its projection."""
    with torch.device("meta"):
        whole = CLIP(PRESETS["vit_b16"])
        count = sum(parameter.numel() for parameter in whole.parameters())
        image = sum(parameter.numel() for parameter in whole.visual.parameters())
    assert count == 149_620_737 and count - image - 1 == 63_428_096


def test_protocols_of_dense_transfer():
    uper, mask = DENSE_PRESETS["ade20k_upernet"], DENSE_PRESETS["coco_mask_rcnn"]
    assert (uper.num_classes, uper.image_size, uper.num_steps) == (150, 512, 160_000)
    assert (mask.image_size, mask.layer_decay, mask.drop_path) == (1024, 0.7, 0.1)
    assert DENSE_PRESETS["nyuv2_dpt"].image_size == 480
