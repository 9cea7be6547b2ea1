"""Training against open_clip's torch step of the same model on the same pictures, and the costs of reading.

    ticclip benchmark --budget laptop        (two cores, about two minutes)

Both train the same ViT from the same weights on the same icons, float32, AdamW, whole batches; embeddings are checked
to agree first. Rounds run each once, in random order; a row gives medians, the ratio (over 1: ours is better) and its
spread (smallest and largest round). Reading, resuming and sampling are timed beside what they should cost no more than.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.progress import progress

from ticclip.config import PRESETS, CLIPConfig, StreamConfig, TrainConfig
from ticclip.convert import to_open_clip
from ticclip.data import Batches, Examples, decode, read_ahead
from ticclip.icons import build_stream
from ticclip.index import TimeIndex
from ticclip.parallel import build_mesh, put_batch
from ticclip.sampler import Mixture
from ticclip.train import Trainer, build_params

Budget = Literal["smoke", "laptop", "full"]
TOLERANCE = 1e-4
AIM_CPU, AIM_GPU = 1.0, 1.2
STEPS_FEW, STEPS_MANY, POOL = 7, 60, 600_000
Function = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """What one budget measures."""

    model: str
    batch_size: int
    rounds: int


PLANS: dict[Budget, Plan] = {
    "smoke": Plan("icons", 32, 3),
    "laptop": Plan("icons", 128, 15),
    "full": Plan("vit_ti_8", 64, 15),
}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time training and reading and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of weights and order.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, threads, aim, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: The peer's embeddings differ from ours on equal weights.
    """
    plan = PLANS[budget]
    with (
        tempfile.TemporaryDirectory(dir=out) as folder,
        progress(total=2, description="benchmark", unit="parts") as bar,
    ):
        index = TimeIndex(build_stream("material", Path(folder) / "index"))
        rows = [_training(index, plan, seed)]
        bar.update(1)
        rows += [_reading(index, plan, seed), _resuming(index, plan, seed), _sampling(plan, seed)]
        bar.update(1)
    return [{"paper": "ticclip", "threads": os.cpu_count(), "input_hash": "", **row} for row in rows]


def _training(index: TimeIndex, plan: Plan, seed: int) -> dict[str, Any]:
    config = StreamConfig(PRESETS[plan.model], TrainConfig(batch_size=plan.batch_size))
    batch = Examples(index, config.model)(index.rows(0)[: plan.batch_size])
    trainer = Trainer(config, build_mesh(data=1))
    params = build_params(config.model, seed)
    peer, device = _peer_step(config, params, batch)
    check_agreement(trainer, params, peer.model, batch)
    state = [trainer.start(params)]
    placed = put_batch(trainer.mesh, batch)

    def ours() -> None:
        state[0], metrics = trainer.step(state[0], placed, 1e-4)
        jax.block_until_ready(metrics["loss"])

    name, aim = f"open_clip, torch ({device})", AIM_GPU if device == "cuda" else AIM_CPU
    seconds = interleave({"ours": ours, name: peer.step}, plan.rounds, clock=time.perf_counter)
    work = f"training {plan.model}, batch {plan.batch_size}, float32"
    row = comparison(work, seconds, name, "samples/s", amount=plan.batch_size, aim=aim)
    return {**row, "input_hash": _hash(batch["image"])}


@dataclass(frozen=True)
class Peer:
    """open_clip's model and one training step of it."""

    model: Any
    step: Function


