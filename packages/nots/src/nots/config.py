"""Settings of degradations, models, objectives, training and adaptation, and the presets. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["box", "gaussian", "sinc", "fft", "noise"]
TokenizerName = Literal["patch", "resnet", "patchtst", "itransformer"]
ObjectiveName = Literal[
    "nots", "next", "mae", "famae", "vqvae", "augment", "no_ar_mask", "no_consistency", "noise_degradation"
]
Readout = Literal["sequence", "raw"]
Mode = Literal["frozen", "full", "none"]
MaskName = Literal["causal", "full", "own"]
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)
MIN_LENGTH = 4


def default_levels(kind: Kind, length: int, num_levels: int) -> tuple[float, ...]:
    """Return levels from coarse to fine, evenly spaced in their logarithm.

    Args:
        kind: Which degradation.
        length: Samples of a series.
        num_levels: How many; the raw signal, which comes after them, is not among them.

    Returns:
        Even widths in samples (box), standard deviations in samples (gaussian) or of the noise (noise), or cutoffs as
        a share of the Nyquist frequency, ascending (sinc, fft).
    """
    if num_levels < 1:
        raise ValueError(f"`num_levels` (={num_levels}) must be at least 1.")
    steps = [place / max(1, num_levels - 1) for place in range(num_levels)]
    coarse = max(4.0, length / 8)
    widths = [coarse * (2 / coarse) ** step for step in steps]
    if kind == "box":
        return _even_widths(widths)
    if kind == "gaussian":
        return tuple(width / 4 for width in widths)
    if kind == "noise":
        return tuple(2.0 * 0.125**step for step in steps)
    return tuple(1 / width for width in widths)


def _even_widths(widths: list[float]) -> tuple[float, ...]:
    """Return even widths that fall by at least two samples, so that short series have different ones too."""
    found: list[float] = []
    for width in reversed(widths):
        found.append(max(2.0 * round(width / 2), found[-1] + 2 if found else 2.0))
    return tuple(reversed(found))


@dataclass(frozen=True)
class ScheduleConfig:
    """A chain of degradations from coarse to fine, to which the raw signal is added as its last element.

    Attributes:
        kind: Which degradation.
        levels: One for each element but the raw one; box, gaussian and noise descend, sinc and fft ascend.
    """

    kind: Kind
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` (={self.kind!r}) must be one of {', '.join(get_args(Kind))}.")
        ordered = sorted(self.levels, reverse=self.kind not in ("sinc", "fft"))
        if not self.levels or list(self.levels) != ordered or len(set(self.levels)) != len(self.levels):
            way = "ascend" if self.kind in ("sinc", "fft") else "descend"
            raise ValueError(f"`levels` (={self.levels}) of {self.kind} must {way}: each element knows more.")
        if not all(math.isfinite(level) and level >= 0 for level in self.levels):
            raise ValueError(f"`levels` (={self.levels}) must be finite and not negative.")

    @classmethod
    def default(cls, kind: Kind, length: int, num_groups: int) -> ScheduleConfig:
        """Return the chain of `default_levels` for so many groups, the raw one counted."""
        return cls(kind, default_levels(kind, length, num_groups - 1))


@dataclass(frozen=True)
class NoTSConfig:
    """A model: tokenizer, group-causal transformer, decoder, and the chains that it learns from.

    Attributes:
        length: Samples of a series; longer and shorter ones are resampled to it.
        num_channels: Channels of the model; an adaptor maps others to them.
        num_groups: Elements of a narrative, the raw signal counted.
        tokenizer: "patch" (residual MLP), "resnet" (1D convolutions), "patchtst" (linear patches with a learned
            position), or "itransformer" (a token for each channel).
        patch: Samples of a token; the whole length with "itransformer".
        dim: Width.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_dim: Hidden width of a block's MLP.
        schedules: Chains of degradations; a batch draws one of them. Empty: box and fft.
        channel_embedding: Whether channels have an embedding of their own.
        mask: Which groups a group sees: itself and those before it ("causal"), all, or itself alone; the last two are
            for ablations.
    """

    length: int = 256
    num_channels: int = 1
    num_groups: int = 4
    tokenizer: TokenizerName = "patch"
    patch: int = 16
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 160
    schedules: tuple[ScheduleConfig, ...] = ()
    channel_embedding: bool = True
    mask: MaskName = "causal"

    def __post_init__(self) -> None:
        if self.mask not in get_args(MaskName):
            raise ValueError(f"`mask` (={self.mask!r}) must be one of {', '.join(get_args(MaskName))}.")
        for name in ("num_channels", "patch", "dim", "num_layers", "num_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if self.num_groups < 2:
            raise ValueError(f"`num_groups` (={self.num_groups}) must be at least 2: one degraded, one raw.")
        if self.length < MIN_LENGTH or self.length % self.patch:
            raise ValueError(
                f"`length` (={self.length}) must be a multiple of `patch` (={self.patch}), at least {MIN_LENGTH}."
            )
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"`dim` (={self.dim}) must be divisible by twice `num_heads` (={self.num_heads}).")
        if self.tokenizer == "itransformer" and self.patch != self.length:
            raise ValueError(f"`patch` (={self.patch}) of an itransformer is `length` (={self.length}).")
        if not self.schedules:
            made = tuple(ScheduleConfig.default(kind, self.length, self.num_groups) for kind in ("box", "fft"))
            object.__setattr__(self, "schedules", made)
        for schedule in self.schedules:
            if len(schedule.levels) != self.num_groups - 1:
                raise ValueError(f"{len(schedule.levels)} levels of {schedule.kind} for {self.num_groups} groups.")

    @property
    def num_patches(self) -> int:
        """Tokens of one channel."""
        return self.length // self.patch

    @property
    def group_tokens(self) -> int:
        """Tokens of a group: all channels."""
        return self.num_patches * self.num_channels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> NoTSConfig:
        """Read a dictionary of `to_dict`; unknown keys are a ValueError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            raise ValueError(f"no settings {unknown}; known are {', '.join(sorted(known))}")
        rows = [ScheduleConfig(row["kind"], tuple(row["levels"])) for row in record.get("schedules", ())]
        return cls(**{**record, "schedules": tuple(rows)})


