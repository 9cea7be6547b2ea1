"""The order of training: which sequence of which source comes at which place, in constant time and memory.

Place p of the training stream falls into block p // 1024; within a block every source has a fixed number of places by
its weight, in a seeded order. A source's n-th sequence is the n-th of a seeded permutation of its shards' sequences
(a Feistel network with cycle walking), a new permutation for every pass. So the state of the data is one number, and no
order depends on how many hosts, devices or steps there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError

from dclm.tokenshards import TokenShards, check_ids

__all__ = ["MixedTokens", "TokenBatches", "permuted"]

BLOCK = 1024
ROUNDS = 4


def permuted(place: int, count: int, key: str) -> int:
    """Return where a seeded permutation of 0..count-1 sends a place.

    A balanced Feistel network over the next even number of bits; results outside the range go through it again.

    Args:
        place: 0 to count - 1.
        count: Size of the set.
        key: Another key, another permutation.

    Example:
        >>> sorted(permuted(place, 10, "seed") for place in range(10))
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = place
    while True:
        left, right = value >> half, value & mask
        for turn in range(ROUNDS):
            digest = hashlib.blake2b(f"{key} {turn} {right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        value = (left << half) | right
        if value < count:
            return value


@dataclass(frozen=True)
class Place:
    """Where a sequence comes from.

    Attributes:
        source: Number of the source.
        sequence: Number within it.
        epoch: How many times the source was gone through before.
    """

    source: int
    sequence: int
    epoch: int


class MixedTokens:
    """Sequences of one or more sources by place.

    Args:
        folders: Token shards.
        weights: Share of each source in the training stream; by default its share of the sequences. A block has 1,024
            places, so shares are kept to a thousandth; `shares` says which.
        seed: Of all orders.

    Raises:
        InputError: Weights that do not fit, sources of different lengths.
    """

    def __init__(self, folders: Sequence[str | Path], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        self.shards = [TokenShards(folder) for folder in folders]
        self.seed = seed
        weights = [len(source) for source in self.shards] if weights is None else weights
        if len(weights) != len(self.shards) or min(weights) < 0 or not sum(weights):
            raise InputError(f"{len(self.shards)} sources need as many weights of at least 0, found {list(weights)}.")
        lengths = {str(source.folder): source.length for source in self.shards}
        if len(set(lengths.values())) > 1:
            raise InputError(f"sources have sequences of different lengths: {lengths}.")
        exact = np.array(weights, dtype=float) / sum(weights) * BLOCK
        self.quotas = np.floor(exact).astype(int)
        for source in np.argsort(self.quotas - exact, kind="stable")[: BLOCK - int(self.quotas.sum())]:
            self.quotas[source] += 1
        self._order = np.repeat(np.arange(len(self.quotas)), self.quotas)
        self._rank = np.concatenate([np.arange(quota) for quota in self.quotas])

    @property
    def shares(self) -> list[float]:
        """Share of each source, to a thousandth."""
        return [float(quota) / BLOCK for quota in self.quotas]

    def place(self, number: int) -> Place:
        """Say which sequence stands at a place of the training stream."""
        block, within = divmod(number, BLOCK)
        slot = permuted(within, BLOCK, f"{self.seed} block {block}")
        source = int(self._order[slot])
        position = block * int(self.quotas[source]) + int(self._rank[slot])
        epoch, place = divmod(position, len(self.shards[source]))
        key = f"{self.seed} source {source} epoch {epoch}"
        return Place(source, permuted(place, len(self.shards[source]), key), epoch)

    def read(self, number: int) -> NDArray[np.int32]:
        """Return the sequence at a place."""
        place = self.place(number)
        return self.shards[place.source].read(place.sequence)

    def passes(self, num_sequences: int) -> list[float]:
        """Return how often each source is gone through by a run of so many sequences."""
        return [share * num_sequences / len(source) for share, source in zip(self.shares, self.shards, strict=True)]

    def check(self, context_length: int, vocab_size: int) -> None:
        """Refuse sources that do not fit a model."""
        for source in self.shards:
            source.check(context_length + 1, vocab_size)


class TokenBatches:
    """Batches by step, this host's rows only, read ahead by one in a thread; its state is the number of the step.

    Args:
        tokens: The stream.
        batch_size: Sequences of a batch over all hosts.
        vocab_size: Ids must be under it.
        host: Rank and number of hosts.
    """

    def __init__(self, tokens: MixedTokens, batch_size: int, vocab_size: int, host: tuple[int, int] = (0, 1)) -> None:
        if batch_size % host[1]:
            raise InputError(f"`batch_size` (={batch_size}) must be divisible by the number of hosts ({host[1]}).")
        self.tokens, self.batch_size, self.vocab_size, self.host = tokens, batch_size, vocab_size, host
        self.step = 0
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Any] | None = None

    def __next__(self) -> NDArray[np.int32]:
        """Return the batch of the present step and go to the next."""
        step = self.step
        pending = self._next[1] if self._next and self._next[0] == step else self._threads.submit(self.batch, step)
        rows = pending.result()
        self.step = step + 1
        self._next = (step + 1, self._threads.submit(self.batch, step + 1))
        return rows

    def batch(self, step: int) -> NDArray[np.int32]:
        """Return int32 [rows of this host, context + 1] of a step."""
        rank, hosts = self.host
        part = self.batch_size // hosts
        first = step * self.batch_size + rank * part
        rows = np.stack([self.tokens.read(number) for number in range(first, first + part)])
        check_ids(rows, self.vocab_size, f"a batch of step {step}")
        return rows

    @property
    def state(self) -> dict[str, int]:
        """What a checkpoint holds."""
        return {"step": self.step, "seed": self.tokens.seed}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where a checkpoint was made."""
        self.step = int(state["step"])

    def close(self) -> None:
        """Stop reading ahead."""
        self._threads.shutdown(cancel_futures=True)