def _peer_step(config: StreamConfig, params: Any, batch: Mapping[str, np.ndarray]) -> tuple[Peer, str]:
    torch, open_clip = (require_extra(name, "torch", "ticclip") for name in ("torch", "open_clip"))
    from ticclip.model import MEAN, STD

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    model = build_open_clip(config.model, params).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    loss = open_clip.loss.ClipLoss()
    pixels = (batch["image"].astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)).to(device)
    texts = torch.from_numpy(batch["text"].astype(np.int64)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        image, text, scale = model(images, texts)
        loss(image, text, scale).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return Peer(model, step), device


def build_open_clip(config: CLIPConfig, params: Any) -> Any:
    """Return open_clip's model of the same sizes with the same weights (extra `torch`)."""
    torch, open_clip = (require_extra(name, "torch", "ticclip") for name in ("torch", "open_clip"))
    vision, text = config.vision, config.text
    model = open_clip.CLIP(
        config.embed_dim,
        {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.dim,
            "layers": vision.num_layers,
            "head_width": vision.dim // vision.num_heads,
        },
        {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.dim,
            "layers": text.num_layers,
            "heads": text.num_heads,
        },
        quick_gelu=config.activation == "quick_gelu",
        init_logit_bias=config.init_bias,
    )
    weights = to_open_clip(nnx.to_pure_dict(params), config)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    return model


def check_agreement(trainer: Trainer, params: Any, model: Any, batch: Mapping[str, np.ndarray]) -> None:
    """Stop if the peer's embeddings differ from ours.

    Raises:
        RuntimeError: By how much.
    """
    import torch

    from ticclip.model import MEAN, STD

    pixels = (batch["image"].astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))
    device = next(model.parameters()).device
    with torch.no_grad():
        theirs = model.encode_image(images.to(device), normalize=True).cpu().numpy()
    ours = np.asarray(trainer.embed_images(params, batch["image"]))
    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    if not distance < TOLERANCE:
        raise RuntimeError(f"open_clip's embeddings differ from ours by {distance:.1e} (relative l2).")


def _reading(index: TimeIndex, plan: Plan, seed: int) -> dict[str, Any]:
    """Batches through grain, nothing kept in memory, against decoding the same pictures in a loop."""
    config = PRESETS[plan.model]
    size, num = config.vision.image_size, 4
    mixture = Mixture((index.rows(0), index.rows(1)), seed=seed)
    rows = mixture.rows(np.arange(num * plan.batch_size))

    def ours() -> None:
        examples = Examples(index, config, cache=False)
        for _ in read_ahead(Batches(examples, mixture, plan.batch_size, num)):
            pass

    def peer() -> None:
        for row in rows:
            decode(index.image(int(row)), size)

    name = "bare decoding in a loop"
    seconds = interleave({"ours": ours, name: peer}, plan.rounds, clock=time.perf_counter)
    return comparison("reading with words, order and read-ahead", seconds, name, "samples/s", amount=len(rows))


def _resuming(index: TimeIndex, plan: Plan, seed: int) -> dict[str, Any]:
    """First batch after setting the reader to a far place, against the first batch of all."""
    examples, mixture = Examples(index, PRESETS[plan.model]), Mixture((index.rows(0),), seed=seed)

    def first(place: int) -> None:
        reader = read_ahead(Batches(examples, mixture, plan.batch_size, 1_000_000))
        reader.set_state({"next_index": place})
        next(reader)

    peer = "at batch 0"
    seconds = interleave({"ours": lambda: first(900_000), peer: lambda: first(0)}, plan.rounds, clock=time.perf_counter)
    return comparison("first batch after resuming at batch 900,000", seconds, peer, "times/s", amount=1)


def _sampling(plan: Plan, seed: int) -> dict[str, Any]:
    """Drawing a batch from a pool of many past steps, against a pool as large of few steps."""
    rows, peer = np.arange(POOL), f"from {STEPS_FEW} past steps"
    pools = {
        name: Mixture(tuple(np.array_split(rows, count)), seed=seed)
        for name, count in (("ours", STEPS_MANY), (peer, STEPS_FEW))
    }
    calls = {
        name: (lambda pool=pool: [pool.rows(np.arange(n * 4096, (n + 1) * 4096)) for n in range(20)])
        for name, pool in pools.items()
    }
    seconds = interleave(calls, plan.rounds, clock=time.perf_counter)
    return comparison(f"drawing from {STEPS_MANY} past steps", seconds, peer, "times/s", amount=1)


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
