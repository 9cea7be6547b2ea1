"""Saving: models as safetensors under open_clip's names, and the state of a run through orbax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from ticclip.config import CLIPConfig
from ticclip.convert import from_open_clip, infer_config, read_weights, to_open_clip
from ticclip.model import CLIP


def save_pretrained(model: CLIP, folder: str | Path) -> None:
    """Write a model as `config.json` and `model.safetensors`, which open_clip's models of the same size load.

    Args:
        model: Of any precision; weights are written as float32.
        folder: Made if need be.
    """
    save_params(nnx.state(model), model.config, folder)


def save_params(params: Any, config: CLIPConfig, folder: str | Path) -> None:
    """Write a tree of weights as `save_pretrained` does."""
    from safetensors.numpy import save

    content = save(to_open_clip(nnx.to_pure_dict(params), config))
    with atomic_write(Path(folder) / "model.safetensors") as file:
        file.write(content)
    write_json(Path(folder) / "config.json", config.to_dict())


def from_pretrained(path: str | Path, *, activation: str = "gelu") -> CLIP:
    """Load a folder of `save_pretrained`, or weights of open_clip's or Hugging Face's CLIP ViTs.

    Args:
        path: A folder, or a `.safetensors`, `.pt` or `.bin` file; nothing in it is run.
        activation: For a file, which does not say: `quick_gelu` for OpenAI's weights.

    Returns:
        The model, in float32.

    Raises:
        InputError: Nothing there, or arrays that are no CLIP ViT.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"no model in {path}: expected config.json and model.safetensors.")
        config = CLIPConfig.from_dict(json.loads((path / "config.json").read_text()))
        weights = read_weights(path / "model.safetensors")
    else:
        weights = read_weights(path)
        config = infer_config(weights, activation)
    model = CLIP(config, rngs=nnx.Rngs(0))
    nnx.update(model, fill(nnx.state(model), from_open_clip(weights, config)))
    return model


def load_params(folder: str | Path) -> Any:
    """Return the weights of a folder of `save_pretrained` as a tree."""
    return nnx.state(from_pretrained(folder))


def fill(state: Any, tree: dict[Any, Any]) -> Any:
    """Return `state` with the arrays of a nested dictionary in it.

    Raises:
        InputError: An array of another shape.
    """
    expected = nnx.to_pure_dict(state)
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for path, leaf in paths:
        value: Any = tree
        for key in path:
            value = value[getattr(key, "key", None)]
        if np.shape(value) != np.shape(leaf):
            name = ".".join(str(getattr(key, "key", key)) for key in path)
            raise InputError(f"{name} has shape {np.shape(value)}; the configuration says {np.shape(leaf)}.")
    nnx.replace_by_pure_dict(state, jax.tree.map(jax.numpy.asarray, tree))
    return state


class Checkpoints:
    """The last state of a run: arrays, the data iterator's state, and where in the stream it is.

    Args:
        folder: Absolute or relative; made if need be.
        fingerprint: Of the plan; a checkpoint of another one is refused.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.fingerprint = fingerprint
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        names = ("state", "data", "place")
        self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options, item_names=names)

    def save(self, number: int, state: Any, data: dict[str, Any], place: dict[str, Any]) -> None:
        """Write a checkpoint; it is whole or not there.

        Args:
            number: Updates since the start of the run.
            state: Tree of arrays, wherever they lie.
            data: The iterator's state.
            place: Step of the stream, update within it.
        """
        args = self._ocp.args
        self._manager.save(
            number,
            args=args.Composite(
                state=args.StandardSave(state),
                data=args.JsonSave(data),
                place=args.JsonSave({**place, "fingerprint": self.fingerprint}),
            ),
        )
        self._manager.wait_until_finished()

    def place(self) -> dict[str, Any] | None:
        """Return where the last checkpoint is, or None without one.

        Raises:
            InputError: It belongs to another plan.
        """
        last = self._manager.latest_step()
        if last is None:
            return None
        args = self._ocp.args
        found = self._manager.restore(last, args=args.Composite(place=args.JsonRestore())).place
        if found["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self._manager.directory} is a checkpoint of another plan (data, method or budget differ); "
                "choose another --out."
            )
        return found

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """Return the last checkpoint's arrays, laid out as `state` is, and the iterator's state."""
        args = self._ocp.args
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        last = self._manager.latest_step()
        found = self._manager.restore(
            last, args=args.Composite(state=args.StandardRestore(abstract), data=args.JsonRestore())
        )
        return found.state, found.data

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()
