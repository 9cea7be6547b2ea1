"""Weights between our names, which are open_clip's, and those of Hugging Face's CLIP; sizes are read off the arrays."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError
from torch import Tensor

from qualityclip.config import CLIPConfig, TextConfig, VisionConfig

Weights = dict[str, Tensor]
_SAME = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
    **{
        f"{theirs}.{end}": f"{ours}.{end}"
        for theirs, ours in (
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            ("text_model.final_layer_norm", "ln_final"),
        )
        for end in ("weight", "bias")
    },
}
_TURNED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TOWERS = {"vision_model.encoder.layers": "visual.transformer.resblocks"}
_TOWERS["text_model.encoder.layers"] = "transformer.resblocks"


def from_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    """Return the arrays of a Hugging Face `CLIPModel` under open_clip's names; a missing one is an InputError."""
    try:
        found = {ours: weights[theirs] for theirs, ours in _SAME.items()}
        found |= {ours: weights[theirs].T.contiguous() for theirs, ours in _TURNED.items()}
        for theirs, ours in _TOWERS.items():
            layer = 0
            while f"{theirs}.{layer}.layer_norm1.weight" in weights:
                found |= _block_in(weights, f"{theirs}.{layer}.", f"{ours}.{layer}.")
                layer += 1
    except KeyError as error:
        raise InputError(f"the weights lack {error}; expected all of a Hugging Face CLIPModel.") from error
    return found


