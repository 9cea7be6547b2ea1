"""The two layouts in which FastVLM is stored: names of tensors, and what their `config.json` says.

`llava_qwen2` is the authors' (tower, projector and language model side by side under `model.`), `fast_vlm` is
transformers' (timm's names for the tower, and no CLIP head). Everything here is renaming: no file is touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from tenfold_shared.commands import InputError, unknown_name
from torch import Tensor

from fastvlm.config import STRIDE, EncoderConfig

StateDict = dict[str, Tensor]
Layout = Literal["llava_qwen2", "fast_vlm"]

IMAGE_PLACEHOLDER = -200  # the authors' IMAGE_TOKEN_INDEX: one per image, replaced by the image's tokens
IMAGE_TOKEN_ID = 151646  # the first id after Qwen2's own, where transformers' port puts `<image>`
DEFAULT_IMAGE_SIZE = 1024
MAX_KEYS_LISTED = 4
TOWER = {"llava_qwen2": "model.vision_tower.vision_tower.model.", "fast_vlm": "model.vision_tower.timm_model."}
# Fields of the authors' config.json that are about the picture, not about the language model.
_VISION_FIELD = re.compile(
    r"^(mm_|image_|tune_|freeze_|unfreeze_|use_mm_|tokenizer_|vision_|auto_map$|architectures$|model_type$)"
)
_STAGES = (
    ("network.0.", "stages.0.blocks."),
    ("network.1.", "stages.1.downsample."),
    ("network.2.", "stages.1.blocks."),
    ("network.3.", "stages.2.downsample."),
    ("network.4.", "stages.2.blocks."),
    ("network.5.", "stages.3.downsample."),
    ("network.6.", "stages.3.pos_emb."),
    ("network.7.", "stages.3.blocks."),
    ("network.8.", "stages.4.downsample."),
    ("network.9.", "stages.4.pos_emb."),
    ("network.10.", "stages.4.blocks."),
    ("patch_embed.", "stem."),
    ("conv_exp.se.reduce.", "final_conv.se.fc1."),
    ("conv_exp.se.expand.", "final_conv.se.fc2."),
    ("conv_exp.", "final_conv."),
)
# Fields of a transformers configuration that say nothing about the architecture.
_IDLE_FIELDS = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "transformers_version",
)  # fmt: skip
_LINEAR = re.compile(r"linear_(\d+)\.")


@dataclass
class Parts:
    """A FastVLM taken apart: tensors under the names that the three modules use, and what belongs to them.

    Args:
        encoder: Official names, without a prefix.
        projector: `0.weight`, `0.bias`, `2.weight`, ... as in `nn.Sequential`.
        language: Names of the causal language model, without a prefix.
        text_config: Fields of the language model's configuration, `model_type` among them.
        image_size: Input height and width in pixels.
        multi_scale: See `EncoderConfig`.
        image_aspect_ratio: "pad" or "anyres".
        grid_pinpoints: (width, height) of the canvases of "anyres".
    """

    encoder: StateDict
    projector: StateDict
    language: StateDict
    text_config: dict[str, Any]
    image_size: int = DEFAULT_IMAGE_SIZE
    multi_scale: str = "none"
    image_aspect_ratio: str = "pad"
    grid_pinpoints: list[tuple[int, int]] = field(default_factory=list)


def find_layout(config: dict[str, Any]) -> Layout:
    """Return which layout a `config.json` belongs to.

    Raises:
        InputError: It names another one, or none.
    """
    name: Any = config.get("model_type")
    if name not in get_args(Layout):
        raise InputError(f"unknown layout: `model_type` is {name!r}; FastVLM comes as {' or '.join(get_args(Layout))}.")
    return name


def check_layout(name: str) -> None:
    """Refuse a name that is no layout."""
    if name not in get_args(Layout):
        raise unknown_name("layout", name, list(get_args(Layout)))


def split(state: StateDict, config: dict[str, Any]) -> Parts:
    """Take a stored model apart.

    Args:
        state: All tensors by their stored names.
        config: Content of `config.json`.

    Raises:
        InputError: A tensor belongs to none of the three parts, or the configuration asks for something else
            than FastVLM has.
    """
    layout = find_layout(config)
    parts = _split_llava(state, config) if layout == "llava_qwen2" else _split_hf(state, config)
    parts.text_config["tie_word_embeddings"] = "lm_head.weight" not in parts.language
    return parts


def _split_llava(state: StateDict, config: dict[str, Any]) -> Parts:
    prefixes = {TOWER["llava_qwen2"]: "", "model.mm_projector.": ""}
    encoder, projector, language = _sort(state, prefixes)
    merge = config.get("mm_patch_merge_type", "flat")
    if merge != "flat":
        raise InputError(f"`mm_patch_merge_type` is {merge!r}; FastVLM's models use 'flat', and so does this package.")
    text = {key: value for key, value in config.items() if not _VISION_FIELD.match(key)}
    size = re.search(r"_(\d+)$", config.get("mm_vision_tower", ""))
    return Parts(
        encoder,
        projector,
        language,
        {**text, "model_type": "qwen2"},
        image_size=int(size.group(1)) if size else DEFAULT_IMAGE_SIZE,
        multi_scale=config.get("mm_vision_multi_scale", "none"),
        image_aspect_ratio=config.get("image_aspect_ratio") or "pad",
        grid_pinpoints=[tuple(point) for point in config.get("image_grid_pinpoints") or []],
    )


def _split_hf(state: StateDict, config: dict[str, Any]) -> Parts:
    architecture = config.get("vision_config", {}).get("architecture")
    if architecture != "fastvit_mci3":
        raise InputError(f"`vision_config.architecture` is {architecture!r}; FastVLM's encoder is 'fastvit_mci3'.")
    prefixes = {TOWER["fast_vlm"]: "", "model.multi_modal_projector.": "", "model.language_model.": "model."}
    encoder, projector, language = _sort(state, prefixes)
    return Parts(
        {tower_name(key, to="llava_qwen2"): value for key, value in encoder.items()},
        {_LINEAR.sub(lambda m: f"{2 * int(m[1]) - 2}.", key): value for key, value in projector.items()},
        language,
        dict(config["text_config"]),
        image_size=round(config.get("image_seq_length", (DEFAULT_IMAGE_SIZE // STRIDE) ** 2) ** 0.5) * STRIDE,
    )


def _sort(state: StateDict, prefixes: dict[str, str]) -> tuple[StateDict, StateDict, StateDict]:
    """Return tower, projector and the rest, which is the language model; vision tensors must be one of the first."""
    groups: tuple[StateDict, StateDict, StateDict] = ({}, {}, {})
    for key, value in state.items():
        for group, prefix in zip(groups, prefixes, strict=False):
            if key.startswith(prefix):
                group[prefixes[prefix] + key.removeprefix(prefix)] = value
                break
        else:
            groups[2][key] = value
    return groups


def join(parts: Parts, layout: Layout) -> StateDict:
    """Return all tensors under the names of a layout: the inverse of `split`.

    A `fast_vlm` folder has no place for the CLIP head, which no vision-language model reads.
    """
    tower, language = TOWER[layout], parts.language
    if layout == "llava_qwen2":
        projector = {f"model.mm_projector.{key}": value for key, value in parts.projector.items()}
        return {**language, **projector, **{tower + key: value for key, value in parts.encoder.items()}}
    encoder = {tower + tower_name(k, to=layout): v for k, v in parts.encoder.items() if k != "head.proj"}
    names = {key: re.sub(r"^(\d+)\.", lambda m: f"linear_{int(m[1]) // 2 + 1}.", key) for key in parts.projector}
    projector = {f"model.multi_modal_projector.{names[key]}": value for key, value in parts.projector.items()}
    language = {re.sub(r"^model\.", "model.language_model.", key): value for key, value in language.items()}
    return {**language, **projector, **encoder}


def make_config(parts: Parts, layout: Layout, hidden_size: int, image_token_id: int) -> dict[str, Any]:
    """Return the `config.json` of a layout.

    Raises:
        ValueError: The layout cannot say what this model is.
    """
    text = {key: value for key, value in parts.text_config.items() if key not in _IDLE_FIELDS}
    if layout == "llava_qwen2":
        return _llava_config(parts, text, hidden_size)
    num_linears = len(parts.projector) // 2
    if num_linears != 2 or parts.multi_scale != "none" or parts.image_aspect_ratio != "pad":
        raise ValueError(
            "the layout fast_vlm has a projector of two layers, one scale and padded images; use llava_qwen2."
        )
    encoder = infer_encoder(parts.encoder, parts.image_size)
    arguments: dict[str, Any] = {"inference_mode": True}
    if encoder.depths != EncoderConfig().depths or encoder.dims != EncoderConfig().dims:
        arguments |= {"layers": list(encoder.depths), "embed_dims": list(encoder.dims)}
    return {
        "architectures": ["FastVlmForConditionalGeneration"],
        "model_type": "fast_vlm",
        "image_token_index": image_token_id,
        "image_seq_length": encoder.num_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": text,
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": hidden_size,
            "model_args": arguments,
        },
    }


def _llava_config(parts: Parts, text: dict[str, Any], hidden_size: int) -> dict[str, Any]:
    if text.pop("model_type") != "qwen2":
        raise ValueError("the layout llava_qwen2 holds Qwen2 language models only; use fast_vlm.")
    rope = text.get("rope_parameters") or {}
    if rope.get("rope_type") == "default":  # the authors' transformers knows `rope_theta` alone
        text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    multi_scale = {} if parts.multi_scale == "none" else {"mm_vision_multi_scale": parts.multi_scale}
    return {
        **text,
        "architectures": ["LlavaQwen2ForCausalLM"],
        "model_type": "llava_qwen2",
        "mm_vision_tower": f"mobileclip_l_{parts.image_size}",
        "mm_hidden_size": hidden_size,
        "mm_projector_type": f"mlp{len(parts.projector) // 2}x_gelu" if len(parts.projector) > 2 else "linear",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": parts.image_aspect_ratio,
        "image_grid_pinpoints": parts.grid_pinpoints or None,
        "unfreeze_mm_vision_tower": True,
        "use_mm_proj": True,
        **multi_scale,
    }


def tower_name(key: str, *, to: Layout) -> str:
    """Rename one tensor of the fused encoder: official (`llava_qwen2`) names to timm's (`fast_vlm`), or back.

    Example:
        >>> tower_name("network.1.proj.0.lkb_reparam.weight", to="fast_vlm")
        'stages.1.downsample.proj.0.reparam_conv.weight'
    """
    if to == "fast_vlm":
        key = re.sub(r"(layer_scale(_\d)?)$", r"\1.gamma", key.replace(".convffn.", ".mlp."))
        key = key.replace(".lkb_reparam.", ".reparam_conv.")
        return next((new + key.removeprefix(old) for old, new in _STAGES if key.startswith(old)), key)
    key = re.sub(r"(layer_scale(_\d)?)\.gamma$", r"\1", key.replace(".mlp.", ".convffn."))
    key = re.sub(r"(downsample\.proj\.0)\.reparam_conv\.", r"\1.lkb_reparam.", key)
    return next((old + key.removeprefix(new) for old, new in _STAGES if key.startswith(new)), key)


def infer_encoder(state: StateDict, image_size: int = DEFAULT_IMAGE_SIZE, multi_scale: str = "none") -> EncoderConfig:
    """Read depths, widths and extras of an encoder off its tensors (official names, train or fused form).

    Raises:
        InputError: The tensors are not those of a FastViTHD.
    """
    blocks = [re.match(r"network\.(\d+)\.(\d+)\.convffn\.fc1\.weight", key) for key in state]
    found = sorted({(int(m[1]), int(m[2])) for m in blocks if m})
    stages = sorted({stage for stage, _ in found})
    if stages != [0, 2, 4, 7, 10]:
        raise InputError(
            f"these are not the weights of a FastViTHD: blocks lie in network {stages}, not 0, 2, 4, 7, 10."
        )
    shapes = [state[f"network.{stage}.0.convffn.fc1.weight"].shape for stage in stages]
    head = state.get("head.proj", torch.empty(0, 0, device="meta"))
    return EncoderConfig(
        depths=tuple(sum(1 for stage, _ in found if stage == s) for s in stages),  # type: ignore[arg-type]
        dims=tuple(shape[1] for shape in shapes),  # type: ignore[arg-type]
        mlp_ratio=shapes[0][0] // shapes[0][1],
        embed_dim=head.shape[1],
        image_size=image_size,
        multi_scale="dwconv" if any(key.startswith("multi_scale.") for key in state) else multi_scale,  # type: ignore[arg-type]
    )


def describe_mismatch(expected: StateDict, state: StateDict) -> str:
    """Return in words which keys are missing, unknown or of another shape; empty if all fit."""
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    parts = [f"{len(missing)} missing {some(missing)}"] if missing else []
    parts += [f"{len(unknown)} unknown {some(unknown)}"] if unknown else []
    parts += [f"{len(wrong)} of another shape {some(wrong)}"] if wrong else []
    return "; ".join(parts)


def some(keys: object) -> str:
    """Return the first few names of a collection."""
    names = sorted(keys)  # type: ignore[call-overload]
    return "[" + ", ".join(names[:MAX_KEYS_LISTED]) + (", ...]" if len(names) > MAX_KEYS_LISTED else "]")
