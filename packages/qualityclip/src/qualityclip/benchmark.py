"""Training against open_clip's step of the same model and data, choosing captions, and mIoU against torchmetrics.

    qualityclip benchmark --budget laptop        (two cores, about a minute)

Both train the same ViT from the same weights on the same batch, float32, AdamW; the losses of the first step are
checked to agree. Rounds run each once, in random order; a row gives medians, the ratio (over 1: ours is better) and its
spread (smallest and largest round).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.progress import progress

from qualityclip.config import PRESETS, CLIPConfig, MixConfig, TrainConfig, VisionConfig
from qualityclip.convert import open_clip_config
from qualityclip.data import PairBatch, StepDataset
from qualityclip.metrics import mean_iou
from qualityclip.readers import Sample
from qualityclip.sources import open_samples
from qualityclip.train import Trainer

Budget = Literal["smoke", "laptop", "full"]
TOLERANCE = 1e-5
NUM_CLASSES, BLOCKS = 150, 32
FEWEST_PAIRS, CAPTIONS = 64, 5
# Calls of a metric in a round: torch's threads spin for a moment after a short call, which the next one would pay.
REPEATS = {"jaccard": 8, "mean_iou": 1}
BENCH = CLIPConfig(VisionConfig(64, 8, 192, 4, 3), replace(PRESETS["tiny"].text, context_length=77, width=128), 128)
Function = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """What one budget measures."""

    model: CLIPConfig
    batch_size: int
    rounds: int
    side: int


PLANS: dict[Budget, Plan] = {
    "smoke": Plan(PRESETS["tiny"], 16, 3, 64),
    "laptop": Plan(BENCH, 64, 7, 512),
    "full": Plan(PRESETS["vit_b16"], 64, 15, 512),
}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time training, mixing and mIoU and return one row per comparison.

    Args:
        out: Existing folder; nothing is written to it here.
        budget: "smoke", "laptop" or "full" (for a GPU); see `PLANS`.
        seed: Of weights, order and labels.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, threads, aim, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: The peer's result differs from ours.
    """
    return measure(budget, seed, device="cuda" if torch.cuda.is_available() else "cpu")


def measure(budget: Budget, seed: int, *, device: str, quiet: bool = False) -> list[dict[str, Any]]:
    """Do what `benchmark` does, training on a device: "cuda" in bfloat16, others in float32."""
    plan = PLANS[budget]
    samples = list(open_samples(f"scenes:nouns:{max(FEWEST_PAIRS, plan.batch_size)}"))
    parts = (
        lambda: _training(plan, samples, seed, device),
        lambda: _sampling(plan, samples, seed, device),
        lambda: _reading(plan, samples, seed),
        lambda: _miou(plan, seed, "jaccard"),
        lambda: _miou(plan, seed, "mean_iou"),
    )
    rows = [part() for part in progress(parts, description="benchmark", unit="parts", quiet=quiet)]
    return [{"paper": "qualityclip", "threads": os.cpu_count(), "input_hash": "", **row} for row in rows]


def build_open_clip(config: CLIPConfig) -> Any:
    """Return open_clip's model of a configuration (extra `open-clip`)."""
    open_clip = require_extra("open_clip", "open-clip", "qualityclip")
    record = open_clip_config(config)
    record["text_cfg"] = {name: value for name, value in record["text_cfg"].items() if name != "no_causal_mask"}
    return open_clip.CLIP(record["embed_dim"], record["vision_cfg"], record["text_cfg"], quick_gelu=config.quick_gelu)


def _training(plan: Plan, samples: list[Sample], seed: int, device: str) -> dict[str, Any]:
    open_clip = require_extra("open_clip", "open-clip", "qualityclip")
    precision = "bf16" if device == "cuda" else "fp32"
    config = TrainConfig(plan.model, plan.batch_size, 10_000, 1e-4, precision=precision, seed=seed)
    batch = StepDataset(samples, config)[0].to(device)
    trainer, peer = Trainer(config, device), build_open_clip(plan.model).to(device).train()
    peer.load_state_dict(trainer.model.state_dict(), strict=False)
    loss = open_clip.loss.ClipLoss()
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.2)
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")

    def peer_step() -> float:
        optimizer.zero_grad()
        with half:
            image, text, scale = peer(batch.images, batch.tokens)
        value = loss(image, text, scale)
        value.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        return value.item()

    first = trainer.train_step(batch)["train/loss"], peer_step()
    if precision == "fp32" and not abs(first[0] - first[1]) < TOLERANCE * abs(first[1]):
        raise RuntimeError(f"open_clip's first loss is {first[1]}, ours {first[0]}.")
    name, work = f"open_clip ({device})", f"training a ViT, batch {plan.batch_size}, {precision}"
    calls = {"ours": lambda: trainer.train_step(batch), name: peer_step}
    seconds = interleave(calls, plan.rounds, clock=time.perf_counter)
    row = comparison(work, seconds, name, "samples/s", amount=plan.batch_size, aim=1.0)
    return {**row, "input_hash": _hash(batch)}


