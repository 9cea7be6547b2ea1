"""Both layouts, read and written; every tensor accounted for; what is broken is named."""

import json
import shutil

import pytest
import torch
from fastvlm import FastVLM, FastVLMProcessor, load_encoder
from fastvlm.convert import convert
from mobileclip.fusion import reparameterize
from safetensors.torch import load_file, save_file
from tenfold_shared.commands import InputError

TOWER = "model.vision_tower.vision_tower.model."


def edit(source, folder, change_config=None, change_state=None):
    """Copy a model folder with its configuration or tensors changed."""
    shutil.copytree(source, folder)
    if change_config:
        config = json.loads((folder / "config.json").read_text())
        change_config(config)
        (folder / "config.json").write_text(json.dumps(config))
    if change_state:
        state = load_file(folder / "model.safetensors")
        change_state(state)
        save_file(state, folder / "model.safetensors")
    return folder


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_official_folder_loads_with_every_tensor(llava_folder):
    model = FastVLM.from_pretrained(llava_folder)
    stored, state = load_file(llava_folder / "model.safetensors"), {}
    state |= {f"{TOWER}{key}": value for key, value in model.encoder.state_dict().items()}
    state |= {f"model.mm_projector.{key}": value for key, value in model.projector.state_dict().items()}
    state |= {k: v for k, v in model.language_model.state_dict().items() if k != "lm_head.weight"}
    assert_same(state, stored)
    assert model.encoder.config.image_size == 128
    assert model.encoder.config.depths == (2, 12, 24, 4, 2)
    assert model.language_model.config.rope_parameters["rope_theta"] == 1e6


