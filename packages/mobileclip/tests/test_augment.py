"""Stored augmentations replay exactly: the authors' pixels, torchvision's draws."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip.augment import OPERATIONS, AugmentConfig, Parameters, generator_for, replay, sample, to_pixels
from PIL import Image
from tenfold_shared.commands import InputError

REFERENCE = json.loads((Path(__file__).parent / "reference/dr.ref.json").read_text())
# The teachers' normalisation (OpenAI's), under which the reference's numbers were taken.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def draw(width=640, height=480):
    """The reference's picture: red rises with x, green with y, blue is a checkerboard of 16 pixels."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    y, x = np.mgrid[:height, :width]
    picture[..., 2] = (x // 16 + y // 16) % 2 * 255
    return Image.fromarray(picture)


@pytest.mark.parametrize("entry", REFERENCE["augment"], ids=lambda entry: str(entry["param_aug"][1]))
def test_replay_equals_the_authors(entry):
    pixels = to_pixels(replay(draw(), Parameters.from_json(entry["param_aug"]), 224), MEAN, STD)
    assert list(pixels.shape) == entry["shape"]
    assert pixels.double().mean().item() == pytest.approx(entry["mean"], abs=1e-6)
    assert pixels.double().std(correction=0).item() == pytest.approx(entry["std"], abs=1e-6)
    assert pixels.double().mean((1, 2)).tolist() == pytest.approx(entry["channel_mean"], abs=1e-6)
    for position, values in entry["pixels"].items():
        y, x = map(int, position.split(","))
        assert pixels[:, y, x].tolist() == pytest.approx(values, abs=1e-6)


def test_fresh_parameters_equal_the_authors():
    """The crop for seed 0, and the magnitudes of its operations (which operations depends on how theirs are drawn)."""
    crop, operations = REFERENCE["fresh_params_seed0"]["compressed"]
    assert list(sample(640, 480, AugmentConfig(), torch.Generator().manual_seed(0)).crop) == crop
    drawn = [sample(640, 480, AugmentConfig(), torch.Generator().manual_seed(seed)) for seed in range(100)]
    assert {tuple(entry) for entry in operations} <= {entry for parameters in drawn for entry in parameters.operations}


def test_defaults_are_the_released_sets():
    config, reference = AugmentConfig(), REFERENCE["rand_augment_defaults"]
    assert (config.num_operations, config.magnitude) == (reference["num_ops"], reference["magnitude"])
    assert list(config.scale) == REFERENCE["rrc_defaults"]["scale"]
    assert list(config.ratio) == REFERENCE["rrc_defaults"]["ratio"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 300), st.integers(8, 300))
def test_draws_and_pixels_equal_torchvision(seed, width, height):
    """torchvision draws from the global generator; ours from one seeded alike gives the same crop and pixels."""
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    torch.manual_seed(seed)
    crop = transforms.RandomResizedCrop(64, interpolation=transforms.InterpolationMode.BICUBIC)
    expected = transforms.RandAugment(2, 9)(crop(picture))
    parameters = sample(width, height, AugmentConfig(image_size=64), torch.Generator().manual_seed(seed))
    assert np.array_equal(np.asarray(replay(picture, parameters, 64)), np.asarray(expected))


@pytest.mark.parametrize("name", OPERATIONS)
def test_json_round_trip(name):
    parameters = Parameters((1, 2, 30, 40), ((OPERATIONS.index(name), 4.0), None))
    again = Parameters.from_json(json.loads(json.dumps(parameters.to_json())))
    assert again == parameters
    assert replay(draw(), again, 32).tobytes() == replay(draw(), parameters, 32).tobytes()


def test_a_null_operation_is_skipped():
    with_null = Parameters((0, 0, 48, 48), (None, (5, 9.0)))
    without = Parameters((0, 0, 48, 48), ((5, 9.0),))
    assert replay(draw(), with_null, 32).tobytes() == replay(draw(), without, 32).tobytes()


def test_generators_depend_on_the_key_alone():
    draws = {key: torch.rand(1, generator=generator_for(*key)).item() for key in [(0, "a"), (0, "b"), (1, "a")]}
    assert len(set(draws.values())) == 3
    random.random()
    assert torch.rand(1, generator=generator_for(0, "a")).item() == draws[0, "a"]


@pytest.mark.parametrize("value", [None, [], [[0, 0, 1], []], [[0, 0, 0, 5], []], [[0, 0, 5, 5], [[14, 0.0]]], "x"])
def test_other_json_is_refused(value):
    with pytest.raises(InputError, match="is not a stored augmentation"):
        Parameters.from_json(value)


def test_a_crop_outside_the_image_is_refused():
    with pytest.raises(InputError, match="leaves the image of 640 x 480"):
        replay(draw(), Parameters((400, 0, 100, 10), ()), 32)
