"""Files: tensors in one file or in shards, both layouts read and written, every tensor accounted for."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mobileclip.checkpoint import read_state_dict
from mobileclip.fusion import reparameterize
from safetensors.torch import save_file
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json
from torch import nn

from fastvlm.encoder import FastViTHD
from fastvlm.layouts import (
    DEFAULT_IMAGE_SIZE,
    IMAGE_TOKEN_ID,
    Layout,
    Parts,
    StateDict,
    describe_mismatch,
    infer_encoder,
    join,
    make_config,
    some,
    split,
    tower_name,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

LICENCE_NOTE = "these are official FastVLM weights: Apple's licence for research models applies to them."
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MAX_SHARD_BYTES = 4_000_000_000


def load_encoder(source: str | Path | StateDict) -> FastViTHD:
    """Load a FastViTHD from official tower weights, in the form (train or fused) in which they are stored.

    Depths and widths are read off the tensors, so that any FastViTHD loads. Give it a whole FastVLM checkpoint and
    it takes the tower.

    Args:
        source: Tensors by name, with or without the prefix of their checkpoint; or a file of such; or a folder
            (or hub name) in either layout.

    Returns:
        The encoder in evaluation mode, in the tensors' own number format.

    Raises:
        FileNotFoundError: Nothing is at the path.
        tenfold_shared.commands.InputError: A tensor is missing, left over or of another shape.

    Example:
        >>> import fastvlm
        >>> tiny = fastvlm.EncoderConfig(depths=(1, 1, 1, 1, 1), dims=(32, 32, 32, 32, 32))
        >>> weights = fastvlm.FastViTHD(tiny).state_dict()
        >>> fastvlm.load_encoder({f"model.vision_tower.{key}": value for key, value in weights.items()}).config == tiny
        True
    """
    if isinstance(source, dict):
        return build_encoder(_take_tower(source), origin="the state dict").eval()
    path = Path(source)
    if path.is_file():
        return build_encoder(_take_tower(read_state_dict(path)), origin=str(source)).eval()
    parts = read_parts(find_folder(source))
    return build_encoder(parts.encoder, parts.image_size, parts.multi_scale, origin=str(source)).eval()


def _take_tower(state: StateDict) -> StateDict:
    """Return the tensors of the tower without their prefix, official names."""
    for first, renamed in (("patch_embed.0.", False), ("stem.0.", True)):
        prefix = next((key.partition(first)[0] for key in state if first in key), None)
        if prefix is not None:
            tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            return {tower_name(key, to="llava_qwen2"): value for key, value in tower.items()} if renamed else tower
    raise InputError(f"no tensors of a FastViTHD (`patch_embed.0. ...`) among {some(state)}.")


def build_encoder(
    state: StateDict, image_size: int = DEFAULT_IMAGE_SIZE, multi_scale: str = "none", *, origin: str
) -> FastViTHD:
    """Build an encoder in the form of `state` (official names) and load it, every tensor accounted for.

    Raises:
        InputError: Keys or shapes do not fit; the message lists the first of them.
    """
    config = infer_encoder(state, image_size, multi_scale)
    with torch.device("meta"):
        encoder = FastViTHD(config)
        if any(".reparam_conv." in key for key in state):
            encoder = reparameterize(encoder)
    load_exactly(encoder, state, origin=f"the encoder in {origin}")
    return encoder


def build_projector(state: StateDict, in_dim: int, out_dim: int, *, origin: str) -> nn.Sequential:
    """Build the projector from `0.weight, 0.bias, 2.weight, ...` and check the widths at both of its ends.

    Raises:
        InputError: It takes other image tokens, gives other embeddings, or its tensors do not chain.
    """
    indices = sorted({int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()})
    if not indices:
        raise InputError(f"{origin} holds no projector (`mm_projector` or `multi_modal_projector`).")
    last = state.get(f"{indices[-1]}.weight")
    widths = (state["0.weight"].shape[1], last.shape[0]) if "0.weight" in state and last is not None else ()
    if widths != (in_dim, out_dim):
        raise InputError(
            f"wrong projector width in {origin}: it leads from {' to '.join(map(str, widths)) or 'nowhere'}, "
            f"but image tokens have {in_dim} channels and the language model {out_dim}."
        )
    with torch.device("meta"):
        projector = make_projector(in_dim, out_dim, len(indices))
    load_exactly(projector, state, origin=f"the projector in {origin}")
    return projector


def make_projector(in_dim: int, out_dim: int, num_layers: int = 2) -> nn.Sequential:
    """Return `mlp{num_layers}x_gelu`: linear layers with exact GELU between them."""
    layers: list[nn.Module] = [nn.Linear(in_dim, out_dim)]
    for _ in range(num_layers - 1):
        layers += [nn.GELU(), nn.Linear(out_dim, out_dim)]
    return nn.Sequential(*layers)


def build_language_model(state: StateDict, text_config: dict[str, Any], *, origin: str) -> PreTrainedModel:
    """Build transformers' causal language model for a configuration and load it, every tensor accounted for.

    Raises:
        InputError: transformers does not know the model, or tensors do not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in text_config.items() if key not in ("torch_dtype", "dtype")}
    name = fields.pop("model_type", None)
    try:
        config = AutoConfig.for_model(name, **fields)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{origin} names a language model that transformers does not know: {name!r}.") from error
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    expected = skeleton.state_dict()
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    if problem := describe_mismatch(expected, state):
        raise InputError(f"the language model in {origin} does not fit its configuration: {problem}.")
    dtype = next(value.dtype for value in state.values() if value.is_floating_point())
    with quiet_transformers():
        return type(skeleton).from_pretrained(None, config=config, state_dict=dict(state), dtype=dtype).eval()


