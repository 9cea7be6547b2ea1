"""Configurations of models and of training: frozen dataclasses and the paper's presets (standard library only)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class MCiConfig:
    """Hybrid convolution and attention image encoder (Sec. 3.2, "MCi").

    Args:
        depths: Blocks per stage. The first three stages mix tokens by convolution, the last by attention.
        dims: Channels per stage; each a multiple of `head_dim` in the last stage.
        mlp_ratio: Hidden width of the feed-forward part over its input width.
        head_dim: Width of one attention head.
        image_size: Input height and width in pixels; a multiple of 32.
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    mlp_ratio: int = 3
    head_dim: int = 32
    image_size: int = 256

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise ValueError(f"`image_size` (={self.image_size}) must be a multiple of 32; use 256.")
        if self.dims[-1] % self.head_dim:
            raise ValueError(f"`dims[-1]` (={self.dims[-1]}) must be a multiple of `head_dim` (={self.head_dim}).")


@dataclass(frozen=True)
class ViTConfig:
    """ViT-B/16 with a three-convolution stem (the image encoder of MobileCLIP-B).

    Args:
        depth: Transformer layers.
        dim: Width; a multiple of `num_heads`.
        num_heads: Attention heads per layer.
        image_size: Input height and width in pixels; a multiple of 16.
    """

    depth: int = 12
    dim: int = 768
    num_heads: int = 12
    image_size: int = 224

    def __post_init__(self) -> None:
        if self.image_size % 16:
            raise ValueError(f"`image_size` (={self.image_size}) must be a multiple of 16; use 224.")
        if self.dim % self.num_heads:
            raise ValueError(f"`dim` (={self.dim}) must be a multiple of `num_heads` (={self.num_heads}).")


@dataclass(frozen=True)
class TextConfig:
    """Text encoder (Sec. 3.1): a transformer, or MCt with convolutional first and last blocks.

    Args:
        kind: "base" is a plain transformer; "mct" puts one convolutional block before and one after it.
        num_layers: Transformer layers (without the two convolutional blocks of "mct").
        causal: Whether a token sees only the tokens before it.
        dim: Width; a multiple of `num_heads`.
        num_heads: Attention heads per layer.
        vocab_size: Rows of the token embedding.
        context_length: Tokens per caption, padding included.
    """

    kind: Literal["base", "mct"] = "base"
    num_layers: int = 12
    causal: bool = False
    dim: int = 512
    num_heads: int = 8
    vocab_size: int = 49408
    context_length: int = 77

    def __post_init__(self) -> None:
        if self.kind not in ("base", "mct"):
            raise ValueError(f'`kind` (={self.kind!r}) must be "base" or "mct".')
        if self.dim % self.num_heads:
            raise ValueError(f"`dim` (={self.dim}) must be a multiple of `num_heads` (={self.num_heads}).")