def test_the_presence_of_lm_head_decides_whether_weights_are_tied(llava_folder, untied_folder):
    tied, untied = FastVLM.from_pretrained(llava_folder), FastVLM.from_pretrained(untied_folder)
    head, embedding = (m.weight for m in (tied.language_model.lm_head, tied.language_model.get_input_embeddings()))
    assert head.data_ptr() == embedding.data_ptr()
    stored = load_file(untied_folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(untied.language_model.lm_head.weight, stored)
    assert not torch.equal(stored, untied.language_model.get_input_embeddings().weight)


@pytest.mark.parametrize("layout", ["llava_qwen2", "fast_vlm"])
@pytest.mark.parametrize("source", ["llava_folder", "untied_folder", "hf_folder"])
def test_a_round_trip_keeps_the_model(source, layout, tmp_path, request):
    model = FastVLM.from_pretrained(request.getfixturevalue(source))
    model.save_pretrained(tmp_path / "out", layout, image_token_id=500)
    again = FastVLM.from_pretrained(tmp_path / "out")
    state, expected = again.state_dict(), model.state_dict()
    assert expected.keys() - state.keys() <= {"encoder.head.proj"}
    assert_same(state, {key: expected[key] for key in state})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_layouts_are_written_under_the_names_of_their_libraries(llava_folder, hf_folder, tmp_path):
    FastVLM.from_pretrained(llava_folder).save_pretrained(tmp_path / "llava")
    FastVLM.from_pretrained(hf_folder).save_pretrained(tmp_path / "hf", "fast_vlm", image_token_id=500)
    for written, original in (("llava", llava_folder), ("hf", hf_folder)):
        assert_same(load_file(tmp_path / written / "model.safetensors"), load_file(original / "model.safetensors"))


def test_shards_are_read_and_written(llava_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvlm.checkpoint.MAX_SHARD_BYTES", 1_000_000)
    model = FastVLM.from_pretrained(llava_folder)
    model.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(FastVLM.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_train_form_is_fused_for_transformers_and_kept_otherwise(official_weights, llava_folder, tmp_path):
    model = FastVLM.from_pretrained(llava_folder)
    model.encoder = load_encoder(official_weights("train", narrow=12))
    model.save_pretrained(tmp_path / "llava")
    model.save_pretrained(tmp_path / "hf", "fast_vlm", image_token_id=500)
    assert_same(load_encoder(tmp_path / "llava").state_dict(), model.encoder.state_dict())
    fused = reparameterize(model.encoder).state_dict()
    hf = load_encoder(tmp_path / "hf").state_dict()
    assert_same(hf, {key: fused[key] for key in hf})


@pytest.mark.parametrize("prefix", ["", "model.", TOWER, "image_encoder.model."])
def test_an_encoder_loads_with_any_prefix(official_weights, prefix, tmp_path):
    weights = {key.replace(TOWER, prefix): value for key, value in official_weights("inference", narrow=12).items()}
    expected = load_encoder(weights)
    save_file(weights, tmp_path / "tower.safetensors")
    assert_same(load_encoder(tmp_path / "tower.safetensors").state_dict(), expected.state_dict())
    assert expected.config.embed_dim == 64
    assert expected.embed(torch.rand(1, 3, 64, 64)).shape == (1, 64)


def test_an_encoder_is_taken_out_of_a_whole_checkpoint(llava_folder, hf_folder):
    for folder in (llava_folder, hf_folder):
        from_file, from_folder = load_encoder(folder / "model.safetensors"), load_encoder(folder)
        assert_same(from_file.state_dict(), from_folder.state_dict())


def test_convert_writes_what_transformers_reads(llava_folder, tmp_path):
    """Prompt, pixels and logits through transformers' own AutoProcessor and model."""
    from PIL import Image
    from transformers import AutoProcessor, FastVlmForConditionalGeneration

    told = convert(llava_folder, tmp_path / "hf", "fast_vlm")
    assert told["tensors"] == len(load_file(tmp_path / "hf" / "model.safetensors"))
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    peer = FastVlmForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    content = [{"type": "image"}, {"type": "text", "text": "what is in the picture?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ours = FastVLMProcessor.from_pretrained(llava_folder)
    prompt = ours.prompt([("what is in the picture?", None)])
    assert text == prompt
    theirs = processor(images=picture, text=text, return_tensors="pt")
    inputs = ours([prompt], [picture])
    # transformers 5 resizes with torchvision, which rounds some pixels the other way.
    torch.testing.assert_close(theirs["pixel_values"], inputs["pixels"], rtol=0, atol=1.01 / 255)
    with torch.inference_mode():
        expected = peer(
            input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"], pixel_values=inputs["pixels"]
        ).logits
        actual = FastVLM.from_pretrained(llava_folder)(**inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_convert_goes_back(hf_folder, tmp_path):
    convert(hf_folder, tmp_path / "llava", "llava_qwen2")
    assert_same(
        FastVLM.from_pretrained(tmp_path / "llava").state_dict(), FastVLM.from_pretrained(hf_folder).state_dict()
    )
    assert FastVLMProcessor.from_pretrained(tmp_path / "llava").image_size == 128


def rename(old, new):
    return lambda state: state.__setitem__(new, state.pop(old))


BROKEN = {
    "a tower tensor is missing": (
        rename(f"{TOWER}conv_exp.se.reduce.bias", f"{TOWER}x"),
        "1 missing [conv_exp.se.reduce",
    ),
    "a language tensor is left over": (
        lambda s: s.update({"model.layers.9.x": torch.zeros(1)}),
        "unknown [model.layers.9.x]",
    ),
    "another width of the language model": (
        lambda s: s.update({"model.norm.weight": torch.zeros(5)}),
        "1 of another shape [model.norm.weight]",
    ),
    "the projector takes other tokens": (
        lambda s: s.update({"model.mm_projector.0.weight": torch.zeros(32, 100)}),
        "wrong projector width",
    ),
    "the projector gives other embeddings": (
        lambda s: s.update({"model.mm_projector.2.weight": torch.zeros(48, 32)}),
        "from 256 to 48, but image tokens have 256 channels and the language model 32",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_do_not_fit_are_listed(llava_folder, tmp_path, case):
    change, sentence = BROKEN[case]
    folder = edit(llava_folder, tmp_path / "broken", change_state=change)
    with pytest.raises(InputError) as error:
        FastVLM.from_pretrained(folder)
    assert sentence in str(error.value)


def test_a_merge_that_no_released_model_uses_is_refused(llava_folder, tmp_path):
    folder = edit(llava_folder, tmp_path / "x", lambda config: config.update(mm_patch_merge_type="spatial_unpad"))
    with pytest.raises(InputError, match="`mm_patch_merge_type` is 'spatial_unpad'"):
        FastVLM.from_pretrained(folder)


def test_a_layout_that_cannot_hold_the_model_says_so(llava_folder, tmp_path):
    model = FastVLM.from_pretrained(llava_folder)
    model.image_aspect_ratio = "anyres"
    with pytest.raises(ValueError, match="use llava_qwen2"):
        model.save_pretrained(tmp_path / "x", "fast_vlm")
    with pytest.raises(ValueError, match="unknown layout 'lava'"):
        model.save_pretrained(tmp_path / "x", "lava")
    assert not (tmp_path / "x").exists()


def test_tensors_of_something_else_are_refused():
    with pytest.raises(InputError, match="no tensors of a FastViTHD"):
        load_encoder({"conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="not the weights of a FastViTHD"):
        load_encoder({"patch_embed.0.reparam_conv.weight": torch.zeros(1)})
