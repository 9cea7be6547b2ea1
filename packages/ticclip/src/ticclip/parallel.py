"""Devices: a mesh of (data, fsdp), where arrays lie on it, and the loss computed where its rows are."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tenfold_shared.commands import InputError

from ticclip.loss import Pairs, contrastive_loss, distillation_loss

AXES = ("data", "fsdp")
ROWS = PartitionSpec(AXES)
MIN_SHARDED = 1024  # smaller arrays are copied to every device


def build_mesh(data: int | None = None, fsdp: int = 1) -> Mesh:
    """Return a mesh: batches are cut along both axes, weights along `fsdp`.

    Args:
        data: Devices along the first axis; by default all that there are, over `fsdp`.
        fsdp: Devices that share one copy of the weights.

    Raises:
        InputError: More devices than there are, or fewer while several processes work together.
    """
    devices = jax.devices()
    data = max(1, len(devices) // fsdp) if data is None else data
    if data * fsdp > len(devices) or (data * fsdp < len(devices) and jax.process_count() > 1):
        raise InputError(f"a mesh of data={data}, fsdp={fsdp} needs {data * fsdp} devices; there are {len(devices)}.")
    used = devices[: data * fsdp]
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=used)


def place(mesh: Mesh, tree: Any) -> Any:
    """Return the sharding of every array of a tree: its longest axis that `fsdp` divides, if it is large enough."""

    def spec(leaf: Any) -> NamedSharding:
        parts = mesh.shape["fsdp"]
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < MIN_SHARDED:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(spec, tree)


def put_tree(mesh: Mesh, tree: Any) -> Any:
    """Lay a tree that every process holds whole onto the mesh; what is donated later is never the caller's."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.array(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(put, tree, place(mesh, tree))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Make global arrays from this process's rows."""
    sharding = NamedSharding(mesh, ROWS)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def fetch_tree(tree: Any) -> Any:
    """Return every array whole, as numpy, on every process."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)), tree)


def local_loss(mesh: Mesh, own: Pairs, teacher: Pairs | None, weight: float) -> jax.Array:
    """Return the loss of the whole batch, each device's rows computed on that device.

    Columns are gathered, rows stay: memory and work are 1/devices of the full matrix. The value and its gradient are
    those of the whole matrix on one device.
    """

    def mean_of_rows(image: jax.Array, text: jax.Array, head: Any, taught: Any) -> jax.Array:
        mine = Pairs(image, text, *head)
        everyone = mine._replace(image=_gather(image), text=_gather(text))
        loss = contrastive_loss(mine, everyone, jax.lax.axis_index(AXES) * len(image))
        if taught is not None:
            previous = Pairs(*taught)
            gathered = previous._replace(image=_gather(previous.image), text=_gather(previous.text))
            loss = loss + weight * distillation_loss(mine, previous, everyone, gathered)
        return jax.lax.pmean(loss, AXES)

    whole = PartitionSpec()
    taught_spec = None if teacher is None else Pairs(ROWS, ROWS, whole, None if teacher.bias is None else whole)
    sharded = jax.shard_map(
        mean_of_rows, mesh=mesh, in_specs=(ROWS, ROWS, whole, taught_spec), out_specs=whole, check_vma=False
    )
    return sharded(own.image, own.text, (own.scale, own.bias), teacher)


def _gather(rows: jax.Array) -> jax.Array:
    return jax.lax.all_gather(rows, AXES, axis=0, tiled=True)
