"""Reading and writing weights: official files, open_clip state dicts, hub names, and our own folders."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

from mobileclip.config import PRESETS, MobileCLIPConfig
from mobileclip.fusion import reparameterize
from mobileclip.model import MobileCLIP

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]
LICENCE_NOTE = (
    "these are official MobileCLIP weights: Apple's licence for machine learning research models applies to them."
)
MAX_KEYS_LISTED = 4
# What a folder downloaded from the hub may hold instead of our own two files.
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

# open_clip (timm's FastViT and ViT, its own text transformer) -> official names; applied in this order.
_OPEN_CLIP_NAMES: tuple[tuple[str, str], ...] = (
    (r"^visual\.trunk\.", "image_encoder.model."),
    (r"^text\.", "text_encoder."),
    # timm's FastViT
    (r"\.stem\.", ".patch_embed."),
    (r"\.stages\.0\.blocks\.", ".network.0."),
    (r"\.stages\.1\.downsample\.", ".network.1."),
    (r"\.stages\.1\.blocks\.", ".network.2."),
    (r"\.stages\.2\.downsample\.", ".network.3."),
    (r"\.stages\.2\.blocks\.", ".network.4."),
    (r"\.stages\.3\.downsample\.", ".network.5."),
    (r"\.stages\.3\.pos_emb\.pos_enc\.", ".network.6.pe."),
    (r"\.stages\.3\.pos_emb\.", ".network.6."),
    (r"\.stages\.3\.blocks\.", ".network.7."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"(network\.\d\.proj\.0)\.reparam_conv\.", r"\1.lkb_reparam."),
    (r"(network\.\d\.\d+)\.mlp\.", r"\1.convffn."),
    (r"(layer_scale(_\d)?)\.gamma$", r"\1"),
    (r"\.final_conv\.se\.fc1\.", ".conv_exp.se.reduce."),
    (r"\.final_conv\.se\.fc2\.", ".conv_exp.se.expand."),
    (r"\.final_conv\.", ".conv_exp."),
    (r"\.head\.fc\.weight$", ".head.proj"),
    # timm's ViT with a convolutional stem
    (r"\.patch_embed\.backbone\.(\d)\.conv\.", r".patch_emb.\1.block.conv."),
    (r"\.patch_embed\.backbone\.(\d)\.bn\.", r".patch_emb.\1.block.norm."),
    (r"(image_encoder\.model)\.pos_embed$", r"\1.pos_embed.pos_embed.pos_embed"),
    (r"(model\.)blocks\.(\d+)\.norm1\.", r"\1transformer.\2.pre_norm_mha.0."),
    (r"(model\.)blocks\.(\d+)\.attn\.qkv\.", r"\1transformer.\2.pre_norm_mha.1.qkv_proj."),
    (r"(model\.)blocks\.(\d+)\.attn\.proj\.", r"\1transformer.\2.pre_norm_mha.1.out_proj."),
    (r"(model\.)blocks\.(\d+)\.norm2\.", r"\1transformer.\2.pre_norm_ffn.0."),
    (r"(model\.)blocks\.(\d+)\.mlp\.fc1\.", r"\1transformer.\2.pre_norm_ffn.1."),
    (r"(model\.)blocks\.(\d+)\.mlp\.fc2\.", r"\1transformer.\2.pre_norm_ffn.4."),
    (r"(model\.)norm\.(weight|bias)$", r"\1post_transformer_norm.\2"),
    (r"(model\.)head\.weight$", r"\1classifier.proj"),
    # open_clip's text transformer
    (r"\.resblocks\.(\d+)\.ln_1\.", r".\1.pre_norm_mha.0."),
    (r"\.resblocks\.(\d+)\.attn\.in_proj_", r".\1.pre_norm_mha.1.qkv_proj."),
    (r"\.resblocks\.(\d+)\.attn\.out_proj\.", r".\1.pre_norm_mha.1.out_proj."),
    (r"\.resblocks\.(\d+)\.ln_2\.", r".\1.pre_norm_ffn.0."),
    (r"\.resblocks\.(\d+)\.mlp\.c_fc\.", r".\1.pre_norm_ffn.1."),
    (r"\.resblocks\.(\d+)\.mlp\.c_proj\.", r".\1.pre_norm_ffn.4."),
    (r"\.ln_final\.", ".final_layer_norm."),
    (r"\.token_embedding\.", ".embedding_layer."),
    (r"text_encoder\.positional_embedding$", "text_encoder.positional_embedding.pos_embed.pos_embed"),
    (r"\.text_projection$", ".projection_layer"),
)
_COMPILED_NAMES = tuple((re.compile(pattern), name) for pattern, name in _OPEN_CLIP_NAMES)


def save_pretrained(model: MobileCLIP, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` to a folder that `from_pretrained` reads.

    Args:
        model: In train form or fused form (not after `optimize_for_inference`, which renames weights).
        folder: Made if missing; files are replaced one by one, each atomically.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(state, metadata={"format": "pt"}))
    write_json(folder / "config.json", model.config.to_dict())


def from_pretrained(source: str | Path) -> MobileCLIP:
    """Read a model that `save_pretrained` wrote, in the form (train or fused) in which it was saved.

    Args:
        source: A folder, or "hf-hub:owner/name" for one on the Hugging Face hub.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: `config.json` or `model.safetensors` is missing.
        InputError: A file is damaged, or weights and configuration disagree.
    """
    folder = _hub_folder(str(source)) if str(source).startswith("hf-hub:") else Path(source)
    try:
        config = MobileCLIPConfig.from_dict(json.loads((folder / "config.json").read_text()))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no config.json in {folder}; `save_pretrained` writes such a folder.") from error
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not a MobileCLIP configuration: {error}") from error
    return build_model(config, read_state_dict(folder / "model.safetensors"), origin=str(folder)).eval()


def build_model(config: MobileCLIPConfig, state: StateDict, *, origin: str) -> MobileCLIP:
    """Build a model in the form (train or fused) of `state` and load it, every tensor accounted for.

    Args:
        config: Architecture.
        state: Official, own or open_clip names.
        origin: What the error message calls the source.

    Raises:
        InputError: Keys or shapes do not fit; the message lists the first of them.
    """
    state = to_official_names(state)
    with torch.device("meta"):
        model = MobileCLIP(config)
        if is_fused(state):
            model = reparameterize(model)
    expected = model.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if missing or unknown or wrong:
        parts = [f"{len(missing)} missing {_some(missing)}"] if missing else []
        parts += [f"{len(unknown)} unknown {_some(unknown)}"] if unknown else []
        parts += [f"{len(wrong)} of another shape {_some(wrong)}"] if wrong else []
        raise InputError(f"{origin} does not fit this model ({'; '.join(parts)}); is it another variant?")
    model.load_state_dict(state, assign=True)
    return model.float()


def is_fused(state: StateDict) -> bool:
    """Return whether a state dict with official names is in fused form."""
    return any(".reparam_conv." in key or ".lkb_reparam." in key for key in state)


def to_official_names(state: StateDict) -> StateDict:
    """Return a state dict with open_clip's names (MobileCLIP-S1, -S2, -B) renamed; official names stay.

    Args:
        state: Bare tensors by name.

    Raises:
        InputError: open_clip's image head has a bias that is not zero, which the official head cannot hold.
    """
    if not any(key.startswith("visual.trunk.") for key in state):
        return state
    renamed: StateDict = {}
    for key, value in state.items():
        if key in ("visual.trunk.head.fc.bias", "visual.trunk.head.bias"):
            if value.any():
                raise InputError(f"`{key}` is not zero; MobileCLIP's image head has no bias.")
            continue
        name = key
        for pattern, replacement in _COMPILED_NAMES:
            name = pattern.sub(replacement, name)
        renamed[name] = _fit_layout(name, value)
    return renamed


def _fit_layout(name: str, value: Tensor) -> Tensor:
    """Transpose what open_clip stores as a linear layer, and add the dimensions official tables have."""
    if name.endswith((".head.proj", ".classifier.proj")):
        return value.T.contiguous()
    if name.endswith("pos_embed.pos_embed.pos_embed"):
        return value[None]
    if name.endswith("positional_embedding.pos_embed.pos_embed"):
        return value[None, None]
    if re.search(r"layer_scale(_\d)?$", name):
        return value.reshape(-1, 1, 1)
    return value


def read_state_dict(path: str | Path) -> StateDict:
    """Read tensors by name from a `.safetensors` or `.pt` file without ever running code from it.

    Args:
        path: Safetensors, or what `torch.save` wrote: a bare state dict, or one under "state_dict".

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged, holds something else, or is a pickle with code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; check the path.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except (SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or not a weights file: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict (tensors by name).")
    return {key.removeprefix("module."): value for key, value in state.items()}


def read_training_state(path: Path) -> dict[str, Any]:
    """Read a training checkpoint (plain values and tensors) without running code from it.

    Raises:
        InputError: The file is damaged or something else.
    """
    try:
        state = _load_tensors(path)
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise InputError(f"{path} is not a checkpoint of `mobileclip train`.")
    return state


def _load_tensors(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not a plain file of tensors: loading it would run code from it; ask its author for safetensors."
        ) from error


def load_named(name: str, pretrained: str | Path | None) -> MobileCLIP:
    """Build preset `name` with the weights of `pretrained`, in the form in which they are stored.

    Args:
        name: A key of `PRESETS`.
        pretrained: None for random weights; a file; a folder with official, open_clip or our files;
            "hf-hub:owner/name" for such a folder on the hub.

    Raises:
        FileNotFoundError: Nothing is there.
        InputError: The weights are damaged or of another variant.
    """
    if pretrained is None:
        return MobileCLIP(PRESETS[name])
    path = _hub_folder(str(pretrained)) if str(pretrained).startswith("hf-hub:") else Path(pretrained)
    if path.is_dir():
        official = [path / file for file in (f"{name}.pt", *_OPEN_CLIP_FILES) if (path / file).is_file()]
        if not official:
            model = from_pretrained(path)
            if model.config != PRESETS[name]:
                raise InputError(f"{path} holds another architecture than `{name}`.")
            return model
        path = official[0]
    state = read_state_dict(path)
    if path.suffix == ".pt":
        logger.warning("%s: %s", path.name, LICENCE_NOTE)
    return build_model(PRESETS[name], state, origin=str(path))


def _hub_folder(name: str) -> Path:
    """Download a repository of the hub (or find it in the cache) and return its folder."""
    hub = require_extra("huggingface_hub", "hub", "mobileclip-torch")
    repository = name.removeprefix("hf-hub:")
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "*.pt", "*.bin"]))
    except Exception as error:
        raise InputError(
            f"cannot get {repository!r} from the hub ({type(error).__name__}); "
            "check the name and the connection, or download it elsewhere and pass its folder."
        ) from error


def _some(keys: object) -> str:
    names = sorted(keys)  # type: ignore[call-overload]
    return "[" + ", ".join(names[:MAX_KEYS_LISTED]) + (", ...]" if len(names) > MAX_KEYS_LISTED else "]")