def _sampling(plan: Plan, samples: list[Sample], seed: int, device: str) -> dict[str, Any]:
    """A whole step, batch made anew, with one of many captions drawn, against one fixed caption each."""
    many = [replace(sample, synthetic=sample.synthetic * CAPTIONS) for sample in samples]
    config = TrainConfig(plan.model, plan.batch_size, 10_000, 1e-4, precision="fp32", seed=seed)
    peer, one = "one caption each", [replace(sample, synthetic=()) for sample in samples]
    sets = {
        "ours": StepDataset(many, replace(config, mix=MixConfig("random"))),
        peer: StepDataset(one, replace(config, mix=MixConfig("real"))),
    }
    trainer = Trainer(config, device)

    def step(name: str) -> Function:
        return lambda: trainer.train_step(sets[name][0])

    seconds = interleave({name: step(name) for name in sets}, plan.rounds, clock=time.perf_counter)
    work = f"training, one of {CAPTIONS + 1} captions drawn a step"
    return comparison(work, seconds, peer, "samples/s", amount=plan.batch_size, aim=0.97)


def _reading(plan: Plan, samples: list[Sample], seed: int) -> dict[str, Any]:
    """Drawing alone, in captions a second, against indexing a list."""
    uids, count = [sample.uid for sample in samples], 2_000
    both = [sample.captions for sample in samples]

    def ours() -> None:
        from qualityclip.mixing import mix

        config = MixConfig("random")
        for step in range(count // len(uids) + 1):
            for sample in samples:
                mix(sample.real, sample.synthetic, config, uid=sample.uid, step=step)

    def peer() -> None:
        generator = np.random.default_rng(seed)
        for _ in range(count // len(uids) + 1):
            for captions in both:
                captions[int(generator.integers(len(captions)))]

    name, drawn = "numpy's generator", (count // len(uids) + 1) * len(uids)
    seconds = interleave({"ours": ours, name: peer}, plan.rounds, clock=time.perf_counter)
    return comparison("choosing captions, keyed by sample and step", seconds, name, "captions/s", amount=drawn)


def _miou(plan: Plan, seed: int, peer_name: str) -> dict[str, Any]:
    functional = require_extra("torchmetrics.functional", "demo", "qualityclip")
    segmentation = require_extra("torchmetrics.functional.segmentation", "demo", "qualityclip")
    generator = np.random.default_rng(seed)
    target = np.kron(
        generator.integers(0, NUM_CLASSES, (BLOCKS, BLOCKS)), np.ones((plan.side // BLOCKS,) * 2, np.int64)
    )
    pred = np.where(generator.random(target.shape) < 0.3, generator.integers(0, NUM_CLASSES, target.shape), target)
    tensors = torch.from_numpy(pred)[None], torch.from_numpy(target)[None]

    def jaccard() -> float:
        return functional.jaccard_index(*tensors, task="multiclass", num_classes=NUM_CLASSES).item()

    def per_image() -> float:
        return segmentation.mean_iou(*tensors, num_classes=NUM_CLASSES, input_format="index").mean().item()

    peer = jaccard if peer_name == "jaccard" else per_image
    if not abs(peer() - mean_iou(pred, target, NUM_CLASSES)) < TOLERANCE:
        raise RuntimeError(f"torchmetrics' mIoU is {peer()}, ours {mean_iou(pred, target, NUM_CLASSES)}.")
    repeats = REPEATS[peer_name]
    name = f"torchmetrics {'jaccard_index' if peer_name == 'jaccard' else 'segmentation.mean_iou'}"
    calls = {
        "ours": lambda: [mean_iou(pred, target, NUM_CLASSES) for _ in range(repeats)],
        name: lambda: [peer() for _ in range(repeats)],
    }
    seconds = interleave(calls, plan.rounds, clock=time.perf_counter)
    work = f"mIoU of {plan.side} x {plan.side} pixels, {NUM_CLASSES} classes"
    row = comparison(work, seconds, name, "pictures/s", amount=repeats, aim=5.0)
    return {**row, "input_hash": hashlib.sha256(pred.tobytes() + target.tobytes()).hexdigest()[:16]}


def _hash(batch: PairBatch) -> str:
    return hashlib.sha256(batch.images.cpu().numpy().tobytes()).hexdigest()[:16]
