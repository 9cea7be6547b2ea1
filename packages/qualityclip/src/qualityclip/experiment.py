"""One run of the experiment: pretrain an arm with a seed, then judge its backbone on every task of its list."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.files import write_json
from torch import Tensor, nn

from qualityclip.backbone import as_backbone
from qualityclip.baselines import MAE, Supervised, clip_macs, mae_macs, vision_macs
from qualityclip.config import PRESETS, CLIPConfig, DenseConfig, TrainConfig
from qualityclip.data import PairBatch
from qualityclip.dense import transfer
from qualityclip.dense_data import pixels_of, scene_data
from qualityclip.model import CLIP, TimmTower, VisionTransformer
from qualityclip.scene_captions import Tier
from qualityclip.train import Trainer, learning_rate
from qualityclip.world import World, WorldSize

Kind = Literal["clip", "mae", "supervised", "scratch"]
Part = Literal["depth", "labels", "easy", "tuned", "boxes"]
TUNING_SEED = 10_000
NUM_BOX_SCENES = 200
MAX_DEPTH = 1.2  # above that of the background, 1, which a sigmoid could not reach
TEXT_TOKENS = 10  # of a caption of complete nouns, start and end among them: what equal compute is reckoned with


@dataclass(frozen=True)
class Arm:
    """One way of pretraining.

    Args:
        kind: Contrastive on captions, masked autoencoding, supervised by exact labels, or none.
        tier: Captions.
        tower: ViT or MCi.
        share: Share of the pretraining pairs; steps stay the same.
        factor: Factor of the steps.
        rate_of: Arm whose tuned learning rate is taken; its own where empty.
        parts: Tasks beside frozen segmentation: depth, curve over labels, easy split, fine-tuning, detection.
        extras: Tasks of the first `Scale.extra_seeds` seeds alone.
    """

    kind: Kind = "clip"
    tier: Tier = "nouns"
    tower: Literal["vit", "mci"] = "vit"
    share: float = 1.0
    factor: float = 1.0
    rate_of: str = ""
    parts: tuple[Part, ...] = ()
    extras: tuple[Part, ...] = ()


_MCI: dict[str, Any] = {"tower": "mci"}
ARMS: dict[str, Arm] = {
    "nouns": Arm(**_MCI, parts=("labels",), extras=("easy", "depth", "tuned", "boxes")),
    "matched": Arm(tier="matched", **_MCI, parts=("labels",), extras=("easy", "depth", "tuned", "boxes")),
    "untrained": Arm("scratch", rate_of="nouns", **_MCI, extras=("depth", "boxes")),
    "vit nouns": Arm(parts=("depth",), extras=("tuned",)),
    "vit mae": Arm("mae", parts=("depth",), extras=("tuned",)),
    "vit mae 4x": Arm("mae", factor=4, rate_of="vit mae", parts=("depth",)),
    "nouns 0.1": Arm(share=0.1, rate_of="nouns", **_MCI),
    "nouns 0.3": Arm(share=0.3, rate_of="nouns", **_MCI),
    "shuffled": Arm(tier="shuffled", rate_of="nouns", **_MCI),
    "generic": Arm(tier="generic", rate_of="matched", **_MCI),
    "noisy": Arm(tier="noisy", rate_of="matched", **_MCI),
    "attributes": Arm(tier="attributes", rate_of="nouns", **_MCI),
    "relations": Arm(tier="relations", rate_of="nouns", **_MCI),
    "vit matched": Arm(tier="matched", parts=("depth",)),
    "vit supervised": Arm("supervised", parts=("depth",)),
    "vit scratch": Arm("scratch", parts=("depth",), extras=("tuned",), rate_of="vit nouns"),
}


@dataclass(frozen=True)
class Scale:
    """Sizes of one budget.

    Args:
        arms: With all seeds, in this order.
        other_arms: With `other_seeds`.
        num_seeds: Paired seeds.
        other_seeds: Of the other arms.
        tune: Whether rates are tuned, else the recorded ones are taken.
        world: How many scenes.
        batch_size: Pairs in a step.
        steps: Steps of CLIP with a ViT; other kinds get as many as have equal compute.
        mci_steps: Steps with an MCi tower.
        dense_steps: Steps of a frozen head.
        tuned_steps: Steps of fine-tuning.
        box_steps: Steps of detection.
        extra_seeds: Seeds that have the arms' extras as well.
        rates: Learning rates that are tried with a ViT.
        mci_rates: The same with an MCi tower.
        device: Where it runs.
    """

    arms: tuple[str, ...]
    other_arms: tuple[str, ...] = ()
    num_seeds: int = 5
    other_seeds: int = 3
    tune: bool = False
    world: WorldSize = field(default_factory=WorldSize)
    batch_size: int = 64
    steps: int = 320
    mci_steps: int = 500
    dense_steps: int = 200
    tuned_steps: int = 200
    box_steps: int = 300
    extra_seeds: int = 2
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    mci_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    device: str = "cpu"


def model_config(tower: str, world: World) -> CLIPConfig:
    """Return the model of an arm, with the experiment's own vocabulary and the world's picture size."""
    config = PRESETS["scenes" if tower == "vit" else "scenes_mci"]
    text = replace(config.text, vocab_size=len(world.vocabulary))
    return replace(config, text=text, vision=replace(config.vision, image_size=world.size.image_size))


def equal_steps(arm: Arm, scale: Scale, world: World) -> int:
    """Return the steps at which an arm has spent CLIP's compute, times its factor."""
    if arm.kind == "scratch":
        return 0
    if arm.tower == "mci":
        return round(scale.mci_steps * arm.factor)
    config = model_config("vit", world)
    own = {"clip": clip_macs(config, TEXT_TOKENS), "mae": mae_macs(config.vision)}
    own["supervised"] = vision_macs(config.vision)
    return round(scale.steps * arm.factor * own["clip"] / own[arm.kind])


