"""Models, mixing, pretraining and dense transfer as plain values, and the recipes of the data family."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Policy = Literal["real", "synthetic", "random", "uniform", "concat", "best", "longest"]
Loss = Literal["clip", "siglip"]
Precision = Literal["fp32", "bf16", "fp16"]
Task = Literal["segmentation", "depth", "detection"]
Head = Literal["linear", "fpn", "upernet", "dpt", "fcos", "mask_rcnn"]
HEADS: dict[str, tuple[str, ...]] = {
    "segmentation": ("linear", "fpn", "upernet"),
    "depth": ("linear", "dpt"),
    "detection": ("fcos", "mask_rcnn"),
}


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` (={getattr(config, name)}) must be at least 1.")


@dataclass(frozen=True)
class VisionConfig:
    """An image tower: a ViT in open_clip's layout, or a model of timm where `timm_name` is set.

    Args:
        image_size: Side in pixels.
        patch_size: Side of a patch; of a ViT only.
        width: Channels of a token.
        num_layers: Blocks.
        num_heads: Attention heads; divides `width`.
        pool: "tok" takes the class token, "avg" the mean of the patches.
        timm_name: Name in timm, such as "fastvit_mci2"; its last layer is the projection.
        timm_options: Further options of that model, such as (("embed_dims", (16, 32, 64, 128)),).
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    pool: Literal["tok", "avg"] = "tok"
    timm_name: str = ""
    timm_options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "patch_size", "width", "num_layers", "num_heads")
        if not self.timm_name and self.image_size % self.patch_size:
            usable = self.image_size // self.patch_size * self.patch_size or self.patch_size
            raise ValueError(
                f"`image_size` (={self.image_size}) must be divisible by "
                f"`patch_size` (={self.patch_size}); use {usable}."
            )
        if self.width % self.num_heads:
            raise ValueError(f"`num_heads` (={self.num_heads}) must divide `width` (={self.width}).")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class TextConfig:
    """A text tower in open_clip's layout; the feature is the token with the highest id (end of text)."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    num_layers: int = 12
    num_heads: int = 8
    causal: bool = True

    def __post_init__(self) -> None:
        _check_positive(self, "context_length", "vocab_size", "width", "num_layers", "num_heads")
        if self.width % self.num_heads:
            raise ValueError(f"`num_heads` (={self.num_heads}) must divide `width` (={self.width}).")


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers, the width they share, and the activation ("quick" is OpenAI's)."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 512
    loss: Loss = "clip"
    quick_gelu: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CLIPConfig:
        """Read what `to_dict` gave; unknown keys are a ValueError."""
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            raise ValueError(f"the model's configuration has unknown keys {unknown}.")
        vision = dict(record["vision"])
        vision["timm_options"] = tuple((name, _tuples(value)) for name, value in vision.get("timm_options", ()))
        return cls(**{**record, "vision": VisionConfig(**vision), "text": TextConfig(**record["text"])})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


_B16 = CLIPConfig()
_MCI = replace(_B16, vision=VisionConfig(256, 16, 1024, 12, 16, timm_name="fastvit_mci0"))
_SMALL_TEXT = TextConfig(77, 49408, 384, 12, 6)
_SCENES_TEXT = TextConfig(32, 320, 64, 1, 2)
_SCENES_MCI = (("layers", (1, 1, 1, 1)), ("embed_dims", (16, 32, 64, 64)))
PRESETS: dict[str, CLIPConfig] = {
    "vit_b16": _B16,
    "vit_b16_siglip": replace(_B16, loss="siglip"),
    "vit_s16": CLIPConfig(VisionConfig(224, 16, 384, 12, 6), _SMALL_TEXT, 384),
    "vit_ti16": CLIPConfig(VisionConfig(224, 16, 192, 12, 3), _SMALL_TEXT, 384),
    "mci0": _MCI,
    "mci1": replace(_MCI, vision=replace(_MCI.vision, timm_name="fastvit_mci1")),
    "mci2": replace(_MCI, vision=replace(_MCI.vision, timm_name="fastvit_mci2", width=1280)),
    "tiny": CLIPConfig(VisionConfig(32, 8, 64, 2, 2), TextConfig(32, 49408, 64, 1, 2), 64),
    "scenes": CLIPConfig(VisionConfig(48, 8, 64, 2, 2, pool="avg"), _SCENES_TEXT, 64),
    "scenes_mci": CLIPConfig(
        VisionConfig(48, 16, 64, 4, 2, timm_name="fastvit_mci0", timm_options=_SCENES_MCI), _SCENES_TEXT, 64
    ),
}


@dataclass(frozen=True)
class MixConfig:
    """How one caption is chosen of several, anew for every sample and step.

    Args:
        policy: "real" and "synthetic" take one of that kind; "random" a real one with chance `real_share`, else a
            synthetic one; "uniform" any; "concat" a real one followed by a synthetic one; "best" the highest score;
            "longest" the longest.
        real_share: Chance of a real caption under "random".
        seed: Of the draws.
    """

    policy: Policy = "random"
    real_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.real_share <= 1:
            raise ValueError(f"`real_share` (={self.real_share}) must be from 0 to 1.")


@dataclass(frozen=True)
class TrainConfig:
    """Pretraining. The defaults are the recipe of the 12M runs.

    Args:
        model: Both towers and the loss.
        batch_size: Pairs in a step over all processes.
        num_steps: Steps of the optimizer.
        learning_rate: Largest; linear warm-up, cosine to zero.
        warmup_steps: Steps of warm-up.
        beta2: Of AdamW; beta1 is 0.9.
        weight_decay: Of weights with two or more dimensions.
        grad_clip: Largest norm of the gradient.
        smallest_crop: Smallest share of the picture that a random crop keeps; 1 takes the whole picture.
        precision: Number format of the forward pass.
        mix: How captions are chosen.
        seed: Of weights, order and crops.
    """

    model: CLIPConfig = field(default_factory=CLIPConfig)
    batch_size: int = 8192
    num_steps: int = 30_000
    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    beta2: float = 0.95
    weight_decay: float = 0.2
    grad_clip: float = 1.0
    smallest_crop: float = 0.9
    precision: Precision = "bf16"
    mix: MixConfig = field(default_factory=MixConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size", "num_steps")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"`learning_rate` (={self.learning_rate}) must be a positive number.")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"`smallest_crop` (={self.smallest_crop}) must be above 0 and at most 1.")
        if self.precision == "fp16":
            raise ValueError("`precision` fp16 overflows in the logits without a scaler; use bf16.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


_12M = TrainConfig()
_1B = replace(_12M, batch_size=65_536, num_steps=200_000)
TRAIN_PRESETS: dict[str, TrainConfig] = {
    "12m_b16": _12M,
    "12m_mci2": replace(_12M, model=PRESETS["mci2"]),
    "12m_alt_text": replace(_12M, mix=MixConfig("real")),
    "1b_b16": _1B,
    "1b_mci2": replace(_1B, model=PRESETS["mci2"]),
    "tiny": TrainConfig(PRESETS["tiny"], 32, 60, warmup_steps=6, precision="fp32"),
}


@dataclass(frozen=True)
class DenseConfig:
    """Dense transfer of one backbone to one task.

    Args:
        task: segmentation, depth or detection.
        head: linear, fpn, upernet (segmentation); linear, dpt (depth); fcos, mask_rcnn (detection).
        num_classes: Labels of segmentation and detection, without background in detection.
        image_size: Side of the pictures, in pixels.
        frozen: Train the head alone.
        batch_size: Pictures in a step.
        num_steps: Steps of the optimizer.
        learning_rate: Of the head and of the backbone's last layer.
        layer_decay: Factor of the rate from each layer of the backbone to the one before it.
        drop_path: Chance that the last block is skipped, growing linearly from 0; of fine-tuning.
        weight_decay: Of weights with two or more dimensions.
        warmup_steps: Linear warm-up, then cosine to zero.
        max_depth: Largest depth that counts, in the unit of the data.
        width: Channels of every head but the linear one.
        seed: Of the head's weights and the order.
    """

    task: Task = "segmentation"
    head: Head = "linear"
    num_classes: int = 150
    image_size: int = 512
    frozen: bool = True
    batch_size: int = 16
    num_steps: int = 40_000
    learning_rate: float = 1e-3
    layer_decay: float = 1.0
    drop_path: float = 0.0
    weight_decay: float = 0.05
    warmup_steps: int = 0
    max_depth: float = 10.0
    width: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.head not in HEADS[self.task]:
            raise ValueError(f"`head` {self.head!r} is not one for {self.task}; use {', '.join(HEADS[self.task])}.")
        _check_positive(self, "num_classes", "image_size", "batch_size", "num_steps", "width")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` (={self.layer_decay}) must be above 0 and at most 1.")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"`drop_path` (={self.drop_path}) must be from 0 to below 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


_ADE = DenseConfig()
_NYU = DenseConfig("depth", "linear", 1, 480, learning_rate=5e-4, num_steps=38_000)
_COCO = DenseConfig("detection", "fcos", 90, 800, batch_size=16, num_steps=90_000, learning_rate=1e-4)
DENSE_PRESETS: dict[str, DenseConfig] = {
    "ade20k_linear": _ADE,
    "ade20k_fpn": replace(_ADE, head="fpn", frozen=False, num_steps=80_000, learning_rate=1e-4, layer_decay=0.9),
    "ade20k_upernet": replace(
        _ADE, head="upernet", frozen=False, num_steps=160_000, learning_rate=1e-4, layer_decay=0.65, drop_path=0.1,
        warmup_steps=1500,
    ),
    "nyuv2_linear": _NYU,
    "nyuv2_dpt": replace(_NYU, head="dpt", frozen=False, layer_decay=0.75, drop_path=0.1, warmup_steps=1500),
    "coco_fcos": _COCO,
    "coco_mask_rcnn": replace(
        _COCO, head="mask_rcnn", frozen=False, image_size=1024, batch_size=64, num_steps=184_375, layer_decay=0.7,
        drop_path=0.1, weight_decay=0.1, warmup_steps=250,
    ),
    "tiny": DenseConfig(num_classes=13, image_size=48, batch_size=16, num_steps=60, learning_rate=1e-2),
}  # fmt: skip
