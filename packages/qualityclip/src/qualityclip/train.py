"""Pretraining on captions, on one device or on many through torchrun.

    qualityclip train scenes:nouns --preset tiny --out run                                   (one CPU, a minute)
    torchrun --nproc-per-node 8 -m qualityclip train shards/ --preset 12m_b16 --out run

Every process computes the loss of its own rows against everybody's columns; torch averages gradients during backward.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import atomic_write, plain_json, write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from qualityclip.checkpoint import save_pretrained
from qualityclip.config import TrainConfig
from qualityclip.data import PairBatch, StepDataset, load_batches
from qualityclip.loss import Gathered, clip_loss, siglip_loss
from qualityclip.model import CLIP, MAX_SCALE
from qualityclip.parallel import Processes
from qualityclip.readers import Sample

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
Gather = Callable[[Tensor], Gathered]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is trained.

    Args:
        device: "cpu", "cuda" or "mps".
        workers: Processes that read ahead; 0 reads in the training process.
        log_every: Steps between rows of metrics.jsonl.
        checkpoint_every: Steps between checkpoints.
        stop_after: Stop, with a checkpoint, after this step; None runs to the end.
        quiet: No progress.
    """

    device: str = "cpu"
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    stop_after: int | None = None
    quiet: bool = False


class Trainer:
    """Model and optimizer: the state of a run.

    Args:
        config: What is trained and how.
        device: Where.
        processes: The other processes, if there are any.
    """

    def __init__(self, config: TrainConfig, device: str = "cpu", processes: Processes | None = None) -> None:
        self.config, self.device = config, device
        self.processes = processes or Processes()
        seed_everything(config.seed)
        self.model = CLIP(config.model).to(device).train()
        self._replica = self.processes.replicate(self.model)
        self.optimizer = build_optimizer(self.model, config)
        self.step = 0

    def train_step(self, batch: PairBatch, gather: Gather | None = None) -> dict[str, float]:
        """Do one step of the optimizer.

        Args:
            batch: This process's rows.
            gather: Features to those of all processes; by default those of `processes`.

        Returns:
            Loss over all processes, scale, learning rate, norm of the gradient.

        Raises:
            InputError: The loss is not finite; the message names step, learning rate and samples.
        """
        # Learning rate of this step
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Forward and backward
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch.to(self.device), gather or self.processes.gather)
        loss.backward()
        value = self.processes.mean(loss.detach()).item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss is not finite at step {self.step} (learning rate {rate:g}, samples {batch.uids[:4]}...); "
                "lower --learning-rate or look at the data."
            )
        # Update
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(MAX_SCALE))
        self.step += 1
        scale = self.model.scale().item()
        metrics = {"train/loss": value, "train/scale": scale, "train/learning_rate": rate}
        return {**metrics, "train/grad_norm": norm.item()}

    def _loss(self, batch: PairBatch, gather: Gather) -> Tensor:
        half = self.config.precision == "bf16"
        with torch.autocast(self.device, torch.bfloat16) if half else nullcontext():
            image, text, scale = self._replica(batch.images, batch.tokens)
        pairs = gather(image.float()), gather(text.float())
        if self.model.logit_bias is not None:
            return siglip_loss(*pairs, scale, self.model.logit_bias)
        return clip_loss(*pairs, scale)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "step": self.step,
            "config": plain_json(self.config.to_dict()),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; an InputError if it is of a run with another configuration."""
        ours = plain_json(self.config.to_dict())
        if different := [name for name, value in ours.items() if state["config"].get(name) != value]:
            name = different[0]
            raise InputError(
                f"the run was started with another `{name}` ({state['config'].get(name)}, now {ours[name]}); "
                "go on with the same options, or choose another --out."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(
    config: TrainConfig, samples: Sequence[Sample], out: str | Path, *, resume: bool = False, options: RunOptions
) -> dict[str, float]:
    """Train a model on pictures with captions.

    Args:
        config: Of `TRAIN_PRESETS`, or your own.
        samples: Of `read_checked`.
        out: Folder for config.json, metrics.jsonl, checkpoint.pt and, at the end, model/.
        resume: Go on from the folder's checkpoint.
        options: How it is carried out.

    Returns:
        Metrics of the last step.

    Raises:
        InputError: The folder holds a run already, or the options differ from those it was started with.
    """
    out, processes = Path(out), Processes.join(options.device)
    if not samples:
        raise InputError("there are no pictures with captions to train on.")
    trainer = Trainer(config, options.device, processes)
    dataset = StepDataset(samples, config, rank=processes.rank, world_size=processes.world_size)
    _start(trainer, out, resume)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    logger.info(
        "%d samples; %d steps of %d (%d a process); %.2f M parameters on %s",
        len(samples), config.num_steps, config.batch_size, config.batch_size // processes.world_size, count / 1e6,
        trainer.device,
    )  # fmt: skip
    metrics = run_steps(trainer, dataset, out, options)
    if processes.rank == 0 and trainer.step == config.num_steps:
        save_pretrained(trainer.model, out / "model")
    processes.close()
    return metrics


def run_steps(trainer: Trainer, dataset: StepDataset, out: Path, options: RunOptions) -> dict[str, float]:
    """Run the steps that are left, writing metrics and checkpoints on rank 0; return the last step's metrics."""
    first, last = trainer.step, min(options.stop_after or len(dataset), len(dataset))
    writer = MetricsWriter(out / "metrics.jsonl")
    metrics: dict[str, float] = {}
    bar = progress(total=last, description="train", unit="steps", quiet=options.quiet)
    bar.update(first)
    for batch in load_batches(dataset, first, options.workers):
        if trainer.step >= last:
            break
        metrics = trainer.train_step(batch)
        bar.update(1)
        if trainer.processes.rank:
            continue
        if trainer.step % options.log_every == 0 or trainer.step == last:
            writer.write(trainer.step, metrics)
        if trainer.step % options.checkpoint_every == 0 or trainer.step == last:
            save_checkpoint(trainer, out)
    bar.close()
    return metrics


def _start(trainer: Trainer, out: Path, resume: bool) -> None:
    """Load the checkpoint, or see that the folder is free."""
    path = out / CHECKPOINT
    if resume and path.is_file():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it and start anew.") from error
        trainer.load_state_dict(state)
        logger.info("going on from step %d", trainer.step)
    elif path.exists():
        raise InputError(f"{out} already holds a run; go on with --resume, or choose another --out.")
    if trainer.processes.rank == 0:
        write_json(out / "config.json", trainer.config.to_dict())
        MetricsWriter(out / "metrics.jsonl").truncate_after(trainer.step)


def save_checkpoint(trainer: Trainer, out: Path) -> None:
    """Write the state of a run; a kill leaves the old one or the new one."""
    with atomic_write(out / CHECKPOINT) as file:
        torch.save(trainer.state_dict(), file)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW that decays weights of two or more dimensions and leaves biases, norms and the scale alone."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=1e-6)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2
