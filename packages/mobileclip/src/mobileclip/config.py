"""Model configurations: frozen dataclasses and the presets of the paper (standard library only)."""

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
}
