"""Windows as a batch: signals by modality, and which channel is there in which patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tenfold_shared.commands import InputError, unknown_name
from torch import Tensor

from physiomae.config import PhysioMAEConfig


@dataclass(frozen=True)
class MultimodalBatch:
    """Windows with any subset of modalities, in any order.

    Build it with `from_arrays`. Where a channel is absent its samples are 0 and never reach the model: the stem puts
    the channel's missing token there, and a patch without any channel is no token at all.

    Attributes:
        signals: Modality -> [windows, channels, samples].
        present: Modality -> which channel is there in which patch [windows, channels, patches].
        labels: Name -> [windows].
    """

    signals: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.signals.values())))

    @classmethod
    def from_arrays(
        cls,
        config: PhysioMAEConfig,
        arrays: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> MultimodalBatch:
        """Build a batch of arrays in which nan says what is missing.

        A patch of a channel with any nan counts as absent.

        Args:
            config: Names, channels and lengths.
            arrays: Modality -> [windows, channels, samples]; a modality that is not there has no entry.
            labels: Name -> [windows].

        Returns:
            The batch on the CPU.

        Raises:
            InputError: Unknown names, shapes that do not fit, or no modality at all.
        """
        if not arrays:
            raise InputError(f"a batch needs at least one of the modalities {', '.join(config.names)}.")
        signals, present = {}, {}
        for name, array in arrays.items():
            if name not in config.names:
                raise unknown_name("modality", name, config.names)
            signals[name], present[name] = _split_gaps(config, name, np.asarray(array))
        if len({len(signal) for signal in signals.values()}) != 1:
            raise InputError(f"modalities have different numbers of windows: {_lengths(signals)}.")
        tensors = {name: torch.as_tensor(np.asarray(values)) for name, values in (labels or {}).items()}
        return cls(signals, present, tensors)

    def only(self, names: Sequence[str]) -> MultimodalBatch:
        """Return the batch without other modalities; one that it does not have is an error."""
        missing = [name for name in names if name not in self.signals]
        if missing:
            raise unknown_name("modality of this batch", missing[0], list(self.signals))
        if not names:
            raise InputError("at least one modality must be available.")
        signals = {name: self.signals[name] for name in names}
        return MultimodalBatch(signals, {name: self.present[name] for name in names}, self.labels)

    def rows(self, index: Tensor | slice) -> MultimodalBatch:
        """Return some of the windows."""
        return MultimodalBatch(
            {name: value[index] for name, value in self.signals.items()},
            {name: value[index] for name, value in self.present.items()},
            {name: value[index] for name, value in self.labels.items()},
        )

    def to(self, device: str | torch.device) -> MultimodalBatch:
        """Return the batch on a device."""
        return MultimodalBatch(
            {name: value.to(device, non_blocking=True) for name, value in self.signals.items()},
            {name: value.to(device, non_blocking=True) for name, value in self.present.items()},
            {name: value.to(device, non_blocking=True) for name, value in self.labels.items()},
        )


def _split_gaps(config: PhysioMAEConfig, name: str, array: np.ndarray) -> tuple[Tensor, Tensor]:
    modality = config.modality(name)
    shape = (len(modality.channels), config.window_samples(modality))
    if array.ndim != 3 or array.shape[1:] != shape:
        raise InputError(
            f"`{name}` has shape {array.shape}; expected [windows, {shape[0]} channels, {shape[1]} samples] "
            f"({config.window_seconds:g} s at {modality.rate_hz:g} Hz)."
        )
    signal = torch.tensor(array, dtype=torch.float32)
    there = torch.isfinite(signal)
    present = there.unflatten(-1, (config.num_patches, -1)).all(-1)
    return torch.where(there, signal, torch.zeros(())), present


def _lengths(signals: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {len(signal)}" for name, signal in signals.items())
