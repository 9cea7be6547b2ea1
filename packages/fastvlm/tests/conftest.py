"""Settings before anything heavy is imported, and model folders in both layouts that our own writer has not touched."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))  # `make_training` serves two test files
REFERENCE = Path(__file__).parent / "reference"
spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
fill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill)

TOWER = "model.vision_tower.vision_tower."
NARROW = 12  # the official tower at a twelfth of its width
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 512,
}


@pytest.fixture(scope="session", name="fill")
def fill_fixture():
    """The kit: a test file cannot import from a conftest."""
    return fill


@pytest.fixture(scope="session")
def official_shapes():
    """Shapes and dtypes of the official tower by form, keys as in a checkpoint."""

    def read(form: str) -> dict:
        content = json.loads(gzip.decompress((REFERENCE / f"fastvithd.{form}.shapes.json.gz").read_bytes()))
        return {key: value for key, value in content.items() if key.startswith(TOWER)}

    return read


@pytest.fixture(scope="session")
def official_weights(official_shapes):
    """What an official file holds, filled by key name; optionally narrow."""

    def make(form: str, narrow: int = 1) -> dict[str, torch.Tensor]:
        weights = {}
        for key, (shape, dtype) in official_shapes(form).items():
            shape = [size // narrow if size % 96 == 0 else size for size in shape]
            empty = torch.zeros(shape, dtype=getattr(torch, dtype))
            weights[key] = fill.fill_tensor(key, empty).to(empty.dtype)
        return weights

    return make


def write_tokenizer(folder: Path) -> None:
    """Write the files of a small Qwen2 tokenizer as the authors' folders have them."""
    tokenizer = ByteLevelBPETokenizer()
    text = ["the cat sat on the mat", "what is in the picture?", "Describe the image.", "You are a helpful assistant."]
    tokenizer.train_from_iterator(text * 3, vocab_size=300, min_frequency=2, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
    first = tokenizer.get_vocab_size()
    added = {
        str(first + i): {"content": token, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
                         "single_word": False}
        for i, token in enumerate(SPECIAL)
    }  # fmt: skip
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "model_max_length": 8192}
    config |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_llava_folder(folder: Path, tower: dict, image_size: int, *, tied: bool = True) -> dict[str, torch.Tensor]:
    """Write a folder in the authors' layout from the key list and transformers' own Qwen2; return its tensors."""
    torch.manual_seed(0)
    language = Qwen2ForCausalLM(Qwen2Config(**TEXT_SHAPE, tie_word_embeddings=tied)).state_dict()
    generator = torch.Generator().manual_seed(1)
    for value in language.values():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    if tied:
        del language["lm_head.weight"]
    width, dim = tower[TOWER + "model.conv_exp.reparam_conv.bias"].shape[0], TEXT_SHAPE["hidden_size"]
    shapes = {"0.weight": (dim, width), "0.bias": (dim,), "2.weight": (dim, dim), "2.bias": (dim,)}
    keys = {f"model.mm_projector.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    projector = {key: fill.fill_tensor(key, value) for key, value in keys.items()}
    state = {key: value.clone() for key, value in {**language, **projector, **tower}.items()}
    write_tokenizer(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlavaQwen2ForCausalLM"], "auto_map": {"AutoConfig": "llava_qwen.LlavaConfig"},
        "model_type": "llava_qwen2", "mm_vision_tower": f"mobileclip_l_{image_size}", "mm_hidden_size": width,
        "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "flat", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad", "image_grid_pinpoints": None, "unfreeze_mm_vision_tower": True,
        "tune_mm_mlp_adapter": False, "freeze_mm_mlp_adapter": False, "mm_projector_lr": None, "use_mm_proj": True,
        "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right", "bos_token_id": None,
        "eos_token_id": 400, "torch_dtype": "float32", "transformers_version": "4.39.3", "hidden_act": "silu",
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 256, "use_cache": True,
        "tie_word_embeddings": not tied, **TEXT_SHAPE,  # a wrong flag: the presence of lm_head decides
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return state


@pytest.fixture(scope="session")
def llava_folder(official_weights, tmp_path_factory):
    """The authors' layout: every official key, at a twelfth of the width, 128 px."""
    folder = tmp_path_factory.mktemp("models") / "llava-narrow"
    write_llava_folder(folder, official_weights("inference", NARROW), 128)
    return folder


@pytest.fixture(scope="session")
def untied_folder(official_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llava-untied"
    write_llava_folder(folder, official_weights("inference", NARROW), 128, tied=False)
    return folder


@pytest.fixture(scope="session")
def hf_model():
    """transformers' own FastVlm, small, every weight away from its initial value."""
    vision = {
        "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg",
        "hidden_size": 64, "model_args": {"inference_mode": True, "layers": [1] * 5, "embed_dims": [32] * 5},
    }  # fmt: skip
    text = {"model_type": "qwen2", "tie_word_embeddings": True, **TEXT_SHAPE}
    torch.manual_seed(0)
    model = FastVlmForConditionalGeneration(
        FastVlmConfig(text_config=text, vision_config=vision, image_token_index=500, image_seq_length=4)
    )
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator) * 0.2
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return model.eval()


@pytest.fixture(scope="session")
def hf_folder(hf_model, tmp_path_factory):
    """transformers' layout, written by transformers."""
    folder = tmp_path_factory.mktemp("models") / "hf"
    hf_model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A whole model that trains in no time: 64 px, one token an image, its own tokenizer."""
    from dataclasses import replace

    from fastvlm import PRESETS, EncoderConfig, FastVLM

    preset = PRESETS["fastvlm_0.5b"]
    language = replace(
        preset.language, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=48, vocab_size=320
    )
    encoder = EncoderConfig((1, 1, 1, 1, 1), (32, 32, 32, 32, 32), image_size=64, embed_dim=0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    FastVLM.from_config(replace(preset, language=language, encoder=encoder)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
