"""Code written for the authors' package runs unchanged."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip import create_model_and_transforms, get_tokenizer
from PIL import Image


def test_the_authors_example_runs():
    model, _, preprocess = create_model_and_transforms("mobileclip_s0", pretrained=None)
    tokenizer = get_tokenizer("mobileclip_s0")
    image = preprocess(Image.new("RGB", (300, 200), "orange").convert("RGB")).unsqueeze(0)
    text = tokenizer(["a diagram", "a dog", "a cat"])
    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        text_probs = (100.0 * image_features @ text_features.T).softmax(dim=-1)
        ours = model(image, text)
    assert text_probs.shape == (1, 3)
    assert text_probs.sum().item() == pytest.approx(1)
    torch.testing.assert_close(ours[0], image_features)
    torch.testing.assert_close(ours[1], text_features)
    assert not model.training


def test_forward_takes_one_half(tiny_model):
    image, text, scale = tiny_model(image=torch.rand(1, 3, 64, 64))
    assert image.shape == (1, 16) and text is None and scale.ndim == 0


def test_unknown_models_are_refused_with_the_nearest_name():
    for function in (create_model_and_transforms, get_tokenizer):
        with pytest.raises(ValueError, match="unknown model 'mobileclip-s2'; did you mean 'mobileclip_s2'"):
            function("mobileclip-s2")


@pytest.fixture(scope="module")
def open_clip_tokenize():
    return pytest.importorskip("open_clip").get_tokenizer("MobileCLIP-S1")


CAPTIONS = [
    "a diagram",
    "",
    "Don't   PANIC!",
    "a photo of 3 dogs\n& cats",
    "naïve café 猫 🐈",
    "a " * 200,
    "<|endoftext|>",
]


def test_token_ids_equal_open_clip(open_clip_tokenize):
    ids = get_tokenizer("mobileclip_s1")(CAPTIONS)
    assert ids.dtype == torch.int64 and ids.shape == (len(CAPTIONS), 77)
    np.testing.assert_array_equal(ids, open_clip_tokenize(CAPTIONS))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_token_ids_equal_open_clip_on_any_text(open_clip_tokenize, texts):
    np.testing.assert_array_equal(get_tokenizer("mobileclip_b")(texts), open_clip_tokenize(texts))


def test_one_caption_needs_no_list():
    tokenizer = get_tokenizer("mobileclip_s0")
    assert torch.equal(tokenizer("a dog"), tokenizer(["a dog"]))
