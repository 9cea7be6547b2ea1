"""Weights between our trees, OpenLM's torch checkpoints, and folders in the layout of OpenLM's Hugging Face wrapper."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write, write_json

from dclm.openlm import OpenLM
from dclm.scales import ModelConfig

__all__ = ["from_openlm", "from_pretrained", "read_weights", "save_hugging_face", "save_pretrained", "to_openlm"]

Weights = dict[str, np.ndarray]
WRAPPER = "model."  # OpenLM's Hugging Face wrapper puts it before every name
_TOP = (
    ("tok_embeddings.weight", ("embed", "embedding"), False),
    ("norm.weight", ("final_norm", "scale"), False),
    ("output.weight", ("lm_head", "kernel"), True),
)
_LAYER = (
    ("attention.in_proj.weight", ("attn", "qkv", "kernel"), True),
    ("attention.out_proj.weight", ("attn", "out", "kernel"), True),
    ("attention.q_norm.weight", ("attn", "q_norm", "scale"), False),
    ("attention.k_norm.weight", ("attn", "k_norm", "scale"), False),
    ("feed_forward.w12.weight", ("mlp", "w12", "kernel"), True),
    ("feed_forward.w3.weight", ("mlp", "w3", "kernel"), True),
    ("attention_norm.weight", ("norm1", "scale"), False),
    ("ffn_norm.weight", ("norm2", "scale"), False),
)


def _names(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], int | None, bool]]:
    """Yield (OpenLM's name, path in our tree, layer, whether it is transposed)."""
    for name, path, turned in _TOP:
        yield name, path, None, turned
    for layer in range(config.num_layers):
        for name, path, turned in _LAYER:
            yield f"layers.{layer}.{name}", ("layers", *path), layer, turned


def to_openlm(tree: Mapping[str, Any], config: ModelConfig) -> Weights:
    """Return our tree under OpenLM's names and shapes (a kernel is the transpose of a torch weight).

    Args:
        tree: Nested dictionaries of arrays, as `nnx.to_pure_dict` gives.
        config: Sizes.
    """
    found = {}
    for name, path, layer, turned in _names(config):
        value: Any = tree
        for part in path:
            value = value[part]
        value = np.asarray(value if layer is None else value[layer])
        found[name] = np.ascontiguousarray(value.T if turned else value)
    return found


def from_openlm(weights: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Return OpenLM's arrays as our tree.

    Raises:
        InputError: A name is missing or unknown, or an array has another shape than the configuration says.
    """
    weights = {_clean(name): value for name, value in weights.items() if not name.endswith("inv_freq")}
    known = {name for name, *_ in _names(config)}
    if missing := sorted(known - set(weights)):
        raise InputError(f"the checkpoint lacks {missing[0]!r} and {len(missing) - 1} more; is it an OpenLM model?")
    if extra := sorted(set(weights) - known):
        raise InputError(f"the checkpoint holds {extra[0]!r}, which a model of {config.num_layers} layers has not.")
    shapes = _shapes(config)
    tree: dict[str, Any] = {}
    for name, path, layer, turned in _names(config):
        value = np.asarray(weights[name])
        value = value.T if turned else value
        expected = shapes[path] if layer is None else shapes[path][1:]
        if value.shape != expected:
            shown = value.T.shape if turned else value.shape
            wanted = expected[::-1] if turned else expected
            raise InputError(f"{name} has shape {shown}; the configuration says {wanted}.")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if layer is None:
            node[path[-1]] = value
        else:
            node.setdefault(path[-1], []).append(value)
    return jax.tree.map(_stack, tree, is_leaf=lambda node: isinstance(node, list))


def _stack(leaf: Any) -> np.ndarray:
    return np.stack(leaf) if isinstance(leaf, list) else np.ascontiguousarray(leaf)


def _clean(name: str) -> str:
    for prefix in ("module.", "_orig_mod.", WRAPPER):
        name = name.removeprefix(prefix)
    return name


def _shapes(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    model = nnx.eval_shape(lambda: OpenLM(config, rngs=nnx.Rngs(0)))
    flat = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model)))[0]
    return {tuple(str(key.key) for key in path): leaf.shape for path, leaf in flat}


def save_pretrained(params: Any, config: ModelConfig, folder: str | Path) -> None:
    """Write weights as `config.json` and `model.safetensors` under OpenLM's names, float32.

    Args:
        params: State of an `OpenLM`, or a tree of arrays.
        config: Sizes.
        folder: Made if need be.
    """
    from safetensors.numpy import save

    tree = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)
    with atomic_write(Path(folder) / "model.safetensors") as file:
        file.write(save(to_openlm(tree, config)))
    write_json(Path(folder) / "config.json", config.to_dict())


def from_pretrained(path: str | Path, config: ModelConfig | None = None) -> OpenLM:
    """Load a folder of `save_pretrained` or `save_hugging_face`, or a torch checkpoint of OpenLM.

    Args:
        path: A folder, or a `.safetensors` or `.pt` file; nothing in it is run.
        config: Sizes, for a file without a configuration beside it: a checkpoint says its sizes but for the heads.

    Returns:
        The model, in float32.

    Raises:
        InputError: Nothing there, no sizes, or arrays that do not fit them.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if config is None:
        file = folder / "config.json"
        if not file.is_file():
            raise InputError(f"no config.json in {folder}; name the --scale that the checkpoint has.")
        config = read_config(json.loads(file.read_text("utf-8")), file)
    weights = read_weights(path / "model.safetensors" if path.is_dir() else path)
    model = OpenLM(config, rngs=nnx.Rngs(0))
    tree = from_openlm(weights, config)
    state = nnx.state(model)
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, jax.numpy.float32), tree))
    nnx.update(model, state)
    return model


