"""Models and training runs of the competition's scales, standard library only: sizes are data, counts are formulas.

`SCALES["1b-1x"]` is what the authors' `1b_1x_fast` says; a laptop's sizes are ours. Change one with
`dataclasses.replace`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dclm.config import check_above, check_choice

__all__ = ["SCALES", "ModelConfig", "TrainConfig"]

CHINCHILLA_TOKENS = 20  # per parameter, times the multiplier
HIDDEN_MULTIPLE = 256
NEOX_VOCAB = 50_432  # GPT-NeoX's tokens, padded
Precision = Literal["float32", "bfloat16", "pure_bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """OpenLM's decoder: pre-norm, SwiGLU, rotary positions, norms of queries and keys over the full width.

    Args:
        dim: Width.
        num_layers: Blocks.
        num_heads: Heads; `dim` is their multiple and a head's width is even.
        vocab_size: Rows of the embedding and of the output, which are not tied.
        context_length: Longest sequence; a training row has one token more.
        norm_eps: In every norm.
        rotary_base: Of the frequencies.
        hidden_multiple: The width inside SwiGLU is 8/3 of `dim`, rounded up to its multiple.
    """

    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    vocab_size: int = NEOX_VOCAB
    context_length: int = 2048
    norm_eps: float = 1e-5
    rotary_base: float = 10_000.0
    hidden_multiple: int = HIDDEN_MULTIPLE

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "vocab_size", "context_length", "hidden_multiple"):
            check_above(name, getattr(self, name), 0)
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"`dim` (={self.dim}) must be divisible by twice `num_heads` (={self.num_heads}).")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @property
    def hidden(self) -> int:
        """Width inside SwiGLU."""
        multiple = self.hidden_multiple
        return multiple * ((int(8 * self.dim / 3) + multiple - 1) // multiple)

    def count(self, *, query_key_norms: bool = True) -> int:
        """Return the number of parameters.

        Args:
            query_key_norms: The authors' listed counts leave these 2 x layers x dim gains out.

        Example:
            >>> SCALES["1b-1x"].model.count(query_key_norms=False)
            1439795200
        """
        d, hidden = self.dim, self.hidden
        block = 4 * d * d + 3 * d * hidden + (4 if query_key_norms else 2) * d
        return 2 * self.vocab_size * d + d + self.num_layers * block

    def flops_per_token(self, length: int | None = None) -> float:
        """Return the arithmetic of a training step per token: 6 N + 12 layers dim length.

        N leaves the embedding table out, which is looked up and not multiplied.
        """
        active = self.count() - self.vocab_size * self.dim
        return 6.0 * active + 12.0 * self.num_layers * self.dim * (length or self.context_length)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """A training run: AdamW on all parameters, linear warm-up, cosine to `cooldown_rate`.

    Args:
        model: Sizes.
        num_tokens: Budget; the last batch may exceed it.
        batch_size: Sequences per update, over all devices.
        learning_rate: Highest.
        weight_decay: On every parameter, gains included, as OpenLM does.
        warmup_steps: Updates of linear warm-up.
        cooldown_rate: The cosine ends here.
        z_loss: Times the mean squared log-sum-exp of the logits.
        beta1: Of AdamW.
        beta2: Of AdamW.
        epsilon: Of AdamW.
        clip: Greatest norm of the gradient.
        accumulation: Pieces of a batch that are computed one after the other.
        precision: Weights and moments in float32 with bfloat16 arithmetic ("bfloat16"), all bfloat16 ("pure_bfloat16"),
            or all float32.
        scan_layers: One compiled block for all layers.
        remat: Compute a block again for its gradient instead of keeping its activations.
        seed: Of weights and of the order of data.
    """

    model: ModelConfig = ModelConfig()
    num_tokens: int = 1_000_000
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.033
    warmup_steps: int = 10
    cooldown_rate: float = 3e-5
    z_loss: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    accumulation: int = 1
    precision: Precision = "bfloat16"
    scan_layers: bool = True
    remat: bool = False
    seed: int = 124

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("float32", "bfloat16", "pure_bfloat16"))
        for name in ("num_tokens", "batch_size", "learning_rate", "accumulation", "clip"):
            check_above(name, getattr(self, name), 0)
        if self.batch_size % self.accumulation:
            raise ValueError(f"`batch_size` (={self.batch_size}) must be divisible by `accumulation`.")

    @property
    def num_steps(self) -> int:
        """Updates: the budget over the tokens of a batch, rounded up."""
        return -(-self.num_tokens // (self.batch_size * self.model.context_length))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainConfig:
        """Read a dictionary of `to_dict`."""
        return cls(**{**record, "model": ModelConfig(**record["model"])})


def _scale(model: ModelConfig, multiplier: int = 1, **rest: Any) -> TrainConfig:
    tokens = CHINCHILLA_TOKENS * model.count(query_key_norms=False) * multiplier
    return TrainConfig(model, tokens, **{"batch_size": 256, "warmup_steps": 5000, **rest})


_411M = ModelConfig(1024, 24, 8)
_1B = ModelConfig(2048, 24, 16)
_3B = ModelConfig(2560, 32, 32)
_7B = ModelConfig(4096, 32, 32)
_7B_RUN: dict[str, Any] = {
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "z_loss": 5e-6,
    "batch_size": 2048,
    "accumulation": 2,
    "precision": "pure_bfloat16",
}
_TINY = ModelConfig(64, 2, 2, context_length=128, hidden_multiple=64)

SCALES: dict[str, TrainConfig] = {
    "400m-1x": _scale(_411M, batch_size=512, warmup_steps=2000, accumulation=8),
    "1b-1x": _scale(_1B),
    "1b-5x": _scale(_1B, 5),
    "3b-1x": _scale(_3B, precision="pure_bfloat16"),
    "7b-1x": _scale(_7B, **_7B_RUN),
    "7b-2x": _scale(_7B, 2, **_7B_RUN),
    "laptop": TrainConfig(
        dataclasses.replace(_TINY, dim=128, num_layers=4, context_length=256), 400_000, precision="float32"
    ),
    "tiny": TrainConfig(_TINY, 40_000, batch_size=8, precision="float32", warmup_steps=4),
}
"""The competition's scales (1b-5x is retired), then two of ours that a laptop trains."""
