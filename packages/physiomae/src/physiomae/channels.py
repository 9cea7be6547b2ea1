"""The channel contract: a recording's channel fits by name, by alias, or its place gets the missing token.

Nothing is guessed and nothing is filled with zeros: what was matched how is part of every report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tenfold_shared.commands import InputError

from physiomae.config import ModalityConfig
from physiomae.recordings import Recording, Signal

How = Literal["name", "alias", "missing"]
ANY_UNIT = "any"
_VOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "µv": 1.0, "μv": 1.0, "microv": 1.0, "nv": 1e-3}
_KINDS: tuple[dict[str, float], ...] = (
    _VOLTS,
    {"%": 1.0, "percent": 1.0, "fraction": 100.0},
    {"g": 1.0, "m/s^2": 1 / 9.80665, "m/s2": 1 / 9.80665},
    {"rad/s": 1.0, "deg/s": math.pi / 180, "dps": math.pi / 180},
)


@dataclass(frozen=True)
class Match:
    """What stands in one place of the contract.

    Attributes:
        channel: Name in the contract.
        how: By name, by alias, or missing.
        signal: The recording's signal; None where it is missing.
        factor: From the signal's unit to the contract's.
    """

    channel: str
    how: How
    signal: Signal | None = None
    factor: float = 1.0

    def to_dict(self) -> dict[str, str]:
        """Return plain values for a report."""
        source = "" if self.signal is None else self.signal.name
        return {"channel": self.channel, "matched_by": self.how, "source": source}


def match_channels(recording: Recording, modality: ModalityConfig) -> list[Match]:
    """Return what stands in each place of a modality's contract.

    Case and blanks do not matter. An exact name wins over an alias.

    Args:
        recording: With named signals.
        modality: Channels, aliases and unit.

    Returns:
        One match for each channel, in the contract's order.

    Raises:
        InputError: Two signals would fill one place by alias, or a unit cannot be converted.
    """
    by_name = {_plain(signal.name): signal for signal in recording.signals}
    found = []
    for channel in modality.channels:
        if signal := by_name.get(_plain(channel)):
            found.append(_matched(recording, modality, channel, "name", signal))
            continue
        names = dict.fromkeys(_plain(other) for other, own in modality.aliases if own == channel)
        candidates = [by_name[name] for name in names if name in by_name]
        if len(candidates) > 1:
            listed = ", ".join(repr(signal.name) for signal in candidates)
            raise InputError(f"{recording.source}: {listed} are all aliases of {channel}; keep one.")
        found.append(
            _matched(recording, modality, channel, "alias", candidates[0]) if candidates else Match(channel, "missing")
        )
    return found


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()


def _matched(recording: Recording, modality: ModalityConfig, channel: str, how: How, signal: Signal) -> Match:
    factor = unit_factor(signal.unit, modality.unit)
    if factor is None:
        raise InputError(
            f"{recording.source}: wrong units: {signal.name} is in {signal.unit or 'no unit'!r}, {modality.name} needs "
            f"{modality.unit!r}{_convertible(modality.unit)}."
        )
    return Match(channel, how, signal, factor)


def unit_factor(found: str, wanted: str) -> float | None:
    """Return what a value is multiplied with to be in another unit, None where they measure different things."""
    found, wanted = found.strip().casefold(), wanted.strip().casefold()
    if wanted == ANY_UNIT or found == wanted:
        return 1.0
    for kind in _KINDS:
        if found in kind and wanted in kind:
            return kind[found] / kind[wanted]
    return None


def _convertible(unit: str) -> str:
    kind = next((kind for kind in _KINDS if unit.casefold() in kind), None)
    return f" ({', '.join(kind)} are converted)" if kind else ""


def unused(recording: Recording, matches: Sequence[Match]) -> list[str]:
    """Return the recording's signals that no place of the contract took."""
    taken = {id(match.signal) for match in matches}
    return [signal.name for signal in recording.signals if id(signal) not in taken]
