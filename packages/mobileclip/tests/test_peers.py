"""Full-tensor equality with timm's and open_clip's own implementations on the same weights."""

import pytest
import torch
from mobileclip import PRESETS, MobileCLIP, create_model_and_transforms, reparameterize
from mobileclip.checkpoint import build_model, to_official_names
from mobileclip.peers import build_clip_peer, build_timm_mci, read_photographs

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


def relative_distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("variant", ["s0", "s1", "s2"])
@pytest.mark.parametrize("form", ["train", "fused"])
def test_image_encoder_equals_timm(randomize, variant, form):
    timm = build_timm_mci(f"fastvit_mci{variant[-1]}")
    if form == "fused":
        from timm.utils import reparameterize_model

        timm = reparameterize_model(timm)
    with torch.no_grad():
        timm.head.fc.bias.zero_()
    state = to_official_names({f"visual.trunk.{key}": value for key, value in timm.state_dict().items()})
    ours = MobileCLIP(PRESETS[f"mobileclip_{variant}"]).image_encoder
    ours = (reparameterize(ours) if form == "fused" else ours).eval()
    ours.load_state_dict({key.removeprefix("image_encoder."): value for key, value in state.items()})
    pixels = torch.rand(2, 3, 256, 256)
    with torch.inference_mode():
        assert relative_distance(ours(pixels), timm.eval()(pixels)) < TOLERANCE


def open_clip_pair(name, ours, tmp_path):
    """open_clip's model and ours from a file of its state dict."""
    theirs = build_clip_peer(name).model
    torch.save(theirs.state_dict(), tmp_path / "open_clip.bin")
    model, _, _ = create_model_and_transforms(ours, tmp_path / "open_clip.bin", reparameterize=False)
    return model, theirs


@pytest.mark.parametrize("variant", ["S1", "S2"])
def test_both_halves_equal_open_clip(variant, tmp_path):
    ours, theirs = open_clip_pair(f"MobileCLIP-{variant}", f"mobileclip_{variant.lower()}", tmp_path)
    pixels, ids = torch.rand(1, 3, 256, 256), torch.randint(1, 49407, (2, 77))
    with torch.inference_mode():
        assert relative_distance(ours.encode_image(pixels), theirs.encode_image(pixels)) < TOLERANCE
        assert relative_distance(ours.encode_text(ids), theirs.encode_text(ids)) < TOLERANCE


def test_open_clips_b_differs_by_its_stem_padding_and_epsilon(tmp_path):
    """With our stem padding (1) and LayerNorm epsilon (1e-5) put into open_clip's B, the two agree."""
    ours, theirs = open_clip_pair("MobileCLIP-B", "mobileclip_b", tmp_path)
    pixels, ids = torch.rand(1, 3, 224, 224), torch.randint(1, 49407, (2, 77))
    with torch.inference_mode():
        assert relative_distance(ours.encode_text(ids), theirs.encode_text(ids)) < TOLERANCE
        expected = ours.encode_image(pixels)
        assert relative_distance(theirs.encode_image(pixels), expected) > 1e-3
        stem = theirs.visual.trunk.patch_embed.backbone[0].conv
        assert stem.padding != (1, 1)
        stem.padding = (1, 1)
        for module in theirs.visual.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5
        assert relative_distance(theirs.encode_image(pixels), expected) < TOLERANCE


def test_a_bias_in_open_clips_head_is_refused():
    state = build_clip_peer("MobileCLIP-S1").model.state_dict()
    state["visual.trunk.head.fc.bias"] = torch.ones(512)
    with pytest.raises(ValueError, match="image head has no bias"):
        build_model(PRESETS["mobileclip_s1"], state, origin="x")


def test_the_photographs_install_with_scikit_image():
    photographs = read_photographs()
    assert len(photographs) == 8 and min(min(image.size) for image in photographs.values()) >= 256