def run_arm(out: Path, name: str, scale: Scale, world: World, settings: tuple[int, float]) -> dict[str, Any]:
    """Train and judge one arm with a seed and a learning rate, or read what an earlier run found.

    Args:
        out: Folder; gets one file for each run, whole or not at all.
        name: Of the arm.
        scale: Sizes.
        world: Scenes.
        settings: Seed and learning rate.
    """
    seed, rate = settings
    file = out / f"{name.replace(' ', '_')}-{seed}-{rate:g}.json"
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    started = time.process_time()
    arm = ARMS[name]
    visual, model, steps = pretrain(arm, scale, world, settings)
    pretrained = time.process_time()
    found = {"arm": name, "seed": seed, "rate": rate, "steps": steps, "pretrain_seconds": pretrained - started}
    if arm.kind == "clip":  # before the last task, which changes the tower
        found |= retrieval_recall(model, world)
    found |= judge_backbone(visual, arm, scale, world, seed)
    found["judge_seconds"] = time.process_time() - pretrained
    write_json(file, found)
    return found


def tune_rate(out: Path, name: str, scale: Scale, world: World, seed: int) -> float:
    """Return the rate whose model, trained for half the steps, has the highest validation mIoU."""
    half = replace(scale, steps=scale.steps // 2, mci_steps=scale.mci_steps // 2)
    found = {}
    for rate in scale.mci_rates if ARMS[name].tower == "mci" else scale.rates:
        file = out / f"{name.replace(' ', '_')}-{rate:g}.json"
        if not file.exists():
            visual, _, _ = pretrain(ARMS[name], half, world, (seed, rate))
            write_json(file, {"mean_iou": _segment(visual, Judging(world, scale, seed), split="validation")})
        found[rate] = json.loads(file.read_text("utf-8"))["mean_iou"]
    return max(found, key=lambda rate: found[rate])


def pretrain(arm: Arm, scale: Scale, world: World, settings: tuple[int, float]) -> tuple[nn.Module, nn.Module, int]:
    """Return the image tower, the model it was trained in, and its number of steps."""
    seed, rate = settings
    steps = equal_steps(arm, scale, world)
    config = TrainConfig(
        model_config(arm.tower, world),
        scale.batch_size,
        max(steps, 1),
        rate,
        warmup_steps=max(1, steps // 12),
        weight_decay=0.1,
        precision="fp32",
        seed=seed,
    )
    count = max(scale.batch_size, round(arm.share * len(world.pairs))) if steps else 0
    order = _rows(count, scale.batch_size, seed)
    if arm.kind == "clip":
        return *_train_clip(Trainer(config, scale.device), arm, world, order), steps
    torch.manual_seed(seed)
    if arm.kind == "scratch":
        tower = _tower(config.model).to(scale.device)
        return tower, tower, 0
    return *_train_other(config, _baseline(config, arm, world).to(scale.device), world, order), steps


def _rows(count: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng([seed, count])
    while True:
        order = generator.permutation(count)
        yield from (order[start : start + batch_size] for start in range(0, count - batch_size + 1, batch_size))


def _tower(config: CLIPConfig, outputs: int | None = None) -> nn.Module:
    if config.vision.timm_name:
        return TimmTower(config.vision, outputs or config.embed_dim)
    return VisionTransformer(config.vision, outputs or config.embed_dim, nn.GELU)


def _train_clip(trainer: Trainer, arm: Arm, world: World, order: Iterator[np.ndarray]) -> tuple[nn.Module, nn.Module]:
    config = trainer.config
    tokens = world.pair_tokens(arm.tier, config.seed)
    for _ in range(config.num_steps):
        rows = next(order)
        images = pixels_of(world.pairs.images[rows], config.model.vision)
        trainer.train_step(PairBatch(images, tokens[torch.from_numpy(rows)]))
    return trainer.model.visual, trainer.model


def _baseline(config: TrainConfig, arm: Arm, world: World) -> MAE | Supervised:
    if arm.kind == "mae":
        return MAE(config.model.vision)
    return Supervised(_tower(config.model, len(world.named)))


def _train_other(
    config: TrainConfig, model: MAE | Supervised, world: World, order: Iterator[np.ndarray]
) -> tuple[nn.Module, nn.Module]:
    """The same optimizer, schedule and pictures for the baselines."""
    present = world.present(world.pairs) if isinstance(model, Supervised) else None
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay
    )
    for step in range(config.num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        rows = next(order)
        batch = [pixels_of(world.pairs.images[rows], config.model.vision)]
        batch += [] if present is None else [present[torch.from_numpy(rows)]]
        optimizer.zero_grad()
        model(*(part.to(device) for part in batch)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
    return model.visual, model


def judge_backbone(visual: nn.Module, arm: Arm, scale: Scale, world: World, seed: int) -> dict[str, Any]:
    """Return the scores of a tower on the tasks of its arm."""
    judging = Judging(world, scale, seed)
    found: dict[str, Any] = {"mean_iou": _segment(visual, judging)}
    parts = arm.parts + (arm.extras if seed % TUNING_SEED < scale.extra_seeds else ())
    if "depth" in parts:
        found |= {f"depth_{name}": value for name, value in _depth(visual, world, scale, seed).items()}
    if "labels" in parts:
        sizes = label_sizes(world)
        found["labels"] = {str(n): _segment(visual, judging, labels=n) for n in sizes[:-1]}
        found["labels"][str(sizes[-1])] = found["mean_iou"]
    if "easy" in parts:
        found["easy"] = _segment(visual, judging, easy=True)
    if "boxes" in parts:
        found["ap"] = _detect(visual, world, scale, seed)
    if "tuned" in parts:  # the last, since it changes the tower
        found["tuned"] = _segment(visual, judging, tuned=True)
    return found


def label_sizes(world: World) -> list[int]:
    """Return the numbers of labelled scenes of the curve: a tenth, three tenths, all."""
    return [round(world.size.num_labelled * share) for share in (0.1, 0.3, 1.0)]


def dense_config(world: World, scale: Scale, seed: int, *, tuned: bool = False) -> DenseConfig:
    """Return the protocol of segmentation, the same for every arm."""
    classes = len(world.held_out) + 1
    config = DenseConfig(num_classes=classes, image_size=world.size.image_size, batch_size=32, seed=seed)
    config = replace(config, num_steps=scale.dense_steps, learning_rate=1e-2, weight_decay=1e-2)
    if not tuned:
        return config
    tuning = {"frozen": False, "learning_rate": 2e-3, "layer_decay": 0.75, "drop_path": 0.1, "warmup_steps": 8}
    return replace(config, num_steps=scale.tuned_steps, **tuning)


@dataclass(frozen=True)
class Judging:
    """Where a tower is judged: scenes, sizes, and the seed of its heads."""

    world: World
    scale: Scale
    seed: int


def _segment(
    visual: nn.Module,
    judging: Judging,
    *,
    labels: int = 0,
    easy: bool = False,
    tuned: bool = False,
    split: str = "test",
) -> float:
    world, scale = judging.world, judging.scale
    labelled, test = world.scenes("labelled", easy=easy), world.scenes(split, easy=easy)
    labelled = labelled.take(slice(0, labels)) if labels else labelled
    pair = (scene_data(scenes, "segmentation", visual.config) for scenes in (labelled, test))
    config = dense_config(world, scale, judging.seed, tuned=tuned)
    return transfer(as_backbone(visual), *pair, config, device=scale.device)["mean_iou"]


def _depth(visual: nn.Module, world: World, scale: Scale, seed: int) -> dict[str, float]:
    pair = (scene_data(world.scenes(split), "depth", visual.config) for split in ("labelled", "test"))
    config = replace(dense_config(world, scale, seed), task="depth", max_depth=MAX_DEPTH)
    return transfer(as_backbone(visual), *pair, config, device=scale.device)


def _detect(visual: nn.Module, world: World, scale: Scale, seed: int) -> float:
    """Detection on few test scenes: it costs most."""
    config = replace(dense_config(world, scale, seed), task="detection", head="fcos", batch_size=16, width=32)
    config = replace(config, num_classes=len(world.held_out), num_steps=scale.box_steps, learning_rate=3e-3)
    train = scene_data(world.scenes("labelled"), "detection", visual.config)
    test = scene_data(world.scenes("test").take(slice(0, NUM_BOX_SCENES)), "detection", visual.config)
    return transfer(as_backbone(visual), train, test, config, device=scale.device)["ap"]


@torch.no_grad()
def retrieval_recall(model: nn.Module, world: World) -> dict[str, float]:
    """Return recall@1 both ways between test scenes and their captions of complete nouns."""
    assert isinstance(model, CLIP)
    model.eval()
    tokens = world.tokens(world.captions(world.retrieval, "nouns", 0))
    device = model.logit_scale.device
    images, texts, _ = model(pixels_of(world.retrieval.images, model.config.vision).to(device), tokens.to(device))
    return {"image_to_text": _recall(images @ texts.T), "text_to_image": _recall(texts @ images.T)}


def _recall(similarity: Tensor) -> float:
    """Ties with a wrong answer are misses."""
    right = similarity.diagonal()[:, None]
    return float(((similarity >= right).sum(1) == 1).float().mean())
