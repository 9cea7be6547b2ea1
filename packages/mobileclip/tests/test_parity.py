"""Numbers, keys and sizes equal the authors' (reference/SOURCE.md)."""

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mobileclip import PRESETS, MobileCLIP, optimize_for_inference, reparameterize
from mobileclip.checkpoint import build_model

REFERENCE = Path(__file__).parent / "reference"
spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
fill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill)

VARIANTS = ("s0", "s1", "s2", "b")
TOLERANCE = 1e-5  # relative l2; fused and train form differ by up to 1e-6 themselves


def official_shapes(variant: str, form: str) -> dict:
    return json.loads(gzip.decompress((REFERENCE / f"mobileclip_{variant}.{form}.shapes.json.gz").read_bytes()))


def official_weights(variant: str, form: str) -> dict[str, torch.Tensor]:
    """What an official file of this variant and form would hold, filled by key name."""
    shapes = official_shapes(variant, form)
    empty = {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
    return {key: fill.fill_tensor(key, tensor).to(tensor.dtype) for key, tensor in empty.items()}


def embed(model, image_size: int) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {
            "image": model.encode_image(fill.image_input(image_size)),
            "text": model.encode_text(fill.text_input()),
        }


def assert_matches(actual: torch.Tensor, summaries: list[dict]) -> None:
    for row, summary in zip(actual.double(), summaries, strict=True):
        assert row.norm().item() == pytest.approx(summary["l2"], rel=TOLERANCE)
        assert row.mean().item() == pytest.approx(summary["mean"], abs=TOLERANCE * summary["l2"])
        expected = torch.tensor(summary["first"], dtype=torch.float64)
        assert (row[: len(expected)] - expected).norm() <= TOLERANCE * summary["l2"]


def relative_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("form", ["train", "reparam"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_shapes_are_the_official_ones(variant, form):
    with torch.device("meta"):
        model = MobileCLIP(PRESETS[f"mobileclip_{variant}"])
        model = model if form == "train" else reparameterize(model)
    actual = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in model.state_dict().items()
    }
    assert actual == official_shapes(variant, form)


@pytest.fixture(scope="module")
def s0():
    """MobileCLIP-S0 from a file's tensors in train form, through our own loader."""
    return build_model(PRESETS["mobileclip_s0"], official_weights("s0", "train"), origin="reference").eval()


def test_s0_equals_the_authors_in_train_form(s0):
    reference = json.loads((REFERENCE / "mobileclip_s0.ref.json").read_text())["train_form"]
    for half, actual in embed(s0, 256).items():
        assert_matches(actual, reference[half])


def test_s0_equals_the_authors_stage_by_stage(s0):
    stages = json.loads((REFERENCE / "mobileclip_s0.ref.json").read_text())["stages_item0"]
    outputs = {}
    modules = {
        "image.patch_embed": s0.image_encoder.model.patch_embed,
        "image.conv_exp": s0.image_encoder.model.conv_exp,
    }
    modules |= {f"image.network.{i}": layer for i, layer in enumerate(s0.image_encoder.model.network)}
    modules |= {f"text.transformer.{i}": layer for i, layer in enumerate(s0.text_encoder.transformer)}
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: outputs.__setitem__(name, output[0]))
        for name, module in modules.items()
    ]
    embed(s0, 256)
    for hook in hooks:
        hook.remove()
    assert set(outputs) == set(stages)
    for name, summary in stages.items():
        assert list(outputs[name].shape) == summary["shape"], name
        assert_matches(outputs[name].reshape(1, -1), [summary])


def test_s0_equals_the_authors_in_fused_form(s0):
    reference = json.loads((REFERENCE / "mobileclip_s0.ref.json").read_text())["reparam_form"]
    for half, actual in embed(reparameterize(s0), 256).items():
        assert_matches(actual, reference[half])


def test_the_fastest_form_computes_the_same(s0):
    expected = embed(s0, 256)
    for half, actual in embed(optimize_for_inference(s0), 256).items():
        assert relative_distance(actual, expected[half]) < TOLERANCE


def test_an_official_file_in_fused_form_loads(s0):
    fused = build_model(PRESETS["mobileclip_s0"], official_weights("s0", "reparam"), origin="reference").eval()
    assert not torch.equal(embed(fused, 256)["image"], embed(s0, 256)["image"])  # filled apart, by key name
    assert set(fused.state_dict()) == set(reparameterize(s0).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["s1", "s2", "b"])
def test_other_variants_equal_the_authors_in_both_forms(variant):
    reference = json.loads((REFERENCE / "mobileclip_s1_s2_b.ref.json").read_text())[f"mobileclip_{variant}"]
    config = PRESETS[f"mobileclip_{variant}"]
    model = build_model(config, official_weights(variant, "train"), origin="reference").eval()
    for half, actual in embed(model, config.image.image_size).items():
        assert_matches(actual, reference[half])
    for half, actual in embed(reparameterize(model), config.image.image_size).items():
        assert_matches(actual, reference[f"reparam_{half}"])


def test_the_weights_are_filled_as_the_reference_says():
    checksums = json.loads((REFERENCE / "mobileclip_s0.ref.json").read_text())["fill_checksums"]
    weights = official_weights("s0", "train")
    for key, sums in checksums.items():
        assert weights[key].double().sum().item() == pytest.approx(sums["sum"], abs=1e-6 * sums["abs"])
