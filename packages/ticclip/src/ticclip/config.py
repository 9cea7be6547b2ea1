"""Models, training and streams as frozen dataclasses; standard library only, so that `--help` is instant."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Method = Literal[
    "sequential",
    "restart",
    "patching",
    "cumulative-exp",
    "cumulative-equal",
    "cumulative-all",
    "cumulative-all*",
    "cumulative-fifo",
    "cumulative-reservoir",
    "cumulative-balanced",
    "lwf",
    "oracle",
]
Policy = Literal["none", "exp", "equal", "all", "fifo", "reservoir", "balanced"]
Boundary = Literal["rewarm", "no-warmup", "decay-max", "constant-cooldown"]
Precision = Literal["float32", "bfloat16"]
METHODS: tuple[str, ...] = get_args(Method)


def _check_heads(tower: str, dim: int, num_heads: int) -> None:
    if dim % num_heads:
        raise ValueError(f"`dim` (={dim}) of the {tower} tower must be divisible by `num_heads` ({num_heads}).")


def _build(cls: Any, record: Mapping[str, Any]) -> Any:
    unknown = sorted(set(record) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"{cls.__name__}: unknown keys {unknown}.")
    return cls(**record)


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square patches."""

    image_size: int = 224
    patch_size: int = 32
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"`image_size` (={self.image_size}) must be divisible by `patch_size` ({self.patch_size})."
            )
        _check_heads("vision", self.dim, self.num_heads)

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class TextConfig:
    """CLIP's causal text transformer, which reads the first end token."""

    context_length: int = 77
    vocab_size: int = 49408
    dim: int = 512
    num_layers: int = 12
    num_heads: int = 8
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _check_heads("text", self.dim, self.num_heads)


@dataclass(frozen=True)
class CLIPConfig:
    """Two towers and the width they meet in.

    `init_bias` None is the softmax loss with CLIP's temperature of 0.07; a number is SigLIP's loss with that
    bias and a scale of 10 at the start. `activation` is `quick_gelu` for OpenAI's weights.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 512
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    init_bias: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CLIPConfig:
        """Read a dictionary of `to_dict`; a ValueError names keys that do not belong."""
        parts = {"vision": VisionConfig, "text": TextConfig}
        values = {key: _build(parts[key], value) if key in parts else value for key, value in record.items()}
        return _build(cls, values)


def _vit(dim: int, heads: int, patch: int, size: int = 224, layers: int = 12) -> VisionConfig:
    return VisionConfig(image_size=size, patch_size=patch, dim=dim, num_layers=layers, num_heads=heads)


PRESETS: dict[str, CLIPConfig] = {
    "tiny": CLIPConfig(  # compiles in seconds: for first tries and tests
        _vit(32, 2, 16, size=32, layers=1),
        TextConfig(context_length=12, dim=32, num_layers=1, num_heads=2),
        embed_dim=16,
    ),
    "icons": CLIPConfig(
        _vit(96, 3, 8, size=32, layers=4),
        TextConfig(context_length=12, dim=96, num_layers=2, num_heads=3),
        embed_dim=64,
    ),
    "vit_ti_8": CLIPConfig(
        _vit(192, 3, 8, size=64), TextConfig(context_length=32, dim=192, num_layers=6, num_heads=3), embed_dim=192
    ),
    "vit_ti_16": CLIPConfig(_vit(192, 3, 16), TextConfig(dim=384, num_heads=6), embed_dim=384),
    "vit_s_32": CLIPConfig(_vit(384, 6, 32), TextConfig(dim=384, num_heads=6), embed_dim=384),
    "vit_s_16": CLIPConfig(_vit(384, 6, 16), TextConfig(dim=384, num_heads=6), embed_dim=384),
    "vit_b_32": CLIPConfig(_vit(768, 12, 32)),
    "vit_b_16": CLIPConfig(_vit(768, 12, 16)),
    "vit_b_16_siglip": CLIPConfig(_vit(768, 12, 16), init_bias=-10.0),
}


@dataclass(frozen=True)
class TrainConfig:
    """How one step of the stream is trained; the defaults are the paper's (AdamW, cosine to zero).

    Args:
        batch_size: Pairs per update over all devices.
        learning_rate: Maximum of the first step.
        warmup_steps: Updates of the linear warm-up, at most a fifth of a step of the stream.
        boundary: What happens to the rate where a step of the stream begins; see `schedule.learning_rate`.
        max_decay: Factor per step of the stream under `decay-max`.
        cooldown: Share of each step that cools down under `constant-cooldown`.
        keep_optimizer: Carry Adam's moments over the boundary; the authors drop them.
        accumulation: Parts a batch is cut into; the loss still sees the whole batch.
        beta2, epsilon, weight_decay: AdamW's, beta1 is 0.9; no decay on vectors and scalars.
        max_shift: Pixels that pictures are moved by at random, the only augmentation.
        precision: Of the towers; losses are float32.
    """

    batch_size: int = 4096
    learning_rate: float = 5e-4
    warmup_steps: int = 500
    boundary: Boundary = "rewarm"
    max_decay: float = 0.5
    cooldown: float = 0.2
    keep_optimizer: bool = False
    accumulation: int = 1
    beta2: float = 0.98
    epsilon: float = 1e-6
    weight_decay: float = 0.2
    max_shift: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(
                f"`batch_size` (={self.batch_size}) must be at least 2: a contrastive loss needs negatives."
            )
        if self.accumulation < 1 or self.batch_size % self.accumulation:
            raise ValueError(f"`accumulation` (={self.accumulation}) must divide `batch_size` ({self.batch_size}).")


@dataclass(frozen=True)
class StreamConfig:
    """A whole run over a stream: model, method, and the compute every step may use.

    Args:
        model: The two towers.
        train: Batch, rate and optimiser.
        method: See the README's table.
        samples_per_step: Pairs seen at one step under the budget C.
        replay_budget: Items of earlier steps kept beside the new ones; None is as many as the new step has.
        compute: Factor of C at every step; `cumulative-all*` grows late by itself.
        lwf_weight: Weight of the distillation of `lwf`.
        equal_compute: Let `lwf` see fewer samples, so that its teacher's forward passes fit into C.
        alphas: Weights of the new model that `patching` tries on validation items.
        seed: Of initial weights and of the order.
    """

    model: CLIPConfig = field(default_factory=lambda: PRESETS["vit_b_16"])
    train: TrainConfig = field(default_factory=TrainConfig)
    method: Method = "cumulative-all"
    samples_per_step: int = 18_432_000
    replay_budget: int | None = None
    compute: float = 1.0
    lwf_weight: float = 1.0
    equal_compute: bool = True
    alphas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}. Known: {', '.join(METHODS)}.")
        if self.compute <= 0:
            raise ValueError(f"`compute` (={self.compute}) must be above 0.")
        if self.replay_budget is not None and self.replay_budget < 0:
            raise ValueError(f"`replay_budget` (={self.replay_budget}) must be at least 0.")
        if not all(0 < alpha <= 1 for alpha in self.alphas) or not self.alphas:
            raise ValueError(f"`alphas` (={self.alphas}) must lie above 0 and at most at 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
