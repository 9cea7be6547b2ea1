"""Numbers of the paper that need no training."""

import pytest
import torch
from mobileclip import PRESETS, MobileCLIP, reparameterize

# Parameters of image and text encoder in train form, then fused form. The paper's Table 1 and the README give them
# in millions (11.4 + 42.4, 21.5 + 63.4, 35.7 + 63.4, 86.3 + 63.4); the exact counts are of the authors' models.
PARAMETERS = {
    "mobileclip_s0": ((11_406_464, 42_441_216), (11_356_992, 42_435_072)),
    "mobileclip_s1": ((21_541_120, 63_428_096), (21_460_544, 63_428_096)),
    "mobileclip_s2": ((35_814_720, 63_428_096), (35_702_480, 63_428_096)),
    "mobileclip_b": ((86_348_544, 63_428_096), (86_348_544, 63_428_096)),
}


def count(model):
    return tuple(sum(p.numel() for p in half.parameters()) for half in (model.image_encoder, model.text_encoder))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    with torch.device("meta"):
        model = MobileCLIP(PRESETS[name])
        assert (count(model), count(reparameterize(model))) == PARAMETERS[name]


def test_blt_is_b():
    assert PRESETS["mobileclip_blt"] == PRESETS["mobileclip_b"]


def test_initial_temperature_and_its_limit(tiny_model):
    model = MobileCLIP(tiny_model.config)
    assert model.scale().item() == pytest.approx(1 / 0.07)
    torch.nn.init.constant_(model.logit_scale, 10.0)
    assert model.scale().item() == pytest.approx(100)


def test_total_stride_is_32():
    with torch.device("meta"):
        encoder = MobileCLIP(PRESETS["mobileclip_s2"]).image_encoder.model
        assert encoder.forward_features(torch.zeros(1, 3, 256, 256)).shape == (1, 1280, 8, 8)
