"""Numbers, keys and sizes equal the authors' (reference/SOURCE.md) and timm's, and logits transformers'."""

import json
from pathlib import Path

import pytest
import torch
from fastvlm import PRESETS, FastViTHD, FastVLM, load_encoder
from fastvlm.layouts import tower_name
from mobileclip import optimize_for_inference, reparameterize

REFERENCE = json.loads((Path(__file__).parent / "reference" / "fastvithd.ref.json").read_text())
TOWER = "model.vision_tower.vision_tower.model."
TOLERANCE = 1e-5  # relative l2


def relative_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def encoder(official_weights):
    """The full-size encoder from an official tower's tensors, through our own loader."""
    return load_encoder(official_weights("inference"))


@pytest.mark.parametrize("form", ["train", "inference"])
def test_keys_and_shapes_are_the_official_ones(official_shapes, form):
    with torch.device("meta"):
        encoder = FastViTHD() if form == "train" else reparameterize(FastViTHD())
    actual = {
        TOWER + key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in encoder.state_dict().items()
    }
    assert actual == official_shapes(form)


def test_the_number_of_parameters_is_exact():
    with torch.device("meta"):
        train = FastViTHD()
        counts = {"train": sum(p.numel() for p in train.parameters())}
        fused = reparameterize(train)
    counts["fused"] = sum(p.numel() for p in fused.parameters())
    counts["fused_without_head"] = counts["fused"] - fused.head.proj.numel()
    assert counts == REFERENCE["num_params"]


def test_the_token_map_equals_the_authors(encoder, fill):
    with torch.inference_mode():
        tokens = encoder(fill.image_input(256))
    assert tokens.shape == (2, 16, 3072)
    assert tokens.flatten(1).norm(dim=1).tolist() == pytest.approx(REFERENCE["l2"], rel=TOLERANCE)
    for row, expected in zip(tokens[:, 0, :4], REFERENCE["first_of_token_0"], strict=True):
        assert row.tolist() == pytest.approx(expected, abs=1e-6)


def test_all_tokens_equal_timm(encoder, fill):
    timm = pytest.importorskip("timm")
    peer = timm.create_model("fastvit_mci3", num_classes=0, inference_mode=True).eval()
    state = {tower_name(key, to="fast_vlm"): value for key, value in encoder.state_dict().items()}
    del state["head.proj"]
    peer.load_state_dict(state)
    with torch.inference_mode():
        expected = peer.forward_features(fill.image_input(256)).flatten(2).transpose(1, 2)
        assert relative_distance(encoder(fill.image_input(256)), expected) < TOLERANCE


def test_the_fastest_form_computes_the_same(official_weights, fill):
    encoder = load_encoder(official_weights("inference", narrow=12))
    with torch.inference_mode():
        expected = encoder(fill.image_input(128))
        assert relative_distance(optimize_for_inference(encoder)(fill.image_input(128)), expected) < TOLERANCE


def test_train_form_and_fused_form_agree(official_weights, fill):
    encoder = load_encoder(official_weights("train", narrow=12))
    pixels = fill.image_input(128)
    with torch.inference_mode():
        assert relative_distance(reparameterize(encoder)(pixels), encoder(pixels)) < TOLERANCE


def test_names_go_to_timm_and_back(official_shapes):
    for key in official_shapes("inference"):
        name = key.removeprefix(TOWER)
        assert tower_name(tower_name(name, to="fast_vlm"), to="llava_qwen2") == name


@torch.inference_mode()
def logits_of_both(model, hf_model):
    """Our and transformers' logits for the same words around the same image."""
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ours = model(torch.tensor([[5, 6, -200, 7, 8, 9]]), pixels)
    theirs = hf_model(input_ids=torch.tensor([[5, 6, 500, 500, 500, 500, 7, 8, 9]]), pixel_values=pixels).logits
    return ours, theirs


@pytest.mark.parametrize("optimized", [False, True])
def test_logits_equal_transformers(hf_folder, hf_model, optimized):
    model = FastVLM.from_pretrained(hf_folder)
    ours, theirs = logits_of_both(model.optimize() if optimized else model, hf_model)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_greedy_tokens_equal_transformers(hf_folder, hf_model):
    model = FastVLM.from_pretrained(hf_folder)
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ours = model.generate(torch.tensor([[5, -200, 7, -200, 9]]), pixels, max_new_tokens=12)
    ids = torch.tensor([[5, *[500] * 4, 7, *[500] * 4, 9]])
    theirs = hf_model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=12, do_sample=False
    )
    assert ours.tolist() == theirs[:, ids.shape[1] :].tolist()


def test_an_official_folder_gives_transformers_logits_after_conversion(llava_folder, tmp_path):
    """The authors' layout (key list) -> our converter -> transformers' own loader and model."""
    from transformers import FastVlmForConditionalGeneration

    model = FastVLM.from_pretrained(llava_folder)
    model.save_pretrained(tmp_path, "fast_vlm", image_token_id=500)
    peer = FastVlmForConditionalGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(*logits_of_both(model, peer), rtol=1e-4, atol=1e-4)


def test_presets_have_the_published_shapes(official_shapes):
    names = {"fastvlm_0.5b": 896, "fastvlm_1.5b": 1536, "fastvlm_7b": 3584}
    assert {name: config.language.dim for name, config in PRESETS.items()} == names
    assert {config.encoder.num_tokens for config in PRESETS.values()} == {256}
    assert {config.encoder.out_dim for config in PRESETS.values()} == {3072}
