"""Zero-shot classification against its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mobileclip.predict import Pipeline, classify
from mobileclip.preprocess import Preprocess, load_image
from mobileclip.runtime import load_pipeline, resolve_device
from PIL import Image
from tenfold_shared.commands import InputError


@pytest.fixture(scope="module")
def pipeline(tiny_folder) -> Pipeline:
    return load_pipeline(None, str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(40)]  # more than one batch
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(path)
    return paths


def test_probabilities_are_the_softmax_of_scaled_cosines(pipeline, tiny_model, pictures):
    labels = ["cat", "dog", "fire engine"]
    results = dict(classify(pipeline, pictures, labels))
    assert list(results) == [str(path) for path in pictures]
    with torch.inference_mode():
        texts = F.normalize(tiny_model.encode_text(pipeline.tokenizer([f"a photo of a {x}." for x in labels])), dim=-1)
        for path in (pictures[0], pictures[-1]):
            image = F.normalize(tiny_model.encode_image(Preprocess(64)(load_image(path))[None]), dim=-1)
            expected = dict(zip(labels, (tiny_model.scale() * image @ texts.T).softmax(-1)[0].tolist(), strict=True))
            assert dict(results[str(path)]) == pytest.approx(expected, abs=1e-4)
            ranked = [probability for _, probability in results[str(path)]]
            assert ranked == sorted(ranked, reverse=True) and sum(ranked) == pytest.approx(1, abs=1e-5)


def test_templates_are_averaged_and_normalised(pipeline):
    templates = ["a photo of a {}.", "a sketch of a {}."]
    weights = pipeline.label_weights(["cat", "dog"], templates)
    each = [pipeline.label_weights(["cat", "dog"], [template]) for template in templates]
    torch.testing.assert_close(weights, F.normalize(sum(each), dim=-1))


def test_many_captions_equal_one_by_one(pipeline):
    texts = [f"number {index}" for index in range(40)]
    one_by_one = torch.cat([pipeline.embed_texts([text]) for text in texts])
    torch.testing.assert_close(pipeline.embed_texts(texts), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["{}"], "`labels` is empty"),
        (["cat", " "], ["{}"], "has an empty entry"),
        (["cat", "dog", "cat"], ["{}"], "names 'cat' more than once"),
        (["cat"], ["a photo"], "has no {} where"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused(pipeline, labels, templates, message):
    with pytest.raises(InputError, match=message):
        pipeline.label_weights(labels, templates)


def test_devices():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cuda", "mps", "cpu")
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InputError, match=f"no {absent} device here"):
        resolve_device(absent)


def test_half_precision_stays_close(tiny_folder, pictures, pipeline):
    low = load_pipeline(None, str(tiny_folder), device="cpu", precision="bf16")
    image = [load_image(pictures[0])]
    assert float((low.embed_images(image).float() * pipeline.embed_images(image)).sum()) > 0.99
