"""Pixels equal the authors', and every kind of picture is handled or refused on purpose."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip import load_image
from mobileclip.preprocess import Preprocess, to_rgb
from PIL import Image
from tenfold_shared.commands import InputError

REFERENCE = json.loads((Path(__file__).parent / "reference/preprocess.ref.json").read_text())


def draw(width, height):
    """The reference's picture: red rises with x, green with y, blue is a checkerboard of 16 pixels."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    y, x = np.mgrid[:height, :width]
    picture[..., 2] = (x // 16 + y // 16) % 2 * 255
    return Image.fromarray(picture)


@pytest.mark.parametrize("size", [224, 256])
@pytest.mark.parametrize("source", [(640, 480), (200, 300), (1600, 900)])
def test_pixels_equal_the_authors(source, size):
    reference = REFERENCE[f"mobileclip {source[0]}x{source[1]} -> {size}"]
    pixels = Preprocess(size)(draw(*source)).double()
    assert list(pixels.shape) == reference["shape"]
    assert pixels.sum((1, 2)).tolist() == pytest.approx(reference["sum_per_channel"], abs=1e-6)
    for position, values in reference["pixels"].items():
        y, x = map(int, position.split(","))
        assert pixels[:, y, x].tolist() == values


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([32, 64]), st.integers(0, 2**32 - 1))
def test_pixels_equal_torchvision(width, height, size, seed):
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    official = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()])
    torch.testing.assert_close(Preprocess(size)(picture), official(picture), rtol=0, atol=0)


def save(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_cmyk_becomes_rgb(tmp_path):
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "red.tiff")
    assert np.asarray(load_image(path))[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(levels), "grey.png")
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 100, 255]


def test_transparency_is_laid_over_white(tmp_path):
    path = save(tmp_path, Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "clear.png")
    assert np.asarray(load_image(path))[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    path = save(tmp_path, palette, "palette.png", transparency=0)
    assert np.asarray(load_image(path))[0, 0].tolist() == [255, 255, 255]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 10), "blue")
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    assert load_image(save(tmp_path, image, "turned.jpg", exif=exif)).size == (10, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_every_mode_gives_rgb(mode):
    assert to_rgb(Image.new(mode, (5, 4))).mode == "RGB"


def test_one_pixel_fills_the_output():
    pixels = Preprocess(32)(Image.new("RGB", (1, 1), (255, 0, 51)))
    assert pixels.amax((1, 2)).tolist() == pixels.amin((1, 2)).tolist() == pytest.approx([1, 0, 0.2])


def test_a_wide_picture_is_cropped_and_a_strip_refused():
    assert Preprocess(32)(Image.new("RGB", (20_000, 200))).shape == (3, 32, 32)
    with pytest.raises(InputError, match="strip of 20000 x 50 pixels"):
        Preprocess(32)(Image.new("RGB", (20_000, 50)))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(InputError, match="has no pixels"):
        Preprocess(32)(Image.new("RGB", (0, 5)))


def test_truncated_and_foreign_files_are_refused(tmp_path):
    whole = save(tmp_path, draw(64, 64), "whole.jpg").read_bytes()
    for name, content, message in (
        ("half.jpg", whole[: len(whole) // 2], "damaged"),
        ("text.jpg", b"not a picture", "not a picture"),
        ("empty.jpg", b"", "not a picture"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no picture at .*missing\.jpg"):
        load_image(tmp_path / "missing.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("RGB", (100, 100)), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="too large to be a plausible picture"):
        load_image(path)
