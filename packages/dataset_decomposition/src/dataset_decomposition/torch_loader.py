"""The loader's steps as a torch data set, for DataLoader workers and gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataset_decomposition.loader import BucketLoader


class BucketDataset(IterableDataset):
    """Batches of a `BucketLoader` as tensors; give it to a DataLoader with `batch_size=None`.

    Worker w of W makes every W-th batch, and the DataLoader takes turns, so that the order is the same for any number
    of workers. With `micro_batches` the rows of a step come in that many equal batches, all of one length.

    Args:
        loader: Where to start, and what to read.
        micro_batches: Batches per optimiser step.

    Raises:
        ValueError: Rows of the longest bucket cannot be split into `micro_batches` per rank.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from dataset_decomposition.store import write_store
        >>> store = write_store(tempfile.mkdtemp(), [np.arange(33)] * 4, vocab_size=33)
        >>> loader = BucketLoader(store.decompose(min_length=32, max_length=32), tokens_per_step=64, cycles=1)
        >>> [tuple(batch["input_ids"].shape) for batch in BucketDataset(loader, micro_batches=2)]
        [(1, 32), (1, 32), (1, 32), (1, 32)]
    """

    def __init__(self, loader: BucketLoader, *, micro_batches: int = 1) -> None:
        rows = loader.tokens_per_step // loader.lengths[-1] // loader.world_size
        if micro_batches < 1 or rows % micro_batches:
            raise ValueError(
                f"`micro_batches` (={micro_batches}) must divide the {rows} longest rows of a rank's step."
            )
        self.loader = loader
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        parts = self.micro_batches
        made: tuple[int, dict[str, Any]] = (-1, {})
        for number in range(self.loader.step * parts + offset, len(self.loader) * parts, stride):
            step, part = divmod(number, parts)
            if made[0] != step:
                made = (step, self.loader.batch(step))
            yield _part(made[1], part, parts)

    def batches(self, *, num_workers: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the batches through a DataLoader and keep `loader.step` at the first step not yet served whole.

        With worker processes the loader itself does not move, since copies of it do the reading; here it does, and
        its `state_dict` is right at any moment.

        Args:
            num_workers: Worker processes; 0 reads in this one.

        Yields:
            What `BucketLoader.batch` returns, arrays as tensors.
        """
        served = 0
        for batch in DataLoader(self, batch_size=None, num_workers=num_workers):
            served = (served + 1) % self.micro_batches
            if served == 0:
                self.loader.step = batch["step"] + 1
            yield batch


def _part(batch: dict[str, Any], part: int, parts: int) -> dict[str, Any]:
    """Return one of `parts` equal groups of rows, as tensors."""
    share = len(batch["input_ids"]) // parts
    rows = slice(part * share, (part + 1) * share)
    names = [name for name in ("input_ids", "labels", "segments") if name in batch]
    # Inputs and labels are two views of one block, which other libraries' losses cannot flatten.
    tensors = {name: torch.from_numpy(np.ascontiguousarray(batch[name][rows])) for name in names}
    return {**tensors, "bucket": batch["bucket"], "step": batch["step"]}