def _block_in(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    found = {}
    for end in ("weight", "bias"):
        found |= {f"{ours}{b}.{end}": weights[f"{theirs}{a}.{end}"] for a, b in _IN_BLOCK.items()}
        packed = [weights[f"{theirs}self_attn.{part}_proj.{end}"] for part in "qkv"]
        found[f"{ours}attn.in_proj_{end}"] = torch.cat(packed)
    return found


def to_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    """Return our arrays under the names of a Hugging Face `CLIPModel`, the other way round of `from_hugging_face`."""
    if any(name.startswith("visual.trunk.") for name in weights):
        raise InputError(
            "Hugging Face's CLIPModel has a ViT; a model with an image tower of timm goes to open_clip only."
        )
    if "logit_bias" in weights:
        raise InputError("Hugging Face's CLIPModel has no bias on its logits; export this one for open_clip.")
    found = {theirs: weights[ours] for theirs, ours in _SAME.items()}
    found |= {theirs: weights[ours].T.contiguous() for theirs, ours in _TURNED.items()}
    for theirs, ours in _TOWERS.items():
        layer = 0
        while f"{ours}.{layer}.ln_1.weight" in weights:
            found |= _block_out(weights, f"{theirs}.{layer}.", f"{ours}.{layer}.")
            layer += 1
    return found


def _block_out(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    found = {}
    for end in ("weight", "bias"):
        found |= {f"{theirs}{a}.{end}": weights[f"{ours}{b}.{end}"] for a, b in _IN_BLOCK.items()}
        for part, rows in zip("qkv", weights[f"{ours}attn.in_proj_{end}"].chunk(3), strict=True):
            found[f"{theirs}self_attn.{part}_proj.{end}"] = rows.clone()
    return found


def hugging_face_config(config: CLIPConfig) -> dict[str, Any]:
    """Return the `config.json` of a Hugging Face `CLIPModel` of these sizes."""
    if config.vision.pool != "tok" or not config.text.causal:
        raise InputError(
            "Hugging Face's CLIPModel pools the class token and reads texts causally; this model does not."
        )
    activation = "quick_gelu" if config.quick_gelu else "gelu"
    text: dict[str, Any] = {
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.context_length,
        # 2 makes transformers take the highest id, as we do.
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision: dict[str, Any] = {"image_size": config.vision.image_size, "patch_size": config.vision.patch_size}
    parts: tuple[tuple[dict[str, Any], Any], ...] = ((text, config.text), (vision, config.vision))
    for part, sizes in parts:
        part |= {"hidden_size": sizes.width, "intermediate_size": 4 * sizes.width, "hidden_act": activation}
        part |= {"num_hidden_layers": sizes.num_layers, "num_attention_heads": sizes.num_heads}
        part |= {"projection_dim": config.embed_dim}
    shared = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": config.embed_dim}
    return {**shared, "text_config": text, "vision_config": vision}


def open_clip_config(config: CLIPConfig) -> dict[str, Any]:
    """Return open_clip's model configuration of these sizes (the content of its `model_configs/*.json`)."""
    vision: dict[str, Any] = {"image_size": config.vision.image_size}
    if config.vision.timm_name:
        vision |= {"timm_model_name": config.vision.timm_name, "timm_pool": "avg", "timm_proj": None}
        if config.vision.timm_options:
            raise InputError("open_clip cannot pass options to timm; this model has `timm_options`.")
    else:
        width, heads = config.vision.width, config.vision.num_heads
        vision |= {"patch_size": config.vision.patch_size, "width": width, "layers": config.vision.num_layers}
        vision |= {"head_width": width // heads, "pool_type": config.vision.pool}
    text = {
        "context_length": config.text.context_length,
        "vocab_size": config.text.vocab_size,
        "width": config.text.width,
        "heads": config.text.num_heads,
        "layers": config.text.num_layers,
        "no_causal_mask": not config.text.causal,
    }
    found: dict[str, Any] = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    found["quick_gelu"] = config.quick_gelu
    return found | ({"init_logit_bias": -10.0} if config.loss == "siglip" else {})


def from_open_clip_config(record: Mapping[str, Any]) -> CLIPConfig:
    """Read open_clip's model configuration, also the one inside its `open_clip_config.json`.

    Raises:
        InputError: A text tower or an option that this package has not.
    """
    record = record.get("model_cfg", record)
    vision, text = record["vision_cfg"], record["text_cfg"]
    if text.get("hf_model_name"):
        raise InputError(f"the text tower {text['hf_model_name']} is Hugging Face's own; only CLIP's is read.")
    if vision.get("timm_model_name") and (vision.get("timm_proj") or vision.get("timm_pool") != "avg"):
        raise InputError("an image tower of timm is read where `timm_pool` is avg and `timm_proj` null.")
    width = vision.get("width", 768)
    return CLIPConfig(
        VisionConfig(
            vision.get("image_size", 224),
            vision.get("patch_size") or 16,
            width,
            vision.get("layers", 12),
            max(1, width // vision.get("head_width", 64)),
            pool=vision.get("pool_type", "tok"),
            timm_name=vision.get("timm_model_name") or "",
        ),
        TextConfig(
            text.get("context_length", 77),
            text.get("vocab_size", 49408),
            text.get("width", 512),
            text.get("layers", 12),
            text.get("heads", 8),
            not text.get("no_causal_mask", False),
        ),
        record["embed_dim"],
        "clip" if record.get("init_logit_bias") is None else "siglip",
        record.get("quick_gelu", False),
    )


def infer_config(weights: Mapping[str, Tensor], *, quick_gelu: bool = False) -> CLIPConfig:
    """Read the sizes of a CLIP ViT off its arrays under open_clip's names; heads are 64 wide, as released ones are.

    Args:
        weights: The arrays.
        quick_gelu: Which arrays do not say: OpenAI's weights need it.

    Raises:
        InputError: The arrays are of no CLIP ViT.
    """
    try:
        width, _, patch, _ = weights["visual.conv1.weight"].shape
        positions, (vocab, text_width) = weights["visual.positional_embedding"], weights["token_embedding.weight"].shape
        context, embed_dim = len(weights["positional_embedding"]), weights["text_projection"].shape[1]
    except KeyError as error:
        raise InputError(f"the weights lack {error}; expected a CLIP ViT of open_clip or Hugging Face.") from error
    side = round((len(positions) - 1) ** 0.5) * patch
    layers = [_count_layers(weights, prefix) for prefix in ("visual.transformer.", "transformer.")]
    return CLIPConfig(
        VisionConfig(side, patch, width, layers[0], max(1, width // 64)),
        TextConfig(context, vocab, text_width, layers[1], max(1, text_width // 64)),
        embed_dim,
        "siglip" if "logit_bias" in weights else "clip",
        quick_gelu,
    )


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    names = (name for name in weights if name.startswith(f"{prefix}resblocks."))
    return len({name.removeprefix(f"{prefix}resblocks.").split(".")[0] for name in names})


def read_weights(path: Path) -> Weights:
    """Read a file of weights under open_clip's names: .safetensors, or .pt and .bin without running anything in it.

    Raises:
        InputError: There is none, or it holds no plain arrays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"no weights at {path}; check the path.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path}: no plain weights; nothing in it was run.") from error
    content = content.get("state_dict", content)
    found = {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if "visual_projection.weight" in found:
        return from_hugging_face(found)
    # open_clip's models with a custom text tower keep it under `text.`; the mask is made anew.
    return {name.removeprefix("text."): value for name, value in found.items() if not name.endswith("attn_mask")}
