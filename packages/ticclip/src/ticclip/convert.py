"""Weights between our trees and the names of open_clip and of Hugging Face's CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, require_extra

from ticclip.config import CLIPConfig, TextConfig, VisionConfig

Weights = dict[str, np.ndarray]
_LINEAR = (("weight", "kernel"), ("bias", "bias"))
_NORM = (("weight", "scale"), ("bias", "bias"))


def _names(config: CLIPConfig) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    """Yield (open_clip's name, path in our tree, kind) of every array; kind says how the two are shaped."""
    yield "visual.class_embedding", ("visual", "class_embedding"), "same"
    yield "visual.positional_embedding", ("visual", "positional_embedding"), "same"
    yield "visual.proj", ("visual", "proj"), "same"
    yield "visual.conv1.weight", ("visual", "conv1", "kernel"), "patches"
    yield "token_embedding.weight", ("text", "token_embedding"), "same"
    yield "positional_embedding", ("text", "positional_embedding"), "same"
    yield "text_projection", ("text", "proj"), "same"
    yield "logit_scale", ("logit_scale",), "same"
    if config.init_bias is not None:
        yield "logit_bias", ("logit_bias",), "same"
    norms = {"visual.ln_pre": ("visual", "ln_pre"), "visual.ln_post": ("visual", "ln_post")}
    norms["ln_final"] = ("text", "ln_final")
    for name, path in norms.items():
        yield from ((f"{name}.{theirs}", (*path, ours), "same") for theirs, ours in _NORM)
    for prefix, tower, layers in (("visual.", "visual", config.vision), ("", "text", config.text)):
        for layer in range(layers.num_layers):
            yield from _block(f"{prefix}transformer.resblocks.{layer}.", (tower, "blocks", layer))


def _block(prefix: str, path: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    for norm in ("ln_1", "ln_2"):
        yield from ((f"{prefix}{norm}.{theirs}", (*path, norm, ours), "same") for theirs, ours in _NORM)
    yield f"{prefix}attn.in_proj_weight", (*path, "attn", "in_proj", "kernel"), "linear"
    yield f"{prefix}attn.in_proj_bias", (*path, "attn", "in_proj", "bias"), "same"
    linears = {"attn.out_proj": ("attn", "out_proj"), "mlp.c_fc": ("c_fc",), "mlp.c_proj": ("c_proj",)}
    for name, where in linears.items():
        for theirs, ours in _LINEAR:
            kind = "linear" if theirs == "weight" else "same"
            yield f"{prefix}{name}.{theirs}", (*path, *where, ours), kind


def to_open_clip(tree: Mapping[Any, Any], config: CLIPConfig) -> Weights:
    """Return our tree under open_clip's names and shapes.

    Args:
        tree: Nested dictionaries of arrays, as `nnx.to_pure_dict` gives.
        config: The towers' sizes.
    """
    found = {}
    for name, path, kind in _names(config):
        value: Any = tree
        for part in path:
            value = value[part]
        found[name] = np.array(_outwards(np.asarray(value), kind, config.vision.patch_size), order="C")
    return found


def from_open_clip(weights: Mapping[str, np.ndarray], config: CLIPConfig) -> dict[Any, Any]:
    """Return open_clip's arrays as our tree.

    Raises:
        InputError: A name is missing, or an array of another shape than the configuration says.
    """
    tree: dict[Any, Any] = {}
    for name, path, kind in _names(config):
        if name not in weights:
            raise InputError(f"the weights lack {name!r}; are they of a CLIP ViT with open_clip's names?")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        value = np.asarray(weights[name], dtype=np.float32)
        # Scale and bias: some files hold them as one number, some as an array of one.
        node[path[-1]] = value.reshape(()) if len(path) == 1 else _inwards(value, kind)
    return tree


def _outwards(value: np.ndarray, kind: str, patch: int) -> np.ndarray:
    if kind == "linear":
        return value.T
    return value.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1) if kind == "patches" else value


def _inwards(value: np.ndarray, kind: str) -> np.ndarray:
    if kind == "linear":
        return value.T
    return value.transpose(2, 3, 1, 0).reshape(-1, len(value)) if kind == "patches" else value


def from_hugging_face(weights: Mapping[str, np.ndarray]) -> Weights:
    """Return the arrays of a Hugging Face `CLIPModel` under open_clip's names."""
    found = {}
    renamed = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "logit_scale": "logit_scale",
    }
    norms = {"vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post"}
    norms["text_model.final_layer_norm"] = "ln_final"
    renamed |= {f"{old}.{end}": f"{new}.{end}" for old, new in norms.items() for end in ("weight", "bias")}
    found = {new: np.asarray(weights[old]) for old, new in renamed.items() if old in weights}
    for old, new in (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")):
        if old in weights:
            found[new] = np.asarray(weights[old]).T
    for old, new in (("vision_model.", "visual."), ("text_model.", "")):
        layer = 0
        while f"{old}encoder.layers.{layer}.layer_norm1.weight" in weights:
            source, target = f"{old}encoder.layers.{layer}.", f"{new}transformer.resblocks.{layer}."
            found |= _hugging_face_block(weights, source, target)
            layer += 1
    return found


def _hugging_face_block(weights: Mapping[str, np.ndarray], old: str, new: str) -> Weights:
    pairs = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    pairs |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    found = {
        f"{new}{ours}.{end}": np.asarray(weights[f"{old}{theirs}.{end}"])
        for theirs, ours in pairs.items()
        for end in ("weight", "bias")
    }
    for end in ("weight", "bias"):
        parts = [np.asarray(weights[f"{old}self_attn.{part}_proj.{end}"]) for part in "qkv"]
        found[f"{new}attn.in_proj_{end}"] = np.concatenate(parts)
    return found


def infer_config(weights: Mapping[str, np.ndarray], activation: str, image_size: int | None = None) -> CLIPConfig:
    """Read the sizes of a CLIP ViT off its arrays (open_clip's names); heads are 64 wide, as all released ones are.

    Args:
        weights: The arrays.
        activation: `gelu` or `quick_gelu`, which arrays do not say: OpenAI's weights need `quick_gelu`.
        image_size: By default what the positions say.

    Raises:
        InputError: Arrays that are no CLIP ViT.
    """
    try:
        dim, _, patch, _ = weights["visual.conv1.weight"].shape
        positions, (vocab, text_dim) = weights["visual.positional_embedding"], weights["token_embedding.weight"].shape
        context, embed = len(weights["positional_embedding"]), weights["text_projection"].shape[1]
    except KeyError as error:
        raise InputError(f"the weights lack {error}; expected a CLIP ViT of open_clip or Hugging Face.") from error
    side = round((len(positions) - 1) ** 0.5)
    layers = [
        len({name.split("resblocks.")[1].split(".")[0] for name in weights if name.startswith(f"{prefix}transformer.")})
        for prefix in ("visual.", "")
    ]
    return CLIPConfig(
        VisionConfig(image_size or side * patch, patch, dim, layers[0], max(1, dim // 64)),
        TextConfig(context, vocab, text_dim, layers[1], max(1, text_dim // 64)),
        embed,
        activation="quick_gelu" if activation == "quick_gelu" else "gelu",
        init_bias=float(np.asarray(weights["logit_bias"]).reshape(())) if "logit_bias" in weights else None,
    )


def read_weights(path: Path) -> Weights:
    """Read a `.safetensors` file, or a `.pt` or `.bin` one without running anything in it (extra `torch`)."""
    if not path.is_file():
        raise InputError(f"no weights at {path}; check the path.")
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        weights: Mapping[str, Any] = load_file(path)
    else:
        weights = _read_torch(path)
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return from_hugging_face(weights) if "visual_projection.weight" in weights else dict(weights)


def _read_torch(path: Path) -> Weights:
    import pickle

    torch = require_extra("torch", "torch", "ticclip")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path}: no plain torch weights; nothing in it was run.") from error
    content = content.get("state_dict", content)
    return {name: value.float().numpy() for name, value in content.items() if hasattr(value, "numpy")}
