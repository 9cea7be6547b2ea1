"""The ways of making rows that the experiment compares, behind one face: batches of equal tokens, one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from dataset_decomposition.config import IGNORED_LABEL
from dataset_decomposition.packing import pack_best_fit, split_at

Array = np.ndarray


class RowLoader:
    """Rows of one length in random order, `num_steps` steps, anew when all were seen.

    Args:
        blocks: Tokens of each row [rows, length + 1].
        segments: Number of the document of each token, -1 for padding, where attention stays in the document; else
            None [rows, length + 1].
        tokens_per_step: Predicted tokens of a step.
        num_steps: Steps.
        seed: Of the order.
    """

    def __init__(
        self, blocks: Array, segments: Array | None, *, tokens_per_step: int, num_steps: int, seed: int
    ) -> None:
        self.blocks, self.segments, self.num_steps, self.seed = blocks, segments, num_steps, seed
        self.length = blocks.shape[1] - 1
        self.rows = tokens_per_step // self.length
        self.step = 0

    def __len__(self) -> int:
        return self.num_steps

    def step_lengths(self) -> Array:
        """Return the row length of each step [steps]."""
        return np.full(self.num_steps, self.length)

    def __next__(self) -> dict[str, Any]:
        per_epoch = max(1, len(self.blocks) // self.rows)
        epoch, turn = divmod(self.step, per_epoch)
        chosen = np.random.default_rng([self.seed, epoch]).permutation(len(self.blocks))[
            turn * self.rows : (turn + 1) * self.rows
        ]
        self.step += 1
        block = self.blocks[chosen].astype(np.int64)
        batch = {"input_ids": block[:, :-1], "labels": block[:, 1:], "bucket": self.length}
        if self.segments is not None:
            segments = self.segments[chosen]
            same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
            batch["labels"] = np.where(same, batch["labels"], IGNORED_LABEL)
            batch["segments"] = segments[:, :-1]
        return batch


def chunk(tokens: Int[Array, " tokens"], lengths: Int[Array, " documents"], length: int) -> tuple[Array, Array]:
    """Join all documents and cut every `length` tokens; each row also carries the target of its last token.

    Args:
        tokens: Of all documents.
        lengths: Tokens of each document.
        length: Tokens of a row.

    Returns:
        Blocks and document numbers [rows, length + 1] each; less than a row at the end is left out.
    """
    count = (len(tokens) - 1) // length
    places = np.arange(count)[:, None] * length + np.arange(length + 1)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return tokens[places], owners[places]


def pack(tokens: Int[Array, " tokens"], lengths: Int[Array, " documents"], length: int) -> tuple[Array, Array]:
    """Cut documents at `length + 1` tokens and pack the parts best-fit into rows; see `chunk` for the arguments."""
    starts, sizes = split_at(lengths, length + 1)
    bins = pack_best_fit(sizes, length + 1)
    blocks = np.zeros((int(bins.max()) + 1, length + 1), dtype=tokens.dtype)
    owners = np.full(blocks.shape, -1, dtype=np.int64)
    filled = np.zeros(len(blocks), dtype=np.int64)
    for part, (row, start, size) in enumerate(zip(bins.tolist(), starts.tolist(), sizes.tolist(), strict=True)):
        place = int(filled[row])
        blocks[row, place : place + size] = tokens[start : start + size]
        owners[row, place : place + size] = part
        filled[row] += size
    return blocks, owners
