"""The bill of a run in floating-point operations: which network ran forward and backward on how many images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

KINDS = (
    "teacher_forward",
    "teacher_backward",
    "head_forward",
    "head_backward",
    "student_forward",
    "student_backward",
)


@dataclass
class Ledger:
    """Operations by kind; a multiply-add counts as two.

    `head_*` are heads that are trained alone, on features that were computed before.

    Example:
        >>> ledger = Ledger()
        >>> ledger.add("student_forward", 2e6, num_images=10)
        >>> ledger.total
        20000000.0
    """

    flops: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, flops: float, *, num_images: int) -> None:
        """Add what so many images cost."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}.")
        self.flops[kind] = self.flops.get(kind, 0.0) + flops * num_images

    def merge(self, other: Ledger | Mapping[str, float]) -> Ledger:
        """Return the sum of two."""
        values = other.flops if isinstance(other, Ledger) else other
        names = [kind for kind in KINDS if kind in self.flops or kind in values]
        return Ledger({kind: self.flops.get(kind, 0.0) + values.get(kind, 0.0) for kind in names})

    @property
    def total(self) -> float:
        """All operations."""
        return float(sum(self.flops.values()))


def count_flops(network: Any) -> dict[str, float]:
    """Count the operations of one image: `forward`, `backward`, `head`.

    Counted by torch on a batch of one; a backbone that runs elsewhere brings its number as `flops`. The way back is
    taken as twice the way forward (gradients of inputs and of weights), the usual convention: torch's own count of it
    is wrong for grouped convolutions.
    """
    side, was = network.config.image_size, network.training
    pixels = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pooled, patches = network.eval().features(pixels)
        features = float(counter.get_total_flops()) + getattr(network.backbone, "flops", 0.0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.head(patches if network.config.task == "segment" else pooled)
        head = float(counter.get_total_flops())
    network.train(was)
    return {"forward": features + head, "backward": 2 * (features + head), "head": head}
