"""Which item a position of training gets: random access, no repetition before an epoch ends, nothing to remember.

Position p of a step is an item by arithmetic alone, so that resuming is setting a number, hosts need not talk, and the
cost does not grow with the data or with the number of past steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ticclip.index import mix

ROUNDS = 4


def permute(positions: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """Map positions below `size` to one another by a keyed Feistel network with cycle walking.

    Args:
        positions: [n], at least 0 and below `size`.
        size: Number of items, or one for each position.
        key: Number of each position's permutation [n].

    Returns:
        int64 [n]; over all positions of one key every number below `size` once.
    """
    sizes = np.broadcast_to(np.asarray(size, np.uint64), positions.shape)
    half = np.uint64(max(1, (int(sizes.max()) - 1).bit_length() + 1) // 2 or 1)
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = key.astype(np.uint64)

    def walk(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = values >> half, values & mask
        for turn in range(ROUNDS):
            salt = mix(keys + np.uint64(turn * 0x9E3779B97F4A7C15 % 2**64))
            left, right = right, left ^ (mix(right ^ salt) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        found = walk(positions.astype(np.uint64), key)
        while (outside := found >= sizes).any():
            found[outside] = walk(found[outside], key[outside])
    return found.astype(np.int64)


@dataclass(frozen=True)
class Mixture:
    """The pool of one step of a stream: kept items of earlier steps, and its own.

    Args:
        sources: Rows of the index, one array for each step in the pool.
        balanced: Give every source as many positions as every other; else every item is as likely as every other.
        seed: Of the order.
    """

    sources: tuple[np.ndarray, ...]
    balanced: bool = False
    seed: int = 0

    @property
    def size(self) -> int:
        """Items in the pool."""
        return sum(map(len, self.sources))

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the rows at positions of training, from 0 to any number [n]."""
        places = np.asarray(positions, np.int64)
        pool, offsets = self._pool
        if not self.balanced:
            return pool[self._draw(places, self.size, 0)]
        turn, source = np.divmod(places, len(self.sources))
        return pool[offsets[source] + self._draw(turn, np.diff(offsets)[source], source + 1)]

    @functools.cached_property
    def _pool(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows, and where each source starts among them: one look-up, however many sources there are."""
        return np.concatenate(self.sources), np.concatenate([[0], np.cumsum([len(rows) for rows in self.sources])])

    def _draw(self, places: np.ndarray, size: int | np.ndarray, salt: int | np.ndarray) -> np.ndarray:
        epoch, place = np.divmod(places, size)
        with np.errstate(over="ignore"):
            key = mix(np.uint64(self.seed) + mix(np.asarray(epoch * 65537 + salt).astype(np.uint64)))
        return permute(place, size, np.broadcast_to(key, place.shape))

    def count(self, num_positions: int, chunk: int = 1 << 20) -> tuple[list[int], int, int]:
        """Count exactly what the first positions see; whole epochs by arithmetic, the begun one by drawing it.

        Returns:
            Draws of each source, the different items seen, and how often the most frequent one was.
        """
        sizes, num_sources = np.diff(self._pool[1]), len(self.sources)
        if self.balanced:
            draws = num_positions // num_sources + (np.arange(num_sources) < num_positions % num_sources)
            return draws.tolist(), int(np.minimum(draws, sizes).sum()), int((-(-draws // sizes)).max())
        epochs, rest = divmod(num_positions, self.size)
        draws = epochs * sizes
        for start in range(num_positions - rest, num_positions, chunk):
            places = self._draw(np.arange(start, min(start + chunk, num_positions)), self.size, 0)
            owners = np.searchsorted(self._pool[1], places, side="right") - 1
            draws = draws + np.bincount(owners, minlength=num_sources)
        return draws.tolist(), min(num_positions, self.size), epochs + (rest > 0)
