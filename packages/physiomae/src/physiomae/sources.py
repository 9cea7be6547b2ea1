"""Where training windows come from: arrays in memory here, tar shards in `shards.py`; order follows from the seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch

from physiomae.batch import MultimodalBatch
from physiomae.config import PhysioMAEConfig


class Source(Protocol):
    """Windows in an order that epoch and seed decide."""

    @property
    def num_windows(self) -> int:
        """Windows of one epoch."""
        ...

    def batches(
        self, batch_size: int, seed: int, epoch: int, *, skip: int = 0, rows: slice = slice(None)
    ) -> Iterator[MultimodalBatch]:
        """Yield an epoch's whole batches after the first `skip`, of each only some rows."""
        ...


class ArraySource:
    """Windows in memory.

    Args:
        config: Of the model.
        arrays: Modality -> [windows, channels, samples], nan where something is missing.
        labels: Name -> [windows].
    """

    def __init__(
        self, config: PhysioMAEConfig, arrays: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.batch = MultimodalBatch.from_arrays(config, arrays, labels)

    @property
    def num_windows(self) -> int:
        """Windows of one epoch."""
        return len(self.batch)

    def batches(
        self, batch_size: int, seed: int, epoch: int, *, skip: int = 0, rows: slice = slice(None)
    ) -> Iterator[MultimodalBatch]:
        """Yield an epoch's whole batches after the first `skip`, of each only some rows."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(self.num_windows, generator=generator)
        for start in range(skip * batch_size, self.num_windows - batch_size + 1, batch_size):
            yield self.batch.rows(order[start : start + batch_size][rows])


def stream(
    source: Source, batch_size: int, seed: int, *, first_step: int = 0, rows: slice = slice(None)
) -> Iterator[MultimodalBatch]:
    """Yield batches epoch after epoch, from the place where step `first_step` finds itself.

    Raises:
        ValueError: Fewer windows than a batch.
    """
    per_epoch = source.num_windows // batch_size
    if per_epoch == 0:
        raise ValueError(f"{source.num_windows} windows are fewer than a batch of {batch_size}; lower `batch_size`.")
    epoch, skip = divmod(first_step, per_epoch)
    while True:
        yield from source.batches(batch_size, seed, epoch, skip=skip, rows=rows)
        epoch, skip = epoch + 1, 0
