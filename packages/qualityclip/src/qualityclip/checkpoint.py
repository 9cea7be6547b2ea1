"""Models in folders: ours, open_clip's and Hugging Face's, read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from safetensors.torch import save
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from qualityclip.config import CLIPConfig
from qualityclip.convert import (
    Weights,
    from_open_clip_config,
    hugging_face_config,
    infer_config,
    open_clip_config,
    read_weights,
    to_hugging_face,
)
from qualityclip.model import CLIP

Layout = Literal["qualityclip", "open_clip", "hugging_face"]
_WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def save_pretrained(model: CLIP, folder: str | Path, *, layout: Layout = "qualityclip") -> None:
    """Write a model to a folder that `from_pretrained`, and the library of the layout, reads.

    Args:
        model: The model.
        folder: Made if missing; each file is replaced atomically.
        layout: "qualityclip" (open_clip's names, our config.json), "open_clip" (open_clip_config.json and
            open_clip_model.safetensors, for `open_clip.create_model("local-dir:FOLDER")`), or "hugging_face" (for
            `transformers.CLIPModel.from_pretrained`).

    Raises:
        InputError: The library has no such model.
    """
    folder = Path(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if layout == "hugging_face":
        config, weights = hugging_face_config(model.config), to_hugging_face(weights)
        files = ("config.json", "model.safetensors")
    elif layout == "open_clip":
        mean = {"mean": [0.0] * 3, "std": [1.0] * 3} if model.config.vision.timm_name else {}
        config = {"model_cfg": open_clip_config(model.config), "preprocess_cfg": mean}
        files = ("open_clip_config.json", "open_clip_model.safetensors")
        if model.config.vision.timm_name:
            weights = _with_text_prefix(weights)
            config["model_cfg"]["custom_text"] = True
    else:
        config, files = model.config.to_dict(), ("config.json", "model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / files[1]) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    write_json(folder / files[0], config)


def _with_text_prefix(weights: Weights) -> Weights:
    outside = ("visual.", "logit_")
    return {name if name.startswith(outside) else f"text.{name}": value for name, value in weights.items()}


def from_pretrained(source: str | Path, *, quick_gelu: bool = False) -> CLIP:
    """Read a model: a folder of any layout of `save_pretrained`, a hub download of either library, or a bare file.

    Args:
        source: Folder, or a .safetensors, .pt or .bin file whose sizes are read off its arrays.
        quick_gelu: Of a bare file only: OpenAI's weights need it.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: No such model, or weights that do not fit their configuration.
    """
    path = Path(source)
    if path.is_file():
        weights = read_weights(path)
        return build(infer_config(weights, quick_gelu=quick_gelu), weights, path)
    if not path.is_dir():
        raise FileNotFoundError(f"no model at {path}; give a folder of `save_pretrained` or a file of weights.")
    file = next((path / name for name in _WEIGHTS if (path / name).is_file()), path / _WEIGHTS[0])
    weights = read_weights(file)
    return build(_read_config(path, weights), weights, file)


def _read_config(folder: Path, weights: Weights) -> CLIPConfig:
    try:
        if (folder / "open_clip_config.json").is_file():
            return from_open_clip_config(json.loads((folder / "open_clip_config.json").read_text("utf-8")))
        record = json.loads((folder / "config.json").read_text("utf-8"))
        return _from_hugging_face(record) if "vision_config" in record else CLIPConfig.from_dict(record)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: its configuration cannot be read ({error}).") from error


def _from_hugging_face(record: dict) -> CLIPConfig:
    from qualityclip.config import TextConfig, VisionConfig

    vision, text = record["vision_config"], record["text_config"]
    return CLIPConfig(
        VisionConfig(
            vision.get("image_size", 224), vision.get("patch_size", 32), vision.get("hidden_size", 768),
            vision.get("num_hidden_layers", 12), vision.get("num_attention_heads", 12),
        ),
        TextConfig(
            text.get("max_position_embeddings", 77), text.get("vocab_size", 49408), text.get("hidden_size", 512),
            text.get("num_hidden_layers", 12), text.get("num_attention_heads", 8),
        ),
        record.get("projection_dim", 512),
        quick_gelu=vision.get("hidden_act", "quick_gelu") == "quick_gelu",
    )  # fmt: skip


def build(config: CLIPConfig, weights: Weights, where: str | Path = "the weights") -> CLIP:
    """Return the model of a configuration with given weights, in evaluation mode.

    Raises:
        InputError: A weight is missing, unknown, or of another shape.
    """
    model = CLIP(config)
    own = model.state_dict()
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    wrong = [name for name in own if name in weights and own[name].numel() != weights[name].numel()]
    if problem := next(iter([*missing, *unknown, *wrong]), None):
        kind = "lacks" if missing else "has an unknown" if unknown else "has another shape of"
        raise InputError(f"{where} {kind} {problem!r} for the model that its configuration says.")
    # Scale and bias: some files hold them as one number, some as an array of one.
    model.load_state_dict({name: weights[name].reshape(own[name].shape) for name in own})
    return model.eval()
