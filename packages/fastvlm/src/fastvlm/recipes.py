"""How models are trained: the paper's stages as presets (standard library only).

| preset | paper | trains | data | released weights |
|---|---|---|---|---|
| `stage1` | Stage 1 | projector | 558 K captions of LLaVA-1.5 | none |
| `stage1.5` | Stage 1.5, resolution scaling | everything | CC3M and CC12M with new captions (15 M) | none |
| `stage2` | Stage 2, instruction tuning | everything | instructions (1.1 M to 12.5 M) | `llava-fastvithd_*_stage2` |
| `stage3` | the large instruction mixture | everything | of MAmmoTH-VL's kind | `llava-fastvithd_*_stage3` |

Learning rates, batch sizes and schedule are those of LLaVA-1.5's scripts, which the authors point to.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Template = Literal["plain", "qwen_2"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run, but for model and data.

    Args:
        train_encoder: Whether the image encoder learns.
        train_language_model: Whether the language model learns; the projector always does.
        learning_rate: Largest learning rate of AdamW.
        encoder_learning_rate: Of the image encoder; None takes `learning_rate`.
        projector_learning_rate: Of the projector; None takes `learning_rate`.
        batch_size: Conversations per step, over all processes.
        micro_batch_size: Conversations in one forward pass of one process.
        num_epochs: Passes over the data; may be a fraction.
        num_steps: Optimizer steps, in place of `num_epochs`.
        warmup_ratio: Share of the steps with a rising learning rate; a cosine to zero follows.
        weight_decay: Of weights with two or more dimensions.
        grad_clip: Largest norm of the gradient; 0 does not clip.
        template: "qwen_2" is the chat template, "plain" is image and caption without any words around them.
        image_size: Height and width of a view in pixels; None keeps the model's. Resolution scaling sets it.
        max_length: Longest conversation in tokens, those of images included.
        group_by_length: Whether a batch holds conversations of about one length, with images or without.
        lora_rank: Rank of low-rank adapters in the language model's linear layers; 0 trains the layers themselves.
        lora_alpha: Scale of the adapters times their rank.
        lora_dropout: Dropout before the adapters.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
        precision: Number format of the forward pass; weights stay in float32.
        max_bad_share: Largest share of bad records; one more stops the run.
        seed: Of order and dropout.
    """

    train_encoder: bool = True
    train_language_model: bool = True
    learning_rate: float = 2e-5
    encoder_learning_rate: float | None = None
    projector_learning_rate: float | None = None
    batch_size: int = 128
    micro_batch_size: int = 4
    num_epochs: float = 1.0
    num_steps: int | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    template: Template = "qwen_2"
    image_size: int | None = None
    max_length: int = 8192
    group_by_length: bool = True
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    gradient_checkpointing: bool = True
    precision: Precision = "bf16"
    max_bad_share: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if self.num_epochs <= 0 or (self.num_steps is not None and self.num_steps < 1):
            raise ValueError(
                f"`num_epochs` (={self.num_epochs}) must be above 0 and `num_steps` (={self.num_steps}) at least 1."
            )
        for name in ("warmup_ratio", "max_bad_share", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 0 and below 1.")
        if self.template not in ("plain", "qwen_2"):
            raise ValueError(f'`template` (={self.template!r}) must be "plain" or "qwen_2".')
        if self.lora_rank < 0 or (self.lora_rank and not self.train_language_model):
            raise ValueError(
                f"`lora_rank` (={self.lora_rank}) must be at least 0, and adapters need `train_language_model`."
            )

    def check_processes(self, count: int) -> None:
        """Refuse a batch that so many processes cannot share evenly.

        Raises:
            ValueError: With the two numbers.
        """
        if self.batch_size % (count * self.micro_batch_size):
            raise ValueError(
                f"`batch_size` (={self.batch_size}) must be a multiple of {count} processes times "
                f"`micro_batch_size` (={self.micro_batch_size})."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


TRAIN_PRESETS: dict[str, TrainConfig] = {
    "stage1": TrainConfig(
        train_encoder=False, train_language_model=False, learning_rate=1e-3, batch_size=256, template="plain"
    ),
    "stage1.5": TrainConfig(image_size=1024),
    "stage2": TrainConfig(image_size=1024),
    "stage3": TrainConfig(image_size=1024),
    # LLaVA-1.5's script for adapters: the projector keeps the smaller rate.
    "lora": TrainConfig(
        train_encoder=False,
        learning_rate=2e-4,
        projector_learning_rate=2e-5,
        lora_rank=64,
        batch_size=16,
        micro_batch_size=1,
    ),
    "tiny": TrainConfig(
        learning_rate=1e-3, batch_size=4, micro_batch_size=2, gradient_checkpointing=False, precision="fp32"
    ),
}
