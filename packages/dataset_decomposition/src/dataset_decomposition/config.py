"""Settings of buckets, curricula, models and runs, and the presets of the paper (standard library only)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = Literal["random", "greedy", "equal"]
Tail = Literal["drop", "pad", "pack"]
Curriculum = Literal["uniform", "grow-linear", "grow-p2", "grow-p100", "shrink-p100", "natural"]
POLICIES: tuple[Policy, ...] = ("random", "greedy", "equal")
TAILS: tuple[Tail, ...] = ("drop", "pad", "pack")
CURRICULA: tuple[Curriculum, ...] = ("uniform", "grow-linear", "grow-p2", "grow-p100", "shrink-p100", "natural")
IGNORED_LABEL = -100  # what torch and transformers leave out of the loss


@dataclass(frozen=True)
class BucketConfig:
    """How documents become pieces (see `decompose`).

    Args:
        min_length: Shortest piece in predicted tokens, a power of two; the paper's main runs use 256.
        max_length: Longest piece, a power of two.
        policy: What happens to documents over twice `max_length`.
        tail: What happens to leftovers under `min_length`.
        overlap: 1 shares the token at a cut, so that every token but a document's first is predicted.
        seed: Of the random policy.
    """

    min_length: int = 256
    max_length: int = 8192
    policy: Policy = "random"
    tail: Tail = "drop"
    overlap: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("min_length", self.min_length), ("max_length", self.max_length)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"`{name}` (={value}) must be a power of two; use {_near_power(value)}.")
        if self.min_length > self.max_length:
            raise ValueError(f"`min_length` (={self.min_length}) must be at most `max_length` (={self.max_length}).")
        for name, value, known in (("policy", self.policy, POLICIES), ("tail", self.tail, TAILS)):
            if value not in known:
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(known)}.")
        if self.overlap not in (0, 1):
            raise ValueError(f"`overlap` (={self.overlap}) must be 0 or 1.")

    @property
    def bucket_lengths(self) -> list[int]:
        """Lengths of the buckets, the shortest first."""
        return [1 << k for k in range(self.min_length.bit_length() - 1, self.max_length.bit_length())]


def _near_power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()


@dataclass(frozen=True)
class ModelConfig:
    """A decoder as in the paper's OpenLM: rotary positions, SwiGLU, normed queries and keys, untied embeddings.

    Args:
        dim: Width; a multiple of `num_heads`.
        num_layers: Blocks.
        num_heads: Attention heads per block.
        vocab_size: Rows of the token embedding.
        rope_base: Base of the rotary frequencies; the authors raise 10,000 to 100,000 for 8k.
    """

    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int = 50432
    rope_base: float = 100_000.0

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"`dim` (={self.dim}) must be an even multiple of `num_heads` (={self.num_heads}); rotary needs pairs."
            )

    @property
    def hidden_dim(self) -> int:
        """Width inside the feed-forward part: 8/3 of `dim`, rounded up to a multiple of 256 (of 16 when small)."""
        step = 256 if self.dim >= 512 else 16
        return step * -(-(8 * self.dim // 3) // step)

    @property
    def num_params(self) -> int:
        """Parameters, counted from the shapes."""
        head = self.dim // self.num_heads
        block = 4 * self.dim**2 + 3 * self.dim * self.hidden_dim + 2 * self.dim + 2 * head
        return 2 * self.vocab_size * self.dim + self.num_layers * block + self.dim

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """A model and how it is trained (defaults: the authors' run script).

    Args:
        model: The decoder.
        tokens_per_step: Tokens of one optimiser step over all ranks, the same for every bucket.
        curriculum: Which lengths come when.
        cycles: How often the curriculum runs over its share of the data.
        epochs: How often all data are seen.
        lr: Peak learning rate; falls to `min_lr` on a cosine.
        min_lr: Learning rate at the end.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of matrices; gains have none.
        betas: AdamW's.
        grad_clip: Largest norm of the gradient; 0 switches clipping off.
        z_loss: Weight of the squared log-partition.
        micro_batch_tokens: Tokens per forward pass and rank; 0 takes the step whole.
        seed: Of weights and order.
    """

    model: ModelConfig
    tokens_per_step: int = 2**19
    curriculum: Curriculum = "grow-p2"
    cycles: int = 8
    epochs: int = 1
    lr: float = 3e-3
    min_lr: float = 3e-5
    warmup_steps: int = 5000
    weight_decay: float = 0.033
    betas: tuple[float, float] = field(default=(0.9, 0.95))
    grad_clip: float = 1.0
    z_loss: float = 1e-4
    micro_batch_tokens: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        if self.curriculum not in CURRICULA:
            raise ValueError(f"`curriculum` (={self.curriculum!r}) must be one of {', '.join(CURRICULA)}.")
        for name in ("tokens_per_step", "cycles", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not 0 < self.lr < 10:
            raise ValueError(f"`lr` (={self.lr}) must be above 0 and below 10.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


# The authors' model files: hidden size, layers, heads; vocabulary of GPT-NeoX padded to 50,432.
PRESETS: dict[str, TrainConfig] = {
    "tiny": TrainConfig(
        ModelConfig(dim=64, num_layers=2, num_heads=4, vocab_size=512), tokens_per_step=2048, cycles=1, warmup_steps=20
    ),
    "160m": TrainConfig(ModelConfig(dim=768, num_layers=12, num_heads=12)),
    "410m": TrainConfig(ModelConfig(dim=1024, num_layers=24, num_heads=16)),
    "1b": TrainConfig(ModelConfig(dim=2048, num_layers=24, num_heads=16)),
    "3b": TrainConfig(ModelConfig(dim=2560, num_layers=32, num_heads=32)),
    "7b": TrainConfig(ModelConfig(dim=4096, num_layers=32, num_heads=32)),
}
