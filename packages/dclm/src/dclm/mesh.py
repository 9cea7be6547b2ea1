"""Devices: a mesh of (data, fsdp, tensor) and where every array lies on it."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tenfold_shared.commands import InputError

__all__ = ["build_mesh", "fetch_tree", "place", "put_rows", "put_tree"]

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))
# The last two axes of each matrix: the width goes to `fsdp`, heads, hidden units and words to `tensor`.
LAYOUT = {
    "embedding": ("tensor", "fsdp"),
    "qkv": ("fsdp", "tensor"),
    "out": ("tensor", "fsdp"),
    "w12": ("fsdp", "tensor"),
    "w3": ("tensor", "fsdp"),
    "lm_head": ("fsdp", "tensor"),
}


def build_mesh(data: int | None = None, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Return a mesh: batches are cut along `data` and `fsdp`, weights along `fsdp` and `tensor`.

    Args:
        data: Devices along the first axis; by default all that there are, over the others.
        fsdp: Devices that share one copy of the weights, each with rows of its own.
        tensor: Devices that share every matrix of a row.

    Raises:
        InputError: More devices than there are, or fewer while several processes work together.
    """
    devices = jax.devices()
    data = max(1, len(devices) // (fsdp * tensor)) if data is None else data
    wanted = data * fsdp * tensor
    if wanted > len(devices) or (wanted < len(devices) and jax.process_count() > 1):
        raise InputError(
            f"a mesh of data={data}, fsdp={fsdp}, tensor={tensor} needs {wanted} devices; there are {len(devices)}."
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:wanted])


def place(mesh: Mesh, tree: Any) -> Any:
    """Return the sharding of every array of a tree of weights or moments, by the names on its path."""

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        names = {str(getattr(key, "key", getattr(key, "name", ""))) for key in path}
        axes = next((axes for name, axes in LAYOUT.items() if name in names), ())
        shape = leaf.shape
        if len(shape) < 2 or not axes or math.prod(shape) < 2:
            return NamedSharding(mesh, PartitionSpec())
        last = [axis if shape[place - 2] % mesh.shape[axis] == 0 else None for place, axis in enumerate(axes)]
        return NamedSharding(mesh, PartitionSpec(*(None,) * (len(shape) - 2), *last))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def put_tree(mesh: Mesh, tree: Any) -> Any:
    """Lay a tree that every process holds whole onto the mesh; what is donated later is never the caller's."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.array(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(put, tree, place(mesh, tree))


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """Make the global batch from this process's rows."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, ROWS), rows)


def fetch_tree(tree: Any) -> Any:
    """Return every array whole, as numpy, on every process."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)), tree)