@dataclass(frozen=True)
class TrainConfig:
    """How a model is pretrained.

    Attributes:
        objective: What is learnt.
        num_steps: Updates.
        batch_size: Series of an update.
        learning_rate: Peak of a warm-up and half a cosine.
        warmup_steps: Updates of the warm-up.
        weight_decay: Of matrices.
        clip_norm: Largest norm of the gradient.
        mask_ratio: Share of the tokens that is hidden (mae, famae).
        seed: Of weights, order, chains and masks.
        checkpoint_every: Updates between checkpoints.
    """

    objective: ObjectiveName = "nots"
    num_steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    mask_ratio: float = 0.5
    seed: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` (={self.objective!r}) must be one of {', '.join(OBJECTIVES)}.")
        for name in ("num_steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"`learning_rate` (={self.learning_rate}) must be above 0.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` (={self.mask_ratio}) must be between 0 and 1.")
        if self.seed < 0:
            raise ValueError(f"`seed` (={self.seed}) must not be negative.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class AdaptConfig:
    """How a pretrained model is adapted to a task.

    Attributes:
        mode: "frozen" trains adaptors and head; "full" the trunk too; "none" the trunk and head, without adaptors.
        readout: From the whole narrative, or from the raw signal alone.
        num_prompts: Learned tokens of each layer.
        num_steps: Updates.
        batch_size: Series of an update.
        learning_rate: Peak for adaptors and head; the trunk has a tenth of it.
        weight_decay: Of matrices.
        seed: Of adaptors and order.
    """

    mode: Mode = "frozen"
    readout: Readout = "sequence"
    num_prompts: int = 2
    num_steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"`mode` (={self.mode!r}) must be one of {', '.join(get_args(Mode))}.")
        if self.readout not in get_args(Readout):
            raise ValueError(f"`readout` (={self.readout!r}) must be one of {', '.join(get_args(Readout))}.")
        if self.num_prompts < 0 or self.num_steps < 1 or self.batch_size < 1:
            raise ValueError("`num_prompts` must not be negative, `num_steps` and `batch_size` at least 1.")


PRESETS: dict[str, NoTSConfig] = {
    "tiny": NoTSConfig(length=32, num_groups=3, patch=8, dim=16, num_layers=1, num_heads=2, mlp_dim=24),
    "laptop": NoTSConfig(),
    "nots_127k": NoTSConfig(1024, num_groups=6, patch=32, dim=64, num_layers=3, mlp_dim=160),
    "nots_243k": NoTSConfig(1024, num_groups=6, patch=32, dim=88, num_layers=3, mlp_dim=224),
    "nots_641k": NoTSConfig(1024, num_groups=6, patch=32, dim=144, num_layers=3, mlp_dim=368),
    "nots_2.1m": NoTSConfig(1024, num_groups=6, patch=32, dim=264, num_layers=3, mlp_dim=656),
}
