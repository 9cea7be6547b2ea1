"""Settings of training, as plain values; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MaskName = Literal["muscle", "old_correct", "all_old", "all_new", "ll_token", "ll_sequence"]


@dataclass(frozen=True)
class LoraSettings:
    """An adapter (Table 8): all linear layers, no dropout.

    Attributes:
        rank: r; the paper finds that a compatibility adapter needs a larger one than a task adapter.
        alpha: The update is scaled by alpha / r.
        dropout: Of the adapter's input.
        targets: Names of layers, or "all-linear".
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"`rank` (={self.rank}) must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` (={self.dropout}) must be from 0 to below 1.")


@dataclass(frozen=True)
class CompatibilityConfig:
    """What a compatibility adapter is trained with (section 4).

    Attributes:
        mask: Which tokens follow the old model; see `muscle.loss.follow_old`.
        temperature: Of the distillation.
        weight: lambda of `lambda L_comp + (1 - lambda) L_CE`; 1 leaves cross-entropy out. The paper adds it for large
            gaps between v1 and v2 and does not say its size.
        cache_top: Logits kept of each token in the teachers' cache, with the rest as one tail; 0 keeps all.
    """

    mask: MaskName = "muscle"
    temperature: float = 2.0
    weight: float = 1.0
    cache_top: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` (={self.temperature}) must be above 0; the paper takes 2.")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"`weight` (={self.weight}) must be from 0 to 1.")
        if self.cache_top < 0:
            raise ValueError(f"`cache_top` (={self.cache_top}) must be at least 0; 0 keeps all logits.")


@dataclass(frozen=True)
class TrainConfig:
    """How an adapter is trained; task and compatibility adapters share it (Table 8).

    Attributes:
        epochs: Passes over the training examples.
        lr: Peak learning rate, linear decay to zero.
        batch_size: Rows of a forward pass.
        accumulation: Forward passes of a step.
        warmup_steps: Steps of linear warm-up, at most a tenth of the run.
        max_length: Tokens of an example that are looked at.
        validation: Share of the training examples that selects the epoch.
        seed: Of adapters and order.
        lora: The adapter.
    """

    epochs: int = 10
    lr: float = 1e-4
    batch_size: int = 4
    accumulation: int = 8
    warmup_steps: int = 500
    max_length: int = 512
    validation: float = 0.2
    seed: int = 0
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not 0 < self.validation < 1:
            raise ValueError(f"`validation` (={self.validation}) must be between 0 and 1; the paper takes 0.2.")
        if not self.lr > 0:
            raise ValueError(f"`lr` (={self.lr}) must be above 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


PRESETS: dict[str, TrainConfig] = {
    "paper": TrainConfig(),
    "small": TrainConfig(
        epochs=3, lr=1e-3, batch_size=16, accumulation=1, warmup_steps=20, lora=LoraSettings(16, 32.0)
    ),
    "tiny": TrainConfig(
        epochs=1, lr=2e-3, batch_size=8, accumulation=1, warmup_steps=1, max_length=64, lora=LoraSettings(4, 8.0)
    ),
}
