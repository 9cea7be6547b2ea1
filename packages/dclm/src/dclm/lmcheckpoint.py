"""State of a training run through orbax: weights, moments, and where the data are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from tenfold_shared.commands import InputError

__all__ = ["Checkpoints"]


class Checkpoints:
    """The last states of a run.

    Args:
        folder: Made if need be.
        fingerprint: Of configuration and data; a checkpoint of another run is refused.
        keep: How many stay.
    """

    def __init__(self, folder: str | Path, fingerprint: str, keep: int = 1) -> None:
        import orbax.checkpoint as ocp

        self._args = ocp.args
        self.fingerprint = fingerprint
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(
            Path(folder).resolve(), options=options, item_names=("state", "data", "place")
        )

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Write a checkpoint; it is whole or not there.

        Args:
            step: Updates done.
            state: Tree of arrays, wherever they lie.
            data: State of the data.
        """
        place = {"step": step, "fingerprint": self.fingerprint}
        parts = self._args.Composite(
            state=self._args.StandardSave(state), data=self._args.JsonSave(data), place=self._args.JsonSave(place)
        )
        self._manager.save(step, args=parts)
        self._manager.wait_until_finished()

    def last(self) -> int | None:
        """Return the step of the last checkpoint, or None.

        Raises:
            InputError: It belongs to a run of another configuration.
        """
        last = self._manager.latest_step()
        if last is None:
            return None
        found = self._manager.restore(last, args=self._args.Composite(place=self._args.JsonRestore())).place
        if found["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self._manager.directory} holds a checkpoint of another model, data set or schedule; "
                "give another --out."
            )
        return last

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """Return a checkpoint's arrays, laid out as `state` is, and the state of the data."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        parts = self._args.Composite(state=self._args.StandardRestore(abstract), data=self._args.JsonRestore())
        found = self._manager.restore(step, args=parts)
        return found.state, found.data

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()
