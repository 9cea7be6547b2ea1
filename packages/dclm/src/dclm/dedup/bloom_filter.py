"""A Bloom filter that is sized from a count, says when it is full, and is the same on every machine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

from dclm.words import Hashes, mix

__all__ = ["BloomFilter", "SaturatedFilterError"]

ALARM_FACTOR = 2.0  # a filter is saturated when it errs this many times as often as it was asked to
MAX_HASHES = 32
BLOCK = 1 << 16  # n-grams looked up at once, so that index arrays stay small
POPCOUNT_BYTES = 1 << 24


class SaturatedFilterError(InputError):
    """The filter is so full that it takes new text for old."""


class BloomFilter:
    """Set of 64-bit hashes with false positives and no false negatives (Bloom 1970).

    Bits m = -n ln p / (ln 2)^2, hashes k = round(m/n ln 2). The k positions of a hash come from two mixes of it and
    the seed (Kirsch and Mitzenmacher 2006), so a filter does not depend on run, machine or order of insertion. The
    reference draws its hash functions anew in every run.

    Args:
        num_bits: Size.
        num_hashes: Positions per element.
        false_positive_rate: What it was sized for; the alarm is relative to it.
        seed: Of the hash functions.

    Example:
        >>> filter = BloomFilter.for_count(1000, 0.01)
        >>> filter.add(np.arange(10, dtype=np.uint64))
        >>> bool(filter.contains(np.array([3], dtype=np.uint64))[0])
        True
    """

    def __init__(self, num_bits: int, num_hashes: int, false_positive_rate: float, seed: int = 0) -> None:
        self.num_bits = num_bits
        self.num_hashes = num_hashes
        self.false_positive_rate = false_positive_rate
        self.seed = seed
        self.bits = np.zeros(-(-num_bits // 8), dtype=np.uint8)

    @classmethod
    def for_count(
        cls, count: int, false_positive_rate: float, *, seed: int = 0, max_bytes: int | None = None
    ) -> BloomFilter:
        """Make a filter for a number of elements.

        Args:
            count: Elements to expect; a larger number is safe, a smaller one saturates the filter.
            false_positive_rate: Share of new elements that may be taken for old once all are in.
            seed: Of the hash functions.
            max_bytes: Budget of RAM.

        Raises:
            InputError: The budget is too small.
        """
        num_bits, num_hashes = filter_size(count, false_positive_rate)
        if max_bytes is not None and -(-num_bits // 8) > max_bytes:
            raise InputError(
                f"a filter for {count} n-grams at a false-positive rate of {false_positive_rate:g} takes "
                f"{-(-num_bits // 8)} bytes, `max_bytes` is {max_bytes}; give more, or more partitions "
                f"(at least {-(-num_bits // 8 // max_bytes)})."
            )
        return cls(num_bits, num_hashes, false_positive_rate, seed)

    def _positions(self, hashes: Hashes) -> NDArray[np.uint64]:
        first = mix(hashes ^ np.uint64(mix(np.array([self.seed + 1], dtype=np.uint64))[0]))
        step = mix(first) | np.uint64(1)
        steps = np.arange(self.num_hashes, dtype=np.uint64)[:, None]
        return (first + steps * step) % np.uint64(self.num_bits)

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return for each hash whether it is in, or seems to be."""
        found = np.empty(len(hashes), dtype=bool)
        for start in range(0, len(hashes), BLOCK):
            at = self._positions(hashes[start : start + BLOCK])
            bytes_ = self.bits.take((at >> np.uint64(3)).view(np.int64))
            hit = (bytes_ >> (at & np.uint64(7)).astype(np.uint8)) & 1
            found[start : start + BLOCK] = hit.all(axis=0)
        return found

    def add(self, hashes: Hashes) -> None:
        """Put hashes in."""
        for start in range(0, len(hashes), BLOCK):
            at = self._positions(hashes[start : start + BLOCK]).ravel()
            masks = np.uint8(1) << (at & np.uint64(7)).astype(np.uint8)
            np.bitwise_or.at(self.bits, (at >> np.uint64(3)).view(np.int64), masks)

    def fill(self) -> float:
        """Return the share of bits that are set."""
        blocks = range(0, len(self.bits), POPCOUNT_BYTES)
        ones = sum(
            int(np.bitwise_count(self.bits[start : start + POPCOUNT_BYTES]).sum(dtype=np.int64)) for start in blocks
        )
        return ones / self.num_bits

    def error_rate(self) -> float:
        """Return the share of new elements that would now be taken for old: fill to the power of k."""
        return self.fill() ** self.num_hashes

    def check(self) -> None:
        """Raise the alarm when the filter errs far more than it was sized for.

        Raises:
            SaturatedFilterError: With fill, rate and remedy.
        """
        rate = self.error_rate()
        if rate > ALARM_FACTOR * self.false_positive_rate:
            raise SaturatedFilterError(
                f"the Bloom filter is saturated: {self.fill():.1%} of its bits are set, {rate:.1%} of new n-grams "
                f"would pass for duplicates (asked for: {self.false_positive_rate:.1%}); leave `expected_ngrams` out, "
                "so that they are counted first, or give a larger number."
            )

    def save(self, path: str | Path, **state: int) -> None:
        """Write the filter to a file (.npz), whole or not at all; `state` are numbers of the caller."""
        header = {"num_bits": self.num_bits, "num_hashes": self.num_hashes, "seed": self.seed, **state}
        with atomic_write(path) as file:
            np.savez(file, bits=self.bits, rate=np.float64(self.false_positive_rate), **header)

    @classmethod
    def load(cls, path: str | Path) -> tuple[BloomFilter, dict[str, int]]:
        """Read a file of `save`.

        Returns:
            The filter, and the caller's numbers.

        Raises:
            InputError: No such file, or not one of ours.
        """
        try:
            with np.load(path) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            numbers = {name: int(value) for name, value in found.items() if name not in ("bits", "rate")}
            loaded = cls(numbers.pop("num_bits"), numbers.pop("num_hashes"), float(found["rate"]), numbers.pop("seed"))
            if loaded.bits.shape != found["bits"].shape:
                raise ValueError(f"{len(found['bits'])} bytes for {loaded.num_bits} bits")
        except FileNotFoundError:
            raise InputError(f"no saved filter at {path}; `BloomFilter.save` writes one.") from None
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise InputError(f"{path} is no saved filter ({error}).") from error
        loaded.bits = found["bits"]
        return loaded, numbers


def filter_size(count: int, false_positive_rate: float) -> tuple[int, int]:
    """Return bits and hashes for a number of elements (p = 0.01: 9.59 bits and 7 hashes each).

    Args:
        count: Elements.
        false_positive_rate: Between 0 and 1.

    Returns:
        `num_bits` (at least 64) and `num_hashes`.

    Example:
        >>> bits, hashes = filter_size(10**9, 0.01)
        >>> round(bits / 8 / 2**30, 2), hashes
        (1.12, 7)
    """
    bits = max(64, math.ceil(-count * math.log(false_positive_rate) / math.log(2) ** 2))
    hashes = round(bits / max(count, 1) * math.log(2))
    return bits, min(max(hashes, 1), MAX_HASHES)
