"""ONNX halves compute what the model computes, at any batch size."""

import pytest
import torch
from mobileclip.onnx_backend import OnnxMobileCLIP, export_onnx
from mobileclip.runtime import load_pipeline
from PIL import Image
from tenfold_shared.commands import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    distances = export_onnx(tiny_model, folder)
    assert max(distances.values()) < 1e-5
    return folder


def test_the_folder_holds_the_two_halves(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "image.onnx", "text.onnx"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_equal_eager(folder, tiny_model, batch):
    model = OnnxMobileCLIP(folder)
    pixels, ids = torch.rand(batch, 3, 64, 64), torch.randint(1, 49407, (batch, 77))
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_image(pixels), tiny_model.encode_image(pixels), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.encode_text(ids), tiny_model.encode_text(ids), rtol=1e-4, atol=1e-4)
    assert model.encode_text(ids, normalize=True).norm(dim=-1).tolist() == pytest.approx([1] * batch)
    assert model.scale().item() == pytest.approx(tiny_model.scale().item())


def test_classification_equals_eager(folder, tiny_folder):
    image = [Image.effect_noise((90, 80), 60)]
    onnx, eager = load_pipeline(None, str(folder), "onnx"), load_pipeline(None, str(tiny_folder), device="cpu")
    torch.testing.assert_close(onnx.embed_images(image), eager.embed_images(image), rtol=1e-3, atol=1e-4)


def test_another_folder_is_refused(tiny_folder, tmp_path):
    with pytest.raises(InputError, match="not a folder of `mobileclip export`"):
        OnnxMobileCLIP(tiny_folder)
    with pytest.raises(InputError, match="not a folder of `mobileclip export`"):
        OnnxMobileCLIP(tmp_path)


def test_a_damaged_half_is_refused(folder, tmp_path):
    for name in ("config.json", "image.onnx", "text.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "text.onnx").write_bytes((folder / "text.onnx").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"text\.onnx is missing or not an ONNX model"):
        OnnxMobileCLIP(tmp_path)
