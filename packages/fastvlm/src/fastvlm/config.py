"""Model configurations: frozen dataclasses and the presets of the paper (standard library only)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

STRIDE = 64
MultiScale = Literal["none", "avgpool", "dwconv"]


def check_resolution(size: int) -> None:
    """Refuse a height or width (pixels) that the total stride does not divide.

    Raises:
        ValueError: With the nearest size that works.
    """
    if size < STRIDE or size % STRIDE:
        nearest = max(1, round(size / STRIDE)) * STRIDE
        raise ValueError(f"`image_size` (={size}) must be divisible by {STRIDE}; use {nearest}.")


@dataclass(frozen=True)
class EncoderConfig:
    """FastViTHD, the hybrid image encoder: three convolutional stages, two with attention, total stride 64.

    Args:
        depths: Blocks per stage.
        dims: Channels per stage; multiples of `head_dim` in the two attention stages.
        mlp_ratio: Hidden width of the feed-forward part over its input width.
        head_dim: Width of one attention head.
        embed_dim: Width of the CLIP embedding; 0 leaves the head out (no vision-language model reads it).
        image_size: Input height and width in pixels; a multiple of 64.
        multi_scale: How maps of earlier stages join the output: not at all (the released weights), average
            pooled, or by a depthwise convolution.
    """

    depths: tuple[int, int, int, int, int] = (2, 12, 24, 4, 2)
    dims: tuple[int, int, int, int, int] = (96, 192, 384, 768, 1536)
    mlp_ratio: int = 4
    head_dim: int = 32
    embed_dim: int = 768
    image_size: int = 1024
    multi_scale: MultiScale = "none"

    def __post_init__(self) -> None:
        check_resolution(self.image_size)
        if self.multi_scale not in get_args(MultiScale):
            raise ValueError(f"`multi_scale` (={self.multi_scale!r}) must be one of {', '.join(get_args(MultiScale))}.")
        for dim in self.dims[3:]:
            if dim % self.head_dim:
                raise ValueError(f"`dims` (={self.dims}): {dim} must be a multiple of `head_dim` (={self.head_dim}).")

    @property
    def out_dim(self) -> int:
        """Channels of one image token."""
        return 2 * self.dims[-1] + (sum(self.dims[:4]) if self.multi_scale != "none" else 0)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image at `image_size`."""
        return (self.image_size // STRIDE) ** 2


@dataclass(frozen=True)
class LanguageConfig:
    """Shape of a Qwen2 or Llama language model.

    Args:
        family: Which of the two; "qwen2" has biases at query, key and value.
        dim: Width.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        num_kv_heads: Heads of keys and values.
        hidden_dim: Width of the feed-forward part.
        vocab_size: Rows of the token embedding.
        tied: Whether the output layer is the token embedding.
    """

    family: Literal["qwen2", "llama"]
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_dim: int
    vocab_size: int
    tied: bool = False

    def __post_init__(self) -> None:
        if self.family not in ("qwen2", "llama"):
            raise ValueError(f'`family` (={self.family!r}) must be "qwen2" or "llama".')
        if self.dim % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"`dim` (={self.dim}), `num_heads` (={self.num_heads}) and `num_kv_heads` (={self.num_kv_heads}) "
                "must divide one another in this order."
            )

    @property
    def layer_params(self) -> int:
        """Parameters of one decoder layer."""
        kv_dim = self.dim // self.num_heads * self.num_kv_heads
        attention = 2 * self.dim * (self.dim + kv_dim) + (self.dim + 2 * kv_dim) * (self.family == "qwen2")
        return attention + 3 * self.dim * self.hidden_dim + 2 * self.dim

    @property
    def num_params(self) -> int:
        """Parameters in all, the embedding counted twice unless tied."""
        embedding = self.vocab_size * self.dim * (1 if self.tied else 2)
        return self.num_layers * self.layer_params + embedding + self.dim

    def to_transformers(self) -> dict[str, Any]:
        """Return the fields of transformers' configuration of this model, `model_type` among them."""
        long_context = {
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }
        return {
            "model_type": self.family,
            "hidden_size": self.dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "intermediate_size": self.hidden_dim,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6 if self.family == "qwen2" else 1e-5,
            **(long_context if self.family == "qwen2" else {"max_position_embeddings": 4096}),
        }


@dataclass(frozen=True)
class FastVLMConfig:
    """An image encoder, a projector and a language model.

    Args:
        language: Shape of the language model.
        encoder: Shape of the image encoder.
        projector_layers: Linear layers of the projector, with GELU between them.
    """

    language: LanguageConfig
    encoder: EncoderConfig = EncoderConfig()
    projector_layers: int = 2

    def __post_init__(self) -> None:
        if self.projector_layers < 1:
            raise ValueError(f"`projector_layers` (={self.projector_layers}) must be at least 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


QWEN2_HALF_B = LanguageConfig("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True)
QWEN2_ONE_HALF_B = LanguageConfig("qwen2", 1536, 28, 12, 2, 8960, 151936, tied=True)
QWEN2_7B = LanguageConfig("qwen2", 3584, 28, 28, 4, 18944, 152064)
VICUNA_7B = LanguageConfig("llama", 4096, 32, 32, 32, 11008, 32000)

PRESETS: dict[str, FastVLMConfig] = {
    "fastvlm_0.5b": FastVLMConfig(QWEN2_HALF_B),
    "fastvlm_1.5b": FastVLMConfig(QWEN2_ONE_HALF_B),
    "fastvlm_7b": FastVLMConfig(QWEN2_7B),
}

# Language models of `fastvlm profile`, by the name they have there.
LANGUAGE_MODELS: dict[str, LanguageConfig] = {
    "qwen2-0.5b": QWEN2_HALF_B,
    "qwen2-1.5b": QWEN2_ONE_HALF_B,
    "qwen2-7b": QWEN2_7B,
    "vicuna-7b": VICUNA_7B,
}
# Tokens of the system prompt, the template and a short question: 280 in all with 256 image tokens.
TEXT_TOKENS = 24
