"""Pixels and prompts are the authors', picture by picture and word by word."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fastvlm import FastVLMProcessor
from fastvlm.processor import choose_canvas
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tenfold_shared.commands import InputError

REFERENCE = json.loads((Path(__file__).parent / "reference" / "preprocess.ref.json").read_text())


def draw(width, height):
    """The reference's picture: red rises with x, green with y, blue is a checkerboard of 16 pixels."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    y, x = np.mgrid[:height, :width]
    picture[..., 2] = (x // 16 + y // 16) % 2 * 255
    return Image.fromarray(picture)


@pytest.fixture(scope="module")
def processor(llava_folder):
    return FastVLMProcessor.from_pretrained(llava_folder)


@pytest.mark.parametrize("size", [256, 1024])
@pytest.mark.parametrize("source", [(640, 480), (200, 300), (1600, 900)])
def test_pixels_equal_the_authors(source, size):
    reference = REFERENCE[f"fastvlm {source[0]}x{source[1]} -> {size} plain PIL bicubic"]
    pixels = FastVLMProcessor(None, size).pixels(draw(*source))[0].double()
    assert list(pixels.shape) == reference["shape"]
    assert pixels.sum((1, 2)).tolist() == pytest.approx(reference["sum_per_channel"], rel=1e-9)
    for position, values in reference["pixels"].items():
        y, x = map(int, position.split(","))
        assert pixels[:, y, x].tolist() == values


def test_one_round_is_the_authors_prompt():
    prompt = FastVLMProcessor(None).prompt([("Describe the image.", None)])
    assert prompt == REFERENCE["prompt_qwen_2"]


def test_two_rounds_are_the_authors_prompt():
    prompt = FastVLMProcessor(None).prompt([("What is it?", "A cat."), ("Colour?", "Black.")])
    assert prompt == REFERENCE["prompt_qwen_2_two_rounds"]


def test_an_image_in_the_question_stays_where_it_is():
    prompt = FastVLMProcessor(None).prompt([("Left: <image> Right: <image>", None)], num_images=2)
    assert prompt.count("<image>") == 2
    assert "Left: <image> Right: <image>" in prompt


def test_pieces_around_an_image_are_tokenized_on_their_own(processor):
    ids = processor.encode("the cat<image>sat")
    place = ids.index(-200)
    assert processor.tokenizer.decode(ids[:place]) == "the cat"
    assert processor.tokenizer.decode(ids[place + 1 :]) == "sat"


def test_special_tokens_of_the_template_are_single_tokens(processor):
    ids = processor.encode(processor.prompt([("what is in the picture?", None)]))
    start, end = (processor.tokenizer.get_vocab()[token] for token in ("<|im_start|>", "<|im_end|>"))
    assert (ids.count(start), ids.count(end), ids.count(-200)) == (3, 2, 1)


def test_a_batch_is_padded_on_the_left(processor):
    inputs = processor(["the cat sat on the mat<image>", "cat"], [draw(40, 30)])
    assert inputs["attention_mask"][0].all()
    short = inputs["attention_mask"][1].sum()
    assert inputs["attention_mask"][1].tolist() == [0] * (len(inputs["input_ids"][0]) - short) + [1] * short
    assert processor.decode(inputs["input_ids"][1]) == "cat"
    assert inputs["pixels"].shape == (1, 3, 128, 128)
    assert inputs["views"] == [1]


@pytest.mark.parametrize(("prompt", "images"), [("<image><image>", 1), ("none", 1), ("<image>", 0)])
def test_another_number_of_images_is_refused(processor, prompt, images):
    with pytest.raises(InputError, match="`<image>` but"):
        processor([prompt], [draw(8, 8)] * images)


def test_any_resolution_gives_square_pixels_in_range():
    pixels = FastVLMProcessor(None, 192).pixels(Image.new("RGBA", (7, 500), (255, 0, 0, 128)))
    assert pixels.shape == (1, 3, 192, 192)
    assert 0 <= pixels.min() and pixels.max() <= 1


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"`image_size` \(=250\) must be divisible by 64; use 256"):
        FastVLMProcessor(None, 250)


def test_tiles_cover_the_canvas_after_the_overview():
    processor = FastVLMProcessor(None, 64, "anyres", [(128, 128), (192, 64)])
    picture = draw(128, 128)
    views = processor.pixels(picture)
    assert views.shape == (5, 3, 64, 64)
    whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    assert torch.equal(torch.cat([views[1], views[2]], dim=2), whole[:, :64])
    assert torch.equal(torch.cat([views[3], views[4]], dim=2), whole[:, 64:])
    assert processor.pixels(draw(300, 90)).shape[0] == 4


def test_anyres_without_canvases_is_refused():
    with pytest.raises(ValueError, match="needs at least one"):
        FastVLMProcessor(None, 64, "anyres")


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.lists(st.tuples(*[st.integers(1, 20)] * 2), min_size=1, max_size=6)
)
def test_the_canvas_keeps_most_of_the_picture(width, height, grids):
    canvases = [(64 * x, 64 * y) for x, y in grids]

    def kept(canvas):
        scale = min(canvas[0] / width, canvas[1] / height)
        return min(int(width * scale) * int(height * scale), width * height)

    chosen = choose_canvas((width, height), canvases)
    assert kept(chosen) == max(map(kept, canvases))
    rivals = [canvas for canvas in canvases if kept(canvas) == kept(chosen)]
    assert chosen[0] * chosen[1] == min(x * y for x, y in rivals)
