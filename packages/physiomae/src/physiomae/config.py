"""Settings of signals, models, objectives and training, and the presets. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scaling = Literal["robust", "percent"]
Stem = Literal["linear", "conv"]
Reconstruct = Literal["none", "all", "hidden", "own"]
Contrast = Literal["none", "pairwise", "leave_one_out"]
Precision = Literal["float32", "bfloat16", "float16"]
ObjectiveName = Literal[
    "mae", "mae_drop", "cross_only", "unimodal", "contrastive_pairwise", "contrastive_loo", "mae_drop_contrastive"
]
STAGES = ("W", "N1", "N2", "N3", "R")  # AASM; labels are places in this tuple, -1 is unknown


@dataclass(frozen=True)
class ModalityConfig:
    """One modality: its channel contract, its rate and how its signals are prepared.

    Attributes:
        name: Short name.
        channels: Channels by name, in the order of the model's input.
        rate_hz: Rate after resampling.
        unit: Unit after conversion.
        band_hz: Pass band of the filter; None leaves the signal unfiltered.
        scaling: "robust": median 0 and interquartile range 1.349 in each recording; "percent": (x - 90) / 10.
        aliases: Pairs of another name and the contract's name.
    """

    name: str
    channels: tuple[str, ...]
    rate_hz: float
    unit: str = "uV"
    band_hz: tuple[float, float] | None = None
    scaling: Scaling = "robust"
    aliases: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"modality `name` (={self.name!r}) must be a plain word.")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"`channels` (={self.channels}) of {self.name} must be different names, at least one.")
        if self.rate_hz <= 0:
            raise ValueError(f"`rate_hz` (={self.rate_hz}) of {self.name} must be above 0.")
        if self.band_hz and not 0 <= self.band_hz[0] < self.band_hz[1] <= self.rate_hz / 2:
            raise ValueError(f"`band_hz` (={self.band_hz}) of {self.name} must rise and end at most at half the rate.")


@dataclass(frozen=True)
class PhysioMAEConfig:
    """A model: modalities on a common clock, a transformer encoder and a light decoder.

    Attributes:
        modalities: In the order of the model; a batch may have any of them, in any order.
        window_seconds: Length of a window.
        patch_seconds: Length of a token; token j of every modality is the same stretch of time.
        dim: Width of the encoder.
        num_layers: Blocks of the encoder.
        num_heads: Heads of encoder and decoder.
        decoder_dim: Width of the decoder.
        decoder_layers: Blocks of the decoder.
        stem: "linear" patches, or three convolutions before the projection.
    """

    modalities: tuple[ModalityConfig, ...]
    window_seconds: float = 30.0
    patch_seconds: float = 1.0
    dim: int = 256
    num_layers: int = 6
    num_heads: int = 8
    decoder_dim: int = 128
    decoder_layers: int = 2
    stem: Stem = "linear"

    def __post_init__(self) -> None:
        names = [modality.name for modality in self.modalities]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"`modalities` (={names}) must be different, at least one.")
        for modality in self.modalities:
            samples = modality.rate_hz * self.patch_seconds
            if abs(samples - round(samples)) > 1e-9 or round(samples) < 1:
                raise ValueError(
                    f"rates do not fit: a patch of {self.patch_seconds} s of {modality.name} at {modality.rate_hz} Hz "
                    f"has {samples:g} samples; choose a rate or `patch_seconds` that give a whole number."
                )
        patches = self.window_seconds / self.patch_seconds
        if abs(patches - round(patches)) > 1e-9:
            raise ValueError(
                f"`window_seconds` (={self.window_seconds}) must be a multiple of `patch_seconds` "
                f"(={self.patch_seconds})."
            )
        for name, width in (("dim", self.dim), ("decoder_dim", self.decoder_dim)):
            if width % self.num_heads or width % 2:
                raise ValueError(f"`{name}` (={width}) must be even and divisible by `num_heads` (={self.num_heads}).")

    @property
    def num_patches(self) -> int:
        """Tokens of one modality in a window."""
        return round(self.window_seconds / self.patch_seconds)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(modality.name for modality in self.modalities)

    def patch_samples(self, modality: ModalityConfig) -> int:
        """Samples of one patch of a modality."""
        return round(modality.rate_hz * self.patch_seconds)

    def window_samples(self, modality: ModalityConfig) -> int:
        """Samples of one window of a modality."""
        return self.num_patches * self.patch_samples(modality)

    def modality(self, name: str) -> ModalityConfig:
        """Return a modality by name."""
        return next(modality for modality in self.modalities if modality.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PhysioMAEConfig:
        """Read values of `to_dict`, also after JSON turned tuples into lists."""
        return cls(**{**record, "modalities": tuple(read_modality(row) for row in record["modalities"])})


def read_modality(record: Mapping[str, Any]) -> ModalityConfig:
    """Read a modality from plain values; a ValueError names keys that it has not."""
    unknown = sorted(set(record) - {field.name for field in dataclasses.fields(ModalityConfig)})
    if unknown:
        raise ValueError(f"a modality has no settings {unknown}.")
    band = record.get("band_hz")
    fields = {**record, "channels": tuple(record["channels"]), "band_hz": tuple(band) if band else None}
    return ModalityConfig(**{**fields, "aliases": tuple((a, b) for a, b in record.get("aliases", ()))})


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learnt; all objectives train the same encoder.

    Attributes:
        reconstruct: "all": masked tokens of every modality from the visible ones of all; "hidden": only of modalities
            that were dropped; "own": each modality from its own tokens alone; "none".
        mask_ratio: Share of the available tokens that the encoder does not see.
        drop_prob: Probability that a window loses a drawn, non-empty, proper subset of its modalities.
        contrast: InfoNCE between embeddings of single modalities, pairwise or each against the mean of the others.
        contrast_weight: Of the contrastive loss beside reconstruction.
    """

    reconstruct: Reconstruct = "all"
    mask_ratio: float = 0.5
    drop_prob: float = 0.0
    contrast: Contrast = "none"
    contrast_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` (={self.mask_ratio}) must lie between 0 and 1.")
        if not 0 <= self.drop_prob <= 1:
            raise ValueError(f"`drop_prob` (={self.drop_prob}) must be a probability.")
        if self.reconstruct == "none" and self.contrast == "none":
            raise ValueError("`reconstruct` and `contrast` are both none; nothing would be learnt.")
        if self.reconstruct == "hidden" and self.drop_prob == 0:
            raise ValueError("`reconstruct` hidden needs a `drop_prob` above 0.")

    @property
    def late_fusion(self) -> bool:
        """Whether modalities are encoded alone, so that an embedding is what they have side by side."""
        return self.reconstruct in ("own", "none")


OBJECTIVES: dict[ObjectiveName, ObjectiveConfig] = {
    "mae": ObjectiveConfig(),
    "mae_drop": ObjectiveConfig(drop_prob=0.5),
    "cross_only": ObjectiveConfig("hidden", drop_prob=1.0),
    "unimodal": ObjectiveConfig("own"),
    "contrastive_pairwise": ObjectiveConfig("none", contrast="pairwise"),
    "contrastive_loo": ObjectiveConfig("none", contrast="leave_one_out"),
    "mae_drop_contrastive": ObjectiveConfig(drop_prob=0.5, contrast="leave_one_out", contrast_weight=0.1),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        objective: What is learnt.
        num_steps: Updates.
        batch_size: Windows of one update, over all processes.
        learning_rate: Peak rate of AdamW; linear warm-up, cosine to zero.
        warmup_steps: Updates of the warm-up.
        weight_decay: Of matrices.
        clip_norm: Largest norm of the gradient.
        precision: Of the forward pass.
        seed: Of weights, order and masks.
        checkpoint_every: Updates between checkpoints.
    """

    objective: ObjectiveConfig = OBJECTIVES["mae_drop"]
    num_steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    precision: Precision = "float32"
    seed: int = 0
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if self.learning_rate <= 0:
            raise ValueError(f"`learning_rate` (={self.learning_rate}) must be above 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


# Names that recordings use for the contract's channels; references after a dash or a slash vary between laboratories.
_EEG = tuple(
    (alias, f"{site}-{reference}")
    for site, reference in (("F3", "M2"), ("F4", "M1"), ("C3", "M2"), ("C4", "M1"), ("O1", "M2"), ("O2", "M1"))
    for alias in (site, f"EEG {site}-{reference}", f"{site}:{reference}", f"{site}-A{reference[1]}")
)
_SLEEP = (
    ModalityConfig("eeg", ("F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1"), 100, "uV", (0.3, 35.0), aliases=_EEG),
    ModalityConfig("eog", ("E1-M2",), 100, "uV", (0.3, 35.0), aliases=(("E1", "E1-M2"), ("EOG E1-M2", "E1-M2"))),
    ModalityConfig(
        "emg", ("Chin1-Chin2",), 200, "uV", (10.0, 90.0), aliases=(("EMG", "Chin1-Chin2"), ("Chin", "Chin1-Chin2"))
    ),
    ModalityConfig(
        "resp", ("ABD", "CHEST", "AIRFLOW"), 20, "uV", (0.05, 2.0), aliases=(("ABDO", "ABD"), ("THX", "CHEST"))
    ),
    ModalityConfig("spo2", ("SaO2",), 4, "%", None, "percent", aliases=(("SpO2", "SaO2"), ("SAO2", "SaO2"))),
    ModalityConfig("ecg", ("ECG",), 100, "mV", (0.5, 40.0), aliases=(("EKG", "ECG"), ("ECG I", "ECG"))),
)
_WATCH = (
    ModalityConfig("accel", ("acc_x", "acc_y", "acc_z"), 50, "g"),
    ModalityConfig("gyro", ("gyr_x", "gyr_y", "gyr_z"), 50, "rad/s"),
)
_SIMULATED = tuple(ModalityConfig(name, (name.upper(),), 16, "uV") for name in ("eeg", "eog", "emg", "resp"))

# sleep: the shape of the fact sheet's proposal, 180 tokens of 30 s (2 GPU-days a paper-sized run, not tried here);
# sleep_small: one GPU; watch, simulator, tiny: CPU, seconds to minutes.
PRESETS: dict[str, PhysioMAEConfig] = {
    "sleep": PhysioMAEConfig(_SLEEP),
    "sleep_small": PhysioMAEConfig(_SLEEP, dim=128, num_layers=4, num_heads=4, decoder_dim=64, stem="conv"),
    "watch": PhysioMAEConfig(_WATCH, 2.56, 0.32, 32, 2, 4, 32, 1),
    "simulator": PhysioMAEConfig(_SIMULATED, 8.0, 1.0, 32, 2, 4, 32, 1),
    "tiny": PhysioMAEConfig(_SIMULATED[:2], 4.0, 1.0, 16, 1, 2, 16, 1),
}