def load_exactly(module: nn.Module, state: StateDict, *, origin: str) -> None:
    """Assign tensors to a module; n of n must match.

    Raises:
        InputError: They do not; the message lists keys.
    """
    if problem := describe_mismatch(module.state_dict(), state):
        raise InputError(f"{origin} does not fit: {problem}.")
    module.load_state_dict(state, assign=True)


class quiet_transformers:
    """Hold back transformers' progress bars inside the block."""

    def __enter__(self) -> None:
        from transformers.utils import logging as transformers_logging

        self._was_on = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging as transformers_logging

        if self._was_on:
            transformers_logging.enable_progress_bar()


def find_folder(source: str | Path) -> Path:
    """Return the folder of a model: a path, or a hub name (owner/name) downloaded or found in the hub's cache.

    Raises:
        FileNotFoundError: There is no such folder.
        InputError: The hub does not give it.
    """
    path, name = Path(source), str(source).removeprefix("hf-hub:")
    if path.is_dir():
        return path
    if name.count("/") != 1 or name.startswith((".", "/")) or path.parent.is_dir():
        raise FileNotFoundError(f"no model at {source}; give a folder, or owner/name of the hub.")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise InputError(
            f"cannot get {name!r} from the hub ({type(error).__name__}); "
            "check the name and the connection, or download it elsewhere and pass its folder."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `config.json`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no config.json in {folder}; is it the folder of a FastVLM model?") from error
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'} holds no configuration.")
    return config


def read_parts(folder: Path) -> Parts:
    """Read a folder in either layout.

    Raises:
        FileNotFoundError: `config.json`, the weights or a shard are missing.
        InputError: The layout is unknown, or a file is damaged.
    """
    parts = split({}, config := read_config(folder))  # the layout is judged before gigabytes are read
    parts = split(read_tensors(folder), config)
    if "auto_map" in config:  # the authors' folders point to code of theirs, which is never run
        logger.warning("%s: %s", folder.name, LICENCE_NOTE)
    return parts


def read_tensors(folder: Path) -> StateDict:
    """Read a folder's weights: one file, or the shards that an index names.

    Raises:
        FileNotFoundError: There are none, or shards are missing.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_state_dict(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            return _read_shards(index)
    raise FileNotFoundError(
        f"no weights in {folder}; expected {WEIGHTS[0]} or {WEIGHTS[0]}.index.json with its shards."
    )


def _read_shards(index: Path) -> StateDict:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is not an index of shards: {error}") from error
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"missing shards in {index.parent}: {some(missing)} of {len(shards)}; download them again."
        )
    state: StateDict = {}
    for name in shards:
        state |= read_state_dict(index.parent / name)
    if lost := weight_map.keys() - state.keys():
        raise InputError(f"the shards of {index} lack {len(lost)} tensors that it names: {some(lost)}.")
    return state


def write_parts(parts: Parts, folder: Path, layout: Layout, image_token_id: int = IMAGE_TOKEN_ID) -> None:
    """Write `config.json` and weights; the files take their places when all of them are whole.

    Args:
        parts: The encoder must be in fused form for `fast_vlm`.
        folder: Made if missing.
        layout: See `fastvlm.layouts`.
        image_token_id: What stands for an image in `fast_vlm`'s token ids.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    config = make_config(parts, layout, parts.projector["0.weight"].shape[1], image_token_id)
    state = {key: value.detach().cpu().contiguous() for key, value in join(parts, layout).items()}
    plan = split_torch_state_dict_into_shards(
        state, max_shard_size=MAX_SHARD_BYTES, filename_pattern="model{suffix}.safetensors"
    )
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for name, keys in plan.filename_to_tensors.items():
            save_file({key: state[key] for key in keys}, partial / name, metadata={"format": "pt"})
        if plan.is_sharded:
            index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
            write_json(partial / f"{WEIGHTS[0]}.index.json", index)
        write_json(partial / "config.json", config)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(partial.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