@dataclass(frozen=True)
class MobileCLIPConfig:
    """An image encoder, a text encoder and the width of their common space.

    Args:
        image: Image encoder; `MCiConfig` or `ViTConfig`.
        text: Text encoder.
        embed_dim: Width of the embeddings.
    """

    image: MCiConfig | ViTConfig
    text: TextConfig
    embed_dim: int = 512

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the image encoder's kind named."""
        kind = "mci" if isinstance(self.image, MCiConfig) else "vit"
        fields = dataclasses.asdict(self)
        return {**fields, "image": {"kind": kind, **fields["image"]}}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MobileCLIPConfig:
        """Build from what `to_dict` returned.

        Raises:
            ValueError: A key is missing or unknown.
        """
        try:
            image = dict(fields["image"])
            image_class = {"mci": MCiConfig, "vit": ViTConfig}[image.pop("kind")]
            image = {key: tuple(value) if isinstance(value, list) else value for key, value in image.items()}
            rest = {key: value for key, value in fields.items() if key not in ("image", "text")}
            return cls(image=image_class(**image), text=TextConfig(**fields["text"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a MobileCLIP configuration: {error}") from error


_S2_IMAGE = MCiConfig(depths=(4, 12, 24, 4), dims=(80, 160, 320, 640))
_B = MobileCLIPConfig(image=ViTConfig(), text=TextConfig(causal=True))

PRESETS: dict[str, MobileCLIPConfig] = {
    "mobileclip_s0": MobileCLIPConfig(
        image=MCiConfig(depths=(2, 6, 10, 2), dims=(64, 128, 256, 512)),
        text=TextConfig(kind="mct", num_layers=4),
    ),
    "mobileclip_s1": MobileCLIPConfig(
        image=MCiConfig(depths=(4, 12, 20, 4), dims=(64, 128, 256, 512)),
        text=TextConfig(),
    ),
    "mobileclip_s2": MobileCLIPConfig(image=_S2_IMAGE, text=TextConfig()),
    "mobileclip_b": _B,
    # Same architecture as B, trained for longer ("LT"); only the weights differ.
    "mobileclip_blt": _B,
    # Not of the paper: the same shape at a hundredth of the size, for laptops and tests.
    "mobileclip_tiny": MobileCLIPConfig(
        image=MCiConfig(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), image_size=64),
        text=TextConfig(num_layers=2, dim=64, num_heads=2),
        embed_dim=64,
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run, but for the data.

    The defaults are the authors' (training scripts of apple/ml-mobileclip and their open_clip patch).

    Args:
        model: What is trained, from random weights.
        batch_size: Samples per step over all processes and accumulated parts.
        num_steps: Optimizer steps.
        accumulation: Parts into which each process cuts its batch to save memory; the loss stays that of the whole.
        learning_rate: Largest learning rate of AdamW.
        warmup_steps: Steps of linear increase.
        constant_steps: Steps, warm-up included, before the cosine decay begins; 0 begins after the warm-up.
        weight_decay: Of weights with two or more dimensions.
        beta1: AdamW's first moment.
        beta2: AdamW's second moment.
        epsilon: AdamW's.
        grad_clip: Largest norm of the gradient; 0 does not clip.
        distill_weight: The paper's lambda: 0 is plain CLIP, 1 distils only.
        synthetic: Whether the loss is also taken with a synthetic caption.
        augmentation: "stored" replays, "strong" draws afresh from the same ranges, "crop" takes 90 to 100 % of the
            image (open_clip's default), "none" takes the centre.
        smallest_crop: Of "strong": the smallest share of the image that a crop covers.
        num_augmentations: How many of the stored augmentations are used; None for all.
        num_captions: How many of the synthetic captions are used; None for all.
        ema_decay: Of the running mean of the weights; 0 keeps none.
        precision: Number format of the forward pass; "fp16" scales the loss.
        seed: Of weights, order, augmentations and captions.
    """

    model: MobileCLIPConfig
    batch_size: int = 8192
    num_steps: int = 30_000
    accumulation: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    constant_steps: int = 0
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    grad_clip: float = 1.0
    distill_weight: float = 1.0
    synthetic: bool = True
    augmentation: Literal["stored", "strong", "crop", "none"] = "stored"
    smallest_crop: float = 0.08
    num_augmentations: int | None = None
    num_captions: int | None = None
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_steps", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not 0 <= self.distill_weight <= 1:
            raise ValueError(f"`distill_weight` (={self.distill_weight}) must be from 0 to 1.")
        if self.distill_weight and self.augmentation != "stored":
            raise ValueError(
                f"`augmentation` (={self.augmentation!r}) must be 'stored' to distil: teachers saw the stored ones."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict()}


# 0.25 B samples: the ablations' set-up, ViT-B/16 with 8,192 samples a step.
_DR_12M = TrainConfig(_B, epsilon=1e-6)
# 13.1 B samples.
_DR_1B = dataclasses.replace(_DR_12M, batch_size=65_536, num_steps=200_000, epsilon=1e-8)

TRAIN_PRESETS: dict[str, TrainConfig] = {
    "datacompdr12m_b": _DR_12M,
    "datacompdr1b_s0": dataclasses.replace(_DR_1B, model=PRESETS["mobileclip_s0"]),
    "datacompdr1b_s1": dataclasses.replace(_DR_1B, model=PRESETS["mobileclip_s1"]),
    "datacompdr1b_s2": dataclasses.replace(_DR_1B, model=PRESETS["mobileclip_s2"]),
    "datacompdr1b_b": dataclasses.replace(_DR_1B, model=_B, epsilon=1e-6, distill_weight=0.75),
    # 300,000 steps at the largest learning rate, then 300,000 of cosine decay.
    "datacompdr1b_blt": dataclasses.replace(
        _DR_1B, model=_B, epsilon=1e-6, distill_weight=0.75, num_steps=600_000, constant_steps=300_000
    ),
    "tiny": TrainConfig(
        PRESETS["mobileclip_tiny"], batch_size=32, num_steps=200, warmup_steps=20, precision="fp32", ema_decay=0.99
    ),
}
