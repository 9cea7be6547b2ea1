"""Batches of one length each and of constant tokens, equal on all ranks without a word between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError, unknown_name

from dataset_decomposition.config import CURRICULA, Curriculum
from dataset_decomposition.curriculum import draw_cycle
from dataset_decomposition.store import TokenStore, gather_rows

logger = logging.getLogger(__name__)
Array = np.ndarray


class BucketLoader:
    """Iterates over a store in steps of `tokens_per_step` tokens, each of rows of one length.

    Which rows a step takes is a function of seed and step alone (Sec. 3.2 and 3.3): all ranks derive the same bucket,
    each reads its own slice, and a resumed run, another world size or other workers see the same steps. Within an
    epoch each cycle gets its share of every bucket, and no row comes twice.

    Args:
        store: A store with buckets.
        tokens_per_step: Predicted tokens of a step over all ranks; a multiple of the longest row times `world_size`.
        curriculum: "uniform", "grow-linear", "grow-p2" (the authors' default), "grow-p100", "shrink-p100" or
            "natural" (a plain shuffle).
        cycles: How often the curriculum runs in an epoch.
        rank: This process.
        world_size: Number of processes.
        seed: Of order and draws.
        epochs: How often all rows are seen; each epoch has an order of its own.
        longest_first: Whether the first batch is of the longest bucket, so that memory that is too small shows at
            once.

    Raises:
        ValueError: An option is out of range, or `tokens_per_step` cannot be split.
        tenfold_shared.commands.InputError: The store has no buckets, or one of them is too small for a step.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dataset_decomposition.store import write_store
        >>> store = write_store(Path(tempfile.mkdtemp()), [np.arange(n) for n in [50, 90, 40] * 9], vocab_size=90)
        >>> loader = BucketLoader(store.decompose(min_length=16, max_length=32), tokens_per_step=64, cycles=2)
        >>> [batch["input_ids"].shape for batch in loader][:3]
        [(2, 32), (4, 16), (4, 16)]
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        tokens_per_step: int,
        curriculum: Curriculum = "grow-p2",
        cycles: int = 8,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        epochs: int = 1,
        longest_first: bool = True,
    ) -> None:
        self.store, self.tokens_per_step, self.curriculum, self.cycles = store, tokens_per_step, curriculum, cycles
        self.rank, self.world_size, self.seed, self.epochs = rank, world_size, seed, epochs
        self.longest_first = longest_first
        self.step = 0
        self._check()
        rows = {length: count for length, count in store.num_rows.items() if count}
        self.lengths = sorted(rows)
        self.batches = np.array([rows[n] * n // tokens_per_step for n in self.lengths], dtype=np.int64)
        self._check_buckets(rows)
        self._open()

    def _open(self) -> None:
        self._buckets = {length: self.store.bucket(length) for length in self.lengths}
        self._order = lru_cache(maxsize=2)(self._draw_epoch)
        self._rows = lru_cache(maxsize=2 * len(self.lengths))(self._shuffle_rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a worker process makes itself: orders and the mapped indices."""
        return {name: value for name, value in vars(self).items() if name not in ("_buckets", "_order", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _check(self) -> None:
        if self.curriculum not in CURRICULA:
            raise unknown_name("curriculum", self.curriculum, CURRICULA)
        for name in ("tokens_per_step", "cycles", "world_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"`rank` (={self.rank}) must be from 0 to {self.world_size - 1}.")
        unit = self.store.config.max_length * self.world_size
        if self.tokens_per_step % unit:
            near = max(1, round(self.tokens_per_step / unit)) * unit
            raise ValueError(
                f"`tokens_per_step` (={self.tokens_per_step}) must be a multiple of the longest row times "
                f"`world_size` (={unit}); use {near}."
            )

    def _check_buckets(self, rows: dict[int, int]) -> None:
        if not rows:
            raise InputError(f"{self.store.path} has no rows; documents are shorter than `min_length`.")
        for length, count in zip(self.lengths, self.batches.tolist(), strict=True):
            if count == 0:
                raise InputError(
                    f"bucket {length} has {rows[length]} rows, a step of {self.tokens_per_step} tokens needs "
                    f"{self.tokens_per_step // length}; take fewer tokens per step or other buckets."
                )
        if few := [n for n, count in zip(self.lengths, self.batches, strict=True) if count < self.cycles]:
            logger.info("buckets %s have fewer batches than the %d cycles: some cycles go without", few, self.cycles)

    def __len__(self) -> int:
        return self.epochs * int(self.batches.sum())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self.step >= len(self):
            raise StopIteration
        batch = self.batch(self.step)
        self.step += 1
        return batch

    def batch(self, step: int) -> dict[str, Any]:
        """Return this rank's part of any step, without moving.

        Args:
            step: From 0 to `len(loader) - 1`.

        Returns:
            `input_ids` and `labels` int64 [rows, length], labels already shifted (-100 where there is none);
            `segments` of the same shape where tails were kept; the numbers `bucket` (the length) and `step`.
        """
        _, length, rows = self.locate(step)
        share = len(rows) // self.world_size
        own = rows[self.rank * share : (self.rank + 1) * share]
        ragged = self.store.config.tail != "drop" and length == self.store.config.min_length
        arrays = gather_rows(self.store.tokens, self._buckets[length], own, ragged=ragged)
        return {**arrays, "bucket": length, "step": step}

    def locate(self, step: int) -> tuple[int, int, Array]:
        """Return epoch, length and numbers of all rows (of all ranks) of a step."""
        if not 0 <= step < len(self):
            raise IndexError(f"`step` (={step}) must be from 0 to {len(self) - 1}.")
        epoch, index = divmod(step, int(self.batches.sum()))
        order, turn = self._order(epoch)
        length = self.lengths[order[index]]
        size = self.tokens_per_step // length
        first = int(turn[index]) * size
        return epoch, length, self._rows(epoch, length)[first : first + size]

    def step_lengths(self) -> Array:
        """Return the length of the rows of every step [steps]."""
        return np.array(self.lengths)[np.concatenate([self._order(epoch)[0] for epoch in range(self.epochs)])]

    def _draw_epoch(self, epoch: int) -> tuple[Array, Array]:
        """Return the bucket of each step, and which batch of that bucket it is."""
        edges = np.arange(self.cycles + 1)[:, None] * self.batches // self.cycles
        counts = np.diff(edges, axis=0)
        order = np.concatenate(
            [
                draw_cycle(count, self.curriculum, np.random.default_rng([self.seed, epoch, cycle]))
                for cycle, count in enumerate(counts)
            ]
        )
        if self.longest_first and epoch == 0:
            first = int(np.flatnonzero(order == len(self.lengths) - 1)[0])
            order[1 : first + 1] = order[:first].copy()
            order[0] = len(self.lengths) - 1
        turn = np.zeros(len(order), dtype=np.int64)
        for bucket in range(len(self.lengths)):
            found = np.flatnonzero(order == bucket)
            turn[found] = np.arange(len(found))
        return order, turn

    def _shuffle_rows(self, epoch: int, length: int) -> Array:
        return np.random.default_rng([self.seed, epoch, length]).permutation(self.store.num_rows[length])

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is: a step, and what gives the steps their meaning. Plain JSON types."""
        names = ("step", "tokens_per_step", "curriculum", "cycles", "seed", "epochs", "longest_first")
        return {name: getattr(self, name) for name in names} | {"store": self.store.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the step of a `state_dict`, in the same time whatever the step; ranks may be more or fewer now.

        Args:
            state: From a loader with the same store and settings.

        Raises:
            ValueError: Made with another store or other settings; the first difference is named.
        """
        for name, value in self.state_dict().items():
            if name != "step" and state.get(name) != value:
                raise ValueError(f"`{name}` was {state.get(name)!r} when the state was saved and is {value!r} now.")
        self.step = int(state["step"])

    def report(self) -> list[dict[str, Any]]:
        """Return what was seen up to now, bucket by bucket.

        Returns:
            One row per bucket: `length`, `rows`, `seen` (rows served, repeats counted), `tokens` served,
            `times_least` and `times_most` any row was served, `never` (rows that were not served).
        """
        seen = np.zeros(len(self.lengths), dtype=np.int64)
        per_epoch = int(self.batches.sum())
        times = {length: np.zeros(self.store.num_rows[length], dtype=np.int64) for length in self.lengths}
        for epoch in range(-(-self.step // per_epoch)):
            order, _ = self._order(epoch)
            counts = np.bincount(order[: self.step - epoch * per_epoch], minlength=len(seen))
            seen += counts
            for length, count in zip(self.lengths, counts.tolist(), strict=True):
                times[length][self._rows(epoch, length)[: count * self.tokens_per_step // length]] += 1
        return [
            {
                "length": length,
                "rows": len(times[length]),
                "seen": int(times[length].sum()),
                "tokens": int(count) * self.tokens_per_step,
                "times_least": int(times[length].min()),
                "times_most": int(times[length].max()),
                "never": int((times[length] == 0).sum()),
            }
            for length, count in zip(self.lengths, seen, strict=True)
        ]
