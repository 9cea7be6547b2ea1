"""The reference trainer: one process, DDP or FSDP, every step one length, resumable at any step.

dataset-decomposition train STORE --preset tiny --out run
torchrun --nproc-per-node 8 -m dataset_decomposition train STORE --preset 1b --parallel fsdp --out run
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from dataset_decomposition.checkpoint import load_state, save_pretrained, save_state
from dataset_decomposition.config import IGNORED_LABEL, TrainConfig
from dataset_decomposition.loader import BucketLoader
from dataset_decomposition.loss import next_token_loss
from dataset_decomposition.model import Decoder
from dataset_decomposition.store import TokenStore

logger = logging.getLogger(__name__)
Parallel = Literal["ddp", "fsdp"]
SAVE_STEPS = 1000


def train(
    store: TokenStore,
    config: TrainConfig,
    out: str | Path,
    *,
    device: str = "cpu",
    parallel: Parallel = "ddp",
    max_steps: int = 0,
) -> dict[str, float]:
    """Train the reference decoder on a store's buckets and save it.

    Called again with the same arguments after a kill it goes on from its last checkpoint, and gives what the
    uninterrupted run gives. Under torchrun every process reads its own slice of each step.

    Args:
        store: With buckets.
        config: Model and recipe; `PRESETS` has the authors'.
        out: Folder for config.json, metrics.jsonl, checkpoints and weights.
        device: Where torch runs.
        parallel: How several processes share the work.
        max_steps: Stop early, with a checkpoint to go on from; 0 runs to the end.

    Returns:
        `steps`, `tokens` and the `loss` of the last step (nats per token).

    Raises:
        ValueError: The run in `out` has another configuration, or a token id is over the model's vocabulary.
        FloatingPointError: The loss is not finite; step, learning rate and bucket are named.
    """
    out = Path(out)
    _check_vocabulary(store, config)
    with process_group(device) as (rank, world_size):
        loader = _build_loader(store, config, rank, world_size)
        seed_everything(config.seed)
        model = Decoder(config.model).to(device)
        wrapped = _wrap(model, parallel, world_size)
        optimizer = build_optimizer(wrapped, config)
        _restore(out, config, (wrapped, optimizer, loader))
        _announce(config, loader, model)
        metrics = MetricsWriter(out / "metrics.jsonl")
        last = min(max_steps or len(loader), len(loader))
        result = {"steps": float(loader.step), "tokens": float(loader.step * config.tokens_per_step), "loss": math.nan}
        if rank == 0:
            write_json(out / "config.json", config.to_dict())
            metrics.truncate_after(loader.step)
        with progress(total=last - loader.step, description="train", unit="steps") as bar:
            while loader.step < last:
                loss, lr = train_step(wrapped, optimizer, loader, config)
                result = {"steps": loader.step, "tokens": loader.step * config.tokens_per_step, "loss": loss}
                if rank == 0:
                    row = {"train/loss": loss, "lr": lr, "bucket": loader.locate(loader.step - 1)[1]}
                    metrics.write(loader.step, row)
                if loader.step % SAVE_STEPS == 0 or loader.step == last:
                    _save(out, config, (wrapped, optimizer, loader), model, rank)
                bar.update(1)
    return result


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, config: TrainConfig
) -> tuple[float, float]:
    """Take one step on the loader's next batch; return the mean loss over all ranks and the learning rate.

    The rows of a rank are passed in parts of `micro_batch_tokens`, all of one length. Losses are summed and divided
    by the targets of the whole step, so that parts and ranks do not change the gradient.
    """
    step = loader.step
    lr = learning_rate(step, len(loader), config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    batch = next(loader)
    device = next(model.parameters()).device
    tensors = {name: torch.from_numpy(batch[name]).to(device) for name in ("input_ids", "labels")}
    segments = torch.from_numpy(batch["segments"]).to(device) if "segments" in batch else None
    targets = _sum_over_ranks((tensors["labels"] != IGNORED_LABEL).sum())
    total = torch.zeros(2, device=device)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    for rows in _parts(batch, config.micro_batch_tokens):
        logits = model(tensors["input_ids"][rows], None if segments is None else segments[rows])
        loss, entropy = next_token_loss(logits, tensors["labels"][rows], config.z_loss)
        (loss * world_size / targets).backward()  # DDP and FSDP average gradients over ranks
        total += torch.stack([entropy, loss.detach()])
    mean, penalised = (_sum_over_ranks(total) / targets).tolist()
    if not (math.isfinite(mean) and math.isfinite(penalised)):
        raise FloatingPointError(
            f"the loss is {penalised} at step {step}, learning rate {lr:.3g}, bucket {batch['bucket']}."
        )
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return mean, lr


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up (at most a tenth of the run), then a cosine down to `min_lr`."""
    warmup = min(config.warmup_steps, max(1, num_steps // 10))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, num_steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


@contextmanager
def process_group(device: str) -> Generator[tuple[int, int]]:
    """Join the other processes of torchrun, if there are any; yields rank and world size."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        yield dist.get_rank(), world_size
        # A process that leaves while another still talks to it takes it down.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _build_loader(store: TokenStore, config: TrainConfig, rank: int, world_size: int) -> BucketLoader:
    return BucketLoader(
        store,
        tokens_per_step=config.tokens_per_step,
        curriculum=config.curriculum,
        cycles=config.cycles,
        epochs=config.epochs,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )


def _check_vocabulary(store: TokenStore, config: TrainConfig) -> None:
    size = store.manifest["tokenizer"]["vocab_size"]
    if size > config.model.vocab_size:
        raise ValueError(
            f"the store's vocabulary has {size} tokens, the model's {config.model.vocab_size}; "
            f"give --vocab-size {-(-size // 64) * 64}."
        )


def _wrap(model: Decoder, parallel: Parallel, world_size: int) -> nn.Module:
    if world_size == 1:
        return model
    if parallel == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model


def _parts(batch: dict[str, Any], micro_batch_tokens: int) -> list[slice]:
    rows = len(batch["input_ids"])
    share = max(1, micro_batch_tokens // batch["bucket"]) if micro_batch_tokens else rows
    return [slice(start, start + share) for start in range(0, rows, share)]


def _sum_over_ranks(value: Tensor) -> Tensor:
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def _announce(config: TrainConfig, loader: BucketLoader, model: Decoder) -> None:
    logger.info(
        "%d steps of %d tokens, %d ranks; buckets %s; %.1f M parameters; from step %d",
        len(loader),
        config.tokens_per_step,
        loader.world_size,
        loader.lengths,
        sum(p.numel() for p in model.parameters()) / 1e6,
        loader.step,
    )


def _restore(out: Path, config: TrainConfig, parts: tuple[nn.Module, torch.optim.Optimizer, BucketLoader]) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    model, optimizer, loader = parts
    state = load_state(out)
    if state is None:
        return
    if state["config"] != config.to_dict():
        changed = [key for key, value in config.to_dict().items() if state["config"].get(key) != value]
        raise ValueError(f"{out} holds a run with other settings ({', '.join(changed)}); choose another --out.")
    options = StateDictOptions(full_state_dict=True)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )
    loader.load_state_dict(state["loader"])


def _save(
    out: Path,
    config: TrainConfig,
    parts: tuple[nn.Module, torch.optim.Optimizer, BucketLoader],
    plain: Decoder,
    rank: int,
) -> None:
    """Gather the whole state on every rank; rank 0 writes the weights, then the state that refers to them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    model, optimizer, loader = parts
    weights, optimizer_state = get_state_dict(
        model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if rank == 0:
        save_pretrained(plain, out / "model", weights)
        save_state(
            out,
            {
                "config": config.to_dict(),
                "model": weights,
                "optimizer": optimizer_state,
                "loader": loader.state_dict(),
            },
        )
    if dist.is_initialized():
        dist.barrier()