def tree_of(model: OpenLM) -> dict[str, Any]:
    """Return a model's weights as nested dictionaries of numpy arrays."""
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))


def read_config(record: Mapping[str, Any], name: str | Path) -> ModelConfig:
    """Return the sizes that a configuration of ours or of the wrapper says."""
    keys = {"dim": "dim", "num_layers": "n_layers", "num_heads": "n_heads", "vocab_size": "vocab_size"}
    try:
        if "num_layers" in record:
            return ModelConfig(**record)
        sizes = {ours: int(record[theirs]) for ours, theirs in keys.items()}
        return ModelConfig(
            **sizes,
            context_length=int(record["seq_len"]),
            hidden_multiple=int(record.get("ffn_multiple_of", 256)),
            norm_eps=float(record.get("norm_eps", 1e-5)),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{name} is no configuration of an OpenLM model ({error}).") from error


def read_weights(path: str | Path) -> Weights:
    """Read a `.safetensors` file, or a torch checkpoint without running anything in it (extra `torch`)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}; check the path.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise InputError(f"{path} is no whole safetensors file ({error}).") from error
    torch = require_extra("torch", "torch", "dclm")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path}: no plain torch weights; nothing in it was run.") from error
    content = content.get("state_dict", content)
    return {name: value.float().numpy() for name, value in content.items() if hasattr(value, "numpy")}


def save_torch(tree: Mapping[str, Any], config: ModelConfig, path: str | Path) -> None:
    """Write a checkpoint as OpenLM does: `state_dict` with `module.` before every name (extra `torch`)."""
    torch = require_extra("torch", "torch", "dclm")
    weights = to_openlm(tree, config)
    state = {f"module.{name}": torch.from_numpy(np.array(value, np.float32)) for name, value in weights.items()}
    with atomic_write(path) as file:
        torch.save({"epoch": 0, "name": "dclm", "state_dict": state}, file)


def save_hugging_face(tree: Mapping[str, Any], config: ModelConfig, folder: str | Path) -> None:
    """Write a folder that `transformers` loads: weights under the wrapper's names, and our `modeling_openlm.py`.

    Args:
        tree: Nested dictionaries of arrays.
        config: Sizes.
        folder: Made if need be; gets `config.json`, `model.safetensors`, `modeling_openlm.py`.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    weights = {f"{WRAPPER}{name}": np.asarray(value, np.float32) for name, value in to_openlm(tree, config).items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_write(folder / "modeling_openlm.py") as file:
        file.write(resources.files("dclm").joinpath("modeling_openlm.py").read_bytes())
    write_json(folder / "config.json", _wrapper_config(config))


def _wrapper_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["OpenLMForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_openlm.OpenLMConfig",
            "AutoModelForCausalLM": "modeling_openlm.OpenLMForCausalLM",
        },
        "model_type": "openlm",
        "dim": config.dim,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "vocab_size": config.vocab_size,
        "seq_len": config.context_length,
        "ffn_type": "swiglu_torch",
        "ffn_multiple_of": config.hidden_multiple,
        "norm_eps": config.norm_eps,
        "qk_norm": True,
        "weight_tying": False,
        "torch_dtype": "float32",
    }
